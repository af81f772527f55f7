# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Draws clips from a trained workdir and writes them as files to look at."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbp import build, datasets
from nbp.config import Config
from nbp.data.video import read_clip, tile_clips, write_gif, write_video
from nbp.errors import ConfigError
from nbp.jobs.host_memory import keep_freed_memory
from nbp.jobs.workdir import find_label, make_folder, read_config, read_labels
from nbp.sampling.decode import Guidance
from nbp.sampling.filters import Filter
from nbp.sampling.sampler import Sampler, Samples
from nbp.shapes import Clips
from nbp.training.distributed import is_main

GRID_SIDE = 160  # least height of one clip in a GIF grid: small clips are enlarged


@dataclass(frozen=True)
class SampleRequest:
    """What `nbp.sample` was asked for; None leaves a choice to the workdir's configuration."""

    count: int
    seed: int = 0
    label: str | None = None
    frames: Path | None = None
    given_frames: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    guidance: float | None = None


def make_drawing(config: Config, request: SampleRequest) -> tuple[Filter, Guidance]:
    """Filters and guidance: the request's where it has them, else the configuration's."""
    default = config.sampling

    def choose(asked: Any, configured: Any) -> Any:
        return configured if asked is None else asked

    try:
        filtering = Filter(
            temperature=choose(request.temperature, default.temperature),
            top_k=choose(request.top_k, default.top_k),
            top_p=choose(request.top_p, default.top_p),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    scale = choose(request.guidance, default.guidance)
    if scale and config.generator.prompt == "none":
        raise ConfigError("guidance needs a label-conditional model; this one has no prompt")
    return filtering, Guidance(scale, default.guidance_ramp)


def sample_workdir(workdir: Path, out: Path, request: SampleRequest) -> list[str]:
    """Draws `request.count` clips into `out`; returns the name of each clip's condition."""
    keep_freed_memory()
    if request.count < 1:
        raise ConfigError(f"--num {request.count}: draw at least 1 clip")
    config = read_config(workdir)
    labels = read_labels(workdir)
    filtering, guidance = make_drawing(config, request)
    ids = choose_labels(config, labels, request)
    given_frames = choose_given_frames(config, request)
    conditions = read_conditions(config, request) if given_frames else {}
    sampler, _ = build.load_sampler(
        config, workdir, labels=labels, filtering=filtering, guidance=guidance
    )
    samples = sampler.unstacked().sample(
        request.count, seed=request.seed, labels=ids, given_frames=given_frames, **conditions
    )
    names = ["clip" if ids is None else labels[i] for i in (ids or [0] * request.count)]
    if is_main():  # every process has drawn the same clips
        make_folder(out)
        write_samples(samples, out, names=names, fps=config.sampling.fps)
    return names


def choose_labels(
    config: Config, labels: Sequence[str], request: SampleRequest
) -> list[int] | None:
    """Class id per clip: the one asked for, else all classes in turn; None for no condition."""
    if config.generator.prompt == "none":
        if request.label is not None:
            raise ConfigError("--label: this model was trained without labels (prompt none)")
        return None
    if request.label == "none":
        return None  # drawn from the trained null condition
    if request.label is not None:
        return [find_label(labels, request.label)] * request.count
    return [i % len(labels) for i in range(request.count)]


def choose_given_frames(config: Config, request: SampleRequest) -> int:
    """Latent frames to keep: asked for, else configured, else the fewest that the model needs."""
    plan = config.plan
    needed = -(-plan.first // plan.grid.frame)
    needed += -needed % plan.block[0]
    configured = max(config.evaluation.given_frames, needed)
    given = request.given_frames
    if given is None:
        given = max(configured, plan.block[0]) if request.frames else configured
    try:
        plan.schedule(plan.tokens_of_frames(given))
    except ValueError as error:
        raise ConfigError(f"given frames: {error}") from error
    return given


def take_examples(batch: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """`count` clips or codes of a batch in turn, as the argument of `Sampler.sample`."""
    rows = batch["codes"].astype(np.int32) if "codes" in batch else batch["video"]
    rows = np.resize(rows, (count, *rows.shape[1:]))
    return {"codes" if "codes" in batch else "clips": rows}


def read_conditions(config: Config, request: SampleRequest) -> dict[str, np.ndarray]:
    """Clips or codes whose first frames are kept: of the given file, else held-out ones in turn."""
    if request.frames is None:
        if config.data.kind != "moving_shapes" and not config.data.root:
            raise ConfigError("this model continues a video: name one with --frames FILE")
        _, held_out = datasets.make_data(config)
        rows = datasets.iterate_clips(config, held_out, limit=request.count, batch=request.count)
        return take_examples(next(rows), request.count)
    data = config.data
    fps = data.fps or None
    stride = config.tokenizer_spec.stride[0]
    needed = (choose_given_frames(config, request) - 1) * stride + 1
    clip = read_clip(request.frames, frames=needed, fps=fps, start=0.0)
    for transform in datasets.make_spatial(config):
        clip = transform({"video": clip}, np.random.default_rng(0))["video"]
    # The tokenizer is causal: what stands behind the given frames cannot change their codes.
    padding = np.repeat(clip[-1:], data.frames - len(clip), axis=0)
    clip = np.concatenate([clip, padding])
    return {"clips": np.broadcast_to(clip, (request.count, *clip.shape)).copy()}


def write_samples(samples: Samples, out: Path, *, names: Sequence[str], fps: float) -> None:
    """Writes one MP4 per clip, `grid.gif` of all of them and `samples.npz`."""
    for i, (clip, name) in enumerate(zip(samples.videos, names, strict=True)):
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "clip"
        write_video(out / f"{i:04d}-{slug}.mp4", clip, fps=fps)
    write_grid(out / "grid.gif", samples.videos, fps=fps)
    np.savez_compressed(out / "samples.npz", videos=samples.videos, tokens=samples.tokens)


def write_grid(path: Path, clips: Clips, *, fps: float, columns: int | None = None) -> None:
    """Writes clips side by side as one GIF, small ones enlarged. In a job, process 0 does."""
    if not is_main():
        return
    columns = columns or max(1, round(len(clips) ** 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    scale = max(1, GRID_SIDE // clips.shape[2] if len(clips) <= 32 else 2)
    write_gif(path, tile_clips(clips, columns=columns), fps=fps, scale=scale)


def draw_for_labels(
    sampler: Sampler, labels: Sequence[str], *, count: int, seed: int
) -> tuple[Samples, list[str]]:
    """`count` clips with all labels in turn, and the label of each."""
    ids = [i % len(labels) for i in range(count)]
    return sampler.sample(count, seed=seed, labels=ids), [labels[i] for i in ids]
