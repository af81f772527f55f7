# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What scores are made of: I3D features of clips, VGG-16 features of frames, LPIPS of pairs."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbp.metrics.frechet import Moments, frechet_distance
from nbp.models.i3d import SIZE, I3dNetwork
from nbp.models.lpips import LpipsNetwork
from nbp.protocols.protocol import FeatureRule, Preparation
from nbp.shapes import Array, Float, PyTree


def fill_batch(rows: Array, size: int) -> Array:
    """At most `size` rows, with the last one repeated up to that number; a full batch as it is."""
    missing = size - len(rows)
    if not missing:
        return rows
    rows = np.asarray(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])


def map_batches(
    function: Callable[..., Array], *arrays: Array, size: int, place: Callable[[Array], Any]
) -> list[np.ndarray]:
    """`function` of `size` rows of every array at a time, as float64; [] for no rows.

    place: puts a batch where the function computes.
    """
    results = []
    for start in range(0, len(arrays[0]), size):
        pieces = [rows[start : start + size] for rows in arrays]
        values = function(*(place(fill_batch(rows, size)) for rows in pieces))
        results.append(np.asarray(values, np.float64)[: len(pieces[0])])
    return results


# Prepares clips in [0, 1], antialiased where they shrink or not: [b t size size c] in [-1, 1].
Prepare = Callable[..., Array]


def prepare_videogpt(
    pixels: Float[Array, "b t h w c"], *, antialias: bool = False, size: int = SIZE
) -> Float[Array, "b t h2 w2 c"]:
    """Clips in [0, 1] to [b t size size c] in [-1, 1]: bytes, then the whole frame is squashed."""
    squashed = resize_bilinear(truncate_to_bytes(pixels), size, size, antialias=antialias)
    return squashed * (2.0 / 255.0) - 1.0


def prepare_styleganv(
    pixels: Float[Array, "b t h w c"], *, antialias: bool = False, size: int = SIZE
) -> Float[Array, "b t h2 w2 c"]:
    """Clips in [0, 1] to [b t size size c] in [-1, 1]: short side, then the centre."""
    return (resize_short_side(pixels, size, antialias=antialias) - 0.5) * 2.0


def prepare_videogpt_crop(
    pixels: Float[Array, "b t h w c"], *, antialias: bool = False, size: int = SIZE
) -> Float[Array, "b t h2 w2 c"]:
    """Clips in [0, 1] to [b t size size c] in [-1, 1]: bytes, short side, then the centre."""
    return prepare_styleganv(truncate_to_bytes(pixels) / 255.0, antialias=antialias, size=size)


def prepare_tf1(
    pixels: Float[Array, "b t h w c"], *, antialias: bool = False, size: int = SIZE
) -> Float[Array, "b t h2 w2 c"]:
    """Clips in [0, 1] to [b t size size c] in [-1, 1]: TensorFlow 1's bilinear of the whole frame.

    Row i of the result is at i * height / size, without half-pixel centres. It has no antialiasing;
    ValueError for any.
    """
    if antialias:
        raise ValueError("the preparation tf1 has no antialiasing")
    for axis, length in ((2, pixels.shape[2]), (3, pixels.shape[3])):
        places = np.arange(size, dtype=np.float32) * np.float32(length / size)
        pixels = _take_between(pixels, axis, places)
    return pixels * 2.0 - 1.0


PREPARATIONS: dict[Preparation, Prepare] = {
    "videogpt": prepare_videogpt,
    "styleganv": prepare_styleganv,
    "videogpt_crop": prepare_videogpt_crop,
    "tf1": prepare_tf1,
}


def truncate_to_bytes(pixels: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Pixels in [0, 1] as whole numbers 0..255, rounded down as a cast to uint8 does."""
    return jnp.floor(pixels * 255.0)


def resize_short_side(
    pixels: Float[Array, "b t h w c"], size: int, *, antialias: bool = False
) -> Float[Array, "b t h2 w2 c"]:
    """Scales the short side to `size` px (long side rounded up) and cuts out the centre square."""
    height, width = pixels.shape[2:4]
    scale = size / min(height, width)
    if height < width:
        target = (size, math.ceil(width * scale))
    else:
        target = (math.ceil(height * scale), size)
    top, left = ((side - size) // 2 for side in target)
    resized = resize_bilinear(pixels, *target, antialias=antialias)
    return resized[:, :, top : top + size, left : left + size]


def resize_bilinear(
    pixels: Float[Array, "b t h w c"], height: int, width: int, *, antialias: bool = False
) -> Float[Array, "b t h2 w2 c"]:
    """Bilinear with half-pixel centres, edges repeated.

    antialias: a side that shrinks is filtered by a triangle as wide as the scale, as PyTorch does
    with `antialias=True`; else two pixels are interpolated whatever the scale.
    """
    if antialias:
        shape = (*pixels.shape[:2], height, width, pixels.shape[4])
        return jax.image.resize(pixels, shape, "linear", antialias=True)
    for axis, size in ((2, height), (3, width)):
        pixels = _interpolate(pixels, axis, size)
    return pixels


def _interpolate(pixels: Array, axis: int, size: int) -> Array:
    """Linear interpolation of one axis between the two nearest pixels of each centre."""
    length = pixels.shape[axis]
    if length == size:
        return pixels
    centres = np.maximum((np.arange(size) + 0.5) * (length / size) - 0.5, 0.0)
    return _take_between(pixels, axis, centres)


def _take_between(pixels: Array, axis: int, places: np.ndarray) -> Array:
    """Linear interpolation of one axis at `places`, in pixels from the first one's centre on."""
    last = pixels.shape[axis] - 1
    low = np.minimum(places.astype(np.int64), last)
    high = np.minimum(low + 1, last)
    shape = [1] * pixels.ndim
    shape[axis] = len(places)
    weight = (places - low).astype(np.float32).reshape(shape)
    first, second = jnp.take(pixels, low, axis), jnp.take(pixels, high, axis)
    return first * (1.0 - weight) + second * weight


@dataclass(frozen=True)
class FeatureExtractor:
    """I3D features of clips: the network, its parameters and how a protocol prepares clips.

    batch: clips per call of the network; a last smaller batch is filled up, so that there is one
      compiled program per clip shape. 16 clips of 17 frames take about 2 GiB.
    place: puts a batch where the parameters are, on all devices for example.
    """

    network: I3dNetwork
    params: PyTree
    rule: FeatureRule
    batch: int = 16
    place: Callable[[Array], Any] = jnp.asarray

    @property
    def dimensions(self) -> int:
        return self.network.spec.classes

    def __call__(self, clips: Array) -> Float[np.ndarray, "n d"]:
        """Features as float64 [n 400] of clips [n t h w 3], bytes of 0..255 or floats in [0, 1].

        At least 9 of the t frames must be scored ones.
        """
        extract = functools.partial(_extract, self.network, self.rule, self.params)
        found = map_batches(extract, clips, size=self.batch, place=self.place)
        return np.concatenate([np.zeros((0, self.dimensions)), *found])


def _extract_features(
    network: I3dNetwork, rule: FeatureRule, params: PyTree, clips: Array
) -> Array:
    last = None if rule.frames is None else rule.first_frame + rule.frames
    pixels = clips[:, rule.first_frame : last]
    if pixels.dtype == jnp.uint8:
        pixels = pixels.astype(jnp.float32) / 255.0
    for size in rule.sizes:
        pixels = resize_short_side(pixels, size, antialias=rule.antialias)
    prepare = PREPARATIONS[rule.preparation]
    prepared = prepare(pixels, antialias=rule.antialias, size=network.spec.size)
    return network.features(params, prepared)


_extract = jax.jit(_extract_features, static_argnums=(0, 1))


def frechet_video_distance(first: Float[Array, "n d"], second: Float[Array, "m d"]) -> float:
    """Frechet distance of two sets of features, n and m >= 2; see `frechet_distance`."""
    return frechet_distance(Moments.of(first), Moments.of(second))


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


@dataclass(frozen=True)
class LpipsScorer:
    """Distances of pairs of clips, as LPIPS's authors compute them, on all frames in float32.

    The release of NBP looks at frame 5 alone, and its normalisations cancel, so that VGG sees raw
    pixels of [0, 1] (docs/official_parity.md); LARP and SEED-Voken do it as here.

    batch: clips at a time. place: puts a batch where the parameters are.
    """

    params: PyTree
    batch: int = 16
    place: Callable[[Array], Any] = jnp.asarray

    def __call__(self, first: Array, second: Array) -> Float[np.ndarray, "n"]:
        """One distance per pair of clips [n t h w 3] of bytes 0..255, sides of 16 px or more."""
        measure = functools.partial(_measure, self.params)
        found = map_batches(measure, first, second, size=self.batch, place=self.place)
        return np.concatenate([np.zeros(0), *found])


@jax.jit
def _measure(params: PyTree, first: Array, second: Array) -> Array:
    network = LpipsNetwork()

    def compare(pair: tuple[Array, Array]) -> Array:
        # One frame of every clip: VGG's first maps of all frames at once would not fit.
        a, b = (frames[:, None].astype(jnp.float32) / 255.0 for frames in pair)
        return network.distance(params, a, b)

    frames = [jnp.moveaxis(clips, 1, 0) for clips in (first, second)]
    with jax.default_matmul_precision("highest"):
        return jax.lax.map(compare, tuple(frames)).mean(axis=0)
