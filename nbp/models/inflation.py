# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A tokenizer of single images as the start of a video tokenizer (MAGVIT, arXiv 2212.05199, 3.1).

MAGVIT inflates by copying 2D weights to the central frame of a kernel; here kernels are causal, so
they go to the last frame, the current one, and all others are zero. The video tokenizer then treats
each latent frame as the image tokenizer treats one image: a clip of one frame gives the
same codes and pixels, and a longer clip shows every last frame of a latent frame, held.
"""

import jax
import numpy as np

from nbp.errors import CheckpointError
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.conv3d import lax_conv
from nbp.shapes import Array, PyTree

# What both tokenizers must have in common.
SHARED = ("widths", "units", "groups", "kind", "levels", "codes", "code_channels")


def inflate(params: PyTree, source: TokenizerSpec, target: TokenizerSpec) -> PyTree:
    """Parameters (numpy) of a `target` tokenizer from those of a `source` with taps 1.

    Where the target strides over time, the channels of an upsampling convolution are repeated for
    each frame that it makes of one: `depth_to_space` takes the frame from the slowest channels.

    Raises CheckpointError, which names both sides, where they differ in more than time.
    """
    compare_specs(source, target)
    shapes = jax.eval_shape(TokenizerNetwork(target, lax_conv).init, jax.random.key(0))

    def grow(old: Array, new: jax.ShapeDtypeStruct) -> Array:
        frames = new.shape[-1] // old.shape[-1]  # that one latent frame becomes, else 1
        grown = np.tile(np.asarray(old), (1,) * (old.ndim - 1) + (frames,))
        if old.ndim == 5:  # a kernel: zeros for all frames before the current one
            grown = np.pad(grown, ((new.shape[0] - old.shape[0], 0), *(((0, 0),) * 4)))
        assert grown.shape == new.shape, (old.shape, new.shape)
        return grown

    return jax.tree.map(grow, params, shapes)


def compare_specs(source: TokenizerSpec, target: TokenizerSpec) -> None:
    """Raises CheckpointError, which names both sides, where `inflate` would."""
    sides = [
        f"{name} {there} there, {here} here"
        for name in SHARED
        if (there := getattr(source, name)) != (here := getattr(target, name))
    ]
    if source.taps != 1:
        sides.append(f"taps {source.taps} there, {target.taps} here: only taps 1 can be inflated")
    if target.taps == 1:
        sides.append(f"taps {source.taps} there, 1 here: there is nothing to inflate to")
    there, here = ([stride[1:] for stride in spec.strides] for spec in (source, target))
    if there != here:
        sides.append(f"strides {source.strides} there, {target.strides} here: equal in space only")
    if sides:
        raise CheckpointError(
            f"an image tokenizer can start a video tokenizer of the same widths, units, quantizer "
            f"and strides in space: {'; '.join(sides)}. Change either configuration."
        )
