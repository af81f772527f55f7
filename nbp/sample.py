# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Draws clips from a trained workdir: MP4 files, a GIF grid and samples.npz.

Temperature, top-k, top-p and guidance are the workdir's configuration's unless they are given.

    python -m nbp.sample --workdir DIR --num N --out DIR [--label NAME|ID] [--frames FILE] ...
"""

from pathlib import Path

from nbp.errors import run_command
from nbp.flags import Parser
from nbp.sampling.request import add_flags


def make_parser() -> Parser:
    parser = Parser(
        "nbp.sample",
        __doc__,
        examples=(
            '--workdir runs/quickstart --num 16 --out runs/squares --label "red square right"',
            "--workdir runs/folder --num 4 --out runs/continued --frames clip.mp4",
            "--workdir runs/quickstart --num 4 --out runs/long --num_frames 129",
        ),
    )
    parser.add_argument("--workdir", required=True, type=Path, help="trained or converted")
    parser.add_argument("--out", type=Path, help="folder; default: WORKDIR/samples")
    add_flags(parser)
    return parser


if __name__ == "__main__":
    run_command("nbp.sample", make_parser)  # help and mistakes end there, before the imports


import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from nbp import build_data, build_sampling
from nbp.build_sampling import (
    choose_given_frames,
    count_conditions,
    make_decoding,
    make_sampling,
    take_examples,
)
from nbp.config.schema import Config
from nbp.data.video.decoding import read_clip
from nbp.errors import ConfigError
from nbp.files import check_writable_folder, write_text
from nbp.metrics.drift import measure_drift
from nbp.metrics.score_table import name_fvd
from nbp.parallel import distributed
from nbp.parallel.distributed import is_main
from nbp.protocols.published import find_protocol
from nbp.report.plots import write_drift_curves
from nbp.runtime import keep_compiled, keep_freed_memory
from nbp.sample_files import Files, Recording, check_room, find_earlier, write_samples
from nbp.sampling.finite import check_parameters
from nbp.sampling.long_video import Rollout, Slide, choose_slide
from nbp.sampling.request import LongRequest, SampleRequest, make_request
from nbp.sampling.sampler import Sampler, Samples
from nbp.weights import Features, load_features
from nbp.workdir import find_label, read_config, read_labels


def main(argv: list[str] | None = None) -> None:
    """The command. argv: its arguments; default: those of the process."""
    arguments = make_parser().parse_args(argv)

    distributed.initialize()

    out = arguments.out or arguments.workdir / "samples"
    names = sample_workdir(arguments.workdir, out, make_request(arguments))
    if distributed.is_main():
        print(f"{len(names)} clips in {out} (grid.gif shows all of them)")


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
    sampling = make_sampling(config, request.sampling)
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
        sampling=sampling,
        decoding=decoding,
    )
    check_parameters({"generator": sampler.generator_params, "tokenizer": sampler.tokenizer_params})
    sampler = replace(sampler, mesh=build_sampling.make_sampling_mesh(config)).laid_out()
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
        _, held_out = build_data.make_data(config)
        rows = build_data.iterate_clips(config, held_out, limit=request.count, batch=request.count)
        return take_examples(next(rows), request.count)
    data = config.data
    fps = data.fps or None
    stride = config.tokenizer.stride[0]
    needed = (choose_given_frames(config, request) - 1) * stride + 1
    clip = read_clip(request.frames, frames=needed, fps=fps, start=0.0)
    for transform in build_data.make_spatial(config):
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
            codes=sampler.tokenizer.spec.make_quantizer().codes,
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
