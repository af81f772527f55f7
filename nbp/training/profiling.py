# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A trace of some updates, for TensorBoard's profile tab or https://ui.perfetto.dev."""

from pathlib import Path

import jax

from nbp.errors import ConfigError
from nbp.shapes import PyTree


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
