# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Trains the configuration's stages in order; resumes from the workdir by itself.

python -m nbp.train --config FILE[:VARIANT] --workdir DIR [--config.a.b=value ...]
"""

from pathlib import Path

from nbp.errors import run_command
from nbp.flags import NATURAL, Parser


def make_parser() -> Parser:
    parser = Parser(
        "nbp.train",
        __doc__,
        examples=(
            "--config configs/quickstart.py --workdir runs/quickstart",
            "--config configs/folder.py --workdir runs/folder --config.data.root=DIR",
            "--config configs/quickstart.py --workdir runs/longer\n"
            "--resume_from runs/quickstart --config.train.generator.steps=2000",
        ),
        overrides="all",
    )
    add = parser.add_argument_group("what is trained").add_argument
    add("--config", required=True, metavar="FILE[:VARIANT]", help="of the folder configs, or yours")
    add("--workdir", required=True, type=Path, help="made, or gone on with")
    add = parser.add_argument_group("from another run").add_argument
    add("--resume_from", type=Path, metavar="DIR", help="go on from another workdir's checkpoints")
    add("--resume_step", type=NATURAL, help="which of them; default: the newest")
    add = parser.add_argument_group("before training").add_argument
    add(
        "--check",
        action="store_true",
        help="look at flags and configuration, not at files, and end: for launchers",
    )
    return parser


if __name__ == "__main__":
    run_command("nbp.train", make_parser)  # help and mistakes end there, before the imports


import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from nbp import __version__, build, build_data
from nbp.config import load_config, parse_overrides, to_json
from nbp.config.grids import describe_grids
from nbp.config.schema import Config, StageConfig
from nbp.data.mixing import MixedSource
from nbp.data.prepare.class_names import find_split
from nbp.data.sources import VideoFolder
from nbp.data.video.encode import write_gif
from nbp.errors import DataError, DivergedError, NonFiniteError
from nbp.evaluate import EvaluateRequest, evaluate_workdir, report_path
from nbp.evaluation.during_training import (
    StageEvaluators,
    Validation,
    name_bad_videos,
)
from nbp.evaluation.result import write_report
from nbp.evaluation.setup import STANDARD, EvaluationSetup
from nbp.init_from import prepare_start
from nbp.parallel import distributed
from nbp.parallel.mesh import place_state, shard_batch
from nbp.places import claim_workdir, explain
from nbp.report.collect import is_stale, list_report_files, write_page
from nbp.report.plots import write_curves_png
from nbp.report.table import format_table
from nbp.runtime import keep_compiled, keep_freed_memory
from nbp.sample import sample_workdir
from nbp.sampling.request import SampleRequest
from nbp.stages import Stage, adopt_config, list_stages
from nbp.tracking.packages import check_packages
from nbp.tracking.tracker import RunInfo
from nbp.tracking.tracking import Tracking, make_tracking
from nbp.train_plan import TrainPlan, check_places, make_loop_spec, plan_training
from nbp.training.checkpoint import Checkpointer
from nbp.training.loop import run
from nbp.training.metrics import MetricsWriter
from nbp.training.state import TrainState
from nbp.workdir import copy_resume, has_begun, save_labels

WARN_DIGITS = (
    "warning: generator.head=digits draws the digits of a code independently, which is known to "
    "make poor codes (TokenBridge: gFID 15.7, in a chain 1.94); generator.head=joint chains them"
)


def main(argv: list[str] | None = None) -> None:
    """The command. argv: its arguments; default: those of the process."""
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.resume_step is not None and arguments.resume_from is None:
        parser.error("--resume_step needs --resume_from DIR")

    # Folders and variables may be those of other machines where no more than a check is wanted.
    expand = not arguments.check
    config = load_config(arguments.config, parse_overrides(rest), expand=expand)
    if arguments.check:
        print(f"{arguments.config}: flags and configuration are in order")
        return

    distributed.initialize()

    train_workdir(
        config, arguments.workdir, source=arguments.resume_from, step=arguments.resume_step
    )


def train_workdir(
    config: Config,
    workdir: Path,
    *,
    source: Path | None = None,
    step: int | None = None,
    setup: EvaluationSetup = STANDARD,
) -> None:
    """Trains what is not trained yet. Rerunning the same command continues a stopped run.

    source, step: a new workdir goes on from another one; see `nbp.workdir`. setup: of evaluations
    during training and at its end. A run that is refused has changed nothing: errors as in
    `plan_training`, ConfigError where another trains.
    """
    keep_freed_memory()
    keep_compiled()
    check_packages(config.train.tracking)
    check_places(config, workdir)
    with claim_workdir(workdir) as claim:
        plan = plan_training(config, workdir, source=source, step=step, setup=setup)
        distributed.wait_for_all("checked")
        claim.keep()
        begin(config, workdir, plan)
        stages = list_stages(config)
        with open_tracking(config, workdir) as tracking:
            for stage in stages:
                run_stage(config, workdir, stage, plan, tracking=tracking)
            if any(stage.generates for stage in stages):
                finish(config, workdir, setup=setup)
            if distributed.is_main() and is_stale(workdir):
                print(f"[report] to look at: {write_page(workdir)}", flush=True)
                tracking.report(list_report_files(workdir))


def begin(config: Config, workdir: Path, plan: TrainPlan) -> None:
    """The first writes: what is resumed, unusable files, the configuration, the class names."""
    try:
        if plan.resume is not None:
            copy_resume(plan.resume, workdir)
        if (bad := plan.bad_videos) is not None:
            bad.file = workdir / name_bad_videos()
            if len(bad) or config.data.kind == "folder":
                bad.add()
            if len(bad) and distributed.is_main():
                text = (
                    f"{len(bad)} unusable files skipped ({bad.summarize()}), listed in {bad.file}"
                )
                print(f"[data] {text}", flush=True)
        if distributed.is_main():
            data = next(iter(plan.clips.values()))
            mixed = isinstance(data.source, MixedSource)
            source = data.source.sources[0] if mixed else data.source
            lines = [build_data.describe_mix(config, data)] if mixed else []
            if isinstance(source, VideoFolder):
                lines += source.describe_notes(plan.held_out.source)
                lines += describe_split_folders(source.label_names)
            for text in lines:
                print(f"[data] {text}", flush=True)
            if "generator" in config.stages and config.generator.head == "digits":
                print(f"[train] {WARN_DIGITS}", flush=True)
            adopt_config(config, workdir, report=lambda text: print(f"[train] {text}", flush=True))
            save_labels(workdir, plan.labels)
    except OSError as error:
        raise explain(error, workdir) from error
    distributed.wait_for_all("configuration")


def open_tracking(config: Config, workdir: Path) -> Tracking:
    """The trackers of `train.tracking`; the first process of a job tracks for all."""
    if not distributed.is_main():
        return Tracking()
    values = json.loads(to_json(config))
    return make_tracking(config.train.tracking, RunInfo(config.name, workdir, values))


def describe_split_folders(labels: Sequence[str]) -> list[str]:
    """A line where the classes of a folder of videos are named like splits."""
    if len(labels) < 2 or not all(find_split(label) for label in labels):
        return []
    return [
        f"the classes are {', '.join(labels)}, which look like splits: each folder at the top of "
        "data.root is a class. Set data.root to one of them, or use nbp.prepare folder"
    ]


def run_stage(
    config: Config, workdir: Path, stage: Stage, plan: TrainPlan, *, tracking: Tracking
) -> None:
    """Trains one stage with its evaluations."""
    name, params = stage.name, {}
    origin: dict[str, Any] = {}
    trained = None
    if stage.follows is not None:
        trained = plan.trained or build.load_tokenizer(config, workdir)
        # On every device of the mesh, as the parameters that are measured together with it.
        params = place_state(trained.params, build.make_mesh(config, name))
        origin = {"tokenizer_step": trained.step, "tokenizer_sha256": trained.sha256}
    task = plan.tasks.get(name) or stage.make_task(config, plan.labels, params)
    if trained is not None and distributed.decide(has_begun(workdir, name)):
        begun = build.load_trained(
            workdir, name, network=task.network, ema=False, groups=task.optimizer.groups
        )
        build.check_tokenizer(begun, trained)
    clips = Validation(config, plan.held_out)
    evaluators = stage.make_evaluators(config, task, clips, params, plan.score)
    found = plan.checked.get(name)
    train_stage(
        config,
        workdir,
        task=task,
        data=plan.clips[name],
        evaluators=evaluators,
        origin=origin,
        tracking=tracking,
        began=plan.began,
        verified=(found.step,) if found is not None and found.sealed else (),
    )


def train_stage(
    config: Config,
    workdir: Path,
    *,
    task: Any,
    data: build_data.ClipData,
    evaluators: StageEvaluators,
    origin: Mapping[str, Any],
    tracking: Tracking | None = None,
    began: float = math.inf,
    verified: tuple[int, ...] = (),
) -> TrainState:
    """Runs one stage in `workdir/<stage>` and draws its curves, also of one that goes wrong.

    verified: checkpoints whose files were just compared with their hashes. began: when the run did,
    in seconds of `time.monotonic`, for `train.max_hours`.
    """
    stage: StageConfig = getattr(config.train, task.name)
    directory = build.stage_directory(workdir, task.name)
    mesh = build.make_mesh(config, task.name)
    rows = partial(distributed.find_rows, shard_batch(mesh))
    begin, started = prepare_start(config, workdir, task.name, network=task.network, origin=origin)
    task = dataclasses.replace(task, begin=begin)
    meta = {
        "config": dataclasses.asdict(config),
        "plan": config.plan.fingerprint,
        "versions": {"nbp": __version__, "jax": jax.__version__, "numpy": np.__version__},
        **origin,
        **started,
    }
    spec = make_loop_spec(config, stage, began=began)
    with (
        Checkpointer(
            directory / "checkpoints",
            keep=config.train.keep,
            keep_best=spec.best and spec.best.score,
            best_mode=spec.best.mode if spec.best else "min",
            verified=verified,
            optional=task.network.optional,
        ) as checkpointer,
        drawn_curves(config, workdir, task.name),
        MetricsWriter(
            directory,
            name=task.name,
            save_gif=write_gif,
            tracking=tracking,
            silent=not distributed.is_main(),
        ) as writer,
    ):
        if config.data.grids:
            writer.note(describe_grids(config, stage))
        return run(
            task,
            stream_factory=lambda batch: build_data.make_training_stream(
                config, stage, data=data, start_batch=batch, rows=rows
            ),
            checkpointer=checkpointer,
            spec=spec,
            mesh=mesh,
            writer=writer,
            meta=meta,
            seed=config.seed,
            evaluators=evaluators.make(writer, started=begin is not None),
        )


@contextlib.contextmanager
def drawn_curves(config: Config, workdir: Path, stage: str) -> Iterator[None]:
    """Draws the curves of a stage once it has ended, or was given up because it went wrong."""
    table = build.stage_directory(workdir, stage) / "metrics.csv"
    curves = workdir / "report" / f"{stage}_curves.png"

    def draw() -> None:
        if distributed.is_main() and table.is_file():
            curves.parent.mkdir(exist_ok=True)
            write_curves_png(table, curves, title=f"{config.name}: {stage}")

    try:
        yield
    except (NonFiniteError, DivergedError):
        with contextlib.suppress(DataError, OSError):  # what went wrong is what must be told
            draw()
        raise
    draw()


def finish(config: Config, workdir: Path, *, setup: EvaluationSetup) -> None:
    """Draws the configured samples and runs the configured protocol, unless that is done."""
    drawn = distributed.decide((workdir / "samples" / "samples.npz").is_file())
    if config.evaluation.samples and not drawn:
        sample_workdir(workdir, workdir / "samples", SampleRequest(config.evaluation.samples))
        if distributed.is_main():
            print(f"[samples] {config.evaluation.samples} clips in {workdir / 'samples'}")
    protocol = config.evaluation.protocol
    if protocol and not distributed.decide(report_path(workdir, protocol).is_file()):
        request = EvaluateRequest(workdir, protocol, setup=setup)
        say = distributed.is_main()
        result = evaluate_workdir(
            request, lambda text: print(f"[evaluate] {text}", flush=True) if say else None
        )
        if not say:
            return
        write_report(report_path(workdir, protocol), result)
        print(format_table(f"{config.name}, protocol {protocol}", result.scores))
        print(f"[report] {report_path(workdir, protocol)}")
