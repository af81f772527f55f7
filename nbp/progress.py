# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Progress of long work over many items, and which machine does which part of it."""

import re
import sys
import time
from collections.abc import Callable
from typing import Any

from nbp.errors import ConfigError

# Seconds between two lines of progress where there is no terminal.
QUIET = 30.0
# Seconds within which items count as done together with the first: a batch of them.
BATCH = 1.0


class Progress:
    """A bar on a terminal, else a line now and then and at the end; both with the time left.

    The first items take much longer where a program is compiled for them, so the time left counts
    from them on. A context manager. unit: what is counted, in the plural.
    """

    def __init__(self, total: int, unit: str, report: Callable[[str], None]) -> None:
        self._total, self._unit, self._report = total, unit, report
        self._done = self._bad = 0
        self._told = time.monotonic()
        self._first = 0.0  # when the first items were done, and how many came at once
        self._head = 0
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
        if self._head == self._done - 1 and (not self._head or now - self._first < BATCH):
            self._head = self._done
            self._first = self._first if self._done > 1 else now
        if self._bar is not None:
            self._bar.set_postfix(bad=self._bad, refresh=False)
            self._bar.update()
        elif now - self._told > QUIET or self._done == self._total:
            self._told = now
            text = f"{self._done}/{self._total} {self._unit}, {self._bad} bad"
            if self._done > self._head:
                rate = (self._done - self._head) / max(now - self._first, 1e-9)
                left = (self._total - self._done) / rate / 60
                text += f", {rate:.1f}/s, {left:.0f} min left"
            self._report(text)


def parse_shard(text: str) -> tuple[int, int]:
    """`"2/8"`, machine 2 of 8, as (2, 8). Raises ConfigError for anything but I/N with I < N."""
    machine, _, machines = text.partition("/")
    if not re.fullmatch("[0-9]{1,9}/[0-9]{1,9}", text) or int(machine) >= int(machines):
        raise ConfigError(f"--shard {text[:40]}: write I/N with I from 0 to N - 1, for example 0/4")
    return int(machine), int(machines)
