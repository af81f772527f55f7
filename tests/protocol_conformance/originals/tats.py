# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""songweige/TATS, commit 03bbce1."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.protocol_conformance.originals import files, nbp
from tests.protocol_conformance.sets import Video

prepare = nbp.prepare_tokenizer  # tats/fvd/fvd.py: what VideoGPT's users share
FRAMES, CLIPS, CLASSES = 16, 2_048, 101
BATCH = 32  # tats/data.py: the parser's default


def list_windows(videos: Sequence[Video]) -> list[tuple[str, int]]:
    """tats/data.py:59, torchvision's VideoClips: (path, first frame) of every window, steps of 1.

    The loader shuffles them (tats/data.py:337), so each window is as likely.
    """
    return [(video.path, first) for video in videos for first in range(video.frames - FRAMES + 1)]


def count_labels(batch: int = BATCH) -> tuple[int, int]:
    """scripts/sample_vqgan_transformer_short_videos.py:70-76,99: (clips of each class, drawn).

    Whole batches of each class; 2,048 of all are drawn by a permutation without a seed.
    """
    each = (CLIPS // CLASSES + 1) // batch + 1
    return each * batch, CLIPS


def read(path: Path, numbers: Sequence[int], size: int = 128) -> np.ndarray:
    """tats/data.py:95-141, sample_..._short_videos.py:113: floats, no antialiasing, then bytes.

    Short side `size`, the long one rounded up, the centre; to [-0.5, 0.5], back, and truncated.
    """
    pixels = files.read_native(path, numbers).astype(np.float32) / np.float32(255)
    centred = nbp.shrink(pixels, size).astype(np.float32) - np.float32(0.5)
    return ((centred + np.float32(0.5)) * np.float32(255)).astype(np.uint8)


def made_bytes(pixels: np.ndarray) -> np.ndarray:
    """sample_..._short_videos.py:99: (clip * 255).astype(np.uint8), which truncates."""
    return (pixels.astype(np.float32) * np.float32(255)).astype(np.uint8)
