# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Progress of long work over many items, and which machine does which part of it."""

import sys
import time
from collections.abc import Callable
from typing import Any

from nbp.errors import ConfigError

# Seconds between two lines of progress where there is no terminal.
QUIET = 30.0


class Progress:
    """A bar on a terminal, else a line now and then and at the end; both with the time left.

    A context manager. unit: what is counted, in the plural.
    """

    def __init__(self, total: int, unit: str, report: Callable[[str], None]) -> None:
        self._total, self._unit, self._report = total, unit, report
        self._done = self._bad = 0
        self._began = self._told = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, unit=f" {self._unit}", dynamic_ncols=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, *, bad: bool = False) -> None:
        """Counts one item."""
        self._done += 1
        self._bad += bad
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix(bad=self._bad, refresh=False)
            self._bar.update()
        elif now - self._told > QUIET or self._done == self._total:
            self._told = now
            rate = self._done / max(now - self._began, 1e-9)
            left = (self._total - self._done) / rate / 60
            self._report(
                f"{self._done}/{self._total} {self._unit}, {self._bad} bad, {rate:.1f}/s, "
                f"{left:.0f} min left"
            )


def parse_shard(text: str) -> tuple[int, int]:
    """`"2/8"`, machine 2 of 8, as (2, 8). Raises ConfigError for anything but I/N with I < N."""
    machine, _, machines = text.partition("/")
    digits = text.isascii() and machine.isdecimal() and machines.isdecimal() and len(text) < 20
    if not (digits and int(machine) < int(machines)):
        raise ConfigError(f"--shard {text}: write I/N with I from 0 to N - 1, for example 0/4")
    return int(machine), int(machines)
