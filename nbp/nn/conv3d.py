# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Causal 3D convolution and the pieces of the tokenizer around it (REFERENCE 4.1), channels last.

Two exact formulations of the convolution itself, chosen in `build.py`: `lax_conv` is XLA's 3D
convolution; `taps_conv` sums one 2D convolution per time tap. XLA's CPU backend has no fast path
for the gradient of a strided 3D convolution: taps are up to 40 times faster there.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx

from nbp.shapes import Array, Float

Stride = tuple[int, int, int]


@runtime_checkable
class ConvBackend(Protocol):
    """`(x, kernel, stride) -> y`: cross-correlation without padding, [b t h w c] in and out."""

    def __call__(self, x: Array, kernel: Array, stride: Stride) -> Array: ...


def lax_conv(
    x: Float[Array, "b t h w c"], kernel: Float[Array, "kt kh kw c o"], stride: Stride
) -> Float[Array, "b t2 h2 w2 o"]:
    """XLA's 3D convolution: the oracle, and the fastest on accelerators."""
    numbers = ("NDHWC", "DHWIO", "NDHWC")
    return jax.lax.conv_general_dilated(x, kernel, stride, "VALID", dimension_numbers=numbers)


def taps_conv(
    x: Float[Array, "b t h w c"], kernel: Float[Array, "kt kh kw c o"], stride: Stride
) -> Float[Array, "b t2 h2 w2 o"]:
    """The same sum, ordered by time tap: for each, one 2D convolution over all frames at once."""
    taps, step = kernel.shape[0], stride[0]
    frames = (x.shape[1] - taps) // step + 1
    total = None
    for tap in range(taps):
        picked = x[:, tap : tap + (frames - 1) * step + 1 : step]
        flat = picked.reshape((-1, *x.shape[2:]))
        part = jax.lax.conv_general_dilated(
            flat, kernel[tap], stride[1:], "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        total = part if total is None else total + part
    assert total is not None
    return total.reshape((x.shape[0], frames, *total.shape[1:]))


class CausalConv3d(nnx.Module):
    """Convolution of cubic kernel that sees no later frame, with bias.

    Replicates the first frame `kernel - 1` times in front and the border pixels `kernel // 2`
    times on each side; output size is ceil(size / stride) on each axis. `gain` scales the initial
    weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        backend: ConvBackend,
        kernel: int = 3,
        stride: Stride = (1, 1, 1),
        gain: float = 1.0,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.stride = stride
        self.backend = backend
        self.dtype = dtype
        init = nnx.initializers.variance_scaling(gain**2, "fan_in", "truncated_normal")
        shape = (kernel, kernel, kernel, inputs, outputs)
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 o"]:
        kernel = self.kernel[...].astype(self.dtype)
        x = x.astype(self.dtype)
        size = kernel.shape[0]
        if size == 1 and self.stride == (1, 1, 1):
            return x @ kernel[0, 0, 0] + self.bias[...].astype(self.dtype)
        side = (size // 2, size // 2)
        x = jnp.pad(x, ((0, 0), (2 * (size // 2), 0), side, side, (0, 0)), mode="edge")
        return self.backend(x, kernel, self.stride) + self.bias[...].astype(self.dtype)


class FrameGroupNorm(nnx.Module):
    """GroupNorm whose statistics are per (sample, frame, group), never over time; eps 1e-5."""

    def __init__(self, channels: int, groups: int, dtype: Any = jnp.float32) -> None:
        if channels % groups:
            raise ValueError(f"{channels} channels do not divide into {groups} groups")
        self.groups = groups
        self.dtype = dtype
        self.scale = nnx.Param(jnp.ones((channels,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        grouped = x.astype(jnp.float32).reshape((*x.shape[:-1], self.groups, -1))
        axes = (2, 3, 5)
        mean = grouped.mean(axes, keepdims=True)
        centred = grouped - mean
        variance = jnp.square(centred).mean(axes, keepdims=True)
        normal = (centred * jax.lax.rsqrt(variance + 1e-5)).reshape(x.shape)
        return (normal * self.scale[...] + self.bias[...]).astype(self.dtype)


class Swish(nnx.Module):
    """x * sigmoid(beta * x) with one learned beta per channel, initially 1."""

    def __init__(self, channels: int) -> None:
        self.beta = nnx.Param(jnp.ones((channels,), jnp.float32))

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        return x * jax.nn.sigmoid(self.beta[...].astype(x.dtype) * x)


def depth_to_space(x: Float[Array, "b t h w c"], stride: Stride) -> Float[Array, "b t2 h2 w2 o"]:
    """Unfolds channels into space and time: block offsets are the slow part of the channel axis.

    With time stride s the first s - 1 output frames are dropped (t -> s*t - s + 1), so that the
    first latent frame stands for the first frame alone.
    """
    b, t, h, w, c = x.shape
    bt, bh, bw = stride
    out = c // (bt * bh * bw)
    x = x.reshape(b, t, h, w, bt, bh, bw, out).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, t * bt, h * bh, w * bw, out)[:, bt - 1 :]
