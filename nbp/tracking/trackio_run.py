# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Trackio: one run for all stages, in a folder of the workdir unless a Space is named."""

import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nbp.tracking.tracker import Preview, RunInfo, flatten

REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
PROJECT = "nbp"


class TrackioRun:
    """A run of Trackio in `WORKDIR/tracking/trackio`, or where TRACKIO_DIR says.

    It is sent where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL is set. Its id is its name.
    """

    name = "trackio"

    def __init__(self, info: RunInfo) -> None:
        self._info = info
        self._run: Any = None
        self._folder = os.environ.get("TRACKIO_DIR") or str(info.folder / "trackio")

    def open(self, known: str) -> str:
        os.environ.setdefault("TRACKIO_DIR", self._folder)
        if not any(os.environ.get(variable) for variable in REMOTE):
            os.environ.setdefault("HF_HUB_OFFLINE", "1")  # it would ask for the user's name
        import trackio  # pyright: ignore[reportMissingImports]

        name = re.sub(r"[^A-Za-z0-9._-]", "-", self._info.name)  # artifacts allow no more
        identity = known or f"{name}-{secrets.token_hex(4)}"
        self._run = trackio.init(
            project=PROJECT,
            name=identity,
            resume="allow",
            config=flatten(self._info.config),
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        return identity

    def describe(self) -> str:
        show = f"TRACKIO_DIR={self._folder} trackio show --project {PROJECT}"
        return f"run {self._run.name}, to be seen with: {show}"

    def start(self, stage: str, step: int, *, directory: Path) -> None:
        pass

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self._run.log({f"{stage}/{name}": value for name, value in values.items()}, step=step)

    def show(self, stage: str, step: int, preview: Preview) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        clips = trackio.Video(str(preview.path), caption=f"{stage}, step {step}")
        self._run.log({f"{stage}/previews/{preview.name}": clips}, step=step)

    def end(self, stage: str) -> None:
        pass

    def report(self, files: Sequence[Path]) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        artifact = trackio.Artifact(f"report-{self._run.name}", type="report")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self, *, ok: bool) -> None:
        del ok  # it keeps no state of runs
        if self._run is not None:
            self._run.finish()
