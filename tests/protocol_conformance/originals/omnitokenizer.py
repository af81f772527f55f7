# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""FoundationVision/OmniTokenizer, commit 701b619."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.protocol_conformance.originals import drawing, files, nbp

# OmniTokenizer/data.py:120-236 and its fvd.py are what NBP took over.
choose_centre = nbp.choose_centre
prepare_tokenizer = nbp.prepare_tokenizer
CLASSES, EACH, SCORED = 101, 22, 2_048  # transformer_eval.py:231: 2048 // 101 + 1 of each class


def choose_external(frames: int) -> list[int]:
    """evaluation/fvd_external.py:37-52: the middle 17 at the file's rate; shorter ones stop it."""
    if frames < 17:
        raise ValueError("fvd_external.py: assert len(vr) >= frames")
    first = frames // 2 - 17 // 2
    return list(range(first, first + 17))


def read_tokenizer(path: Path, numbers: Sequence[int], size: int = 256) -> np.ndarray:
    """OmniTokenizer/data.py:218, video_utils.py:55-58: decord squashes; to [-0.5, 0.5]."""
    frames = files.read_squashed(path, numbers, size)
    return frames.astype(np.float32) / np.float32(255) - np.float32(0.5)


def real_bytes(centred: np.ndarray) -> np.ndarray:
    """vqgan_eval.py:132,147: back to [0, 1], then truncated."""
    return ((centred + np.float32(0.5)) * np.float32(255)).astype(np.uint8)


def made_bytes(pixels: np.ndarray) -> np.ndarray:
    """vqgan_eval.py:133,148: a reconstruction in [-0.5, 0.5], clamped and truncated."""
    centred = pixels.astype(np.float32) - np.float32(0.5)
    inside = np.clip(centred + np.float32(0.5), 0, 1)
    return (inside * np.float32(255)).astype(np.uint8)


def list_continued(count: int, wanted: int = SCORED) -> list[int]:
    """transformer_eval.py:104-110,201-216: the first clips that DistributedSampler deals to each of
    8 processes (scripts/lm_gen/k600_fp.sh), which are written beside what continues them.
    """
    each = -(-wanted // nbp.RANKS)
    return [
        place for share in drawing.distributed_shares(count, nbp.RANKS) for place in share[:each]
    ]


def store(path: Path, pixels: np.ndarray, *, threads: int = 1) -> tuple[int, int]:
    """OmniTokenizer/utils.py:225-246: truncated bytes, two black lines, mp4 at 6 fps.

    The grid has room for a pixel on each side, but its only clip begins at its corner (:240): both
    rows are below, both columns to the right.
    pixels: [t h w 3] in [0, 1]. Returns the height and width of the file.
    """
    frames = (pixels.astype(np.float32) * np.float32(255)).astype(np.uint8)
    bordered = np.pad(frames, ((0, 0), (0, 2), (0, 2), (0, 0)))
    return files.write_imageio(path, bordered, fps=6, threads=threads)


def read_external(path: Path, size: int) -> np.ndarray:
    """evaluation/fvd_external.py:31-58: the whole file squashed, border and all; [0, 1]."""
    numbers = choose_external(files.count_frames(path))
    return files.read_squashed(path, numbers, size).astype(np.float32) / np.float32(255)


def prepare_external(pixels: np.ndarray) -> np.ndarray:
    """common_metrics_on_video_quality/fvd/videogpt/fvd.py:22-60: bytes, short side 224, centre."""
    clips = (pixels.astype(np.float32) * np.float32(255)).astype(np.uint8)
    return nbp.shrink(clips.astype(np.float32) / np.float32(255), 224) * 2 - 1


def label_law() -> tuple[int, int]:
    """(clips of each class that are generated, of which 2,048 in all are drawn without a seed)."""
    return EACH, SCORED


def pixels_through_file(
    path: Path, pixels: np.ndarray, size: int, *, threads: int = 1
) -> np.ndarray:
    """What is scored of a clip [t h w 3] in [0, 1]: written, read at `size`, in [0, 1]."""
    store(path, pixels, threads=threads)
    return read_external(path, size)
