# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""google-research/magvit, commit 05e8cfd, with google-deepmind/dmvr's image pipeline.

The data set `ucf101` itself is in no public repository: that its "train" part is DMVR's add_image
with is_training=True is read from the keys of configs/maskgvt_ucf101_config.py.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tests.protocol_conformance.originals import files, resampling
from tests.protocol_conformance.sets import Video

FRAMES, CLIPS, REPEATS = 16, 10_000, 4


def count_passes(count: int, wanted: int = CLIPS, repeats: int = REPEATS) -> list[tuple[int, int]]:
    """train_lib/eval_utils.py:160,186-189: (fewest, most) uses of one video in each repeat.

    One endless shuffled stream is cut into repeats, so that each has other clips; whole passes over
    the list come one after the other.
    """
    uses = []
    for repeat in range(repeats):
        first, last = repeat * wanted, (repeat + 1) * wanted
        whole = max(0, last // count - -(-first // count))
        uses.append((whole, whole + 1 + (first % count != 0 and last % count != 0)))
    return uses


def list_windows(frames: int) -> list[tuple[int, ...]]:
    """dmvr/processors.py:30-90,175-186: windows of a video, each as likely; short ones repeat."""
    most = max(frames - (FRAMES - 1), 1)
    return [
        tuple(number % frames for number in range(start, start + FRAMES)) for start in range(most)
    ]


def read(path: Path, numbers: Sequence[int], size: int = 128) -> np.ndarray:
    """dmvr/processors.py:395-409: bytes, bilinear without antialiasing, truncated.

    The long side is truncated. Not yet cut nor mirrored: both are drawn (modalities.py:223-243).
    The stored frames are JPEG of unknown quality.
    """
    frames = files.read_native(path, numbers)
    height, width = frames.shape[1:3]
    target = (max(size, height * size // width), max(size, width * size // height))
    if target == (height, width):
        return frames
    return resampling.resize(frames, *target, resampling.half_pixel).astype(np.uint8)


def list_cuts(height: int, width: int, size: int = 128) -> tuple[int, int]:
    """dmvr/processors.py:353-358: numbers of tops and lefts, each as likely."""
    return height - size + 1, width - size + 1


def iterate_labels(real: Sequence[Video]) -> Iterator[str]:
    """trainers/maskgvt_trainer.py:357-359: a generated clip has the label of the real one."""
    for video in real:
        yield video.label


def prepare(pixels: np.ndarray) -> np.ndarray:
    """train_lib/frechet_distance.py:121-122, metrics_lib.py:71-90: 224, corners."""
    return resampling.resize(pixels, 224, 224, resampling.corner_pixel) * 2 - 1
