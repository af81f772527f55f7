# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""LPIPS with VGG-16 features: a learned distance of images (Zhang et al. 2018, arXiv 1801.03924).

The published weights come in two files: torchvision's VGG-16 and the linear heads, version 0.1
(`nbp.convert lpips`). With random weights it is a distance too, but not the published one.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nbp.models.network import Network
from nbp.shapes import Array, Float, PyTree

# Widths of the 3x3 convolutions; a 2x2 max-pool stands between the stages. The distance compares
# the last map of each stage.
Stages = tuple[tuple[int, ...], ...]
STAGES: Stages = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
RGB = 3
LEAST_SIZE = 16  # px: four pools leave one position

# LPIPS's own scaling of pixels in [-1, 1]: ImageNet's mean and deviation, moved to that range.
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)
EPSILON = 1e-10


class _Conv(nnx.Module):
    """3x3 convolution with bias, zero padding, then ReLU."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel[...],
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jax.nn.relu(y + self.bias[...])


class Lpips(nnx.Module):
    """The feature network and one weight per channel of the five compared maps."""

    def __init__(self, widths_of: Stages = STAGES, *, rngs: nnx.Rngs) -> None:
        stages: list[nnx.List] = []
        width = RGB
        for widths in widths_of:
            convs = []
            for outputs in widths:
                convs.append(_Conv(width, outputs, rngs=rngs))
                width = outputs
            stages.append(nnx.List(convs))
        self.stages = nnx.List(stages)
        self.heads = nnx.List(
            [
                nnx.Param(jnp.full((widths[-1],), 1.0 / widths[-1], jnp.float32))
                for widths in widths_of
            ]
        )

    def features(self, images: Float[Array, "b h w c"]) -> list[Float[Array, "b h2 w2 o"]]:
        """The five maps of images in [0, 1]."""
        maps: list[Array] = []
        x = (2.0 * images - 1.0 - SHIFT) / SCALE
        for convs in self.stages:
            if maps:
                x = _max_pool(x)
            for conv in convs:
                x = conv(x)
            maps.append(x)
        return maps

    def __call__(
        self, first: Float[Array, "b h w c"], second: Float[Array, "b h w c"]
    ) -> Float[Array, "b"]:
        """Distance of each pair of images in [0, 1], at least 16 px on both sides."""
        if first.shape != second.shape or min(first.shape[1:3]) < LEAST_SIZE:
            raise ValueError(
                f"LPIPS of {first.shape} and {second.shape}: two batches of the same shape "
                f"[b h w 3] with sides of at least {LEAST_SIZE} px are needed"
            )
        total = jnp.zeros(first.shape[0], jnp.float32)
        maps = zip(self.features(first), self.features(second), self.heads, strict=True)
        for a, b, head in maps:
            squared = jnp.square(_unit(a) - _unit(b))
            total += jnp.mean(squared @ head[...], axis=(1, 2))
        return total


def _unit(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Every position's channels scaled to length one; zeros stay zero, and so does the gradient."""
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    # The root has no derivative at 0, and an image of one colour has such positions.
    length = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
    return x / (jnp.where(squares > 0, length, 0.0) + EPSILON)


def _max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    b, h, w, c = x.shape
    even = x[:, : h // 2 * 2, : w // 2 * 2]
    return even.reshape(b, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))


@dataclass(frozen=True)
class LpipsNetwork(Network[Lpips]):
    """The network without its parameters: pure functions of (params, images).

    stages: widths of the convolutions; the published weights are for `STAGES`.
    """

    stages: Stages = STAGES

    def build(self, key: Array) -> Lpips:
        return Lpips(self.stages, rngs=nnx.Rngs(key))

    def distance(
        self, params: PyTree, first: Float[Array, "b t h w c"], second: Float[Array, "b t h w c"]
    ) -> Float[Array, "b"]:
        """Mean over the frames of clips in [0, 1]."""
        b, t, *image = first.shape
        frames = (clip.reshape(b * t, *image) for clip in (first, second))
        return self.bind(params)(*frames).reshape(b, t).mean(axis=1)


VGG16 = LpipsNetwork()  # of the published weights
