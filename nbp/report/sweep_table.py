# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What the runs of a sweep gave: a record in the folder of each, and one table of all.

A record is written when a run is trained, and again after each of its evaluations; the table
(`sweep.json`, `sweep.csv`) is made of all records at any time.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbp import __version__
from nbp.build import stage_directory
from nbp.config import from_dict, to_json
from nbp.config.parsing import convert
from nbp.config.schema import Config
from nbp.config.sweep import DEFAULT, SweepRun, SweepSpec, flatten
from nbp.errors import CheckpointError, ConfigError, DataError
from nbp.files import read_json, write_text
from nbp.metrics.score_table import find_place
from nbp.sampling.settings import SamplingConfig
from nbp.stages import FREE
from nbp.training.metrics import MetricsTable

RECORD = "run.json"
TABLE = "sweep.json"
# What may change of a finished run: it describes the machine, what is shown, or what comes later.
UNFIXED = (*FREE, "name", "train.log_every", "train.checkpoint_every", "train.keep")
UNFIXED += ("train.evaluate_every", "train.preview_every", "train.preview_clips")
UNFIXED += ("train.profile_steps",)
LATER = ("sampling.", "evaluation.", "mesh.")
# Columns of a row that are numbers, in the order of the CSV file; its scores follow.
AMOUNTS = ("training_flops", "parameters", "updates", "tokens", "training_seconds")
COLUMNS = ("passes", "seconds_per_clip", "clips", *AMOUNTS)
# Held-out measures of training that stand for those of an evaluation where there is none.
MEASURES = ("bits_per_token", "accuracy", "loss", "psnr", "ssim", "unigram_bits")


@dataclass(frozen=True)
class Row:
    """A run with one dial.

    run: its name; design: without the seed; group: of runs that belong together. scores: by name,
    as an evaluation reports them. passes, seconds_per_clip, clips: of drawing, None without.
    training_flops: operations of all updates. tokens: that were predicted in them. workdir: what
    `nbp.sample` and `nbp.evaluate` take, relative to the sweep's.
    """

    run: str
    design: str
    group: str
    seed: int
    dial: str
    overrides: Mapping[str, Any]
    dial_overrides: Mapping[str, Any]
    scores: Mapping[str, float]
    passes: int | float | None
    seconds_per_clip: float | None
    clips: int | None
    training_flops: float
    parameters: int
    updates: int
    tokens: int
    training_seconds: float | None
    workdir: str


def read_record(folder: Path) -> dict[str, Any]:
    """What is known of a run that is trained: `config`, `training`, `evaluations`; else {}.

    Raises CheckpointError for a file that cannot be read.
    """
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        record = read_json(path)
        if not all(isinstance(record[k], dict) for k in ("config", "training", "evaluations")):
            raise ValueError("it is no record of a run")
        return record
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}. Remove it, and the run is looked at again"
        ) from error


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes a record, whole or not at all."""
    write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")


def list_changes(record: Mapping[str, Any], config: Config) -> list[str]:
    """In which keys a finished run was trained otherwise than `config` says, in words.

    Keys that are newer than the record had their default.
    """
    try:
        before = from_dict(record["config"])
    except ConfigError as error:
        return [f"its configuration cannot be read ({error})"]
    old, new = (flatten(json.loads(to_json(c))) for c in (before, config))
    return [
        f"{key} was {value!r}, now {new[key]!r}"
        for key, value in old.items()
        if value != new[key] and key not in UNFIXED and not key.startswith(LATER)
    ]


def describe_evaluation(sweep: SweepSpec, protocol: str, config: Config) -> dict[str, Any]:
    """What decides on the scores of a trained run that is drawn from as `config` says, for JSON."""
    settings = {
        "protocol": protocol,
        "data": sweep.data,
        "features": sweep.features or config.evaluation.features,
        "clips": config.evaluation.clips,
        "given_frames": config.evaluation.given_frames,
        "opening": dataclasses.asdict(config.opening),
        "sampling": dataclasses.asdict(dataclasses.replace(config.sampling, batch=1, fps=1.0)),
    }
    return json.loads(json.dumps(settings))


def same_settings(evaluation: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a recorded evaluation had these settings; keys newer than it had their default."""
    try:
        known = dict(evaluation["settings"])
        sampling = convert(SamplingConfig, known["sampling"])
    except (KeyError, TypeError, ConfigError):
        return False
    return {**known, "sampling": json.loads(json.dumps(dataclasses.asdict(sampling)))} == settings


def read_training(folder: Path, config: Config, amount: Mapping[str, Any]) -> dict[str, Any]:
    """The part `training` of a record. amount: see `nbp.lowering.TrainingAmount`."""
    stage = stage_directory(folder, config.stages[-1])
    seconds = None
    if (stage / "goodput.json").is_file():
        seconds = round(float(read_json(stage / "goodput.json")["seconds"]["step"]), 3)
    return {**amount, "seconds": seconds, "measures": read_measures(stage / "metrics.csv")}


def read_measures(path: Path) -> dict[str, float]:
    """The last held-out measures of a stage's metrics, else those of its last updates."""
    found: dict[str, float] = {}
    rows = MetricsTable(path).rows
    for _, row in sorted(rows.items()):
        for name in MEASURES:
            if f"validation/{name}" in row:
                found[name] = float(row[f"validation/{name}"])
    last = rows[max(rows)] if rows else {}
    return {**{name: float(last[name]) for name in MEASURES if name in last}, **found}


def read_scores(view: Path, protocol: str) -> dict[str, Any]:
    """Of an evaluation's report what a record keeps: scores, and how clips were drawn."""
    path = view / "report" / f"{protocol}.json"
    try:
        report = read_json(path)
        drawn = report.get("generation") or {}
        return {
            "scores": {name: float(value) for name, value in report["scores"].items()},
            "passes": drawn.get("passes"),
            "seconds_per_clip": drawn.get("seconds_per_clip"),
            "clips": drawn.get("clips"),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no report of an evaluation: {error}") from error


def list_rows(run: SweepRun, folder: Path, record: Mapping[str, Any]) -> list[Row]:
    """A row for each dial that is scored; one without scores of clips where none is."""
    if not record:
        return []
    training, known = record["training"], record["evaluations"]
    amounts = {
        "training_flops": training["flops"],
        **{name: training[name] for name in ("parameters", "updates", "tokens")},
        "training_seconds": training["seconds"],
    }
    shared = {"run": run.name, "design": run.design, "group": run.group, "seed": run.seed}
    shared |= {"overrides": dict(run.overrides), **amounts}
    place = f"runs/{folder.name}"
    rows = []
    for dial in (name for name in run.dials if name in known):
        found = known[dial]
        scores = {**training["measures"], **found["scores"]}
        drawn = {name: found[name] for name in ("passes", "seconds_per_clip", "clips")}
        rows.append(
            Row(
                **shared,
                dial=dial,
                dial_overrides=dict(run.dials[dial]),
                scores=scores,
                **drawn,
                workdir=f"{place}/dials/{dial}",
            )
        )
    if rows:
        return rows
    empty: dict[str, Any] = {"passes": None, "seconds_per_clip": None, "clips": None}
    scores = dict(training["measures"])
    return [Row(**shared, dial=DEFAULT, dial_overrides={}, scores=scores, **empty, workdir=place)]


def write_table(
    workdir: Path, about: Mapping[str, Any], rows: Sequence[Row], missing: Mapping[str, str]
) -> None:
    """Writes `sweep.json` and `sweep.csv`. missing: runs without a row, and why."""
    listed = [vars(row) for row in rows]
    table = {**about, "versions": {"nbp": __version__}, "missing": missing, "rows": listed}
    write_text(workdir / TABLE, json.dumps(table, indent=1, default=list) + "\n")
    write_text(workdir / "sweep.csv", format_csv(rows))


def format_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV: what was overridden, amounts and scores, a column each."""
    keys = sorted({key for row in rows for key in row.overrides})
    dials = sorted({key for row in rows for key in row.dial_overrides})
    scores = {name for row in rows for name in row.scores}
    ordered = sorted(scores, key=lambda name: (find_place(name), name))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    titles = [f"dial:{key}" for key in dials]
    writer.writerow(["run", "group", "seed", "dial", *keys, *titles, *COLUMNS, *ordered, "workdir"])
    for row in rows:
        cells = [row.run, row.group, row.seed, row.dial]
        cells += [row.overrides.get(key, "") for key in keys]
        cells += [row.dial_overrides.get(key, "") for key in dials]
        cells += [getattr(row, name) for name in COLUMNS]
        cells += [row.scores.get(name) for name in ordered]
        writer.writerow(["" if cell is None else cell for cell in [*cells, row.workdir]])
    return text.getvalue()


def read_table(path: Path) -> list[Row]:
    """The rows of a `sweep.json`; DataError where the file is none."""
    try:
        return [Row(**row) for row in read_json(path)["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no table of nbp.sweep: {error}") from error


def summarize(values: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds and their standard deviation, 0 for a single one."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
