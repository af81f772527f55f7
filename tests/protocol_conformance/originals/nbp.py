# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""RenShuhuai-Andy/NBP, commit 421e936: the release whose models this package reads."""

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from tests.protocol_conformance.originals import drawing, files, resampling

RANKS = 8  # scripts/lm_eval/*.sh: --nproc_per_node=8
BLACK = -1


def list_tokenizer_clips(count: int) -> list[int]:
    """tokenizer_eval.py:78, nbp/data.py: the list once, in its order."""
    return list(range(count))


def list_generation_clips(count: int, wanted: int, *, ranks: int = RANKS) -> list[int]:
    """transformer_eval.py:181,448,462: each rank repeats its share of the shuffled list in turn.

    Batches are of one clip, so each rank takes ceil(wanted / ranks).
    """
    each = -(-wanted // ranks)
    shares = drawing.distributed_shares(count, ranks)
    return [share[place % len(share)] for share in shares for place in range(each)]


def resample(frames: int, native_fps: float, fps: float) -> np.ndarray:
    """nbp/video_utils.py:261-276: frame numbers at a lower rate, spread evenly and truncated."""
    if fps == -1 or native_fps <= fps:
        return np.arange(frames)
    return np.linspace(0, frames - 1, int(frames / native_fps * fps)).astype(int)


def choose_centre(frames: int, native_fps: float, fps: float, wanted: int = 17) -> list[int]:
    """nbp/video_utils.py:328-333,351-363: the middle window; a short video ends in black."""
    numbers = resample(frames, native_fps, fps)
    length = min(wanted, len(numbers))
    first = len(numbers) // 2 - length // 2
    found = numbers[first : first + length].tolist()
    return found + [BLACK] * (wanted - length)


def list_windows(
    frames: int, native_fps: float, fps: float, wanted: int = 17
) -> list[tuple[int, ...]]:
    """nbp/video_utils.py:323-326: the windows that "rand" draws from, each as likely."""
    numbers = resample(frames, native_fps, fps).tolist()
    length = min(wanted, len(numbers))
    black = [BLACK] * (wanted - length)
    starts = range(len(numbers) - length + 1)
    return [tuple(numbers[start : start + length] + black) for start in starts]


def draw_starts(lengths: Sequence[int], *, seed: int = 42, wanted: int = 17) -> list[int]:
    """transformer_eval.py:386-389,455-462: first frames, for `list_generation_clips` before it
    cycles: rank by rank, drawn by the 8 loader workers, which take the clips of a rank in turn.

    lengths: of the listed videos, resampled. After each, the crop that has no room draws twice.
    """
    starts = []
    for rank, share in enumerate(drawing.distributed_shares(len(lengths), RANKS)):
        workers = drawing.loader_generators(seed + rank, 8)
        for place, video in enumerate(share):
            draw = workers[place % 8].randint
            starts.append(draw(0, lengths[video] - min(wanted, lengths[video])))
            draw(0, 0)
            draw(0, 0)
    return starts


def read(path: Path, numbers: Sequence[int], size: int) -> np.ndarray:
    """nbp/video_utils.py:256, nbp/data.py:228: decord squashes; ToTensor divides by 255.

    Float32 clips in [0, 1]; the random crop that follows has no room.
    """
    frames = files.read_squashed(path, numbers, size)
    return frames.astype(np.float32) / np.float32(255)


def number_classes(paths: Sequence[str]) -> list[int]:
    """nbp/data.py:163-165: the folders' names in Python's order."""
    folders = [PurePosixPath(path).parent.name for path in paths]
    order = sorted(set(folders))
    return [order.index(folder) for folder in folders]


def tokenizer_bytes(pixels: np.ndarray) -> np.ndarray:
    """tokenizer_eval.py:130: (clip * 255).byte() in float32, which truncates."""
    return (np.clip(pixels, 0, 1).astype(np.float32) * np.float32(255)).astype(np.uint8)


def prepare_tokenizer(clips: np.ndarray) -> np.ndarray:
    """nbp/fvd/fvd.py:18-30: bytes [n t h w 3], squashed to 224, to [-1, 1]."""
    return 2 * resampling.resize(clips, 224, 224, resampling.half_pixel) / 255 - 1


def shrink(pixels: np.ndarray, size: int) -> np.ndarray:
    """fvd/styleganv/fvd.py preprocess_single: short side, long side rounded up, centre."""
    height, width = pixels.shape[-3:-1]
    scale = size / min(height, width)
    target = (size, math.ceil(width * scale))
    if height >= width:
        target = (math.ceil(height * scale), size)
    scaled = resampling.resize(pixels, *target, resampling.half_pixel)
    return resampling.cut(scaled, (target[0] - size) // 2, (target[1] - size) // 2, size)


def prepare_generation(pixels: np.ndarray, *, shrunk: int | None = None) -> np.ndarray:
    """transformer_eval.py:78,349: 16 frames, floats; Kinetics through 64 px first."""
    clips = pixels[:, :16]
    if shrunk:
        clips = shrink(clips, shrunk)
    return (shrink(clips, 224) - 0.5) * 2


def given_frames(latents: int = 2, stride: int = 4) -> int:
    """transformer_eval.py:287: pixel frames of the latent ones that a clip continues."""
    return 1 + (latents - 1) * stride
