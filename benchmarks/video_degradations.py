# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Clips made worse by a known amount, to see what a score reacts to.

Each takes bytes [n t h w c] and a level >= 0 and returns bytes; level 0 changes nothing. Two damage
frames and leave their order, two damage the order and leave every frame as it is.
"""

import math
from collections.abc import Callable

import numpy as np

from nbp.shapes import Clips

Degrade = Callable[..., Clips]


def blur(clips: Clips, level: float, *, seed: int = 0) -> Clips:
    """A Gaussian of `level` pixels over height and width, edges repeated."""
    del seed
    if not level:
        return clips
    x = clips.astype(np.float32)
    height, width, channels = clips.shape[2:]
    x = _blur_matrix(height, level) @ x.reshape(-1, height, width * channels)
    x = _blur_matrix(width, level) @ x.reshape(-1, width, channels)
    return _to_bytes(x.reshape(clips.shape))


def add_noise(clips: Clips, level: float, *, seed: int = 0) -> Clips:
    """Gaussian noise with a deviation of `level` of 255, another in every pixel and frame."""
    if not level:
        return clips
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(clips.shape, np.float32)
    return _to_bytes(clips + np.float32(level) * noise)


def shuffle_frames(clips: Clips, level: float, *, seed: int = 0) -> Clips:
    """In each clip a share `level` (0..1) of the frames, drawn at random, changes places."""
    rng = np.random.default_rng(seed)
    count = round(level * clips.shape[1])
    shuffled = clips.copy()
    for clip, source in zip(shuffled, clips, strict=True):
        places = rng.permutation(clips.shape[1])[:count]
        # One place on: no frame stays where it was, so the level is the share that moved.
        clip[places] = source[np.roll(places, 1)]
    return shuffled


def freeze_frames(clips: Clips, level: float, *, seed: int = 0) -> Clips:
    """In each clip a share `level` (0..1) of the frames after the first, drawn at random, repeats
    the frame before it; 1 leaves a still picture.
    """
    rng = np.random.default_rng(seed)
    later = clips.shape[1] - 1
    frozen = clips.copy()
    for clip in frozen:
        for place in np.sort(rng.permutation(later)[: round(level * later)]) + 1:
            clip[place] = clip[place - 1]
    return frozen


def _blur_matrix(size: int, level: float) -> np.ndarray:
    """[size size]: each row a Gaussian around its own place, what is outside put on the edge."""
    reach = math.ceil(3 * level)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-(offsets**2) / (2 * level**2))
    matrix = np.zeros((size, size), np.float32)
    for row in range(size):
        np.add.at(matrix[row], np.clip(row + offsets, 0, size - 1), kernel / kernel.sum())
    return matrix


def _to_bytes(x: np.ndarray) -> Clips:
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


# What, and levels that grow from nothing.
DEGRADATIONS: dict[str, tuple[Degrade, tuple[float, ...]]] = {
    "blur": (blur, (0.0, 0.5, 1.0, 2.0, 4.0)),
    "noise": (add_noise, (0.0, 4.0, 8.0, 16.0, 32.0)),
    "shuffle": (shuffle_frames, (0.0, 0.25, 0.5, 1.0)),
    "freeze": (freeze_frames, (0.0, 0.25, 0.5, 0.75, 1.0)),
}
