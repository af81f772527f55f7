# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The folder of one experiment: its resolved configuration, its labels, its stages."""

import json
import os
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from nbp import build, files
from nbp.build import stage_directory
from nbp.config import from_dict
from nbp.config.schema import Config, StageName
from nbp.errors import CheckpointError, ConfigError
from nbp.files import read_json
from nbp.hub.folder import PUBLISHED, is_published
from nbp.parallel import distributed
from nbp.training import integrity
from nbp.training.checkpoint import ITEMS

# In the folder of a stage whose weights were converted: the file they came from.
CONVERTED = "converted.json"


def read_config(workdir: Path) -> Config:
    """The resolved configuration of a workdir; CheckpointError where there is none."""
    path = workdir / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{workdir} is no workdir: it has no config.json. "
            f"Train first: python -m nbp.train --config FILE --workdir {workdir}"
        )
    try:
        values = {key: value for key, value in read_json(path).items() if key != PUBLISHED}
        return from_dict(_move_old_keys(values))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def has_begun(workdir: Path, stage: str) -> bool:
    """Whether a stage has a checkpoint, or is there in the form that is published."""
    checkpoints = stage_directory(workdir, stage) / "checkpoints"
    return any(checkpoints.glob("[0-9]*")) or is_published(workdir, stage)


def refuse_published(workdir: Path, what: str) -> None:
    """CheckpointError where a folder is a published model, which is read and never changed.

    what: what was to be done with it, for the message.
    """
    if any(is_published(workdir, stage) for stage in get_args(StageName)):
        raise CheckpointError(
            f"{workdir} is a published model and cannot {what}: make a workdir of it first, "
            f"python -m nbp.export --workdir {workdir} --out DIR"
        )


def save_labels(workdir: Path, labels: Sequence[str]) -> None:
    """Keeps the class names, so that sampling needs no data."""
    files.write_text(workdir / "labels.json", json.dumps(list(labels), indent=1) + "\n")


def read_labels(workdir: Path) -> tuple[str, ...]:
    path = workdir / "labels.json"
    if not path.is_file():
        raise CheckpointError(f"{workdir} has no labels.json: its generator is not trained yet")
    try:
        labels = read_json(path, list)
        if not all(isinstance(name, str) for name in labels):
            raise ValueError("it holds other things than names")
        return tuple(labels)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def find_label(labels: Sequence[str], text: str) -> int:
    """The class id for a name or a number; ConfigError lists what exists.

    A name wins: `3` is the class called 3 where there is one, else class 3. The name itself wins
    over names that differ in case, spaces, hyphens and underscores alone, of which there may be
    one.
    """
    if text in labels:
        return list(labels).index(text)
    alike = [i for i, name in enumerate(labels) if _simplify(name) == _simplify(text)]
    if len(alike) > 1:
        names = " or ".join(repr(labels[i]) for i in alike)
        raise ConfigError(f"label {text!r} may be {names}: write it as it is")
    if alike:
        return alike[0]
    digits = text.isascii() and text.isdecimal() and len(text) < 10
    if digits and int(text) < len(labels):
        return int(text)
    shown = ", ".join(labels[:40]) + (f", ... ({len(labels)} in all)" if labels[40:] else "")
    raise ConfigError(f"no label {text!r}; use 0..{len(labels) - 1} or one of: {shown}")


def _simplify(name: str) -> str:
    """A name without what is easily written otherwise."""
    spaced = unicodedata.normalize("NFC", name).replace("_", " ").replace("-", " ")
    return " ".join(spaced.casefold().split())


def _move_old_keys(values: dict[str, Any]) -> dict[str, Any]:
    """Values of an older version's config.json under the keys of this one."""
    sampling = values.get("sampling")
    if isinstance(sampling, dict) and "guidance_ramp" in sampling:
        rest = {key: value for key, value in sampling.items() if key != "guidance_ramp"}
        schedule = {"guidance_schedule": "ramp"} if sampling["guidance_ramp"] else {}
        values = {**values, "sampling": {**rest, **schedule}}
    tokenizer = values.get("tokenizer")
    if isinstance(tokenizer, dict) and "loss" in tokenizer:
        sizes = {key: value for key, value in tokenizer.items() if key != "loss"}
        losses = {"reconstruction": tokenizer["loss"], **_as_group(values.get("losses"))}
        values = {**values, "tokenizer": sizes, "losses": losses}
    data = values.get("data")
    if isinstance(data, dict) and "train_clips" in data:
        shapes = {"train_clips": data["train_clips"], **_as_group(data.get("moving_shapes"))}
        data = {key: value for key, value in data.items() if key != "train_clips"}
        return {**values, "data": {**data, "moving_shapes": shapes}}
    return values


def _as_group(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


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
    refuse_published(source, "be resumed")
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
    begun = list_begun(source)
    if not begun:
        raise CheckpointError(f"--resume_from {source}: nothing is trained there")
    last = list_steps(source, begun[-1])
    if step is not None and step not in last:
        raise CheckpointError(f"{source} has no {begun[-1]} checkpoint {step}: it has {last}")
    steps = {stage: list_steps(source, stage) for stage in begun}
    return Resume(source, steps if step is None else {**steps, begun[-1]: [step]})


def copy_resume(resume: Resume, workdir: Path) -> None:
    """Copies what `find_resume` found; the first process of a job does it for all."""
    if distributed.is_main():
        _copy(resume, workdir)
    distributed.wait_for_all("checkpoints to resume from")


def _copy(resume: Resume, workdir: Path) -> None:
    source = resume.source
    steps = {
        stage: copy_stage(source, workdir, stage, wanted) for stage, wanted in resume.steps.items()
    }
    for file in ("config.json", "labels.json"):
        if (source / file).is_file():
            files.write_text(workdir / file, (source / file).read_text(encoding="utf8"))
    told = {"workdir": str(source.absolute()), "steps": steps}
    files.write_text(workdir / RESUMED, json.dumps(told, indent=1) + "\n")
    shown = ", ".join(f"{stage} {at}" for stage, at in steps.items())
    print(f"[train] resumed from {source}: {shown}", flush=True)


def list_steps(workdir: Path, stage: str) -> list[int]:
    """Steps that have a checkpoint, oldest first."""
    folder = build.stage_directory(workdir, stage) / "checkpoints"
    return sorted(int(p.name) for p in folder.glob("[0-9]*") if p.name.isdecimal())


def copy_stage(source: Path, workdir: Path, stage: str, steps: Sequence[int]) -> int:
    """Copies the last whole one of these checkpoints, and the curves; returns its step.

    In the end it is there whole, or not at all. Raises CheckpointError where none is whole.
    """
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


def list_begun(workdir: Path) -> list[StageName]:
    """The stages that have a checkpoint, in their order."""

    return [stage for stage in get_args(StageName) if has_begun(workdir, stage)]
