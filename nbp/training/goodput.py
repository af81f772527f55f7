# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Where the time of a stage went, over all its starts.

`goodput.json` lies beside the metrics and has seconds by purpose. Goodput is the share of all of
them that went into updates which the parameters still have.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax

from nbp.errors import ConfigError
from nbp.files import write_text
from nbp.shapes import PyTree

Purpose = Literal["start", "compile", "step", "input", "evaluation", "checkpoint", "lost"]
PURPOSES: tuple[Purpose, ...] = (
    *("step", "input", "start", "compile", "evaluation", "checkpoint", "lost"),
)


class Goodput:
    """Counts seconds of this run on top of those of earlier runs of the stage.

    start: finding and reading a checkpoint, or making the first state. step: updates. input:
    waiting for batches. lost: updates that had to be made again, after a kill or after going back,
    at the usual time of an update.

    Args:
        path: where the totals are kept; None keeps them for this run only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.seconds: dict[str, float] = dict.fromkeys(PURPOSES, 0.0)
        self._updates, self._reached = 0, 0
        if path is not None and path.is_file():
            with contextlib.suppress(
                ValueError, KeyError, TypeError, RecursionError
            ):  # a broken file: begin anew
                saved = json.loads(path.read_text())
                self.seconds |= {name: float(saved["seconds"][name]) for name in PURPOSES}
                self._updates, self._reached = int(saved["updates"]), int(saved["step"])

    @contextlib.contextmanager
    def timed(self, purpose: Purpose) -> Iterator[None]:
        """Counts the time inside."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[purpose] += time.perf_counter() - began

    def count_update(self, step: int) -> None:
        """Notes that update `step` has begun."""
        self._updates += 1
        self._reached = step

    def go_on_from(self, step: int) -> None:
        """What was done after `step` is lost: the run resumes there, or goes back to it."""
        again = self._reached - step
        if again > 0 and self._updates:
            share = min(again / self._updates, 1.0)
            lost = share * self.seconds["step"]
            self.seconds["step"] -= lost
            self.seconds["lost"] += lost
            self._updates = max(self._updates - again, 0)
        self._reached = step

    @property
    def share(self) -> float:
        """Goodput, 0..1."""
        total = sum(self.seconds.values())
        return self.seconds["step"] / total if total else 0.0

    def save(self) -> None:
        """Writes the totals."""
        if self._path is not None:
            seconds = {name: round(value, 3) for name, value in self.seconds.items()}
            saved = {"step": self._reached, "updates": self._updates, "seconds": seconds}
            write_text(self._path, json.dumps({**saved, "goodput": round(self.share, 4)}))

    def describe(self) -> str:
        """One line, e.g. `goodput 81% of 1,240 s: step 1,004, input 12, compile 60`."""
        total = sum(self.seconds.values())
        parts = (f"{name} {value:,.0f}" for name, value in self.seconds.items() if value >= 0.5)
        return f"goodput {self.share:.0%} of {total:,.0f} s: {', '.join(parts)}"


def check_steps(steps: tuple[int, ...]) -> None:
    """Raises ConfigError unless `steps` is () or (first, last)."""
    if steps and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
        raise ConfigError(f"train.profile_steps is {steps}. Use (FIRST,LAST), counted from 1.")


class Profiler:
    """Records the updates `first` .. `last`, counted from 1; nothing where `steps` is empty.

    A run that resumes behind `first` records nothing.
    """

    def __init__(self, directory: Path, steps: tuple[int, ...]) -> None:
        self._directory, self._steps = directory, steps
        self._running = False

    def look(self, step: int, state: PyTree) -> str | None:
        """Called between updates, after `step` of them; returns a line where a trace has ended."""
        if not self._steps:
            return None
        first, last = self._steps
        if not self._running and step == first - 1:
            jax.block_until_ready(state)  # earlier updates are not in it
            jax.profiler.start_trace(str(self._directory), create_perfetto_trace=True)
            self._running = True
        if self._running and step >= last:
            return self.stop(state)
        return None

    def stop(self, state: PyTree = None) -> str | None:
        """Ends a trace that is running."""
        if not self._running:
            return None
        jax.block_until_ready(state)
        self._running = False
        jax.profiler.stop_trace()
        return f"trace of updates {self._steps[0]} to {self._steps[1]} in {self._directory}"
