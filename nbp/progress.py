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


def print_note(text: str) -> None:
    """Prints a line for whoever waits; standard output is for results."""
    print(f"nbp: {text}", file=sys.stderr, flush=True)


class Progress:
    """A bar on a terminal (stderr), else lines now and then; both with the time left.

    Work that is done within `QUIET` seconds has no lines. The first items take much longer where a
    program is compiled for them, so the time left counts from them on. A context manager. unit:
    what is counted, in the plural. report: takes the lines.
    """

    def __init__(self, total: int, unit: str, report: Callable[[str], None] = print_note) -> None:
        self._total, self._unit, self._report = total, unit, report
        self._done = self._bad = 0
        self._began = self._told = time.monotonic()
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

    def step(self, count: int = 1, *, bad: bool = False) -> None:
        """Counts items that are done, at least one."""
        before, self._done = self._done, self._done + count
        self._bad += bad * count
        now = time.monotonic()
        if self._head == before and (not before or now - self._first < BATCH):
            self._head = self._done
            self._first = self._first if before else now
        if self._bar is not None:
            if self._bad:
                self._bar.set_postfix(bad=self._bad, refresh=False)
            self._bar.update(count)
        elif now - self._told > QUIET or (self._done == self._total and self._told > self._began):
            self._told = now
            self._report(self._describe(now))

    def note(self, text: str) -> None:
        """Reports a line without disturbing the bar."""
        if self._bar is not None:
            self._bar.clear()
        self._report(text)
        if self._bar is not None:
            self._bar.refresh()

    def _describe(self, now: float) -> str:
        text = f"{self._done}/{self._total} {self._unit}"
        text += f", {self._bad} bad" if self._bad else ""
        if self._done > self._head:
            rate = (self._done - self._head) / max(now - self._first, 1e-9)
            text += f", {rate:.3g}/s, ETA {format_duration((self._total - self._done) / rate)}"
        return text


def format_duration(seconds: float) -> str:
    """Formats e.g. 3725 as "1h02m", 62 as "1m02s", 5 as "5s"."""
    total = max(round(seconds), 0)
    if total >= 3600:
        return f"{total // 3600}h{total % 3600 // 60:02d}m"
    return f"{total // 60}m{total % 60:02d}s" if total >= 60 else f"{total}s"


def parse_shard(text: str) -> tuple[int, int]:
    """`"2/8"`, machine 2 of 8, as (2, 8). Raises ConfigError for anything but I/N with I < N."""
    machine, _, machines = text.partition("/")
    if not re.fullmatch("[0-9]{1,9}/[0-9]{1,9}", text) or int(machine) >= int(machines):
        raise ConfigError(f"--shard {text[:40]}: write I/N with I from 0 to N - 1, for example 0/4")
    return int(machine), int(machines)
