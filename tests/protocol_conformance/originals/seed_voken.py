# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""TencentARC/SEED-Voken (Open-MAGVIT2), commit b9a17ea."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.protocol_conformance.originals import files, nbp, resampling

prepare = nbp.prepare_tokenizer  # src/Open_MAGVIT2/modules/util.py:24-34, the same function
WANTED = 10_000


def count_repeats(count: int, wanted: int = WANTED) -> tuple[int, int]:
    """src/Open_MAGVIT2/data/ucf101.py:49-52: (clips, most often that one video occurs).

    All files once, then random.sample, without a seed and without replacement.
    """
    return wanted, 2 if wanted > count else 1


def choose_centre(frames: int) -> list[int]:
    """data/ucf101.py:76-81,144-149: the middle 17 at the file's rate."""
    return nbp.choose_centre(frames, 25.0, -1, 17)


def read(path: Path, numbers: Sequence[int], size: int = 128) -> np.ndarray:
    """data/functional.py:25-72: cv2 makes the short side `size`, the long one truncated; bytes.

    Not yet cut: the square's place is drawn (data/video_transforms.py:1031).
    """
    frames = files.read_native(path, numbers)
    height, width = frames.shape[1:3]
    if min(height, width) == size:
        return frames
    short = min(height, width)
    target = (int(size * height / short), int(size * width / short))
    return np.stack([resampling.resize_opencv(frame, *target) for frame in frames])


def list_cuts(height: int, width: int, size: int = 128) -> tuple[int, int]:
    """data/video_transforms.py:1031-1032: numbers of tops and lefts, each as likely."""
    return height - size + 1, width - size + 1


def real_bytes(clips: np.ndarray) -> np.ndarray:
    """data/volume_transforms.py:66, data/functional.py:87, evaluation_video.py:157-163.

    Bytes to [-1, 1] and back in float32, then truncated.
    """
    pixels = clips.astype(np.float32) / np.float32(255)
    centred = (pixels - np.float32(0.5)) / np.float32(0.5)
    return ((centred + np.float32(1)) / np.float32(2) * np.float32(255)).astype(np.uint8)


def made_bytes(pixels: np.ndarray) -> np.ndarray:
    """evaluation_video.py:144,157-163: a reconstruction in [-1, 1], truncated."""
    centred = np.clip(pixels.astype(np.float32) * 2 - 1, -1, 1)
    return ((centred + np.float32(1)) / np.float32(2) * np.float32(255)).astype(np.uint8)
