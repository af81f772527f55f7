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
    add = parser.add_argument_group("folders").add_argument
    add("--workdir", required=True, type=Path, help="trained or converted")
    add("--out", type=Path, help="folder; default: WORKDIR/samples")
    add_flags(parser)
    return parser


if __name__ == "__main__":
    run_command("nbp.sample", make_parser)  # help and mistakes end there, before the imports


import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from nbp.build_sampling import (
    RequestPlan,
    draw_as_asked,
    find_frames,
    load_request_sampler,
    plan_request,
    read_drawing,
)
from nbp.config.grids import draw_clips
from nbp.config.schema import Config
from nbp.errors import ConfigError
from nbp.evaluation.long_videos import DriftJob, describe_drift
from nbp.files import check_writable_folder, write_text
from nbp.layout import Box, frames_of_latents, latents_of_frames
from nbp.parallel import distributed
from nbp.parallel.distributed import is_main
from nbp.progress import Progress, print_note
from nbp.protocols import find_protocol
from nbp.report.plots import write_drift_curves
from nbp.runtime import keep_compiled, keep_freed_memory
from nbp.sample_files import Files, Recording, check_room, find_earlier, write_samples
from nbp.sampling.long_video import Rollout, Slide
from nbp.sampling.request import SampleRequest, make_request
from nbp.weights import Features, MakeI3d, load_features, make_i3d
from nbp.workdir import read_config, read_labels


def main(argv: list[str] | None = None, *, i3d: MakeI3d = make_i3d) -> None:
    """The command. argv: its arguments; default: those of the process. i3d: network of features."""
    arguments = make_parser().parse_args(argv)

    distributed.initialize()

    out = arguments.out or arguments.workdir / "samples"
    names = sample_workdir(arguments.workdir, out, make_request(arguments), i3d=i3d)
    if distributed.is_main():
        print(f"{len(names)} clips in {out} (grid.gif shows all of them)")


def sample_workdir(
    workdir: Path, out: Path, request: SampleRequest, *, i3d: MakeI3d = make_i3d
) -> list[str]:
    """Draws `request.count` clips into `out`; returns the name of each clip's condition."""
    keep_freed_memory()
    keep_compiled()
    config = draw_as_asked(read_config(workdir), request)
    drawn = draw_clips(config, frames=find_frames(request), size=request.size)
    config = drawn.config
    for note in drawn.notes if is_main() else ():
        print(f"nbp.sample: {note}", file=sys.stderr)
    if is_main():
        check_writable_folder(out, "Name another with --out DIR.")
        find_earlier(out)
    labels = read_labels(workdir)
    plan = plan_request(config, labels, request)
    long = plan_long_videos(config, plan, i3d)
    if is_main():  # before anything of this size is made
        check_room(out, count=plan.count, clip=drawn.clip, streamed=long is not None)
    drawing = read_drawing(config, plan)
    sampler = load_request_sampler(config, workdir, labels, plan)
    print_remainder(drawn.clip[0], config.tokenizer.stride[0])
    names, copies = plan.name_clips(labels), plan.request.samples_per_condition
    files = Files(out, names, fps=config.sampling.fps, columns=copies if copies > 1 else None)
    if long is not None:
        job = DriftJob(config, long.features, names, plan.story_script(labels))
        rollout = Rollout(sampler, long.slide, plan.story)
        draw_long_videos(rollout, job, files, clip=(long.frames, *drawn.clip[1:]), drawing=drawing)
        return names
    with follow(len(names), "clips") as progress:
        samples = sampler.sample(len(names), **drawing, tell=progress.step)
    samples = samples.cut(drawn.clip, sampler.tokenizer.spec.stride[0])
    if is_main():  # every process has drawn the same clips
        write_samples(samples, files)
        planned = config.plan.passes(config.plan.tokens_of_frames(plan.given_frames))
        told = f"the plan has {planned}"
        if plan.sampling.opener:
            opened = f"{samples.opener_passes.mean():.1f} of them by {plan.sampling.opener}"
            told = f"{opened}; without it {told}"
        print(f"{samples.passes.mean():.1f} passes per clip on average; {told}")
    return names


def follow(total: int, unit: str) -> Progress:
    """The progress of drawing, told by one process of a job."""
    return Progress(total, unit, print_note if is_main() else lambda text: None)


def print_remainder(frames: int, stride: int) -> None:
    """Says that videos of so many frames end inside a latent frame, where they do."""
    drawn = frames_of_latents(latents_of_frames(frames, stride), stride)
    if is_main() and drawn > frames:
        more = f"{drawn - frames} frames are" if drawn > frames + 1 else "one frame is"
        print(f"{frames} frames end inside a latent frame of {stride}: {more} drawn and cut off")


@dataclass(frozen=True)
class LongPlan:
    """Videos of `frames` frames, how windows slide, and features for the report, if any."""

    frames: int
    slide: Slide
    features: Features | None


def plan_long_videos(config: Config, plan: RequestPlan, i3d: MakeI3d) -> LongPlan | None:
    """What is drawn of long videos, with the features asked for; None where a clip has all."""
    request, slide = plan.request.long, plan.slide
    if slide is None or request.num_frames is None:
        return None
    if request.features and plan.count < 2:
        raise ConfigError("--features: a Frechet distance needs at least 2 videos: --num 2 or more")
    features = load_features(
        request.features,
        find_protocol("reconstruction"),
        frames=config.data.frames,
        place=jnp.asarray,
        copy=lambda params: params,
        make_network=i3d,
    )
    return LongPlan(request.num_frames, slide, features)


def draw_long_videos(
    rollout: Rollout, job: DriftJob, files: Files, *, clip: Box, drawing: Mapping[str, Any]
) -> None:
    """Draws videos into files as they come, then `drift.json` and `drift.png`.

    clip: (frames, height, width) that are kept. drawing: the other arguments of `Rollout.sample`.
    """
    frames, height, width = clip
    pieces = rollout.sample(len(files.names), frames, **drawing)
    if not is_main():  # every process draws the same videos
        for _ in pieces:
            pass
        return
    latents = latents_of_frames(frames, rollout.stride)
    with Recording(files, frames=frames, latents=latents) as recording:
        with follow(len(files.names) * frames, "frames") as progress:
            for piece in pieces:
                recording.add(replace(piece, videos=piece.videos[:, :, :height, :width]))
                progress.step(piece.videos.shape[0] * piece.videos.shape[1])
        drift, report = describe_drift(job, recording.videos, recording.tokens, rollout.slide)
        write_text(recording.folder / "drift.json", json.dumps(report, indent=1) + "\n")
        title = f"{len(files.names)} videos of {frames} frames, {rollout.slide.kind}"
        write_drift_curves(recording.folder / "drift.png", drift, title=title)
