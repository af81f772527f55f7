# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A 3D PatchGAN: strided convolutions that judge overlapping boxes of a clip, not the clip at once.

After Isola et al. 2017 (arXiv 1611.07004), in three dimensions as in TATS (arXiv 2204.03638).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from nbp.models.network import Network
from nbp.nn.conv3d import ConvBackend, FrameGroupNorm, Stride
from nbp.shapes import Array, Float, PyTree

RGB = 3
KERNEL = 4  # a multiple of the stride: every pixel is seen equally often, which leaves no grid
STRIDE = 2
SLOPE = 0.2
GROUP = 16  # channels that are normalised together


@dataclass(frozen=True)
class DiscriminatorSpec:
    """One convolution per width, all but the last of stride 2, and one that makes the logits.

    dtype: compute type; parameters, normalisation statistics and logits are at least float32.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if not self.widths:
            raise ValueError("a discriminator needs at least one width")


class PatchConv(nnx.Module):
    """4x4x4 convolution with bias; output size is ceil(size / stride) on each axis.

    Border pixels are repeated on both sides, and the first frame in front only: the last frame is
    always seen, and clips of one frame need no case of their own.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        backend: ConvBackend,
        stride: int,
        dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        self.stride: Stride = (stride, stride, stride)
        self.backend = backend
        self.dtype = dtype
        # The gain of leaky ReLU (He et al. 2015) keeps the logits' size independent of the depth.
        init = nnx.initializers.variance_scaling(2.0 / (1.0 + SLOPE**2), "fan_in", "normal")
        shape = (KERNEL, KERNEL, KERNEL, inputs, outputs)
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 o"]:
        t, h, w = (_missing(x.shape[axis], self.stride[axis - 1]) for axis in (1, 2, 3))
        sides = ((0, 0), (t, 0), (h // 2, h - h // 2), (w // 2, w - w // 2), (0, 0))
        x = jnp.pad(x.astype(self.dtype), sides, mode="edge")
        y = self.backend(x, self.kernel[...].astype(self.dtype), self.stride)
        return y + self.bias[...].astype(self.dtype)


class Discriminator(nnx.Module):
    """Logits of boxes of a clip, above 0 for "real"; clips of one frame are judged by the same net.

    Normalisation is per sample and frame: a verdict then depends neither on the rest of the batch
    nor on the number of devices, as it would with the batch normalisation of the original. The
    first layer has none, so that contrast and colour are seen.
    """

    def __init__(self, spec: DiscriminatorSpec, conv: ConvBackend, *, rngs: nnx.Rngs) -> None:
        convs, norms = [], []
        width = RGB
        for index, outputs in enumerate(spec.widths):
            stride = STRIDE if index < len(spec.widths) - 1 else 1
            convs.append(_make(width, outputs, stride, spec=spec, conv=conv, rngs=rngs))
            if index:
                groups = outputs // GROUP if outputs % GROUP == 0 else 1
                norms.append(FrameGroupNorm(outputs, groups, spec.dtype))
            width = outputs
        self.convs = nnx.List(convs)
        self.norms = nnx.List(norms)
        self.head = _make(width, 1, 1, spec=spec, conv=conv, rngs=rngs)

    def __call__(self, pixels: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2"]:
        """Pixels as the tokenizer's, around [0, 1]; each strided layer halves all axes, up."""
        x = 2.0 * pixels - 1.0
        for index, conv in enumerate(self.convs):
            x = conv(x)
            if index:
                x = self.norms[index - 1](x)
            x = jax.nn.leaky_relu(x, SLOPE)
        logits = self.head(x)[..., 0]
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _make(
    inputs: int,
    outputs: int,
    stride: int,
    *,
    spec: DiscriminatorSpec,
    conv: ConvBackend,
    rngs: nnx.Rngs,
) -> PatchConv:
    return PatchConv(inputs, outputs, backend=conv, stride=stride, dtype=spec.dtype, rngs=rngs)


def _missing(size: int, stride: int) -> int:
    """Positions to add so that windows at every `stride` give ceil(size / stride) outputs."""
    return max((-(-size // stride) - 1) * stride + KERNEL - size, 0)


@dataclass(frozen=True)
class DiscriminatorNetwork(Network[Discriminator]):
    """A discriminator without its parameters: pure functions of (params, clips)."""

    spec: DiscriminatorSpec
    conv: ConvBackend

    def build(self, key: Array) -> Discriminator:
        return Discriminator(self.spec, self.conv, rngs=nnx.Rngs(key))

    def judge(
        self, params: PyTree, pixels: Float[Array, "b t h w c"]
    ) -> Float[Array, "b t2 h2 w2"]:
        """Logits of clips with pixels around [0, 1]."""
        return self.bind(params)(pixels)
