# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`nbp.train --resume_from`: a new workdir goes on where another one stands, which is only read.

All of a checkpoint comes along (parameters, optimizer, average, position in the data), so the new
run is bit for bit what the other would have become, until its configuration differs.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nbp import build
from nbp.data.files import read_json
from nbp.errors import CheckpointError
from nbp.jobs.workdir import BINDING, has_begun, read_config, write_text
from nbp.parallel import distributed
from nbp.training import integrity
from nbp.training.checkpoint import ITEMS

RESUMED = "resumed_from.json"


def resume_from(source: Path, workdir: Path, *, step: int | None = None) -> None:
    """Copies the newest whole checkpoint of each stage of `source` into a workdir without any.

    A rerun of the same command finds them there, and goes on in `workdir`.

    Args:
      step: which checkpoint of the last stage that has begun, in place of the newest.

    Raises CheckpointError where `source` is no workdir or has no such checkpoint, or `workdir` has
    checkpoints of another origin.
    """
    resume = find_resume(source, workdir, step=step)
    distributed.wait_for_all("looked what to resume")  # before the first one writes
    if resume is not None:
        copy_resume(resume, workdir)


@dataclass(frozen=True)
class Resume:
    """Where a new workdir goes on from: the steps of each stage there, oldest first."""

    source: Path
    steps: Mapping[str, Sequence[int]]


def find_resume(source: Path, workdir: Path, *, step: int | None = None) -> Resume | None:
    """What `resume_from` would copy; None where it has done so. Arguments and errors as there.

    Nothing is changed.
    """
    read_config(source)  # says what is missing
    name = str(source.absolute())
    note = workdir / RESUMED
    if note.is_file():
        try:
            known = read_json(note)["workdir"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{note} cannot be read: {error}") from error
        if known != name:
            raise CheckpointError(
                f"{workdir} was resumed from {known}, not from {name}. Use another --workdir."
            )
        return None
    if (workdir / "config.json").is_file():
        raise CheckpointError(
            f"--resume_from {source}: {workdir} has begun already. Use a new --workdir, or leave "
            "the flag out to go on there."
        )
    begun = [stage for stage in BINDING if has_begun(source, stage)]
    if not begun:
        raise CheckpointError(f"--resume_from {source}: nothing is trained there")
    last = _list_steps(source, begun[-1])
    if step is not None and step not in last:
        raise CheckpointError(f"{source} has no {begun[-1]} checkpoint {step}: it has {last}")
    steps = {stage: _list_steps(source, stage) for stage in begun}
    return Resume(source, steps if step is None else {**steps, begun[-1]: [step]})


def copy_resume(resume: Resume, workdir: Path) -> None:
    """Copies what `find_resume` found; the first process of a job does it for all."""
    if distributed.is_main():
        _copy(resume, workdir)
    distributed.wait_for_all("checkpoints to resume from")


def _copy(resume: Resume, workdir: Path) -> None:
    source = resume.source
    steps = {
        stage: _copy_stage(source, workdir, stage, wanted) for stage, wanted in resume.steps.items()
    }
    for file in ("config.json", "labels.json"):
        if (source / file).is_file():
            write_text(workdir / file, (source / file).read_text(encoding="utf8"))
    told = {"workdir": str(source.absolute()), "steps": steps}
    write_text(workdir / RESUMED, json.dumps(told, indent=1) + "\n")
    shown = ", ".join(f"{stage} {at}" for stage, at in steps.items())
    print(f"[train] resumed from {source}: {shown}", flush=True)


def _list_steps(workdir: Path, stage: str) -> list[int]:
    """Steps that have a checkpoint, oldest first."""
    folder = build.stage_directory(workdir, stage) / "checkpoints"
    return sorted(int(p.name) for p in folder.glob("[0-9]*") if p.name.isdecimal())


def _copy_stage(source: Path, workdir: Path, stage: str, steps: Sequence[int]) -> int:
    """Copies the last whole one of these checkpoints, and the curves; returns its step."""
    folder = build.stage_directory(source, stage)
    target = build.stage_directory(workdir, stage)
    partial = target / "resuming"
    for candidate in reversed(steps):
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(folder / "checkpoints" / str(candidate), partial / str(candidate))
        try:
            integrity.verify_files(partial / str(candidate), ITEMS)
        except integrity.Damaged as damage:
            integrity.print_warning(f"checkpoint {candidate} of {folder} is damaged ({damage})")
            continue
        for file in ("metrics.csv", "start.json"):
            if (folder / file).is_file():
                shutil.copy2(folder / file, target / file)
        shutil.rmtree(target / "checkpoints", ignore_errors=True)  # of a copy that was killed
        os.replace(partial, target / "checkpoints")
        return candidate
    shutil.rmtree(partial, ignore_errors=True)
    raise CheckpointError(f"{folder} has no whole checkpoint to resume from")
