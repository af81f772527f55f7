# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Scores of videos longer than a clip: how they drift, and what survives of moving shapes."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbp import build, build_data
from nbp.config.schema import Config
from nbp.data.moving_shapes import MovingShapes
from nbp.layout import frames_of_latents
from nbp.metrics.drift import Drift, measure_drift
from nbp.metrics.score_table import name_fvd
from nbp.metrics.survival import Script, SurvivalRules, score_survival
from nbp.sampling.long_video import Slide
from nbp.shapes import Clips, Int
from nbp.weights import Features

REAL_BATCH = 16


@dataclass(frozen=True)
class DriftJob:
    """What is known of long videos. names: of each one's label; story: (first frame, label) of the
    scenes of all, () without. features: None without a Frechet distance."""

    config: Config
    features: Features | None
    names: Sequence[str]
    story: Script = ()


def describe_drift(
    job: DriftJob, videos: Clips, tokens: Int[np.ndarray, "b T H W"], slide: Slide
) -> tuple[Drift, dict[str, Any]]:
    """The drift of drawn videos and their codes, and the report of it for `drift.json`.

    Moving shapes are also compared with real videos of the same length and number, and, where
    their labels name them, watched (`survival`); with a story there are no such real videos.
    """
    config, features = job.config, job.features
    count, frames = videos.shape[:2]
    window, stride = config.plan.grid.t, config.tokenizer.stride[0]
    drift = measure_drift(
        videos,
        tokens,
        window=window,
        stride=stride,
        codes=config.tokenizer.make_quantizer().codes,
        extractor=None if features is None else features.extractor,
    )
    compared = features is not None and config.data.kind == "moving_shapes" and not job.story
    if features is not None and compared:
        drift = drift.with_real(real_videos(config, frames, count), features.extractor)
    survival = None
    if scripts := _scripts(job):
        survival = score_survival(
            build.make_tracker(config), videos, scripts, survival_rules(config)
        )
        drift = drift.with_agreement(survival.parts)
    named = None if features is None else name_drift(count, features)
    return drift, {
        "videos": count,
        "frames": frames,
        "window_frames": frames_of_latents(window, stride),
        "slide": slide.kind,
        "keep_frames": slide.keep,
        **({"sinks": slide.sinks} if slide.kind == "rolling" else {}),
        "fvd": named and f"{named}_to_first_segment",
        "real_fvd": f"{named}_to_real_segment" if named and compared else None,
        "features": None if features is None else features.origin,
        "story": [list(scene) for scene in job.story] or None,
        **drift.to_json(),
        "survival": None if survival is None else survival.to_json(),
    }


def name_drift(count: int, features: Features) -> str:
    """What a Frechet distance of segments is: never of a complete set, and with whose features."""
    return name_fvd("fvd", count=count, complete=count + 1, features=features.kind)


def survival_rules(config: Config) -> SurvivalRules:
    """How long videos of a configuration of moving shapes are watched."""
    world, stride = config.data.moving_shapes.world, config.tokenizer.stride[0]
    step = frames_of_latents(config.plan.grid.t, stride) - 1
    return SurvivalRules(step, stride, world.occlusion != "none")


def real_videos(config: Config, frames: int, count: int) -> Iterator[Clips]:
    """The first held-out moving shapes, going on under their labels, in batches."""
    spec = build_data.make_shapes_spec(config)
    clip_frames = spec.world.clip_frames or spec.frames
    begun = dataclasses.replace(spec.world.steady, clip_frames=clip_frames)
    longer = dataclasses.replace(spec, frames=frames, world=begun)
    source = MovingShapes(longer, seed=config.seed, start=build_data.HELD_OUT, size=count)
    for start in range(0, count, REAL_BATCH):
        rows = range(start, min(start + REAL_BATCH, count))
        yield np.stack([source[row]["video"] for row in rows])


def _scripts(job: DriftJob) -> list[Script]:
    """The script of each video; [] where a label names no shape that a tracker knows."""
    if job.config.data.kind != "moving_shapes":
        return []
    tracker = build.make_tracker(job.config)
    scripts = [job.story or ((0, name),) for name in job.names]
    try:
        for name in {label for script in scripts for _, label in script}:
            tracker.parse(name)
    except ValueError:
        return []
    return scripts
