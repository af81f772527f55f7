# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Trains and scores a list of configurations, one after the other, and tabulates what they gave.

Stopped or killed, the same command goes on. Finished runs stay as they are when the list grows.

python -m nbp.sweep FILE[:VARIANT] [--workdir DIR] [--dry_run] [--index I --of N]
"""

from pathlib import Path

from nbp.errors import run_command
from nbp.flags import COUNT, NATURAL, Parser


def make_parser() -> Parser:
    parser = Parser(
        "nbp.sweep",
        __doc__,
        examples=(
            "configs/sweeps/blocks.py --workdir runs/blocks --dry_run",
            "configs/sweeps/blocks.py --workdir runs/blocks",
            "configs/sweeps/scaling.py --workdir /shared/runs/scaling --index 3 --of 8",
        ),
    )
    add = parser.add_argument_group("the runs").add_argument
    add("sweep", metavar="FILE[:VARIANT]", help="Python file with get_sweep; see docs/sweeps.md")
    add("--workdir", type=Path, default=Path("runs/sweep"), help="made, or gone on with")
    add("--dry_run", action="store_true", help="list what would be done, with its operations")
    add = parser.add_argument_group("several jobs").add_argument
    add("--index", type=NATURAL, help="this job's share of the runs, from 0")
    add("--of", type=COUNT, help="number of shares; default: all runs are ours")
    return parser


if __name__ == "__main__":
    run_command("nbp.sweep", make_parser)  # help and mistakes end there, before the imports


import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from nbp import build_data, locks
from nbp.config import to_json
from nbp.config.schema import Config
from nbp.config.sweep import (
    OWN,
    SweepSpec,
    Training,
    find_protocol_name,
    load_sweep,
    resolve_run,
    resolve_tokenizer,
)
from nbp.errors import CheckpointError, ConfigError, NbpError
from nbp.files import check_writable_folder, write_text
from nbp.lowering import measure_training
from nbp.parallel import distributed
from nbp.progress import format_duration
from nbp.protocols import find_protocol
from nbp.report.sweep_page import write_page
from nbp.report.sweep_table import (
    describe_evaluation,
    list_changes,
    list_rows,
    read_record,
    read_scores,
    read_training,
    same_settings,
    write_record,
    write_table,
)
from nbp.runtime import CommandFailed, CommandRunner
from nbp.stages import compare_config
from nbp.workdir import copy_stage, has_begun, list_steps, read_config, read_labels


def main(argv: list[str] | None = None) -> None:
    """The command. argv: its arguments; default: those of the process."""
    arguments = make_parser().parse_args(argv)
    index, of = arguments.index, arguments.of
    if (index is None) != (of is None) or (index or 0) >= (of or 1):
        raise ConfigError("--index I and --of N: give both, I from 0 to N - 1, or neither")
    if distributed.choose_arguments(os.environ) is not None:
        raise ConfigError(
            "nbp.sweep starts its runs from one process: launch one for each share of the runs, "
            "with --index I --of N, not several for all"
        )
    # The accelerator is for the runs, each of which is a process of its own.
    jax.config.update("jax_platforms", "cpu")

    sweep = plan_sweep(arguments.sweep, arguments.workdir)
    share = sweep.runs[index or 0 :: of or 1]
    if arguments.dry_run:
        print("\n".join(describe_work(sweep, share)))
        return
    run_sweep(sweep, share)


def say(text: str) -> None:
    print(f"[sweep] {text}", flush=True)


@dataclass(frozen=True)
class Sweep:
    """A checked sweep. argument: the file that it was read from. tokenizer: the workdir whose
    tokenizer all generators have, None where each run trains its own. first: the training of that
    tokenizer, None where it is there already.
    """

    spec: SweepSpec
    argument: str
    workdir: Path
    protocol: str
    runs: tuple[Training, ...]
    tokenizer: Path | None
    first: Training | None

    def folder(self, job: Training) -> Path:
        return self.workdir / "tokenizer" if job.run is None else self.workdir / "runs" / job.name

    def record(self, job: Training) -> dict[str, Any]:
        """What is known of a training, {} before it has ended."""
        return read_record(self.folder(job))

    def list_work(self, share: Sequence[Training]) -> list[Training]:
        """The trainings of a share, the tokenizer's first where it is still needed."""
        needed = not all(self.record(job) for job in share)
        return [self.first, *share] if self.first is not None and needed else list(share)

    def list_dials(self, job: Training) -> list[str]:
        """The dials that are not scored yet, or were with other settings."""
        known = self.record(job).get("evaluations", {})
        now = {name: self.settings(config) for name, config in job.dials.items()}
        return [n for n in now if n not in known or not same_settings(known[n], now[n])]

    def settings(self, config: Config) -> dict[str, Any]:
        """What decides on the scores of a trained run with a dial."""
        return describe_evaluation(self.spec, self.protocol, config)


# What would be done ------------------------------------------------------------------------------


def plan_sweep(argument: str, workdir: Path) -> Sweep:
    """Reads, resolves and checks all runs; nothing is written.

    Raises ConfigError for what cannot be, CheckpointError where a finished run was another one.
    """
    spec, runs = load_sweep(argument)
    protocol = find_protocol_name(spec)
    first, tokenizer, trained = None, None, None
    if not spec.tokenizer:
        first, tokenizer = resolve_tokenizer(spec), workdir / "tokenizer"
        trained = first.config
    elif spec.tokenizer != OWN:
        tokenizer = Path(spec.tokenizer).expanduser()
        trained = read_config(tokenizer)
        if not has_begun(tokenizer, "tokenizer"):
            raise CheckpointError(f"tokenizer={spec.tokenizer!r} holds no trained tokenizer")
    jobs = tuple(resolve_run(spec, run, protocol, trained) for run in runs)
    for job in jobs if protocol else ():
        kind = job.config.data.kind
        if kind == "tokens" and not spec.data:
            raise ConfigError(
                f"{job.name}: protocol {protocol} scores clips, which tokens are not: name videos "
                "or a prepared dataset, data=DIR"
            )
        find_protocol(protocol, None if kind == "tokens" else kind)
    sweep = Sweep(spec, argument, workdir, protocol, jobs, tokenizer, first)
    for job in jobs if first is None else (first, *jobs):
        check_unchanged(sweep, job)
    return sweep


def check_unchanged(sweep: Sweep, job: Training) -> None:
    """CheckpointError where a training has finished, or begun, with other settings than now."""
    record, folder = sweep.record(job), sweep.folder(job)
    if not record:
        compare_config(job.config, folder)
        return
    sides = list_changes(record, job.config)
    before = record.get("tokenizer", "")
    if job.run is not None and before != sweep.spec.tokenizer:
        sides.append(f"tokenizer was {before!r}, now {sweep.spec.tokenizer!r}")
    if sides:
        raise CheckpointError(
            f"{job.name} is finished, with other settings: {'; '.join(sides[:6])}. What is "
            f"finished is kept: give the new run another name, or remove {folder} to train it again"
        )


def describe_work(sweep: Sweep, share: Sequence[Training]) -> list[str]:
    """Lines of what is to be done: each training with its operations, parameters and dials."""
    lines, total = [], 0.0
    for job in sweep.list_work(share):
        trained, left = bool(sweep.record(job)), sweep.list_dials(job)
        amount = measure(sweep, job)
        total += 0.0 if trained else amount["flops"]
        does = [] if trained else [f"train {amount['updates']:,} updates"]
        does += [f"score {', '.join(left)}"] if left else []
        lines.append(
            f"{job.name}: {' and '.join(does) or 'finished'}; {amount['flops']:.3g} operations, "
            f"{amount['parameters']:,} parameters"
        )
    count = f"{len(share)} of {len(sweep.runs)} runs"
    return [*lines, f"{count}, {total:.3g} operations of training to be done"]


def measure(sweep: Sweep, job: Training) -> dict[str, Any]:
    """Operations, parameters, updates, clips and tokens; see `nbp.lowering.TrainingAmount`."""
    folder, classes = sweep.folder(job), 0
    if (folder / "labels.json").is_file():
        classes = len(read_labels(folder))
    elif job.config.data.kind == "moving_shapes":
        classes = len(build_data.make_data(job.config)[0].label_names)
    return dataclasses.asdict(measure_training(job.config, classes))


# Doing it ----------------------------------------------------------------------------------------


def run_sweep(sweep: Sweep, share: Sequence[Training]) -> None:
    """Trains, scores and tabulates what is not done yet.

    A run that fails does not keep the others from being made. Raises NbpError with the exit code of
    the first one in the end, Preempted where the process was told to stop.
    """
    check_writable_folder(sweep.workdir, "Name another with --workdir DIR.")
    work = sweep.list_work(share)
    todo = [job for job in work if not sweep.record(job) or sweep.list_dials(job)]
    say(f"{sum(job not in todo for job in share)} of {len(share)} runs are finished")
    costs = {job.name: 0.0 if sweep.record(job) else measure(sweep, job)["flops"] for job in todo}
    failures: dict[str, CommandFailed] = {}
    pace: list[tuple[float, float, float]] = []
    with CommandRunner(sweep.workdir / "compiled", say) as runner:
        for number, job in enumerate(todo, 1):
            began = time.monotonic()
            try:
                with hold(sweep, job.name, runner) as handle:
                    make(sweep, job, runner, handle)
            except CommandFailed as failure:
                failures[job.name] = failure
                say(f"{job.name} failed with {failure}")
                if job is sweep.first:  # no other could begin
                    break
                continue
            updates = sweep.record(job)["training"]["seconds"] if costs[job.name] else 0.0
            pace.append((costs[job.name], updates or 0.0, time.monotonic() - began))
            left = format_duration(estimate_left(pace, [costs[o.name] for o in todo[number:]]))
            say(f"{number}/{len(todo)} {job.name}  {describe_scores(sweep, job)}  ETA {left}")
            tabulate(sweep, failures, runner)
        rows = tabulate(sweep, failures, runner)
    if rows:
        say(f"to look at: {write_page(sweep.workdir, sweep.spec.name, rows)}")
    if failures:
        name, failure = next(iter(failures.items()))
        error = NbpError(
            f"{len(failures)} of {len(todo)} runs failed, the first is {name} ({failure}). "
            "The same command tries them again"
        )
        error.exit_code = failure.code if 0 < failure.code < 128 else 1
        raise error


def estimate_left(pace: Sequence[tuple[float, float, float]], costs: Sequence[float]) -> float:
    """Seconds for trainings of these operations, after some of (operations, seconds of their
    updates, seconds in all).

    Updates take time by their operations; starting, compiling and scoring take as long as they did.
    """
    operations, updates, _ = (sum(values) for values in zip(*pace, strict=True))
    rate = updates / operations if operations else 0.0
    aside = sum(max(0.0, whole - part) for _, part, whole in pace) / len(pace)
    return sum((aside + cost * rate for cost in costs), 0.0)


@contextlib.contextmanager
def hold(sweep: Sweep, name: str, runner: CommandRunner) -> Iterator[int | None]:
    """Waits until no other process works on a training; yields the open file that says so.

    A child inherits it: should this process be killed, the training is the child's until it ends.
    """
    folder = sweep.workdir / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    told = False
    while True:
        runner.check()
        try:
            lock = locks.lock_file(folder / f"{name}.lock")
            break
        except locks.Held:
            if not told:
                say(f"{name}: another process works on it; waiting")
            told = True
            time.sleep(0.5)
    with lock:
        yield lock.handle


def make(sweep: Sweep, job: Training, runner: CommandRunner, handle: int | None) -> None:
    """Trains and scores what is not yet, each part a process. Raises CommandFailed."""
    folder, log = sweep.folder(job), sweep.workdir / "logs" / f"{job.name}.txt"
    if not sweep.record(job):
        if job.run is not None and sweep.tokenizer is not None:
            adopt_tokenizer(sweep.tokenizer, folder)
        say(f"{job.name}: training")
        words = [f"--config.{key}={value}" for key, value in job.overrides.items()]
        words = ["--config", sweep.spec.config, "--workdir", str(folder), *words]
        runner.run("train", words, log, inherited=handle)
        training = read_training(folder, job.config, measure(sweep, job))
        record = {"config": json.loads(to_json(job.config)), "training": training}
        write_record(folder, {**record, "tokenizer": sweep.spec.tokenizer, "evaluations": {}})
    for dial in sweep.list_dials(job):
        again = dial in sweep.record(job)["evaluations"]
        say(f"{job.name}: scoring {dial}{' again, as its settings have changed' * again}")
        view = make_view(folder, dial, job.dials[dial])
        words = ["--workdir", str(view), "--protocol", sweep.protocol]
        words += ["--cache", str(folder / "report" / "cache")]
        for flag in ("data", "features"):
            value = getattr(sweep.spec, flag)
            words += [f"--{flag}", value] if value else []
        runner.run("evaluate", words, log, inherited=handle)
        found = {"settings": sweep.settings(job.dials[dial])}
        record = sweep.record(job)
        record["evaluations"][dial] = {**found, **read_scores(view, sweep.protocol)}
        write_record(folder, record)


def adopt_tokenizer(source: Path, folder: Path) -> None:
    """Copies the tokenizer of a workdir into a run's folder, unless it has one.

    The copy has the hash of the original: codes of all runs mean the same, and a cache of tokens
    that was made with one serves all.
    """
    if not has_begun(folder, "tokenizer"):
        copy_stage(source, folder, "tokenizer", list_steps(source, "tokenizer"))


def make_view(folder: Path, dial: str, config: Config) -> Path:
    """A workdir that has the parameters of a run (links to them) and the settings of a dial."""
    view = folder / "dials" / dial
    write_text(view / "config.json", to_json(config))
    for stage in ("tokenizer", "generator"):
        if (folder / stage).is_dir() and not (view / stage).is_symlink():
            (view / stage).symlink_to(Path("..") / ".." / stage, target_is_directory=True)
    if (folder / "labels.json").is_file():
        write_text(view / "labels.json", (folder / "labels.json").read_text(encoding="utf8"))
    return view


def tabulate(
    sweep: Sweep, failures: Mapping[str, CommandFailed], runner: CommandRunner
) -> list[Any]:
    """Writes the table of all runs, those of other shares too; returns its rows."""
    rows, missing = [], {}
    with hold(sweep, "table", runner):
        for job in sweep.runs:
            found = list_rows(job.run, sweep.folder(job), sweep.record(job)) if job.run else []
            rows += found
            if job.name in failures:
                missing[job.name] = str(failures[job.name])
            elif not found:
                missing[job.name] = "not finished"
        about = {"sweep": sweep.spec.name, "file": sweep.argument, "config": sweep.spec.config}
        about |= {"protocol": sweep.protocol, "tokenizer": str(sweep.tokenizer or "")}
        write_table(sweep.workdir, about, rows, missing)
    return rows


def describe_scores(sweep: Sweep, job: Training) -> str:
    """The scores that are looked at first, in a line."""
    rows = list_rows(job.run, sweep.folder(job), sweep.record(job)) if job.run else []
    scores = rows[0].scores if rows else {}
    shown = [name for name in ("bits_per_token", "label_agreement", "psnr") if name in scores]
    return "  ".join(f"{name} {scores[name]:.4g}" for name in shown)
