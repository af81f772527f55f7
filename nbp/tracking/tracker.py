# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What every tracker does: the protocol that metrics, clips and the report go through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told of the run.

    name: of the configuration. workdir: the folder of the run. config: the resolved configuration,
    nested, as JSON has it.
    """

    name: str
    workdir: Path
    config: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where trackers keep what they do not send: `WORKDIR/tracking`, an absolute path."""
        return self.workdir.absolute() / "tracking"


@dataclass(frozen=True)
class Preview:
    """Clips that were drawn during training: a GIF file.

    shape: [t h w c] of its frames.
    """

    name: str
    path: Path
    shape: tuple[int, ...]


@runtime_checkable  # the tests check types while they run
class Tracker(Protocol):
    """A place where the metrics of a run go, all stages as one run.

    Names of metrics are those of `metrics.csv`. A step may be logged in parts, and again after the
    run was resumed or went back: the later value holds. Calls come in order, from one thread. They
    may block and raise what they like, see `nbp.tracking.tracking`.
    """

    name: str

    def open(self, known: str) -> str:
        """Goes on with the run that has the id `known`, or begins one; returns its id.

        known: "" for none.
        """
        ...

    def describe(self) -> str:
        """Where the run is to be found, in a few words; asked after `open`."""
        ...

    def start(self, stage: str, step: int, *, directory: Path) -> None:
        """A stage begins, or goes on, after `step` updates. directory: its folder."""
        ...

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Records metrics of a step of a stage."""
        ...

    def show(self, stage: str, step: int, preview: Preview) -> None:
        """Records clips of a step of a stage."""
        ...

    def end(self, stage: str) -> None:
        """A stage has ended, or goes back to a step that `start` will name."""
        ...

    def report(self, files: Sequence[Path]) -> None:
        """Keeps the files of the final report."""
        ...

    def close(self, *, ok: bool) -> None:
        """Ends the run. ok: False where training ended with an error or was stopped."""
        ...


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        flat |= flatten(value, name) if isinstance(value, Mapping) else {name: value}
    return flat
