# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""How long generated videos change with time: sharpness, colour, codes, features.

Nothing here needs a reference video. A video is compared with its own first segment, which is as
long as the clips of training.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nbp.layout import frames_of_latents, latents_of_frames
from nbp.metrics.frechet import Moments, frechet_distance
from nbp.shapes import Array, Clip, Clips, Float, Int

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True)
class Segment:
    """A part of the videos, as long as a clip of training.

    frame: its first. usage: share of the codebook that occurs; perplexity: of the frequencies of
    codes, 1..codes; code_distance: total variation, 0..1, from the first segment's frequencies,
    which is far from 0 for a few codes even where nothing changes: compare it with that of the
    second segment. The latent frame that stands for a single pixel frame is left out. fvd: Frechet
    distance of features from those of the first segment; None without features.
    """

    frame: int
    frames: int
    usage: float
    perplexity: float
    code_distance: float
    fvd: float | None


@dataclass(frozen=True)
class Drift:
    """sharpness: mean gradient magnitude of the luma of each frame, in steps of 1/255 per pixel.

    colour_shift: distance of each frame's mean RGB from the mean of its video's first segment, in
    steps of 1/255. Both are means over videos.
    """

    sharpness: list[float]
    colour_shift: list[float]
    segments: list[Segment]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, rounded to what can be told apart."""

        def plain(value: Any) -> Any:
            return round(value, 5) if isinstance(value, float) else value

        return {
            "sharpness": [plain(value) for value in self.sharpness],
            "colour_shift": [plain(value) for value in self.colour_shift],
            "segments": [
                {name: plain(value) for name, value in asdict(segment).items()}
                for segment in self.segments
            ],
        }


def measure_drift(
    videos: Clips,
    tokens: Int[np.ndarray, "b T H W"],
    *,
    window: int,
    stride: int,
    codes: int,
    extractor: Callable[[Array], Float[np.ndarray, "n d"]] | None = None,
) -> Drift:
    """Drift of videos [n t h w 3] of bytes and their codes 0..codes-1.

    window: latent frames of a clip of training, at least 2; stride: pixel frames of each but the
    first. extractor: features of clips, float64. The arrays may be files mapped into memory: one
    segment is read at a time.
    """
    step = frames_of_latents(window, stride) - 1
    sharpness, shift = np.zeros(videos.shape[1]), np.zeros(videos.shape[1])
    for video in videos:
        pieces = [video[start : start + step] for start in range(0, len(video), step)]
        colour = np.concatenate([mean_colour(piece) for piece in pieces])
        home = colour[: step + 1].mean(0)
        sharpness += np.concatenate([measure_sharpness(piece) for piece in pieces]) / len(videos)
        shift += np.linalg.norm(colour - home, axis=-1) / len(videos)
    segments, first = [], None
    for start in range(0, max(1, videos.shape[1] - step), step):
        latent = latents_of_frames(start + 1, stride)
        found = count_codes(tokens[:, latent : latent + window - 1], codes)
        clips = videos[:, start : start + step + 1]
        features = None if extractor is None else Moments.of(extractor(clips))
        first = first or (found, features)
        segments.append(_describe(start, clips.shape[1], (found, features), first))
    return Drift(sharpness.tolist(), shift.tolist(), segments)


Found = tuple[Int[np.ndarray, "v"], Moments | None]


def _describe(frame: int, frames: int, found: Found, first: Found) -> Segment:
    (counts, features), (other, others) = found, first
    share, before = counts / max(1, counts.sum()), other / max(1, other.sum())
    occurring = share[share > 0]
    fvd = None
    if features is not None and others is not None:
        fvd = frechet_distance(features, others)
    return Segment(
        frame,
        frames,
        usage=len(occurring) / len(counts),
        perplexity=float(np.exp(-(occurring * np.log(occurring)).sum())),
        code_distance=float(np.abs(share - before).sum() / 2),
        fvd=fvd,
    )


def measure_sharpness(frames: Clip) -> Float[np.ndarray, "t"]:
    """Mean length of the gradient of the luma (forward differences) of frames [t h w 3]."""
    luma = frames @ LUMA
    down = np.diff(luma, axis=1)[:, :, :-1]
    right = np.diff(luma, axis=2)[:, :-1]
    return np.hypot(down, right).mean((1, 2))


def mean_colour(frames: Clip) -> Float[np.ndarray, "t c"]:
    """Mean RGB, 0..255, of frames [t h w 3]."""
    return frames.mean((1, 2), dtype=np.float64)


def count_codes(tokens: Int[np.ndarray, "b T H W"], codes: int) -> Int[np.ndarray, "v"]:
    """How often each of 0..codes-1 occurs."""
    return np.bincount(np.asarray(tokens).ravel(), minlength=codes)
