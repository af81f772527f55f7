# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""STREAM: how natural motion is, apart from how frames look (Kim et al., ICLR 2024).

From features of single frames, so clips may have any length. Over time each feature has a spectrum:

* its constant part, the clip's mean look, goes into precision and recall (STREAM-F, STREAM-D);
* how fast its amplitudes fall with frequency goes into STREAM-T: one number per clip and feature,
  whose histograms over real and generated clips are correlated.

The formulas are those of the authors' code (github.com/pro2nit/STREAM, stream/stream.py), which
docs/protocols.md compares with the paper. Published scores use features of SwAV or DINOv2.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbp.metrics.estimates import check_features
from nbp.metrics.precision_recall import manifold_scores
from nbp.models.lpips import LpipsNetwork
from nbp.models.network import map_batches
from nbp.shapes import Array, Float, PyTree

BINS = 50
NEIGHBOURS = 5
FLOOR = 1e-6  # added to amplitudes, so that a still feature has a logarithm
LEAST_FRAMES = 4  # two frequencies: a line through fewer points has no slope


@dataclass(frozen=True)
class StreamScores:
    """All between 0 and 1, higher is better. temporal: STREAM-T. fidelity: STREAM-F (precision).
    diversity: STREAM-D (recall).
    """

    temporal: float
    fidelity: float
    diversity: float


@dataclass(frozen=True, eq=False)
class Spectra:
    """What STREAM needs of a set of clips; small, of any number of clips joined by `join`.

    skewness: of each clip and feature, [n d]. mean: its constant part, [n d].
    """

    skewness: Float[np.ndarray, "n d"]
    mean: Float[np.ndarray, "n d"]

    @classmethod
    def of(cls, features: Float[Array, "n t d"]) -> "Spectra":
        """Of the features of each frame of n clips; t >= 4, ValueError if not."""
        x = np.asarray(features, np.float64)
        if x.shape[1] < LEAST_FRAMES:
            raise ValueError(
                f"STREAM needs clips of at least {LEAST_FRAMES} frames, these have {x.shape[1]}"
            )
        # The lower half, scaled as in the authors' code (by half the number of frames, plus one).
        spectrum = np.abs(np.fft.rfft(x, axis=1)) * (2.0 / (1 + x.shape[1] // 2))
        return cls(_skewness(fit_slopes(spectrum[:, 1:]), x.shape[1] // 2), spectrum[:, 0])

    @classmethod
    def join(cls, parts: "list[Spectra]") -> "Spectra":
        """Of one part or more, in their order; no score depends on the order."""
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in cls.names()))

    @staticmethod
    def names() -> tuple[str, ...]:
        """Of the arrays, for a file."""
        return ("skewness", "mean")


def fit_slopes(amplitudes: Float[Array, "n f d"]) -> Float[np.ndarray, "n d"]:
    """b of the least-squares fit amplitude = a k^b over the frequencies 1 .. f; 0 where still."""
    logs = np.log(amplitudes + FLOOR)
    place = np.log(np.arange(1, amplitudes.shape[1] + 1))
    place = place - place.mean()
    return np.einsum("f,nfd->nd", place, logs) / (place @ place)


def stream_scores(real: Spectra, made: Spectra) -> StreamScores:
    """Scores of two sets of at least 6 clips each, of equal length and features."""
    spatial = manifold_scores(real.mean, made.mean, neighbours=NEIGHBOURS)
    return StreamScores(
        temporal=temporal_agreement(real.skewness, made.skewness),
        fidelity=spatial.precision,
        diversity=spatial.recall,
    )


def temporal_agreement(real: Float[Array, "n d"], made: Float[Array, "m d"]) -> float:
    """STREAM-T of the skewness of two sets: squared correlation of histograms, mean over features.

    50 bins from a whole number below the smallest to one above the largest value of both. It says
    1 for equal sets only: fewer clips than bins make it small for equal distributions as well.
    """
    x, y = check_features(real, made, least=2, statistic="STREAM-T")
    low = np.trunc(np.minimum(x.min(axis=0), y.min(axis=0))) - 1
    high = np.trunc(np.maximum(x.max(axis=0), y.max(axis=0))) + 1
    agreements = []
    for column in range(x.shape[1]):
        limits = (low[column], high[column])
        counts = [
            np.histogram(rows[:, column], bins=BINS, range=limits)[0] / len(rows) for rows in (x, y)
        ]
        a, b = (values - values.mean() for values in counts)
        correlation = (a @ b) / (np.sqrt(a @ a) * np.sqrt(b @ b) + 1e-12)
        agreements.append(correlation**2)
    return float(np.mean(agreements))


def _skewness(slopes: np.ndarray, count: int) -> np.ndarray:
    """Of the density proportional to k^slope on k = 1 .. count.

    The authors' code divides by the root of the second moment where a skewness has the third power
    of that root. Published scores are of this form, which rises with the slope.
    """
    k = np.arange(1, count + 1, dtype=np.float64)
    total, second, third = (np.sum(k ** (slopes[..., None] + p), axis=-1) for p in (0, 2, 3))
    return third * np.sqrt(total) / np.sqrt(second)


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
        extract = functools.partial(_extract_frames, self.network, self.params)
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
def _extract_frames(network: FrameNetwork, params: PyTree, clips: Array) -> Array:
    def describe(frames: Array) -> Array:
        images = frames.astype(jnp.float32)
        return network(params, images / 255.0 if frames.dtype == jnp.uint8 else images)

    # One frame of every clip at a time, as for LPIPS: a network's first maps of all would not fit.
    with jax.default_matmul_precision("highest"):
        return jnp.moveaxis(jax.lax.map(describe, jnp.moveaxis(clips, 1, 0)), 0, 1)
