# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Features of single frames, for STREAM: of a small random network, or of VGG-16.

| name | what | width | what a STREAM of it is |
| --- | --- | --- | --- |
| random | seeded convolutions, 2x2 cells | 128 | for trends and tests; compares with nothing else |
| vgg | last map of LPIPS's VGG-16, averaged | 512 | not the published one (SwAV, DINOv2) |
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbp.evaluation.batches import map_batches
from nbp.models.lpips import LpipsNetwork
from nbp.shapes import Array, Float, PyTree

RANDOM_SEED = 0
WIDTHS = (16, 32, 32)  # of three 3x3 convolutions of stride 2
CELLS = 2  # the last map is averaged over CELLS x CELLS parts: where something is, shows
LEAST_SIZE = 16  # px: three halvings leave one position per cell; VGG's four leave one in all

FrameNetwork = Callable[[PyTree, Array], Array]


@dataclass(frozen=True)
class FrameFeatures:
    """Features of every frame of clips.

    network: images [b h w 3] in [0, 1] to features [b d]. batch: clips at a time. place: puts a
    batch where the parameters are.
    """

    name: str
    network: FrameNetwork
    params: PyTree
    batch: int = 16
    place: Callable[[Array], Any] = jnp.asarray

    def __call__(self, clips: Array) -> Float[np.ndarray, "n t d"]:
        """Of clips [n t h w 3] with n >= 1, bytes 0..255 or floats in [0, 1], sides >= 16 px."""
        if min(clips.shape[2:4]) < LEAST_SIZE:
            raise ValueError(
                f"features of frames need sides of at least {LEAST_SIZE} px, these clips are "
                f"{clips.shape[2]}x{clips.shape[3]}"
            )
        extract = functools.partial(_extract, self.network, self.params)
        return np.concatenate(map_batches(extract, clips, size=self.batch, place=self.place))


def make_random_frames(**options: Any) -> FrameFeatures:
    """Weights from `RANDOM_SEED` by plain numpy: no version of JAX changes them."""
    return FrameFeatures("random", _random_features, draw_convolutions(), **options)


def make_vgg_frames(params: PyTree, **options: Any) -> FrameFeatures:
    """With the parameters of `LpipsNetwork` (`nbp.convert lpips`)."""
    return FrameFeatures("vgg", _vgg_features, params, **options)


def draw_convolutions() -> list[dict[str, np.ndarray]]:
    """Kernels that keep the scale of what passes through, and small biases."""
    layers, inputs = [], 3
    for number, width in enumerate(WIDTHS):
        rng = np.random.default_rng((RANDOM_SEED, number))
        kernel = rng.standard_normal((3, 3, inputs, width)) * np.sqrt(2.0 / (9 * inputs))
        bias = rng.uniform(-0.1, 0.1, width)
        layers.append({"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)})
        inputs = width
    return layers


def _random_features(params: PyTree, images: Array) -> Array:
    x = 2.0 * images - 1.0
    for layer in params:
        x = jax.lax.conv_general_dilated(
            x, layer["kernel"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + layer["bias"])
    rows = jnp.array_split(x, CELLS, axis=1)
    cells = [cell for row in rows for cell in jnp.array_split(row, CELLS, axis=2)]
    return jnp.concatenate([cell.mean(axis=(1, 2)) for cell in cells], axis=-1)


def _vgg_features(params: PyTree, images: Array) -> Array:
    return LpipsNetwork().bind(params).features(images)[-1].mean(axis=(1, 2))


@functools.partial(jax.jit, static_argnums=0)
def _extract(network: FrameNetwork, params: PyTree, clips: Array) -> Array:
    def describe(frames: Array) -> Array:
        images = frames.astype(jnp.float32)
        return network(params, images / 255.0 if frames.dtype == jnp.uint8 else images)

    # One frame of every clip at a time, as for LPIPS: a network's first maps of all would not fit.
    with jax.default_matmul_precision("highest"):
        return jnp.moveaxis(jax.lax.map(describe, jnp.moveaxis(clips, 1, 0)), 0, 1)
