# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""I3D, the inflated Inception network whose 400 logits are the features of FVD (REFERENCE 5.1).

Carreira and Zisserman 2017, trained on Kinetics-400; inference only. Stage names are those of the
paper's code and of every published weight file, so `endpoints` can be compared by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nbp.models.network import Network
from nbp.nn.conv3d import ConvBackend, Stride
from nbp.shapes import Array, Float, PyTree

RGB = 3
SIZE = 224  # px: the last pooling window covers exactly the 7x7 map of this input
LEAST_FRAMES = 9  # fewer leave a single frame for the last pooling window of two

# Epsilon of the normalisation: what the official PyTorch code uses (so numbers made with it compare
# with published ones), and what the network was trained with (the TF-Hub module and its ports).
PYTORCH_EPSILON = 1e-5
TFHUB_EPSILON = 1e-3


@dataclass(frozen=True)
class Unit:
    """Convolution, normalisation, ReLU."""

    width: int
    kernel: Stride
    stride: Stride


@dataclass(frozen=True)
class Pool:
    """Maximum over windows."""

    window: Stride
    stride: Stride


@dataclass(frozen=True)
class Mixed:
    """Four branches side by side: 1, 1 then 3, 1 then 3, pool 3 then 1. Widths of each."""

    single: int
    double: tuple[int, int]
    second: tuple[int, int]
    pooled: int

    @property
    def width(self) -> int:
        return self.single + self.double[1] + self.second[1] + self.pooled


_ONE, _TWO, _THREE = (1, 1, 1), (2, 2, 2), (3, 3, 3)

STAGES: dict[str, Unit | Pool | Mixed] = {
    "Conv3d_1a_7x7": Unit(64, (7, 7, 7), _TWO),
    "MaxPool3d_2a_3x3": Pool((1, 3, 3), (1, 2, 2)),
    "Conv3d_2b_1x1": Unit(64, _ONE, _ONE),
    "Conv3d_2c_3x3": Unit(192, _THREE, _ONE),
    "MaxPool3d_3a_3x3": Pool((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": Mixed(64, (96, 128), (16, 32), 32),
    "Mixed_3c": Mixed(128, (128, 192), (32, 96), 64),
    "MaxPool3d_4a_3x3": Pool(_THREE, _TWO),
    "Mixed_4b": Mixed(192, (96, 208), (16, 48), 64),
    "Mixed_4c": Mixed(160, (112, 224), (24, 64), 64),
    "Mixed_4d": Mixed(128, (128, 256), (24, 64), 64),
    "Mixed_4e": Mixed(112, (144, 288), (32, 64), 64),
    "Mixed_4f": Mixed(256, (160, 320), (32, 128), 128),
    "MaxPool3d_5a_2x2": Pool(_TWO, _TWO),
    "Mixed_5b": Mixed(256, (160, 320), (32, 128), 128),
    "Mixed_5c": Mixed(384, (192, 384), (48, 128), 128),
}
AVERAGE_FRAMES = 2  # of the last pooling window
FEATURES = 1024  # channels of the last stage


@dataclass(frozen=True)
class I3dSpec:
    """Number of classes (features), and the epsilon of the normalisation (see the constants).

    size: px of the input, a multiple of 32; published weights are for 224.
    """

    classes: int = 400
    epsilon: float = PYTORCH_EPSILON
    size: int = SIZE

    @property
    def average_window(self) -> Stride:
        """Of the last pooling: all of the map, which five strides have halved."""
        return (AVERAGE_FRAMES, self.size // 32, self.size // 32)


class ConvUnit(nnx.Module):
    """Bias-free convolution with "SAME" zero padding, normalisation by stored moments, ReLU.

    `scale`, `bias`, `mean` and `variance` are those of the trained batch normalisation.
    """

    def __init__(
        self, inputs: int, unit: Unit, backend: ConvBackend, *, epsilon: float, rngs: nnx.Rngs
    ) -> None:
        self.unit, self.backend, self.epsilon = unit, backend, epsilon
        init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
        shape = (*unit.kernel, inputs, unit.width)
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.scale = nnx.Param(jnp.ones((unit.width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((unit.width,), jnp.float32))
        self.mean = nnx.Param(jnp.zeros((unit.width,), jnp.float32))
        self.variance = nnx.Param(jnp.ones((unit.width,), jnp.float32))

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 o"]:
        # The normalisation is affine, so it folds into the kernel: one pass less over the maps.
        gain = self.scale[...] * jax.lax.rsqrt(self.variance[...] + self.epsilon)
        kernel = self.kernel[...] * gain
        if self.unit.kernel == _ONE:
            y = x @ kernel[0, 0, 0]
        else:
            padded = pad_same(x, self.unit.kernel, self.unit.stride)
            y = self.backend(padded, kernel, self.unit.stride)
        return jax.nn.relu(y + (self.bias[...] - self.mean[...] * gain))


class MixedUnit(nnx.Module):
    """An Inception module; outputs its branches b0, b1, b2, b3 one after the other."""

    def __init__(
        self, inputs: int, mixed: Mixed, backend: ConvBackend, *, epsilon: float, rngs: nnx.Rngs
    ) -> None:
        def make(inputs: int, width: int, kernel: Stride) -> ConvUnit:
            return ConvUnit(inputs, Unit(width, kernel, _ONE), backend, epsilon=epsilon, rngs=rngs)

        self.b0 = make(inputs, mixed.single, _ONE)
        self.b1a = make(inputs, mixed.double[0], _ONE)
        self.b1b = make(mixed.double[0], mixed.double[1], _THREE)
        self.b2a = make(inputs, mixed.second[0], _ONE)
        self.b2b = make(mixed.second[0], mixed.second[1], _THREE)
        self.b3b = make(inputs, mixed.pooled, _ONE)

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w o"]:
        branches = (
            self.b0(x),
            self.b1b(self.b1a(x)),
            self.b2b(self.b2a(x)),
            self.b3b(max_pool(x, Pool(_THREE, _ONE))),
        )
        return jnp.concatenate(branches, axis=-1)


class Logits(nnx.Module):
    """A linear map of the channels."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b o"]:
        return x @ self.kernel[...] + self.bias[...]


class I3d(nnx.Module):
    """Clips of floats in [-1, 1], RGB, [b t size size 3] with t >= 9, to logits."""

    def __init__(self, spec: I3dSpec, backend: ConvBackend, *, rngs: nnx.Rngs) -> None:
        units: dict[str, nnx.Module] = {}
        width = RGB
        for name, stage in STAGES.items():
            if isinstance(stage, Pool):
                continue
            if isinstance(stage, Unit):
                units[name] = ConvUnit(width, stage, backend, epsilon=spec.epsilon, rngs=rngs)
            else:
                units[name] = MixedUnit(width, stage, backend, epsilon=spec.epsilon, rngs=rngs)
            width = stage.width
        self.spec = spec
        self.units = nnx.Dict(units)
        self.logits = Logits(FEATURES, spec.classes, rngs=rngs)

    def endpoints(self, pixels: Float[Array, "b t h w c"]) -> dict[str, Array]:
        """The output of every stage, [b t h w c], by its name, in order."""
        outputs: dict[str, Array] = {}
        x = pixels
        for name, stage in STAGES.items():
            x = max_pool(x, stage) if isinstance(stage, Pool) else self.units[name](x)
            outputs[name] = x
        return outputs

    def pool(self, pixels: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 o"]:
        """The averages under the logits, [b t2 1 1 1024]; t2 is 1 for 16 frames."""
        _check_clip_shape(pixels.shape, self.spec.size)
        return average_pool(list(self.endpoints(pixels).values())[-1], self.spec.average_window)

    def __call__(self, pixels: Float[Array, "b t h w c"]) -> Float[Array, "b o"]:
        """Logits averaged over time: the features of FVD."""
        return self.logits(self.pool(pixels)).mean(axis=(1, 2, 3))


@dataclass(frozen=True)
class I3dNetwork(Network[I3d]):
    """The network without its parameters: pure functions of (params, pixels). Those of `init` are
    random: for tests and for trends, never for an FVD.

    Float32 throughout at the highest precision the device has: a feature is compared with features
    that others computed, and TF32 or bfloat16 products would show in the third digit.
    """

    spec: I3dSpec
    conv: ConvBackend

    @property
    def least_frames(self) -> int:
        """Frames that a clip needs."""
        return LEAST_FRAMES

    def build(self, key: Array) -> I3d:
        return I3d(self.spec, self.conv, rngs=nnx.Rngs(key))

    def features(self, params: PyTree, pixels: Float[Array, "b t h w c"]) -> Float[Array, "b o"]:
        """Features of prepared clips: [b t size size 3], t >= 9, in [-1, 1]; ValueError if not."""
        with jax.default_matmul_precision("highest"):
            return self.bind(params)(pixels)


def same_padding(size: int, window: int, stride: int) -> tuple[int, int]:
    """(front, back) of the "SAME" rule: ceil(size / stride) outputs, the odd one behind."""
    rest = size % stride
    total = max(window - (rest or stride), 0)
    return total // 2, total - total // 2


def pad_same(
    x: Float[Array, "b t h w c"], window: Stride, stride: Stride
) -> Float[Array, "b t2 h2 w2 c"]:
    """Pads time, height and width with zeros by the "SAME" rule."""
    sides = [same_padding(*axis) for axis in zip(x.shape[1:4], window, stride, strict=True)]
    return jnp.pad(x, ((0, 0), *sides, (0, 0)))


def max_pool(x: Float[Array, "b t h w c"], pool: Pool) -> Float[Array, "b t2 h2 w2 c"]:
    """Largest value of each window, padded with zeros (not -inf) by the "SAME" rule.

    One axis after the other, as the maximum of shifted slices: exact, and much faster on CPU than
    XLA's window reduction.
    """
    x = pad_same(x, pool.window, pool.stride)
    for axis, (window, stride) in enumerate(zip(pool.window, pool.stride, strict=True), start=1):
        x = _reduce_axis(x, axis, window=window, stride=stride)
    return x


def average_pool(
    x: Float[Array, "b t h w c"], window: Sequence[int]
) -> Float[Array, "b t2 h2 w2 c"]:
    """Mean of each full window at stride 1, without padding."""
    dims = (1, *window, 1)
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, dims, (1,) * 5, "VALID")
    return total / np.prod(window).astype(np.float32)


def _reduce_axis(x: Any, axis: int, *, window: int, stride: int) -> Any:
    count = (x.shape[axis] - window) // stride + 1
    parts = [
        jax.lax.slice_in_dim(x, first, first + (count - 1) * stride + 1, stride, axis)
        for first in range(window)
    ]
    result = parts[0]
    for part in parts[1:]:
        result = jnp.maximum(result, part)
    return result


def _check_clip_shape(shape: tuple[int, ...], size: int) -> None:
    if shape[1] < LEAST_FRAMES:
        raise ValueError(
            f"I3D: clips of {shape[1]} frames; it needs at least {LEAST_FRAMES}. Score longer "
            "clips or use a measure of single frames."
        )
    if shape[2:] != (size, size, RGB):
        raise ValueError(
            f"I3D: frames of shape {shape[2:]}; it takes ({size}, {size}, {RGB}). Prepare clips "
            "with nbp.metrics.fvd first."
        )
