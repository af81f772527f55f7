# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""How the originals' libraries make frames larger and smaller."""

from collections.abc import Callable

import numpy as np

# Weights [size length] of one axis, for `length` pixels that become `size`.
Kernel = Callable[[int, int], np.ndarray]


def resize(pixels: np.ndarray, height: int, width: int, kernel: Kernel) -> np.ndarray:
    """Separable resize of [... h w c] to float64 [... height width c]."""
    rows, columns = kernel(pixels.shape[-3], height), kernel(pixels.shape[-2], width)
    for axis, weights in ((-3, rows), (-2, columns)):
        pixels = np.moveaxis(pixels.astype(np.float64), axis, -2)
        pixels = np.moveaxis(weights @ pixels, -2, axis)
    return pixels


def half_pixel(length: int, size: int) -> np.ndarray:
    """torch F.interpolate(mode="bilinear", align_corners=False), TensorFlow 2's tf.image.resize.

    Two neighbours of (i + 1/2) length / size - 1/2, which is not below 0; no antialiasing.
    """
    places = np.maximum((np.arange(size) + 0.5) * length / size - 0.5, 0)
    return _between(places, length)


def corner_pixel(length: int, size: int) -> np.ndarray:
    """TensorFlow 1's resize_bilinear(align_corners=False): two neighbours of i length / size."""
    return _between(np.arange(size) * length / size, length)


def triangle(length: int, size: int) -> np.ndarray:
    """torch F.interpolate(antialias=True): a triangle as wide as the scale, if the axis shrinks."""
    scale = length / size
    support = max(scale, 1.0)
    centres = (np.arange(size) + 0.5) * scale
    distances = np.arange(length)[None] + 0.5 - centres[:, None]
    weights = np.maximum(1 - np.abs(distances) / support, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _between(places: np.ndarray, length: int) -> np.ndarray:
    low = np.minimum(np.floor(places).astype(int), length - 1)
    high = np.minimum(low + 1, length - 1)
    weights = np.zeros((len(places), length))
    rows = np.arange(len(places))
    np.add.at(weights, (rows, low), 1 - (places - low))
    np.add.at(weights, (rows, high), places - low)
    return weights


def resize_opencv(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """cv2.resize(interpolation=INTER_LINEAR) of bytes [h w c]: weights of 11 bits, no antialiasing.

    Equal to OpenCV 5.0 but for one level in up to 3 % of the pixels of some sizes.
    """
    top, bottom, above, below = _opencv_weights(frame.shape[0], height)
    left, right, before, after = _opencv_weights(frame.shape[1], width)
    pixels = frame.astype(np.int64)
    lines = pixels[:, left] * before[:, None] + pixels[:, right] * after[:, None]
    first = (above[:, None, None] * (lines[top] >> 4)) >> 16
    second = (below[:, None, None] * (lines[bottom] >> 4)) >> 16
    return np.clip((first + second + 2) >> 2, 0, 255).astype(np.uint8)


def _opencv_weights(length: int, size: int) -> tuple[np.ndarray, ...]:
    places = ((np.arange(size) + 0.5) * (length / size) - 0.5).astype(np.float32)
    low = np.floor(places).astype(int)
    share = places - low
    share = np.where((low < 0) | (low >= length - 1), 0, share)
    low = np.clip(low, 0, length - 1)
    weights = [np.rint(part * 2048).astype(np.int64) for part in (1 - share, share)]
    return low, np.minimum(low + 1, length - 1), *weights


def cut(pixels: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    """A square of [... h w c]."""
    return pixels[..., top : top + size, left : left + size, :]
