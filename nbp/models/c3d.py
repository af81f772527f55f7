# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""C3D (Tran et al. 2015, arXiv 1412.0767): classes of clips, for the Inception score of UCF101.

Layers and their names are those of the public PyTorch ports (DavideA/c3d-pytorch,
jfzhang95/pytorch-video-recognition); the preparation is the latter's. With random weights its
scores mean nothing.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nbp.models.network import Network
from nbp.nn.conv3d import ConvBackend
from nbp.shapes import Array, Float, PyTree

RGB = 3
ONE = (1, 1, 1)
# Convolutions of each stage; a maximum over windows ends it.
STAGES = (("conv1",), ("conv2",), ("conv3a", "conv3b"), ("conv4a", "conv4b"), ("conv5a", "conv5b"))
HALVINGS = 2 ** (len(STAGES) - 1)  # of time by all pools, of height and width by all but the last


@dataclass(frozen=True)
class C3dSpec:
    """Sizes of the network and what it takes as input; the defaults are the published ones.

    widths: channels of each stage's convolutions. hidden: width of the two layers before the
      classes. size: px of the input.
    resized: height and width of whole frames, of which the centre is cut out.
    mean: subtracted from bytes, per channel in the network's own order, which is blue, green, red
      (`bgr`) for weights that come from Caffe or were trained on frames of OpenCV.
    """

    classes: int = 101
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: int = 4096
    frames: int = 16
    size: int = 112
    resized: tuple[int, int] = (128, 171)
    mean: tuple[float, float, float] = (90.0, 98.0, 102.0)
    bgr: bool = True

    def __post_init__(self) -> None:
        if len(self.widths) != len(STAGES):
            raise ValueError(f"C3D: {len(self.widths)} widths for {len(STAGES)} stages")
        if self.frames % HALVINGS or self.size % HALVINGS:
            raise ValueError(
                f"C3D: {self.frames} frames of {self.size} px; both must be multiples of {HALVINGS}"
            )

    @property
    def flat(self) -> int:
        """Numbers of the last map; its padding leaves k // 2 + 1 of k positions per side."""
        side = self.size // HALVINGS // 2 + 1
        return self.widths[-1] * (self.frames // HALVINGS) * side * side


class _Conv(nnx.Module):
    """3x3x3 convolution with bias, zero padding, then ReLU."""

    def __init__(self, inputs: int, outputs: int, backend: ConvBackend, *, rngs: nnx.Rngs) -> None:
        self.backend = backend
        init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, 3, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w o"]:
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
        return jax.nn.relu(self.backend(padded, self.kernel[...], ONE) + self.bias[...])


class _Linear(nnx.Module):
    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))

    def __call__(self, x: Float[Array, "b i"]) -> Float[Array, "b o"]:
        return x @ self.kernel[...] + self.bias[...]


class C3d(nnx.Module):
    """Prepared clips [b frames size size 3] to logits of classes."""

    def __init__(self, spec: C3dSpec, backend: ConvBackend, *, rngs: nnx.Rngs) -> None:
        convs: dict[str, nnx.Module] = {}
        width = RGB
        for names, outputs in zip(STAGES, spec.widths, strict=True):
            for name in names:
                convs[name] = _Conv(width, outputs, backend, rngs=rngs)
                width = outputs
        self.spec = spec
        self.convs = nnx.Dict(convs)
        self.fc6 = _Linear(spec.flat, spec.hidden, rngs=rngs)
        self.fc7 = _Linear(spec.hidden, spec.hidden, rngs=rngs)
        self.fc8 = _Linear(spec.hidden, spec.classes, rngs=rngs)

    def maps(self, clips: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 o"]:
        """The output of the last pool."""
        x = clips
        for stage, names in enumerate(STAGES):
            for name in names:
                x = self.convs[name](x)
            if stage == len(STAGES) - 1:
                # After a ReLU a zero never wins over a pixel, so it pads as -inf would.
                x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
            x = max_pool(x, frames=2 if stage else 1)
        return x

    def __call__(self, clips: Float[Array, "b t h w c"]) -> Float[Array, "b o"]:
        spec = self.spec
        if clips.shape[1:] != (spec.frames, spec.size, spec.size, RGB):
            raise ValueError(
                f"C3D: clips of shape {clips.shape[1:]}; it takes {spec.frames} frames of "
                f"{spec.size} px. Prepare them with nbp.metrics.inception_score."
            )
        # The first linear layer of the published files reads channels first.
        flat = self.maps(clips).transpose(0, 4, 1, 2, 3).reshape(len(clips), spec.flat)
        return self.fc8(jax.nn.relu(self.fc7(jax.nn.relu(self.fc6(flat)))))


@dataclass(frozen=True)
class C3dNetwork(Network[C3d]):
    """The network without its parameters: pure functions of (params, clips), at inference (the
    dropout of training is left out), in float32 at the device's highest precision."""

    spec: C3dSpec
    conv: ConvBackend

    def build(self, key: Array) -> C3d:
        return C3d(self.spec, self.conv, rngs=nnx.Rngs(key))

    def probabilities(
        self, params: PyTree, pixels: Float[Array, "b t h w c"]
    ) -> Float[Array, "b o"]:
        """Of the classes, for clips of RGB values 0..255 at the network's size."""
        ordered = pixels[..., ::-1] if self.spec.bgr else pixels
        with jax.default_matmul_precision("highest"):
            logits = self.bind(params)(ordered - np.asarray(self.spec.mean, np.float32))
        return jax.nn.softmax(logits, axis=-1)


def max_pool(x: Float[Array, "b t h w c"], *, frames: int) -> Float[Array, "b t2 h2 w2 c"]:
    """Largest value of each window of `frames` x 2 x 2; what is left over is dropped."""
    b, t, h, w, c = x.shape
    t, h, w = t // frames, h // 2, w // 2
    whole = x[:, : t * frames, : h * 2, : w * 2]
    return whole.reshape(b, t, frames, h, 2, w, 2, c).max(axis=(2, 4, 6))
