# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Frechet video distance (Unterthiner et al. 2018): from clips to I3D features to a number."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbp.models.i3d import SIZE, I3dNetwork
from nbp.models.network import map_batches
from nbp.protocols.protocol import FeatureRule, Preparation
from nbp.shapes import Array, Float, PyTree

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
