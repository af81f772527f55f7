# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the stores of real trackers, and compares them with metrics.csv.

`python -m tests.tracking.stores WORKDIR` does so for a trained workdir. MLflow, Trackio and
TensorBoard are read by their own packages. W&B has no reader of its offline files but the command
that sends them, so its records are found here and decoded by its own definition of them.
"""

import csv
import itertools
import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nbp.tracking.tracker import flatten
from nbp.tracking.tracking import RUN_IDS

Rows = dict[tuple[str, int], dict[str, float]]  # (stage, step): metric -> value


class Store(NamedTuple):
    """Metrics, and the configuration with dotted keys."""

    rows: Rows
    config: dict[str, Any]


def read_csv(workdir: Path) -> Rows:
    rows: Rows = {}
    for path in sorted(workdir.glob("*/metrics.csv")):
        with path.open(newline="", encoding="utf8") as file:
            for row in csv.DictReader(file):
                step = int(row.pop("step"))
                rows[path.parent.name, step] = {name: float(v) for name, v in row.items() if v}
    return rows


def add(rows: Rows, key: str, step: int, value: float) -> None:
    """Adds a value with the digits that metrics.csv has."""
    stage, _, name = key.partition("/")
    rows.setdefault((stage, step), {})[name] = float(f"{value:.8g}")


def read_tensorboard(workdir: Path) -> Rows:
    """Of float32, as TensorBoard keeps numbers."""
    from tensorboard.backend.event_processing import (  # pyright: ignore[reportMissingImports]
        event_accumulator,
    )

    rows: Rows = {}
    for folder in sorted({path.parent for path in workdir.glob("*/events.out.tfevents.*")}):
        events: Any = event_accumulator.EventAccumulator(str(folder), {"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                rows.setdefault((folder.name, event.step), {})[tag] = event.value
    return rows


def read_mlflow(workdir: Path, identity: str) -> Store:
    from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

    folder = workdir.absolute() / "tracking" / "mlflow"
    client: Any = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    rows: Rows = {}
    for key in client.get_run(identity).data.metrics:
        history = client.get_metric_history(identity, key)
        for point in sorted(history, key=lambda point: point.timestamp):
            add(rows, key, point.step, point.value)
    config = client.download_artifacts(identity, "config.json")
    return Store(rows, flatten(json.loads(Path(config).read_text(encoding="utf8"))))


def read_trackio(workdir: Path, identity: str) -> Store:
    os.environ.setdefault("TRACKIO_DIR", str(workdir / "tracking" / "trackio"))
    from trackio import Api  # pyright: ignore[reportMissingImports]
    from trackio.sqlite_storage import SQLiteStorage  # pyright: ignore[reportMissingImports]

    logs: Any = SQLiteStorage.get_logs("nbp", identity)
    (run,) = (run for run in Api().runs("nbp") if run.name == identity)
    rows: Rows = {}
    for row in logs:
        for key, value in row.items():
            if "/" in key and isinstance(value, int | float):
                add(rows, key, row["step"], value)
    config: Any = run.config
    return Store(rows, {key: v for key, v in config.items() if not key.startswith("_")})


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


def read_wandb(workdir: Path, identity: str) -> Store:
    from wandb.proto import wandb_internal_pb2  # pyright: ignore[reportMissingImports]

    rows: Rows = {}
    config: dict[str, Any] = {}
    folder = workdir / "tracking" / "wandb"
    paths = sorted(folder.glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert paths
    for data in itertools.chain(*(read_records(path.read_bytes()) for path in paths)):
        record: Any = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in record.run.config.update:
            config[item.key] = json.loads(item.value_json)
        row = {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        steps = {key.removesuffix("/step"): v for key, v in row.items() if key.endswith("/step")}
        for key, value in row.items():
            stage, _, name = key.partition("/")
            number = isinstance(value, int | float) and not name.startswith("previews/")
            if stage in steps and name != "step" and number:
                add(rows, key, steps[stage], value)
    return Store(rows, flatten({key: v for key, v in config.items() if not key.startswith("_")}))


READERS = {"wandb": read_wandb, "mlflow": read_mlflow, "trackio": read_trackio}


def read_store(workdir: Path, tracker: str) -> Store:
    """What the run of a workdir holds in a tracker's store."""
    ids = json.loads((workdir / RUN_IDS).read_text(encoding="utf8"))
    return READERS[tracker](workdir, ids[tracker])


def agree_in_float32(found: Rows, expected: Rows) -> bool:
    """Whether values are the same but for the rounding of float32 and of the table's 8 digits."""
    return found.keys() == expected.keys() and all(
        found[key].keys() == row.keys()
        and all(abs(found[key][name] - value) <= 2e-7 * abs(value) for name, value in row.items())
        for key, row in expected.items()
    )


def compare(workdir: Path) -> dict[str, bool]:
    """Tracker -> whether its store agrees with metrics.csv and config.json of a workdir."""
    expected = read_csv(workdir)
    config = flatten(json.loads((workdir / "config.json").read_text(encoding="utf8")))
    ids = json.loads((workdir / RUN_IDS).read_text(encoding="utf8"))
    stores = {tracker: read_store(workdir, tracker) for tracker in ids}
    same = {tracker: store == Store(expected, config) for tracker, store in stores.items()}
    return {**same, "tensorboard": agree_in_float32(read_tensorboard(workdir), expected)}


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    print(json.dumps(compare(Path(sys.argv[1]))))
