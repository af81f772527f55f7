# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`nbp.train --resume_from`: a new workdir goes on where another one stands, which is only read.

All of a checkpoint comes along (parameters, optimizer, average, position in the data), so the new
run is bit for bit what the other would have become, until its configuration differs.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from nbp import build
from nbp.errors import CheckpointError
from nbp.jobs.workdir import BINDING, has_begun, read_config, write_text
from nbp.training import distributed, integrity
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
    if distributed.is_main():
        _copy(source, workdir, step)
    distributed.wait_for_all("checkpoints to resume from")


def _copy(source: Path, workdir: Path, step: int | None) -> None:
    read_config(source)  # says what is missing
    name = str(source.absolute())
    note = workdir / RESUMED
    if note.is_file():
        known = json.loads(note.read_text(encoding="utf8"))["workdir"]
        if known != name:
            raise CheckpointError(
                f"{workdir} was resumed from {known}, not from {name}. Use another --workdir."
            )
        return
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
    steps = {}
    for stage in begun:
        wanted = _list_steps(source, stage)
        if step is not None and stage == begun[-1]:
            wanted = [step]
        steps[stage] = _copy_stage(source, workdir, stage, wanted)
    for file in ("config.json", "labels.json"):
        if (source / file).is_file():
            write_text(workdir / file, (source / file).read_text(encoding="utf8"))
    write_text(note, json.dumps({"workdir": name, "steps": steps}, indent=1) + "\n")
    told = ", ".join(f"{stage} {at}" for stage, at in steps.items())
    print(f"[train] resumed from {source}: {told}", flush=True)


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
