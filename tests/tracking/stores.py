# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the stores of real trackers, and compares them with metrics.csv.

`python -m tests.tracking.stores WORKDIR` does so for a trained workdir.
"""

import csv
import itertools
import json
import os
import sqlite3
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbp.tracking.tracking import RUN_IDS

Rows = dict[tuple[str, int], dict[str, str]]  # (stage, step): metric -> value as in metrics.csv


def read_csv(workdir: Path) -> Rows:
    rows: Rows = {}
    for path in sorted(workdir.glob("*/metrics.csv")):
        with path.open(newline="", encoding="utf8") as file:
            for row in csv.DictReader(file):
                step = int(row.pop("step"))
                rows[path.parent.name, step] = {name: v for name, v in row.items() if v}
    return rows


def add(rows: Rows, key: str, step: int, value: float) -> None:
    stage, _, name = key.partition("/")
    rows.setdefault((stage, step), {})[name] = f"{value:.8g}"


def read_mlflow(workdir: Path, identity: str) -> Rows:
    from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

    folder = workdir.absolute() / "tracking" / "mlflow"
    client: Any = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    rows: Rows = {}
    for key in client.get_run(identity).data.metrics:
        history = client.get_metric_history(identity, key)
        for point in sorted(history, key=lambda point: point.timestamp):
            add(rows, key, point.step, point.value)
    return rows


def read_trackio(workdir: Path, identity: str) -> Rows:
    rows: Rows = {}
    with sqlite3.connect(workdir / "tracking" / "trackio" / "nbp.db") as database:
        found = database.execute(
            "SELECT step, metrics FROM metrics WHERE run_name = ? ORDER BY id", (identity,)
        )
        for step, text in found:
            for key, value in json.loads(text).items():
                if isinstance(value, int | float):
                    add(rows, key, step, value)
    return rows


def read_records(data: bytes) -> Iterator[bytes]:
    """Records of a `.wandb` file: a log of LevelDB after a header of 7 bytes.

    Blocks of 32 KiB hold pieces: checksum (4 bytes), length (2), whole/first/middle/last (1..4).
    """
    assert data[:4] == b":W&B"
    at, record = 7, b""
    while len(data) - at >= 7:
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if not kind:  # nothing more in this block
            at += left
            continue
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def read_wandb(workdir: Path, identity: str) -> Rows:
    from wandb.proto import wandb_internal_pb2  # pyright: ignore[reportMissingImports]

    rows: Rows = {}
    folder = workdir / "tracking" / "wandb"
    paths = sorted(folder.glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert paths
    for data in itertools.chain(*(read_records(path.read_bytes()) for path in paths)):
        record: Any = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") != "history":
            continue
        row = {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        steps = {key.removesuffix("/step"): v for key, v in row.items() if key.endswith("/step")}
        for key, value in row.items():
            stage, _, name = key.partition("/")
            if stage in steps and name != "step" and isinstance(value, int | float):
                add(rows, key, steps[stage], value)
    return rows


READERS = {"wandb": read_wandb, "mlflow": read_mlflow, "trackio": read_trackio}


def read_store(workdir: Path, tracker: str) -> Rows:
    """What the run of a workdir holds in a tracker's store."""
    ids = json.loads((workdir / RUN_IDS).read_text(encoding="utf8"))
    return READERS[tracker](workdir, ids[tracker])


def main(workdir: Path) -> None:
    expected = read_csv(workdir)
    cells = sum(map(len, expected.values()))
    for tracker in json.loads((workdir / RUN_IDS).read_text(encoding="utf8")):
        found = read_store(workdir, tracker)
        wrong = [
            key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)
        ]
        same = "equal" if not wrong else f"DIFFERENT at {sorted(wrong)[:3]}"
        print(f"{tracker}: {len(found)} rows, {cells} cells of metrics.csv: {same}")


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    main(Path(sys.argv[1]))
