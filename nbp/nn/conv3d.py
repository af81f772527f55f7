# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Causal 3D convolution and the pieces of the tokenizer around it (REFERENCE 4.1), channels last.

The convolution itself has several exact formulations, chosen in `build.py` and measured by
`benchmarks/tokenizer.py`: XLA has fast 2D convolutions everywhere, and fast 3D ones nowhere. On a
CPU the gradient of a strided 3D convolution runs through a generic loop; on a GPU the compiler lays
3D convolutions out channels first, and half-precision 2D ones channels last, as matrix units
want them; for TPUs its own estimate is lower for 2D.
"""

import functools
import operator
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
    """XLA's 3D convolution: the oracle."""
    numbers = ("NDHWC", "DHWIO", "NDHWC")
    return jax.lax.conv_general_dilated(x, kernel, stride, "VALID", dimension_numbers=numbers)


def taps_conv(
    x: Float[Array, "b t h w c"], kernel: Float[Array, "kt kh kw c o"], stride: Stride
) -> Float[Array, "b t2 h2 w2 o"]:
    """The same sum, ordered by time tap: for each, one 2D convolution over all frames at once."""
    windows = _frames_of_taps(x, kernel, stride)
    parts = [_conv_frames(x[:, w], k, stride) for w, k in zip(windows, kernel, strict=True)]
    return functools.reduce(operator.add, parts)


def fold_conv(
    x: Float[Array, "b t h w c"], kernel: Float[Array, "kt kh kw c o"], stride: Stride
) -> Float[Array, "b t2 h2 w2 o"]:
    """One 2D convolution, with the taps side by side in the channels of its thinner end.

    At the input the frames of a window are stacked; at the output the products of all taps, which
    are then added with their shifts in time.
    """
    taps, height, width, inputs, outputs = kernel.shape
    windows = _frames_of_taps(x, kernel, stride)
    if inputs < outputs or stride[0] > 1:
        stacked = jnp.concatenate([x[:, frames] for frames in windows], axis=-1)
        flat = kernel.transpose(1, 2, 0, 3, 4).reshape(height, width, taps * inputs, outputs)
        return _conv_frames(stacked, flat, stride)
    flat = kernel.transpose(1, 2, 3, 0, 4).reshape(height, width, inputs, taps * outputs)
    parts = jnp.split(_conv_frames(x, flat, stride), taps, axis=-1)
    return functools.reduce(operator.add, (p[:, w] for p, w in zip(parts, windows, strict=True)))


THIN = 8  # channels


def mixed_conv(
    x: Float[Array, "b t h w c"], kernel: Float[Array, "kt kh kw c o"], stride: Stride
) -> Float[Array, "b t2 h2 w2 o"]:
    """`fold_conv` where one end is thin, such as RGB, `taps_conv` elsewhere."""
    formulation = fold_conv if min(kernel.shape[3:]) <= THIN else taps_conv
    return formulation(x, kernel, stride)


FORMULATIONS: dict[str, ConvBackend] = {
    "lax": lax_conv,
    "taps": taps_conv,
    "fold": fold_conv,
    "mixed": mixed_conv,
}


def _frames_of_taps(x: Array, kernel: Array, stride: Stride) -> list[slice]:
    """For each tap the frames that it is multiplied with, one for each output frame."""
    taps, step = kernel.shape[0], stride[0]
    last = (x.shape[1] - taps) // step * step
    return [slice(tap, tap + last + 1, step) for tap in range(taps)]


def _conv_frames(x: Array, kernel: Array, stride: Stride) -> Array:
    """2D convolution of every frame; kernel [h w c o]."""
    frames = x.reshape((-1, *x.shape[2:]))
    y = jax.lax.conv_general_dilated(
        frames, kernel, stride[1:], "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y.reshape((*x.shape[:2], *y.shape[1:]))


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
            x = repeat_ends(x, 1, (taps - 1, 0))
        elif kept > 0:
            x = jnp.concatenate([next(self._old), x], axis=1)
        else:
            x = x[:, -kept:]  # no window reaches back, and the next one starts a little later
        if kept > 0:
            self._new.append(x[:, x.shape[1] - kept :])
        return x


def repeat_ends(
    x: Float[Array, "b t h w c"], axis: int, times: tuple[int, int]
) -> Float[Array, "b t2 h2 w2 c"]:
    """Repeats the first and the last slice of an axis so many times before and behind it.

    `jnp.pad` does the same by mode "edge", with a gradient that takes twice the time on a CPU.
    """
    first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
    last = jax.lax.slice_in_dim(x, x.shape[axis] - 1, None, axis=axis)
    return jnp.concatenate([*[first] * times[0], x, *[last] * times[1]], axis=axis)


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
            x = repeat_ends(x, 1, (taps - 1, 0))
        else:
            x = cache.extend(x, taps=taps, step=self.stride[0])
        side = (size // 2, size // 2)
        x = repeat_ends(repeat_ends(x, 2, side), 3, side)
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
        x = x.astype(jnp.float32)
        centred = x - self._average(x)
        normal = centred * jax.lax.rsqrt(self._average(jnp.square(centred)) + 1e-5)
        return (normal * self.scale[...] + self.bias[...]).astype(self.dtype)

    def _average(self, x: Array) -> Array:
        """Mean over the pixels of a frame and the channels of a group, [b t 1 1 c].

        Pixels first: with both at once, update times of small networks are a tenth longer on a CPU.
        """
        channels = x.mean((2, 3), keepdims=True)
        groups = channels.reshape((*channels.shape[:-1], self.groups, -1))
        return jnp.broadcast_to(groups.mean(-1, keepdims=True), groups.shape).reshape(
            channels.shape
        )


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
