# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Videos of any length from a trained workdir, and a report of how they drift."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from nbp.config import Config
from nbp.data.sample_files import Files, Recording
from nbp.errors import ConfigError
from nbp.metrics.drift import measure_drift
from nbp.metrics.score_table import name_fvd
from nbp.parallel.distributed import is_main
from nbp.protocols.published import find_protocol
from nbp.report.plots import write_drift_curves
from nbp.sampling.long_video import Rollout, Slide, choose_slide
from nbp.sampling.request import LongRequest
from nbp.sampling.sampler import Sampler
from nbp.weights import Features, load_features
from nbp.workdir import write_text


@dataclass(frozen=True)
class LongPlan:
    """Videos of `frames` frames, how windows slide, and features for the report, if any."""

    frames: int
    slide: Slide
    features: Features | None


def plan_long_videos(config: Config, request: LongRequest, *, count: int) -> LongPlan | None:
    """What was asked for of `count` videos, checked; None where a trained clip has all frames."""
    frames = request.num_frames
    if frames is None or frames <= config.data.frames:
        if frames is not None and frames < 1:
            raise ConfigError(f"--num_frames {frames}: draw at least 1 frame")
        for flag, value in (
            ("--keep_frames", request.keep_frames),
            ("--slide", request.slide),
            ("--anchor", request.anchor or None),
            ("--features", request.features or None),
        ):
            if value is not None:
                raise ConfigError(
                    f"{flag} is about videos longer than a clip of {config.data.frames} frames: "
                    f"give --num_frames {config.data.frames + 1} or more, or leave it out"
                )
        return None
    if request.anchor and request.slide == "reencode":
        raise ConfigError("--anchor keeps codes as they are: leave out --slide, or use codes")
    kind = "anchor" if request.anchor else request.slide or "reencode"
    try:
        slide = choose_slide(config.plan, keep=request.keep_frames, kind=kind)
    except ValueError as error:
        raise ConfigError(f"--num_frames {frames}: {error}") from error
    if request.features and count < 2:
        raise ConfigError("--features: a Frechet distance needs at least 2 videos: --num 2 or more")
    features = load_features(
        request.features,
        find_protocol("reconstruction"),
        frames=config.data.frames,
        place=jnp.asarray,
        copy=lambda params: params,
    )
    return LongPlan(frames, slide, features)


def draw_long_videos(
    sampler: Sampler, plan: LongPlan, files: Files, *, drawing: Mapping[str, Any]
) -> None:
    """Draws videos into files as they come, then `drift.json` and `drift.png`.

    drawing: the other arguments of `Sampler.sample`.
    """
    features = plan.features
    pieces = Rollout(sampler, plan.slide).sample(len(files.names), plan.frames, **drawing)
    if not is_main():  # every process draws the same videos
        for _ in pieces:
            pass
        return
    stride = sampler.tokenizer.spec.stride[0]
    window = sampler.generator.plan.grid.t
    with Recording(files, frames=plan.frames, latents=1 - (1 - plan.frames) // stride) as recording:
        for piece in pieces:
            recording.add(piece)
        drift = measure_drift(
            recording.videos,
            recording.tokens,
            window=window,
            stride=stride,
            codes=sampler.tokenizer.spec.quantizer.codes,
            extractor=None if features is None else features.extractor,
        )
        report = {
            "videos": len(files.names),
            "frames": plan.frames,
            "window_frames": 1 + (window - 1) * stride,
            "slide": plan.slide.kind,
            "keep_frames": plan.slide.keep,
            "fvd": None if features is None else name_drift(len(files.names), features),
            "features": None if features is None else features.origin,
            **drift.to_json(),
        }
        write_text(recording.folder / "drift.json", json.dumps(report, indent=1) + "\n")
        title = f"{len(files.names)} videos of {plan.frames} frames, {plan.slide.kind}"
        write_drift_curves(recording.folder / "drift.png", drift, title=title)


def name_drift(count: int, features: Features) -> str:
    """What the report's FVD is: never of a complete set, and with whose features."""
    name = name_fvd("fvd", count=count, complete=count + 1, features=features.kind)
    return f"{name}_to_first_segment"
