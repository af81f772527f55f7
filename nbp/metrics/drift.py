# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""How long generated videos change with time: sharpness, colour, codes, features, labels.

A video is compared with its own first segment, which is as long as the clips of training, and
nothing of that needs a reference video. Where there are real videos of the same length, their
segments of the same index are compared too, and where a tracker can tell, labels. Each measure has
a slope over the segments, with an interval.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from nbp.layout import frames_of_latents, latents_of_frames
from nbp.metrics.frechet import Moments, frechet_distance
from nbp.shapes import Array, Clip, Clips, Float, Int

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
RESAMPLES, INTERVAL = 2000, (2.5, 97.5)  # of the bootstrap, and its percentiles
LEAST_SEGMENTS = 4  # that segments are drawn again from
# Distances from the first segment, where they are none.
FROM_FIRST = ("colour_shift", "code_distance", "fvd")

Extractor = Callable[[Array], Float[np.ndarray, "n d"]]


@dataclass(frozen=True)
class Slope:
    """Change of a measure from one segment to the next, by least squares over the segments.

    first, last: its values there. low, high: 95% of the bootstrap, None where it says nothing.
    over: what is drawn again: `videos`, of which each has values of its own, or `segments`, where
    only all videos together have one (their errors are not those of other videos).
    """

    first: float
    last: float
    per_segment: float
    low: float | None
    high: float | None
    over: Literal["videos", "segments"]

    @property
    def changes(self) -> bool | None:
        """Whether the interval is on one side of zero."""
        if self.low is None or self.high is None:
            return None
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Segment:
    """A part of the videos, as long as a clip of training.

    frame: its first. usage: share of the codebook that occurs; perplexity: of the frequencies of
    codes, 1..codes; code_distance: total variation, 0..1, from the first segment's frequencies,
    which is far from 0 for a few codes even where nothing changes: compare it with that of the
    second segment. The latent frame that stands for a single pixel frame is left out. entropy: of a
    video's own codes in bits, mean over videos. fvd: Frechet distance of features from those of the
    first segment; None without features. real_fvd: from those of real videos in the same segment;
    None without. label_agreement, shape_..., colour_..., motion_...: shares of videos that show
    what their label says (`nbp.metrics.survival`), None where it is not known.
    """

    frame: int
    frames: int
    usage: float
    perplexity: float
    code_distance: float
    fvd: float | None
    entropy: float = 0.0
    real_fvd: float | None = None
    label_agreement: float | None = None
    shape_agreement: float | None = None
    colour_agreement: float | None = None
    motion_agreement: float | None = None


@dataclass(frozen=True)
class Drift:
    """sharpness: mean gradient magnitude of the luma of each frame, in steps of 1/255 per pixel.

    colour_shift: distance of each frame's mean RGB from the mean of its video's first segment, in
    steps of 1/255. Both are means over videos. slopes: of sharpness, colour_shift, usage, entropy
    and code_distance, each of single videos, of fvd, and of what was added. Distances from the
    first segment are fitted from the second one on: the first is at none. moments: of the features
    of each segment, () without.
    """

    sharpness: list[float]
    colour_shift: list[float]
    segments: list[Segment]
    slopes: dict[str, Slope] = field(default_factory=dict)
    moments: tuple[Moments, ...] = ()

    def with_real(self, real: Iterable[Clips], extractor: Extractor) -> "Drift":
        """The same with `real_fvd`. real: batches of real videos, as long as these or longer.

        Raises ValueError where the drift was measured without features.
        """
        if not self.moments:
            raise ValueError("real videos are compared by features: measure the drift with them")
        found = [Moments.empty(moments.mean.size) for moments in self.moments]
        for videos in real:
            for i, segment in enumerate(self.segments):
                part = slice(segment.frame, segment.frame + segment.frames)
                found[i] = found[i].add(extractor(videos[:, part]))
        pairs = zip(self.moments, found, strict=True)
        distances = [frechet_distance(ours, theirs) for ours, theirs in pairs]
        changed = self._with_values("real_fvd", distances)
        return replace(changed, slopes={**self.slopes, "real_fvd": fit_slope(distances)})

    def with_agreement(self, parts: Mapping[str, Float[np.ndarray, "n s"]]) -> "Drift":
        """The same with agreements: 1, 0 or NaN of each video and segment, by part of the label."""
        drift = self
        for part, rows in parts.items():
            name = f"{part}_agreement"
            drift = drift._with_values(name, mean_columns(rows))
            drift = replace(drift, slopes={**drift.slopes, name: fit_slope(rows)})
        return drift

    def _with_values(self, name: str, values: Sequence[float | None]) -> "Drift":
        pairs = zip(self.segments, values, strict=True)
        changed = [replace(segment, **{name: value}) for segment, value in pairs]
        return replace(self, segments=changed)

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
            "slopes": {
                name: {key: plain(value) for key, value in asdict(slope).items()}
                for name, slope in self.slopes.items()
            },
        }


def measure_drift(
    videos: Clips,
    tokens: Int[np.ndarray, "b T H W"],
    *,
    window: int,
    stride: int,
    codes: int,
    extractor: Extractor | None = None,
) -> Drift:
    """Drift of videos [n t h w 3] of bytes and their codes 0..codes-1.

    window: latent frames of a clip of training, at least 2; stride: pixel frames of each but the
    first. extractor: features of clips, float64. The arrays may be files mapped into memory: one
    segment is read at a time.
    """
    step = frames_of_latents(window, stride) - 1
    sharpness, shift = _measure_frames(videos, step)
    starts = range(0, max(1, videos.shape[1] - step), step)
    segments, moments, rows, first = [], [], [], []
    for start in starts:
        latent = latents_of_frames(start + 1, stride)
        part = tokens[:, latent : latent + window - 1]
        counts = [count_codes(part[i : i + 1], codes) for i in range(len(part))]
        first = first or counts
        rows.append([_describe_codes(*pair) for pair in zip(counts, first, strict=True)])
        usage, entropy, distance = _describe_codes(np.sum(counts, axis=0), np.sum(first, axis=0))
        clips = videos[:, start : start + step + 1]
        fvd = None
        if extractor is not None:
            moments.append(Moments.of(extractor(clips)))
            fvd = frechet_distance(moments[-1], moments[0])
        perplexity, own = float(2**entropy), float(np.mean([row[1] for row in rows[-1]]))
        segments.append(
            Segment(start, clips.shape[1], usage, perplexity, distance, fvd, entropy=own)
        )
    of_codes = np.transpose(rows, (2, 1, 0))  # measure, video, segment
    names = ("usage", "entropy", "code_distance")
    measured: dict[str, Array] = dict(zip(names, of_codes, strict=True))
    for name, frames in (("sharpness", sharpness), ("colour_shift", shift)):
        parts = [frames[:, s.frame : s.frame + s.frames].mean(1) for s in segments]
        measured[name] = np.stack(parts, axis=1)
    if moments:
        measured["fvd"] = np.array([segment.fvd for segment in segments])
    slopes = {name: fit_slope(v, skip=name in FROM_FIRST) for name, v in measured.items()}
    means = (sharpness.mean(0).tolist(), shift.mean(0).tolist())
    return Drift(*means, segments, slopes, tuple(moments))


def _measure_frames(
    videos: Clips, step: int
) -> tuple[Float[np.ndarray, "n t"], Float[np.ndarray, "n t"]]:
    """Sharpness and colour shift of each frame of each video, a piece at a time."""
    sharpness, shift = np.zeros(videos.shape[:2]), np.zeros(videos.shape[:2])
    for row, video in enumerate(videos):
        pieces = [video[start : start + step] for start in range(0, len(video), step)]
        colour = np.concatenate([mean_colour(piece) for piece in pieces])
        home = colour[: step + 1].mean(0)
        sharpness[row] = np.concatenate([measure_sharpness(piece) for piece in pieces])
        shift[row] = np.linalg.norm(colour - home, axis=-1)
    return sharpness, shift


def _describe_codes(
    counts: Int[np.ndarray, "v"], others: Int[np.ndarray, "v"]
) -> tuple[float, float, float]:
    """Usage, entropy in bits, and total variation from other counts."""
    share, before = counts / max(1, counts.sum()), others / max(1, others.sum())
    occurring = share[share > 0]
    entropy = -float((occurring * np.log2(occurring)).sum())
    return len(occurring) / len(counts), entropy, float(np.abs(share - before).sum() / 2)


def fit_slope(values: Any, *, skip: bool = False, seed: int = 0) -> Slope:
    """The slope of [n s], videos by segments, or [s] of all videos together; NaN is left out.

    A video's slope is that of its own segments; theirs is the mean over videos, which are drawn
    again for the interval. Of [s] pairs of a segment and its value are drawn again. skip: the first
    segment, where there are more than two. Without two values there is no slope: it is 0.
    """
    rows = np.atleast_2d(np.asarray(values, np.float64))
    over: Literal["videos", "segments"] = "videos" if np.ndim(values) == 2 else "segments"
    rows = rows[:, int(skip and rows.shape[1] > 2) :]
    means = [m for m in mean_columns(rows) if m is not None]
    first, last = (means[0], means[-1]) if means else (0.0, 0.0)
    slopes = _slopes(rows)
    slopes = slopes[~np.isnan(slopes)]
    if not slopes.size:
        return Slope(first, last, 0.0, None, None, over)
    rng, drawn = np.random.default_rng(seed), np.empty(0)
    if over == "videos" and len(slopes) > 1:
        drawn = slopes[rng.integers(len(slopes), size=(RESAMPLES, len(slopes)))].mean(axis=1)
    elif over == "segments" and rows.shape[1] >= LEAST_SEGMENTS:
        picked = rng.integers(rows.shape[1], size=(RESAMPLES, rows.shape[1]))
        drawn = _slopes(rows[0][picked], picked)
        drawn = drawn[~np.isnan(drawn)]
    low, high = np.percentile(drawn, INTERVAL).tolist() if drawn.size else (None, None)
    return Slope(first, last, float(slopes.mean()), low, high, over)


def _slopes(rows: Float[np.ndarray, "n s"], at: Array | None = None) -> Float[np.ndarray, "n"]:
    """Least squares slope of each row over the places `at` of its values; NaN below two places."""
    x = np.broadcast_to(np.arange(rows.shape[1]), rows.shape) if at is None else at
    there = ~np.isnan(rows)
    count = np.maximum(there.sum(axis=1, keepdims=True), 1)
    x = np.where(there, x - (x * there).sum(axis=1, keepdims=True) / count, 0.0)
    spread = (x**2).sum(axis=1)
    product = (x * np.nan_to_num(rows)).sum(axis=1)
    return np.where(spread > 0, product / np.where(spread > 0, spread, 1.0), np.nan)


def mean_columns(rows: Float[np.ndarray, "n s"]) -> list[float | None]:
    """Mean of each column without its NaN; None where there is nothing else."""
    kept = [column[~np.isnan(column)] for column in rows.T]
    return [float(column.mean()) if column.size else None for column in kept]


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
