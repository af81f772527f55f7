# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Foreign weights as stages of a workdir: all checked first, written whole, never over others."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nbp import __version__, build
from nbp.config import to_json
from nbp.config.schema import Config
from nbp.errors import CheckpointError
from nbp.files import write_text
from nbp.hub.folder import is_published
from nbp.interop.identity import PUBLIC, UNKNOWN, KnownFile, describe_origin, identify
from nbp.interop.infer_config import Report
from nbp.interop.mapping import Drop, Rule, Tensor, check_rules, convert_tensors
from nbp.interop.reading import TensorFile
from nbp.interop.states import set_aside
from nbp.shapes import PyTree
from nbp.stages import STAGES
from nbp.training.checkpoint import Checkpointer
from nbp.training.state import TrainState
from nbp.workdir import CONVERTED, read_config, read_labels, save_labels


def tell_choice(file: TensorFile, notes: Sequence[str], report: Report) -> None:
    for note in notes:
        report(f"{file.path.name}: {note}")


@dataclass(frozen=True)
class Conversion:
    """One stage of a workdir: tensors and the table that takes them into a network."""

    stage: str
    tensors: Mapping[str, Tensor]
    rules: Sequence[Rule]
    drops: Sequence[Drop]
    network: Any

    def template(self, origin: str) -> PyTree:
        """The wanted parameters; CheckpointError where sizes of the file contradict each other."""
        try:
            return jax.eval_shape(self.network.init, jax.random.key(0))
        except ValueError as error:
            raise CheckpointError(f"{origin}: {error}") from error


def write_conversions(
    file: TensorFile,
    out: Path,
    conversions: Sequence[Conversion],
    *,
    config: Config | None,
    report: Report,
    origin: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
) -> None:
    """Checks all stages, then converts them one by one and puts them in place together.

    origin: what is recorded of the file, see `describe_file`. When anything fails, `out` is as it
    was before. A stage that was converted from this file before, as one that was killed then, is
    left as it is. Raises CheckpointError where another one is there: nothing is replaced.
    """
    name = file.path.name
    ready = []
    for item in conversions:
        tensors, notes = set_aside(item.tensors, item.rules, item.drops)
        ready.append(dataclasses.replace(item, tensors=tensors))
        template = item.template(name)
        notes += check_rules(tensors, item.rules, item.drops, template=template, origin=name)
        tell_choice(file, notes, report)
    converted = origin or describe_file(file, PUBLIC, report=report)
    meta = {
        "config": None if config is None else json.loads(to_json(config)),
        "converted": converted,
        "versions": {"nbp": __version__, "jax": jax.__version__, "numpy": np.__version__},
    }
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    partial = out / ".converting"
    shutil.rmtree(partial, ignore_errors=True)
    held = {item.stage for item in conversions if _is_taken(out, item.stage)}
    for stage in sorted(held):
        if not _is_made(out, stage, meta, labels):
            raise CheckpointError(
                f"{out} already holds a {stage}. Use another --out, or remove it."
            )
    ready = [item for item in ready if item.stage not in held]
    try:
        lines = [_write_stage(item, file, partial, meta=meta, report=report) for item in ready]
        for item in ready:
            write_text(partial / item.stage / CONVERTED, json.dumps(meta["converted"]) + "\n")
            os.replace(partial / item.stage, build.stage_directory(out, item.stage))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    shutil.rmtree(partial, ignore_errors=True)
    if config is not None and (ready or not _is_described(out, held, meta["config"], labels)):
        if labels is not None:
            save_labels(out, labels)
        write_text(out / "config.json", to_json(config))
    for stage in sorted(held):
        report(f"already converted: {stage} of {name} in {out}")
    for line in lines:
        report(f"{line} in {out}")


def describe_file(
    file: TensorFile,
    known: Mapping[str, KnownFile],
    *,
    report: Report,
    epsilon: float | None = None,
) -> dict[str, Any]:
    """What is recorded of the file that weights come from; the report says which it is."""
    identity = identify(file.files)
    origin: dict[str, Any] = {
        "file": file.path.name,
        "sha256": identity.sha256,
        "blob": identity.blob,
        "bytes": identity.size,
        "format": file.format,
    }
    found = known.get(identity.blob)
    origin["known"] = UNKNOWN if found is None else found.name
    if found is not None and found.epsilon is not None:
        epsilon = found.epsilon
    if epsilon is not None:
        origin["epsilon"] = epsilon
    report(f"{file.path.name} is {describe_origin(origin, known)}, SHA-256 {identity.sha256}")
    return origin


def _write_stage(
    item: Conversion, file: TensorFile, partial: Path, *, meta: Mapping[str, Any], report: Report
) -> str:
    """Converts one stage into `partial/<stage>/checkpoints/<step>`; returns a line about it."""
    origin = file.path.name
    params = convert_tensors(
        item.tensors, item.rules, item.drops, template=item.template(origin), origin=origin
    )
    count = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))
    step = file.hints.get("global_step", 0)
    step = step if type(step) is int and step >= 0 else 0
    state = TrainState(np.asarray(step, np.int32), params, ema={}, opt_state={}, extra={})
    with Checkpointer(partial / item.stage / "checkpoints", report=report) as checkpointer:
        checkpointer.save(step, state, data={}, meta=meta)
        checkpointer.wait()
        if checkpointer.latest_step() != step:
            raise CheckpointError(f"the {item.stage} could not be written; see the line above")
    return f"{item.stage}: {count:,} parameters of {origin}, step {step},"


def _is_taken(out: Path, stage: str) -> bool:
    checkpoints = build.stage_directory(out, stage) / "checkpoints"
    return any(checkpoints.glob("*")) or is_published(out, stage)


def _is_made(out: Path, stage: str, meta: Mapping[str, Any], labels: Sequence[str] | None) -> bool:
    """Whether a stage in `out` is whole, and what a conversion with this `meta` would leave."""
    folder = build.stage_directory(out, stage) / "checkpoints"
    named = labels is not None and (out / "labels.json").is_file()
    try:
        if named and read_labels(out) != tuple(labels or ()):
            return False
        with Checkpointer(folder, read_only=True, report=lambda text: None) as checkpointer:
            found = checkpointer.read_meta(checkpointer.find_whole("model", "opt"))
    except CheckpointError:
        return False
    # The other stage may have come since, and changed the rest.
    parts = [
        [_list_sizes(config, stage), [config["data"][key] for key in ("frames", "size", "root")]]
        for config in (found.get("config"), meta["config"])
        if config is not None
    ]
    return found.get("converted") == meta["converted"] and all(part == parts[0] for part in parts)


def _is_described(
    out: Path, stages: Collection[str], config: Mapping[str, Any], labels: Sequence[str] | None
) -> bool:
    """Whether `out` has the files beside these stages; a kill may have come before them."""
    if not (out / "config.json").is_file():
        return False
    found = json.loads(to_json(read_config(out)))
    same = all(_list_sizes(found, stage) == _list_sizes(config, stage) for stage in stages)
    return same and (labels is None or (out / "labels.json").is_file())


def _list_sizes(config: Mapping[str, Any], stage: Any) -> list[Any]:
    return [config[group] for group in STAGES[stage].fixes if group in STAGES]


def name_some(tensors: Mapping[str, Any]) -> str:
    names = list(tensors)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
