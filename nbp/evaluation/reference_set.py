# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The real set of an evaluation: its features are computed once, and found again by what they are.

They lie beside the report, under a name that changes with the clips, how they are read, and the
network. Nothing checks how old they are: another data set is another fingerprint.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nbp import build_data
from nbp.evaluation.chunk_store import CHUNK, Arrays, ChunkStore, fill_stores
from nbp.evaluation.generation import measure_features
from nbp.evaluation.real_clips import RealClips
from nbp.evaluation.real_pixels import score_pixels
from nbp.metrics.feature_statistics import FeatureSet
from nbp.metrics.fvd import FeatureExtractor
from nbp.metrics.stream import FrameFeatures, Spectra

NONE_REPLACED = np.empty((0, 2), "U1")  # of files of an older version


@dataclass(frozen=True, eq=False)
class Reference:
    """The real clips of an evaluation, in their order.

    labels: class ids [n]. hashes: of their pixels [n]. provenance: for a report. replaced: see
    `RealClips.replaced`, whichever process read the clips.
    """

    set: FeatureSet
    labels: np.ndarray
    hashes: np.ndarray
    distinct: int
    provenance: dict[str, Any]
    replaced: dict[str, str] = field(default_factory=dict)


def fill_reference(
    clips: RealClips,
    extractor: FeatureExtractor,
    frames: FrameFeatures | None,
    *,
    origin: dict[str, Any],
    cache: Path,
    report: Callable[[str], None],
    chunk: int = CHUNK,
    share: tuple[int, int] | None = None,
) -> tuple[ChunkStore, float]:
    """Makes what is missing in the store of `measure_reference`; returns it, and the seconds.

    share: as in `fill_stores`.
    """
    settings = {
        "clips": clips.chosen.source.fingerprint,
        "rule": dataclasses.asdict(clips.rule),
        "read": build_data.describe_clips(clips.config),
        "seed": clips.seed,
        "distinct": clips.distinct,
        "features": origin,
        "preparation": dataclasses.asdict(extractor.rule),
        "frames": None if frames is None else frames.name,
    }
    store = ChunkStore.open(cache, "real", settings, count=clips.distinct, size=chunk)

    def make(numbers: np.ndarray, lacking: Any) -> list[Arrays]:
        del lacking
        rows = clips.read(numbers.tolist())
        video = score_pixels(rows["video"], clips.rule)
        return [
            {
                "label": rows["label"].astype(np.int32),
                "hash": hash_clips(video),
                "replaced": rows["replaced"],
                **measure_features(video, extractor, frames),
            }
        ]

    return store, fill_stores([store], make, unit="real clips", report=report, share=share)


def measure_reference(
    clips: RealClips,
    extractor: FeatureExtractor,
    frames: FrameFeatures | None,
    *,
    origin: dict[str, Any],
    cache: Path,
    report: Callable[[str], None],
    chunk: int = CHUNK,
) -> Reference:
    """Features, labels and hashes of the real clips; from `cache` where they are there.

    origin: of the features, which their name in the cache depends on. chunk: clips in a file.
    """
    store, seconds = fill_reference(
        clips, extractor, frames, origin=origin, cache=cache, report=report, chunk=chunk
    )
    found = store.load_all()
    order = np.arange(len(clips.rows)) % clips.distinct
    return Reference(
        join_features(found, order, chunk=chunk, ddof=extractor.rule.ddof),
        found["label"][order],
        found["hash"][order],
        clips.distinct,
        {
            "clips": len(clips.rows),
            "distinct": clips.distinct,
            "fingerprint": clips.chosen.source.fingerprint,
            "file": f"cache/{store.folder.name}",
            "seconds": round(seconds, 1),
        },
        dict(found.get("replaced", NONE_REPLACED).tolist()),
    )


def join_features(arrays: Arrays, order: np.ndarray, *, chunk: int, ddof: int = 1) -> FeatureSet:
    """The features and spectra of a store, in an order of its items.

    chunk: items in one of its files. ddof: see `FeatureSet`.
    """
    parts = [arrays.get(f"stream_{name}") for name in Spectra.names()]
    spectra = None
    if parts[0] is not None:
        spectra = Spectra(*(np.asarray(part, np.float64)[order] for part in parts))
    return FeatureSet(arrays["features"][order], chunk, spectra, ddof)


def hash_clips(clips: np.ndarray) -> np.ndarray:
    """64 bits for the pixels of each clip: equal ones are equal clips, but for chance."""
    digests = [hashlib.sha256(np.ascontiguousarray(clip).tobytes()).digest()[:8] for clip in clips]
    return np.frombuffer(b"".join(digests), np.uint64)
