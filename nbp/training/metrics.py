# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics of a stage: a CSV table keyed by step, trackers, previews, the console.

Columns of training steps have bare names ("loss"); those of evaluators have a prefix
("validation/loss"), and so have alarms ("alarm/grad_norm", filled at the step where it rang only).
Names end in their unit where it is not obvious (`_s`, `_mib`, `_per_s`).
"""

import csv
import io
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from nbp.files import open_part
from nbp.progress import format_duration
from nbp.shapes import UInt8
from nbp.tracking.tracker import Preview
from nbp.tracking.tracking import Tracking

# What a console line shows, where present; everything is in the table.
CONSOLE = ("loss", "psnr", "bits_per_token", "accuracy", "label_agreement")


class MetricsTable:
    """The file `metrics.csv`: one row per step, columns added as metrics appear.

    A row is appended; the file is rewritten (beside, then renamed) only when a column or an older
    row changes. A line that a killed process left half-written is ignored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = ["step"]
        self.rows: dict[int, dict[str, str]] = {}
        if path.exists():
            self._read()

    def drop_after(self, step: int) -> None:
        """Forgets rows of steps after `step`: they will be made again."""
        self.rows = {s: row for s, row in self.rows.items() if s <= step}
        if self.path.exists():
            self._rewrite()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Writes values of a step; what the row already holds under other names stays."""
        new = [name for name in values if name not in self.columns]
        self.columns += new
        rewrite = bool(new) or step in self.rows or not self.path.exists()
        rewrite = rewrite or step < max(self.rows, default=step)
        row = self.rows.setdefault(step, {})
        row |= {name: f"{value:.8g}" for name, value in values.items()}
        if rewrite:
            self._rewrite()
            return
        with self.path.open("a", newline="") as file:
            file.write(self._format([row | {"step": str(step)}], header=False))

    def _read(self) -> None:
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            self.columns = list(reader.fieldnames or ["step"])
            for row in reader:
                step = row.pop("step", None)
                if None in row or None in row.values() or step is None or not step.isdecimal():
                    continue
                self.rows[int(step)] = {name: value for name, value in row.items() if value}

    def _format(self, rows: list[dict[str, str]], *, header: bool) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, restval="", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def _rewrite(self) -> None:
        rows = [self.rows[step] | {"step": str(step)} for step in sorted(self.rows)]
        with open_part(self.path) as part:
            part.write_text(self._format(rows, header=True))


class WindowMeter:
    """Averages metrics over the steps of one log window, and measures speed and memory.

    Args:
        items_per_step: items of the global batch by name, e.g. `{"clips": 8, "tokens": 864}`.
    """

    def __init__(self, items_per_step: Mapping[str, int | float]) -> None:
        self._items = dict(items_per_step)
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._steps = 0
        self._seconds = 0.0
        self._input_seconds = 0.0
        self._more: dict[str, int | float] = {}

    def add_time(self, seconds: float, *, waiting_for_input: bool = False) -> None:
        """Counts time spent on training steps (not on saving, evaluating or compiling)."""
        self._seconds += seconds
        self._input_seconds += seconds if waiting_for_input else 0.0

    def add(
        self, values: Mapping[str, float], items: Mapping[str, int | float] | None = None
    ) -> None:
        """Counts the metrics of one step. items: its own, where it has others than most."""
        self._steps += 1
        for name, count in (items or {}).items():
            self._more[name] = self._more.get(name, 0) + count - self._items[name]
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def save(self) -> dict[str, Any]:
        """What was counted since the last `pop`, as JSON; empty for nothing."""
        if not self._steps:
            return {}
        return {
            "sums": dict(self._sums),
            "counts": dict(self._counts),
            "steps": self._steps,
            "seconds": self._seconds,
            "input_seconds": self._input_seconds,
            **({"more": dict(self._more)} if self._more else {}),
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Goes on with what `save` gave: the next means are those of a run without a stop."""
        self._reset()
        if not saved:
            return
        self._sums = {name: float(value) for name, value in saved["sums"].items()}
        self._counts = {name: int(count) for name, count in saved["counts"].items()}
        self._steps = int(saved["steps"])
        self._seconds = float(saved["seconds"])
        self._input_seconds = float(saved["input_seconds"])
        self._more = {name: float(count) for name, count in saved.get("more", {}).items()}

    @property
    def steps(self) -> int:
        """Updates since the last `pop`."""
        return self._steps

    def pop(self) -> dict[str, float]:
        """Returns the means since the last call, with speed and memory, and starts anew."""
        steps, seconds = max(self._steps, 1), max(self._seconds, 1e-9)
        summary = {name: total / self._counts[name] for name, total in self._sums.items()}
        summary |= {
            f"{name}_per_s": (count * steps + self._more.get(name, 0)) / seconds
            for name, count in self._items.items()
        }
        summary["step_time_s"] = seconds / steps
        summary["input_wait_s"] = self._input_seconds / steps
        summary["host_memory_mib"] = measure_host_memory()
        device = measure_device_memory()
        if device is not None:
            summary["device_memory_mib"] = device
        self._reset()
        return summary


def measure_host_memory() -> float:
    """Returns the peak resident memory of this process in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def measure_device_memory() -> float | None:
    """Returns the peak memory of the fullest local device in MiB; None where it is not known."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [
        entry["peak_bytes_in_use"] for entry in stats if entry and "peak_bytes_in_use" in entry
    ]
    return max(peaks) / 2**20 if peaks else None


class MetricsWriter:
    """Sends the metrics of one stage to all their places.

    Args:
        directory: gets `metrics.csv`, `previews/` and what trackers write for a stage.
        name: the stage, shown on the console.
        save_gif: writes uint8 frames `[t h w c]` as `save_gif(path, frames, fps=fps)`.
        tracking: the trackers of the run, not closed here; none by default.
        console: whether to print progress.
        silent: write and print nothing at all; for all processes of a job but the first.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        name: str = "train",
        save_gif: Callable[..., Any] | None = None,
        tracking: Tracking | None = None,
        console: bool = True,
        silent: bool = False,
    ) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.table = MetricsTable(self.directory / "metrics.csv")
        self._name, self._save_gif = name, None if silent else save_gif
        self._tracking = Tracking() if tracking is None or silent else tracking
        self._console = console and not silent
        self.silent = silent
        self._tracked = False
        self._bar: Any = None
        self._started = (0, time.monotonic())
        self._total = 0

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, step: int, *, total_steps: int) -> None:
        """Begins or resumes after `step`: rows of later steps are dropped, they will come again."""
        if not self.silent:
            self.table.drop_after(step)
        self._total = total_steps
        self._started = (step, time.monotonic())
        self._tracking.start(self._name, step, directory=self.directory)
        self._tracked = True
        if self._console and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total_steps, initial=step, desc=self._name, dynamic_ncols=True)

    def start_clock(self, step: int) -> None:
        """The time left counts from here on: what was compiled before `step` is no measure."""
        self._started = (step, time.monotonic())
        if self._bar is not None:
            self._bar.unpause()

    def rewind(self, step: int) -> None:
        """Goes back to `step`: the same as `start` for a run that goes on."""
        self.close()
        self.start(step, total_steps=self._total)

    def progress(self, step: int) -> None:
        """Moves the progress bar, if there is one."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def write(self, step: int, values: Mapping[str, float], *, quiet: bool = False) -> None:
        """Records the metrics of a step. May be called several times for one step.

        quiet: without a line on the console.
        """
        self._record(step, values)
        if self._console and not quiet:
            self._show(step, values)

    def write_alarm(self, step: int, kind: str, *, value: float, text: str) -> None:
        """Prints a warning and records `alarm/<kind>` at a step, which curves show as a line."""
        self.note(f"warning: {text}")
        self._record(step, {f"alarm/{kind}": value})

    def write_preview(
        self, step: int, name: str, frames: UInt8[Any, "t h w c"], *, fps: float | int
    ) -> Path | None:
        """Writes `previews/<step>-<name>.gif` and shows it in the trackers.

        Returns:
            The path; None if the writer was built without `save_gif`.
        """
        if self._save_gif is None:
            return None
        path = self.directory / "previews" / f"{step:08d}-{name.replace('/', '-')}.gif"
        path.parent.mkdir(exist_ok=True)
        self._save_gif(path, frames, fps=fps)
        if self._tracked:
            self._tracking.show(self._name, step, Preview(name, path, frames.shape))
        return path

    def note(self, text: str) -> None:
        """Prints a line without disturbing the progress bar."""
        if not self._console:
            return
        if self._bar is not None:
            self._bar.write(f"[{self._name}] {text}", file=sys.stderr)
        else:
            print(f"[{self._name}] {text}", flush=True)

    def close(self) -> None:
        """Flushes and closes everything."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._tracked:
            self._tracking.end(self._name)
            self._tracked = False

    def _record(self, step: int, values: Mapping[str, float]) -> None:
        if self.silent:
            return
        self.table.add(step, values)
        if self._tracked:
            self._tracking.log(self._name, step, values)

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        shown = {n: v for n, v in values.items() if n.rpartition("/")[2] in CONSOLE}
        shown = shown or dict(list(values.items())[:4])
        text = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        if "step_time_s" not in values:
            self.note(f"{step}/{self._total}  {text}")
        elif self._bar is not None:
            self._bar.set_postfix_str(text)
        else:
            first, since = self._started
            rate = (time.monotonic() - since) / max(step - first, 1)
            left = format_duration(rate * (self._total - step))
            speed = f"step {values['step_time_s']:.3g} s"
            self.note(f"{step}/{self._total}  {text}  {speed}  ETA {left}")
