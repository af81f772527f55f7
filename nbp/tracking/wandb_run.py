# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Weights & Biases: one run for all stages, offline unless the environment says otherwise."""

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nbp.tracking.tracker import Preview, RunInfo

FINISH_SECONDS = 45.0  # that the end waits for uploads; what is left lies in the folder


class WandbRun:
    """A run of W&B; `WORKDIR/tracking/wandb` holds it.

    It is sent where WANDB_MODE or WANDB_API_KEY is set; project and the like are those of
    the environment (WANDB_PROJECT, WANDB_ENTITY), else the project is `nbp`. Steps are the metric
    `STAGE/step`, as W&B's own may not go back.
    """

    name = "wandb"

    def __init__(self, info: RunInfo) -> None:
        self._info = info
        self._folder = info.folder / "wandb"
        self._run: Any = None

    def open(self, known: str) -> str:
        self._folder.mkdir(parents=True, exist_ok=True)
        for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # of files that are not sent yet
            os.environ.setdefault(variable, str(self._folder))
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb  # pyright: ignore[reportMissingImports]

        asked = os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY")
        identity = known or secrets.token_hex(4)
        self._run = wandb.init(
            id=identity,
            resume="allow",
            project=os.environ.get("WANDB_PROJECT") or "nbp",
            name=os.environ.get("WANDB_NAME") or self._info.name,
            dir=str(self._info.folder),
            config=dict(self._info.config),
            allow_val_change=True,
            mode=None if asked else "offline",
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_code=True,
                disable_git=True,
                disable_job_creation=True,
                finish_timeout=FINISH_SECONDS,
            ),
        )
        return identity

    def describe(self) -> str:
        send = f"to be sent with: wandb sync {self._folder}/offline-run-*"
        return f"run {self._run.id}, {send if self._run.offline else self._run.url}"

    def start(self, stage: str, step: int, *, directory: Path) -> None:
        del step, directory
        self._run.define_metric(f"{stage}/step", hidden=True)
        self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        row = {f"{stage}/{name}": value for name, value in values.items()}
        self._run.log({**row, f"{stage}/step": step})

    def show(self, stage: str, step: int, preview: Preview) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        clips = wandb.Video(str(preview.path), format="gif", caption=f"{stage}, step {step}")
        self._run.log({f"{stage}/previews/{preview.name}": clips, f"{stage}/step": step})

    def end(self, stage: str) -> None:
        pass

    def report(self, files: Sequence[Path]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        artifact = wandb.Artifact(f"report-{self._run.id}", type="report")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self, *, ok: bool) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if ok else 1)
