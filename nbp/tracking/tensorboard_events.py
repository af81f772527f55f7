# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""TensorBoard: event files beside the metrics of each stage."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nbp.tracking.tracker import Preview


class TensorBoard:
    """Writes `STAGE/events.out.tfevents.*`; it needs no id, as TensorBoard reads all files."""

    name = "tensorboard"

    def __init__(self) -> None:
        self._events: dict[str, Any] = {}
        self._files: dict[str, int] = {}

    def open(self, known: str) -> str:
        return known

    def describe(self) -> str:
        return "event files in the folders of the stages"

    def start(self, stage: str, step: int, *, directory: Path) -> None:
        from tensorboardX import SummaryWriter

        # Names of event files differ by the second only.
        self._files[stage] = self._files.get(stage, 0) + 1
        self._events[stage] = SummaryWriter(
            str(directory),
            purge_step=step + 1,
            flush_secs=10,
            filename_suffix=f".{self._files[stage]}",
        )

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        if (events := self._events.get(stage)) is not None:
            for name, value in values.items():
                events.add_scalar(name, value, step)

    def show(self, stage: str, step: int, preview: Preview) -> None:
        if (events := self._events.get(stage)) is None:
            return
        from tensorboardX.proto import summary_pb2

        summary: Any = summary_pb2.Summary  # pyright: ignore[reportAttributeAccessIssue]

        _, height, width, channels = preview.shape
        image = summary.Image(
            height=height,
            width=width,
            colorspace=channels,
            encoded_image_string=preview.path.read_bytes(),
        )
        value = summary.Value(tag=f"previews/{preview.name}", image=image)
        events.file_writer.add_summary(summary(value=[value]), step)

    def end(self, stage: str) -> None:
        if (events := self._events.pop(stage, None)) is not None:
            events.close()

    def report(self, files: Sequence[Path]) -> None:
        pass  # it shows no files

    def close(self, *, ok: bool) -> None:
        for stage in list(self._events):
            self.end(stage)
