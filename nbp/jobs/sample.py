# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Draws clips from a trained workdir and writes them as files to look at."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nbp import build_sampling, datasets
from nbp.build_sampling import (
    choose_given_frames,
    count_conditions,
    make_decoding,
    make_drawing,
    take_examples,
)
from nbp.config import Config
from nbp.data.sample_files import Files, check_room, find_earlier, write_samples
from nbp.data.video.decoding import read_clip
from nbp.errors import ConfigError
from nbp.files import check_writable_folder
from nbp.jobs.long_videos import draw_long_videos, plan_long_videos
from nbp.parallel.distributed import is_main
from nbp.runtime import keep_compiled, keep_freed_memory
from nbp.sampling.finite import check_parameters
from nbp.sampling.request import SampleRequest
from nbp.sampling.sampler import Sampler, Samples
from nbp.workdir import find_label, read_config, read_labels


def sample_workdir(workdir: Path, out: Path, request: SampleRequest) -> list[str]:
    """Draws `request.count` clips into `out`; returns the name of each clip's condition."""
    keep_freed_memory()
    keep_compiled()
    config = read_config(workdir)
    if is_main():
        check_writable_folder(out, "Name another with --out DIR.")
        find_earlier(out)
    labels = read_labels(workdir)
    request = count_conditions(config, labels, request)
    filtering, guidance = make_drawing(config, request)
    decoding = make_decoding(config, request)
    ids = choose_labels(config, labels, request)
    given_frames = choose_given_frames(config, request)
    copies = request.samples_per_condition
    count = request.count * copies
    long = plan_long_videos(config, request.long, count=count)
    frames = request.long.num_frames or config.data.frames
    if is_main():  # before anything of this size is made
        check_room(
            out, count=count, frames=frames, size=config.data.size, streamed=long is not None
        )
    conditions = read_conditions(config, request) if given_frames else {}
    drawing: dict[str, Any] = {name: rows.repeat(copies, 0) for name, rows in conditions.items()}
    drawing |= {"seed": request.seed, "given_frames": given_frames}
    drawing["labels"] = None if ids is None else np.repeat(ids, copies).tolist()
    names = ["clip" if ids is None else labels[i] for i in (ids or [0] * request.count)]
    names = [name for name in names for _ in range(copies)]
    sampler, _ = build_sampling.load_sampler(
        config,
        workdir,
        labels=labels,
        filtering=filtering,
        guidance=guidance,
        decoding=decoding,
    )
    check_parameters({"generator": sampler.generator_params, "tokenizer": sampler.tokenizer_params})
    sampler = replace(
        sampler,
        weights=request.decoder.weights or config.sampling.weights,
        cache=request.decoder.cache or config.sampling.cache,
        mesh=build_sampling.make_sampling_mesh(config),
    ).laid_out()
    files = Files(out, names, fps=config.sampling.fps, columns=copies if copies > 1 else None)
    if long is not None:
        draw_long_videos(sampler, long, files, drawing=drawing)
        return names
    samples = sampler.sample(len(names), **drawing)
    if request.long.num_frames is not None:
        samples = samples.cut(request.long.num_frames, sampler.tokenizer.spec.stride[0])
    if is_main():  # every process has drawn the same clips
        write_samples(samples, files)
        planned = config.plan.passes(config.plan.tokens_of_frames(given_frames))
        print(f"{samples.passes.mean():.1f} passes per clip on average; the plan has {planned}")
    return names


def choose_labels(
    config: Config, labels: Sequence[str], request: SampleRequest
) -> list[int] | None:
    """Class id per condition: the one asked for, else all in turn; None for no condition.

    A class called none wins over the meaning of `--label none`, which `--unconditional` has always.
    """
    if request.unconditional and request.label is not None:
        raise ConfigError("--label and --unconditional: give one of them")
    if config.generator.prompt == "none":
        if request.label is not None:
            raise ConfigError("--label: this model was trained without labels (prompt none)")
        return None
    if request.unconditional:
        return None  # drawn from the trained null condition
    if request.label is not None:
        try:
            return [find_label(labels, request.label)] * request.count
        except ConfigError:
            if request.label == "none":  # no class has this name
                return None
            raise
    return [i % len(labels) for i in range(request.count)]


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


def draw_for_labels(
    sampler: Sampler, labels: Sequence[str], *, count: int, seed: int
) -> tuple[Samples, list[str]]:
    """`count` clips with all labels in turn, and the label of each."""
    ids = [i % len(labels) for i in range(count)]
    return sampler.sample(count, seed=seed, labels=ids), [labels[i] for i in ids]
