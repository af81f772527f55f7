# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""hywang66/LARP, commit 8aaed63."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.protocol_conformance.originals import drawing, files, resampling
from tests.protocol_conformance.sets import Video

FRAMES = 16
SEED = 42


def list_windows(videos: Sequence[Video]) -> list[tuple[str, int]]:
    """datasets/video_dataset.py:179,252-258: (path, first frame), sorted paths, steps of 16."""
    return [
        (video.path, FRAMES * window)
        for video in sorted(videos, key=lambda video: video.path)
        for window in range(video.frames // FRAMES)
    ]


def draw_clips(videos: Sequence[Video], wanted: int) -> list[tuple[str, int]]:
    """sample.py:138,300: random.Random(42).sample over all windows."""
    windows = list_windows(videos)
    return [windows[place] for place in drawing.python_sample(range(len(windows)), wanted, SEED)]


def list_tokenizer_windows(frames: int) -> list[tuple[int, ...]]:
    """datasets/video_dataset.py:330-332: windows of a video, each as likely; short ones repeat.

    The last frame of a short video stands in for those that it lacks (:348).
    """
    length = min(FRAMES, frames)
    filled = [frames - 1] * (FRAMES - length)
    return [(*range(start, start + length), *filled) for start in range(frames - length + 1)]


def number_classes(paths: Sequence[str]) -> list[int]:
    """datasets/video_dataset.py:222-235: the actions of the files' names in Python's order."""
    actions = [path.rsplit("/", 1)[-1].split("_")[1] for path in paths]
    order = sorted(set(actions))
    return [order.index(action) for action in actions]


def read(path: Path, numbers: Sequence[int], size: int = 128) -> np.ndarray:
    """datasets/video_dataset.py:45-48,341: floats, torchvision's Resize and CenterCrop.

    Resize truncates the long side, and CenterCrop rounds half a pixel to the even one.
    """
    pixels = files.read_native(path, numbers).astype(np.float64) / 255
    height, width = pixels.shape[1:3]
    short = min(height, width)
    target = (int(size * height / short), int(size * width / short))
    scaled = resampling.resize(pixels, *target, resampling.triangle)
    top, left = (round((side - size) / 2.0) for side in target)
    return resampling.cut(scaled, top, left, size)


def prepare(pixels: np.ndarray, *, shrunk: int | None = None) -> np.ndarray:
    """utils/fvd/fvd.py:344-345, sample.py:314: floats; Kinetics through 64 px, antialiased.

    The archive resizes to 224: bilinear, half-pixel, no antialiasing (nothing shrinks).
    """
    if shrunk:
        pixels = resampling.resize(pixels, shrunk, shrunk, resampling.triangle)
    return (resampling.resize(pixels, 224, 224, resampling.half_pixel) - 0.5) * 2
