# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The runs of a page of several: their names, and whatever can be read of each."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from nbp.build import stage_directory
from nbp.config import to_json
from nbp.config.schema import Config
from nbp.config.sweep import flatten
from nbp.errors import CheckpointError
from nbp.evaluation.result import EvaluationResult
from nbp.report.collect import read_reports
from nbp.report.plots import Panel, arrange_panels
from nbp.stages import STAGES
from nbp.training.metrics import MetricsTable
from nbp.workdir import read_config


@dataclass(frozen=True)
class Run:
    """A run of the page; what could not be read is empty.

    name: its folder, with as many folders above it as tell it from the others. results: by the
    name of their file below `report/`, without its ending. panels, updates: by stage. notes: what
    could not be read, in words.
    """

    name: str
    folder: Path
    config: Config | None = None
    results: Mapping[str, EvaluationResult] = field(default_factory=dict)
    panels: Mapping[str, Sequence[Panel]] = field(default_factory=dict)
    updates: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs in these folders, each once, and notes of those that are gone.

    Raises CheckpointError for a folder that is no workdir, and where no folder is left.
    """
    given = {folder.resolve(): folder for folder in reversed(folders)}
    places = [given[place] for place in dict.fromkeys(folder.resolve() for folder in folders)]
    names = name_runs(places)
    there = [folder for folder in places if folder.exists()]
    for folder in there:
        if not (folder / "config.json").is_file():
            read_config(folder)  # says what is missing
    if not there:
        raise CheckpointError(f"there is no folder {', '.join(map(str, places))}")
    gone = [f"{folder} is left out: there is no such folder" for folder in places]
    gone = [note for folder, note in zip(places, gone, strict=True) if folder not in there]
    return [read_run(names[folder], folder) for folder in there], gone


def name_runs(folders: Sequence[Path]) -> dict[Path, str]:
    """The last part of each folder's path, with those before it where two would be called alike."""
    parts = {folder: folder.resolve().parts for folder in folders}
    names = {}
    for folder, own in parts.items():
        others = [other for key, other in parts.items() if key != folder]
        count = 1
        while count < len(own) and any(other[-count:] == own[-count:] for other in others):
            count += 1
        names[folder] = str(PurePath(*own[-count:]))
    return names


def read_run(name: str, folder: Path) -> Run:
    """A run with all that can be read of it."""
    config, panels, updates = None, {}, {}
    results, notes = read_reports(folder / "report")
    try:
        config = read_config(folder)
    except CheckpointError as error:
        notes.append(str(error))
    for stage in STAGES:
        path = stage_directory(folder, stage) / "metrics.csv"
        try:
            table = MetricsTable(path)
            found, _ = arrange_panels(table)
        except (OSError, ValueError, csv.Error) as error:
            notes.append(f"{stage}/{path.name} is left out: it cannot be read ({error})")
            continue
        if table.rows:
            panels[stage], updates[stage] = found, max(table.rows)
    return Run(name, folder, config, results, panels, updates, tuple(notes))


def list_config_differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Dotted key -> value in each run, of keys that are not the same in all whose configuration is
    known; None for the others.
    """
    flat = [None if r.config is None else flatten(json.loads(to_json(r.config))) for r in runs]
    known = [values for values in flat if values is not None]
    keys = dict.fromkeys(key for values in known for key in values)
    return {
        key: [None if values is None else values.get(key) for values in flat]
        for key in keys
        if any(values.get(key) != known[0].get(key) for values in known)
    }
