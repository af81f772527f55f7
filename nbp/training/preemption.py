# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Stopping on request: what a run does with SIGTERM, Ctrl-C and the end of its time."""

import math
import signal
import threading
import time
from types import FrameType
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils

from nbp.errors import Preempted
from nbp.parallel.distributed import decide
from nbp.training.checkpoint import Checkpointer

LOOK_EVERY = 10  # steps between looks at the clock where processes have to agree


class StopSignals:
    """Turns SIGTERM, the first Ctrl-C and a deadline into a flag; true once one of them came.

    Job managers often send SIGTERM twice, so only a second Ctrl-C interrupts the saving. In a job
    of several processes JAX takes the SIGTERM that any of them gets, and names a step to all; the
    clock is that of the first process.

    deadline: in seconds of `time.monotonic`.
    """

    def __init__(self, deadline: float = math.inf) -> None:
        self.name = ""
        self._deadline = deadline
        self._previous: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return bool(self.name)

    def look(self, step: int) -> None:
        """Asks whether all processes are to stop at this step. Every one calls it at each step."""
        if multihost_utils.reached_preemption_sync_point(step):
            self.name = self.name or "SIGTERM"
        looks = jax.process_count() == 1 or step % LOOK_EVERY == 0
        if math.isfinite(self._deadline) and looks and decide(time.monotonic() >= self._deadline):
            self.name = self.name or "train.max_hours passed"

    def __enter__(self) -> "StopSignals":
        # A handler of ours would take the signal away from JAX.
        alone = jax.process_count() == 1
        if alone and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            # Once stopping, a late SIGTERM must not turn the exit into a kill.
            ignore = number == signal.SIGTERM and self
            signal.signal(number, signal.SIG_IGN if ignore else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.name == "SIGINT":
            signal.default_int_handler(number, frame)
        self.name = self.name or signal.Signals(number).name

    def leave(self, checkpointer: Checkpointer, *, step: int) -> NoReturn:
        """Ends the run with `Preempted` once everything is saved."""
        checkpointer.wait()
        latest = checkpointer.latest_step()
        saved = f"checkpoint {latest} is saved" if latest is not None else "nothing to save yet"
        raise Preempted(f"{self.name} at step {step}: {saved}; run the same command to go on.")
