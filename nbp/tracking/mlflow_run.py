# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""MLflow: one run for all stages, in a database of the workdir unless a server is named."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nbp.tracking.tracker import Preview, RunInfo, flatten

MOST_PARAMS = 100  # of one request
LONGEST_PARAM = 500  # characters of a value, which all versions take


class MlflowRun:
    """A run of MLflow in `WORKDIR/tracking/mlflow`, or at MLFLOW_TRACKING_URI.

    The experiment is MLFLOW_EXPERIMENT_NAME, else `nbp`. Parameters are those of the first start,
    which MLflow never changes; `config.json` is the present configuration.
    """

    name = "mlflow"

    def __init__(self, info: RunInfo) -> None:
        self._info = info
        self._folder = info.folder / "mlflow"
        self._client: Any = None
        self._id = ""
        self._uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self._folder}/mlflow.db"

    def open(self, known: str) -> str:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._folder.mkdir(parents=True, exist_ok=True)
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

        self._client = MlflowClient(tracking_uri=self._uri)
        self._id = self._find(known) or self._begin()
        self._client.log_text(self._id, json.dumps(self._info.config, indent=1), "config.json")
        return self._id

    def _find(self, known: str) -> str:
        """`known` where it is a run of this store, and running again; else nothing."""
        from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports]

        if not known:
            return ""
        try:
            self._client.get_run(known)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return ""
        self._client.update_run(known, status="RUNNING")
        return known

    def _begin(self) -> str:
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "nbp"
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            local = "MLFLOW_TRACKING_URI" not in os.environ
            place = (self._folder / "artifacts").as_uri() if local else None
            identity = self._client.create_experiment(name, artifact_location=place)
        else:
            identity = experiment.experiment_id
        run = self._client.create_run(identity, run_name=self._info.name).info.run_id
        flat = flatten(self._info.config).items()
        params = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in flat]
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(run, params=params[first : first + MOST_PARAMS])
        return run

    def describe(self) -> str:
        return f"run {self._id}, to be seen with: mlflow ui --backend-store-uri {self._uri}"

    def start(self, stage: str, step: int, *, directory: Path) -> None:
        pass

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now = int(time.time() * 1000)
        row = [Metric(f"{stage}/{name}", value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=row)

    def show(self, stage: str, step: int, preview: Preview) -> None:
        del step  # it is part of the file's name
        self._client.log_artifact(self._id, str(preview.path), f"previews/{stage}")

    def end(self, stage: str) -> None:
        pass

    def report(self, files: Sequence[Path]) -> None:
        for file in files:
            self._client.log_artifact(self._id, str(file), "report")

    def close(self, *, ok: bool) -> None:
        if self._id:
            self._client.set_terminated(self._id, status="FINISHED" if ok else "FAILED")
