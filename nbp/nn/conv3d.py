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


class FrameCache:
    """What causal layers remember of a video that comes in chunks: the frames they still need.

    Make one per chunk: from None for the first chunk, later from what the one before ended with
    (`frames`). Layers take and leave their frames in the order in which they run, which is the same
    for every chunk. With s the time stride of all layers together, the first chunk is s*m + 1
    frames for any m >= 0, and every later one a multiple of s; then the outputs, put one after the
    other, are those of the whole video.
    """

    def __init__(self, frames: tuple[Array, ...] | None) -> None:
        self.starts = frames is None
        self._old = iter(frames or ())
        self._new: list[Array] = []

    @property
    def frames(self) -> tuple[Array, ...]:
        """What the next chunk's cache is made from: same shapes after every chunk."""
        return tuple(self._new)

    def extend(self, x: Float[Array, "b t h w c"], *, taps: int, step: int) -> Array:
        """Puts in front of x what windows of `taps` frames, `step` apart, need of the past."""
        kept = taps - step
        if self.starts:
            x = repeat_first_frame(x, taps - 1)
        elif kept > 0:
            x = jnp.concatenate([next(self._old), x], axis=1)
        else:
            x = x[:, -kept:]  # no window reaches back, and the next one starts a little later
        if kept > 0:
            self._new.append(x[:, x.shape[1] - kept :])
        return x


def repeat_first_frame(x: Float[Array, "b t h w c"], times: int) -> Float[Array, "b t2 h w c"]:
    """`times` copies of the first frame in front: what a causal layer sees before a video."""
    return jnp.pad(x, ((0, 0), (times, 0), (0, 0), (0, 0), (0, 0)), mode="edge")


class CausalConv3d(nnx.Module):
    """Convolution that sees no later frame, with bias.

    Its kernel is `kernel` pixels high and wide and `taps` frames long (default: as many). Repeats
    the first frame `taps - 1` times in front and the border pixels `kernel // 2` times on each
    side; output size is ceil(size / stride) on each axis. `gain` scales the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        backend: ConvBackend,
        kernel: int = 3,
        taps: int | None = None,
        stride: Stride = (1, 1, 1),
        gain: float = 1.0,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.stride = stride
        self.backend = backend
        self.dtype = dtype
        init = nnx.initializers.variance_scaling(gain**2, "fan_in", "truncated_normal")
        shape = (kernel if taps is None else taps, kernel, kernel, inputs, outputs)
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))

    def __call__(
        self, x: Float[Array, "b t h w c"], cache: FrameCache | None = None
    ) -> Float[Array, "b t2 h2 w2 o"]:
        """With a cache, x is one chunk of a longer video."""
        kernel = self.kernel[...].astype(self.dtype)
        x = x.astype(self.dtype)
        taps, size = kernel.shape[:2]
        if kernel.shape[:3] == (1, 1, 1) and self.stride == (1, 1, 1):
            return x @ kernel[0, 0, 0] + self.bias[...].astype(self.dtype)
        if cache is None:
            x = repeat_first_frame(x, taps - 1)
        else:
            x = cache.extend(x, taps=taps, step=self.stride[0])
        side = (size // 2, size // 2)
        x = jnp.pad(x, ((0, 0), (0, 0), side, side, (0, 0)), mode="edge")
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


def depth_to_space(
    x: Float[Array, "b t h w c"], stride: Stride, *, starts: bool = True
) -> Float[Array, "b t2 h2 w2 o"]:
    """Unfolds channels into space and time: block offsets are the slow part of the channel axis.

    With time stride s the first s - 1 output frames are dropped (t -> s*t - s + 1) where x starts
    its video, so that the first latent frame stands for the first frame alone.
    """
    b, t, h, w, c = x.shape
    bt, bh, bw = stride
    out = c // (bt * bh * bw)
    x = x.reshape(b, t, h, w, bt, bh, bw, out).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, t * bt, h * bh, w * bw, out)[:, bt - 1 if starts else 0 :]
