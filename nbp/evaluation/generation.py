# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Generated clips of an evaluation: drawn by their numbers, finished as a protocol says, measured.

Clip i depends on the seed, on i, and on real clip i where the protocol pairs them. Clips are drawn
in batches of one shape, so the same numbers give the same bits however the work was divided.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from nbp.data.video.resize import Scaling
from nbp.evaluation.chunk_store import SUM, Arrays
from nbp.evaluation.real_clips import RealClips
from nbp.evaluation.real_pixels import read_stored
from nbp.metrics.fvd import FeatureExtractor
from nbp.metrics.inception_score import ClassProbabilities
from nbp.metrics.label_agreement import ShapeTracker, label_agreement
from nbp.metrics.lpips import LpipsScorer
from nbp.metrics.psnr_ssim import PSNR_LIMIT, psnr_per_frame, score_predictions
from nbp.metrics.stream import FrameFeatures, Spectra
from nbp.models.network import fill_batch
from nbp.protocols.pixels import to_bytes
from nbp.protocols.protocol import GenerationRule, Values
from nbp.sampling.sampler import Sampler
from nbp.shapes import Clips, Float, PyTree

SHOWN_BYTES, SHOWN = 16_000_000, 64  # clips of the first chunk that are kept for a picture
OTHER_VALUES: tuple[Values, ...] = ("floored", "float")  # than rounded ones
AGREEMENTS = ("label", "colour", "shape", "motion")


@dataclass(frozen=True)
class Made:
    """Generated clips: uint8 [n t h w 3], their codes [n T H W], class ids (-1 for none), seconds.

    real: the clips whose first frames were given, of the same shape; None without. replaced: what
    could not be read among these, see `RealClips.read`. others: the
    videos with other values than rounded ones, from the same floats. passes: that each clip took,
    opener_passes: those of the opener among them.
    """

    videos: Clips
    tokens: np.ndarray
    labels: np.ndarray
    seconds: np.ndarray
    real: Clips | None = None
    replaced: np.ndarray | None = None
    others: Mapping[Values, np.ndarray] = field(default_factory=dict)
    passes: np.ndarray | None = None
    opener_passes: np.ndarray | None = None

    def of(self, values: Values) -> np.ndarray:
        """The videos with these values; rounded ones where they were not kept."""
        return self.others.get(values, self.videos)


@dataclass(frozen=True)
class ClipGenerator:
    """Draws clips by their numbers, always `batch` at a time.

    labels: class id of each clip, None for none. conditions: clips whose first `given` latent
    frames are continued. pixels: frames that these are. params: in place of the sampler's.
    values: that are kept beside rounded ones, which the sampler must give floats for.
    """

    sampler: Sampler
    seed: int
    batch: int
    labels: np.ndarray | None = None
    conditions: RealClips | None = None
    given: int = 0
    pixels: int = 0
    params: PyTree = None
    values: tuple[Values, ...] = ()

    def __call__(self, numbers: np.ndarray) -> Made:
        """Clips `numbers`. While a batch is drawn, the conditions of the next are read."""
        parts = [numbers[i : i + self.batch] for i in range(0, len(numbers), self.batch)]
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self._read, parts[0])
            made = []
            for i, part in enumerate(parts):
                rows = coming.result()
                if i + 1 < len(parts):
                    coming = reader.submit(self._read, parts[i + 1])
                made.append(self._draw(part, rows))
        joined = {
            name: np.concatenate([getattr(m, name) for m in made])
            for name in ("videos", "tokens", "labels", "seconds", "passes", "opener_passes")
        }
        if made[0].real is not None:
            for name in ("real", "replaced"):
                joined[name] = np.concatenate([getattr(m, name) for m in made])
        others = {name: np.concatenate([m.others[name] for m in made]) for name in made[0].others}
        return Made(**joined, others=others)

    def _read(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        return {} if self.conditions is None else self.conditions.read(numbers.tolist())

    def _draw(self, numbers: np.ndarray, rows: Mapping[str, np.ndarray]) -> Made:
        began, real = time.monotonic(), rows.get("video")
        filled = fill_batch(numbers, self.batch)
        labels = None if self.labels is None else self.labels[numbers]
        samples = self.sampler.sample(
            self.batch,
            seed=self.seed,
            labels=None if labels is None else fill_batch(labels, self.batch).tolist(),
            clips=None if real is None else fill_batch(real, self.batch),
            given_frames=self.given,
            params=self.params,
            numbers=np.asarray(filled),
        )
        count = len(numbers)
        seconds = (time.monotonic() - began) / count
        pixels = samples.videos[:count]
        return Made(
            to_bytes(pixels),
            samples.tokens[:count],
            np.full(count, -1, np.int32) if labels is None else labels.astype(np.int32),
            np.full(count, seconds, np.float32),
            None if real is None else to_bytes(real),
            rows.get("replaced"),
            {values: choose_values(pixels, values) for values in self.values},
            samples.passes[:count],
            samples.opener_passes[:count],
        )


def list_values(rules: Iterable[GenerationRule | None]) -> tuple[Values, ...]:
    """The values beside rounded ones that clips are scored with."""
    wanted = {rule.values for rule in rules if rule is not None}
    return tuple(kind for kind in OTHER_VALUES if kind in wanted)


def choose_values(pixels: Float[np.ndarray, "*s"], values: Values) -> np.ndarray:
    """A model's float32 in [0, 1] as they are, or as bytes: rounded, or cut off by a cast."""
    if values == "float":
        return pixels
    if values == "rounded":
        return to_bytes(pixels)
    return (pixels * np.float32(255.0)).astype(np.uint8)


@dataclass(frozen=True)
class ClipScorer:
    """What one protocol keeps of generated clips.

    size: px at which they are scored. pixels: given frames at their start. tracker: checks the
    clips against `label_names`. codes: size of the codebook. fidelity_frames: the first frames, of
    which PSNR, SSIM and LPIPS are taken after the given ones; None all.
    """

    rule: GenerationRule
    size: int
    codes: int
    pixels: int = 0
    fidelity_frames: int | None = None
    extractor: FeatureExtractor | None = None
    frame_features: FrameFeatures | None = None
    lpips: LpipsScorer | None = None
    classes: ClassProbabilities | None = None
    tracker: ShapeTracker | None = None
    label_names: tuple[str, ...] = ()
    seconds_of: dict[str, float] = field(default_factory=dict)

    def __call__(self, numbers: np.ndarray, made: Made) -> Arrays:
        """Rows for a chunk file; see `nbp.evaluation.chunk_store`."""
        began = time.monotonic()
        counts = np.bincount(made.tokens.ravel(), minlength=self.codes)
        arrays: Arrays = {"label": made.labels, "seconds": made.seconds, SUM + "codes": counts}
        if made.passes is not None:
            arrays["passes"] = made.passes
        if made.opener_passes is not None and made.opener_passes.any():
            arrays["opener_passes"] = made.opener_passes
        videos = finish_clips(made, self.rule, size=self.size, pixels=self.pixels)
        arrays |= measure_features(videos, self.extractor, self.frame_features)
        if self.classes is not None:
            arrays["classes"] = self.classes(to_bytes(videos)).astype(np.float32)
        if made.real is not None:
            arrays |= self._compare(made.videos, made.real)
        if made.replaced is not None:
            arrays["replaced"] = made.replaced
        if self.tracker is not None:
            arrays["agreement"] = self._track(made)
        if not numbers[0]:
            few = min(SHOWN, max(8, SHOWN_BYTES // videos[0].size))
            arrays[SUM + "shown"] = made.videos[:few]  # the only one
        self.seconds_of["features"] = (
            self.seconds_of.get("features", 0.0) + time.monotonic() - began
        )
        self.seconds_of["draw"] = self.seconds_of.get("draw", 0.0) + float(made.seconds.sum())
        return arrays

    def _compare(self, videos: Clips, real: Clips) -> Arrays:
        """PSNR, SSIM and LPIPS of the frames after the given ones; PSNR of every frame."""
        a, b = (clips[:, : self.fidelity_frames] for clips in (real, videos))
        found = score_predictions(a, b[:, None], given=self.pixels, lpips=self.lpips)
        rows = {f"{name}_after_given": values[:, 0] for name, values in found.items()}
        rows["psnr_per_frame"] = np.minimum(psnr_per_frame(real, videos), PSNR_LIMIT)
        return {name: values.astype(np.float32) for name, values in rows.items()}

    def _track(self, made: Made) -> np.ndarray:
        """Whether each clip shows what its label says: [n 4], the parts of `AGREEMENTS`."""
        assert self.tracker is not None
        rows = []
        for clip, label in zip(made.videos, made.labels, strict=True):
            names = [self.label_names[label]]
            found = label_agreement(self.tracker, clip[None], names)
            rows.append([found[f"{part}_agreement"] > 0 for part in AGREEMENTS])
        return np.array(rows, bool)


def finish_clips(made: Made, rule: GenerationRule, *, size: int, pixels: int) -> np.ndarray:
    """Generated clips as a protocol scores them: values, condition, storage, size.

    Bytes, or floats in [0, 1] where the rule keeps them and nothing else makes them bytes.
    """
    videos = made.of(rule.values)
    if rule.condition == "pasted" and made.real is not None:
        given = made.real[:, :pixels]
        if videos.dtype != np.uint8:
            given = given.astype(np.float32) / np.float32(255.0)
        videos = np.concatenate([given, videos[:, pixels:]], axis=1)
    scaling = Scaling(size, squash=True, kernel=rule.resize)
    if rule.storage is not None:
        return np.stack([read_stored(to_bytes(clip), rule.storage, scaling) for clip in videos])
    if videos.shape[2] != size:
        return np.array([[scaling.scale(frame) for frame in to_bytes(clip)] for clip in videos])
    return videos


def measure_features(
    videos: np.ndarray, extractor: FeatureExtractor | None, frames: FrameFeatures | None
) -> Arrays:
    """Features of clips as float32 [n d], which they were computed in; spectra for STREAM."""
    arrays: Arrays = {}
    if extractor is not None:
        arrays["features"] = extractor(videos).astype(np.float32)
    if frames is not None:
        rule = None if extractor is None else extractor.rule
        last = None if rule is None or rule.frames is None else rule.first_frame + rule.frames
        scored = videos[:, rule.first_frame if rule else 0 : last]
        spectra = Spectra.of(frames(scored))
        arrays |= {f"stream_{n}": getattr(spectra, n).astype(np.float32) for n in Spectra.names()}
    return arrays


def choose_labels_of(
    rule: GenerationRule, count: int, *, classes: int, real: Callable[[], np.ndarray] | None
) -> np.ndarray | None:
    """The class id of each clip, None for clips without; `real` gives those of the real clips."""
    if rule.labels == "none" or not classes:
        return None
    if rule.labels == "paired":
        assert real is not None
        return real()
    return np.arange(count) % classes


def count_seconds(measures: Sequence[ClipScorer]) -> dict[str, float]:
    """Seconds of this run by part, summed over protocols that share their clips."""
    draw = max((m.seconds_of.get("draw", 0.0) for m in measures), default=0.0)
    features = sum(m.seconds_of.get("features", 0.0) for m in measures)
    return {"draw": round(draw, 1), "features": round(features, 1)}
