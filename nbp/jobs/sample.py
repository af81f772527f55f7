# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Draws clips from a trained workdir and writes them as files to look at."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, assert_never

import numpy as np

from nbp import build, datasets
from nbp.config import Config
from nbp.data.sample_files import Files, check_room, find_earlier, write_samples
from nbp.data.video.decoding import read_clip
from nbp.errors import ConfigError
from nbp.files import check_writable_folder
from nbp.jobs.long_videos import draw_long_videos, plan_long_videos
from nbp.parallel.distributed import is_main
from nbp.runtime import keep_compiled, keep_freed_memory
from nbp.sampling.filtering import Filter, Guidance
from nbp.sampling.finite import check_parameters
from nbp.sampling.request import SampleRequest
from nbp.sampling.sampler import Sampler, Samples
from nbp.sampling.speculative import PLAIN_DECODING, Decoding, Jacobi, Relaxed
from nbp.workdir import find_label, read_config, read_labels


def make_drawing(config: Config, request: SampleRequest) -> tuple[Filter, Guidance]:
    """Filters and guidance: the request's where it has them, else the configuration's."""
    default = config.sampling

    def choose(asked: Any, configured: Any) -> Any:
        return configured if asked is None else asked

    asked = request.schedules
    try:
        filtering = Filter(
            temperature=choose(request.temperature, default.temperature),
            top_k=choose(request.top_k, default.top_k),
            top_p=choose(request.top_p, default.top_p),
            temperature_end=choose(asked.temperature_end, default.temperature_end or None),
            temperature_schedule=choose(asked.temperature_schedule, default.temperature_schedule),
        )
        guidance = Guidance(
            choose(request.guidance, default.guidance),
            choose(asked.guidance_schedule, default.guidance_schedule),
            choose(asked.guidance_start, default.guidance_start),
            choose(asked.guidance_end, default.guidance_end),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if guidance.scale and config.generator.prompt == "none":
        raise ConfigError("guidance needs a label-conditional model; this one has no prompt")
    return filtering, guidance


def make_decoding(config: Config, request: SampleRequest) -> Decoding:
    """How the passes are made; ConfigError where the request or the tokenizer does not allow it."""
    chosen = request.decoder
    asked = {"window": chosen.window, "radius": chosen.radius, "delta": chosen.delta}
    given = {name: value for name, value in asked.items() if value is not None}
    takes = {"plain": (), "jacobi": ("window",), "relaxed": ("window", "radius", "delta")}
    for name in given:
        if name not in takes[chosen.decoding]:
            fitting = " or ".join(kind for kind, names in takes.items() if name in names)
            raise ConfigError(f"--{name} is for --decoding {fitting}, not {chosen.decoding}")
    levels = find_levels(config) if chosen.decoding == "relaxed" else ()
    if request.long.anchor and chosen.decoding != "plain":
        raise ConfigError(f"--anchor draws pass by pass: leave out --decoding {chosen.decoding}")
    try:
        match chosen.decoding:
            case "plain":
                return PLAIN_DECODING
            case "jacobi":
                return Jacobi(**given)
            case "relaxed":
                return Relaxed(levels, **given)
            case _ as never:
                assert_never(never)
    except ValueError as error:
        raise ConfigError(f"--decoding {chosen.decoding}: {error}") from error


def find_levels(config: Config) -> tuple[int, ...]:
    """Levels of the digits of a code: neighbours are near each other. Else ConfigError."""
    spec = config.tokenizer_spec
    match spec.kind:
        case "fsq":
            return spec.levels
        case "lfq":
            return (2,) * spec.quantizer.channels
        case _:
            raise ConfigError(
                f"--decoding relaxed needs codes that are near each other, as those of fsq and lfq;"
                f" this tokenizer has {spec.kind}. Use --decoding jacobi."
            )


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
    sampler, _ = build.load_sampler(
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
        mesh=build.make_sampling_mesh(config),
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


def count_conditions(
    config: Config, labels: Sequence[str], request: SampleRequest
) -> SampleRequest:
    """The request with --per_class written as conditions and samples of each."""
    if request.count < 1:
        raise ConfigError(f"--num {request.count}: draw at least 1 clip")
    if request.samples_per_condition < 1:
        raise ConfigError(
            f"--samples_per_condition {request.samples_per_condition}: draw at least 1 clip of each"
        )
    if request.per_class is None:
        return request
    if request.per_class < 1:
        raise ConfigError(f"--per_class {request.per_class}: draw at least 1 clip of each class")
    if config.generator.prompt == "none":
        raise ConfigError("--per_class: this model was trained without labels (prompt none)")
    labelled = request.label is not None or request.unconditional
    if labelled or request.samples_per_condition > 1:
        raise ConfigError(
            "--per_class draws clips of every class: leave out --label, --unconditional and "
            "--samples_per_condition"
        )
    return replace(request, count=len(labels), samples_per_condition=request.per_class)


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


def draw_for_labels(
    sampler: Sampler, labels: Sequence[str], *, count: int, seed: int
) -> tuple[Samples, list[str]]:
    """`count` clips with all labels in turn, and the label of each."""
    ids = [i % len(labels) for i in range(count)]
    return sampler.sample(count, seed=seed, labels=ids), [labels[i] for i in ids]
