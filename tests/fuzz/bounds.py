# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a reader within limits of time and memory, and lets only the errors of NBP pass."""

import contextlib
import faulthandler
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, settings

from nbp import errors
from nbp.errors import NbpError

SECONDS = 5.0  # of processor time, for a case: the machine may have other work
WALL = 120  # on the clock: a case that neither works nor ends
MEBI = 2**20
LONGEST = 20_000  # characters of an error
CODES = {
    0,
    *(getattr(errors, name) for name in dir(errors) if name.startswith("EXIT_")),
}
STATUS = Path("/proc/self/status")


class Hang(BaseException):
    """A case took longer than its limit; no error, so that no reader takes it for one."""


def fuzz_settings(cases: int) -> settings:
    """The same cases every time, of which none is saved or timed by hypothesis itself."""
    return settings(
        max_examples=cases,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[*HealthCheck],  # pyright: ignore[reportArgumentType]
        report_multiple_bugs=False,
    )


@dataclass
class Tally:
    """Cases and their outcomes, of one reader."""

    reader: str
    began: float = field(default_factory=time.monotonic)
    outcomes: Counter[str] = field(default_factory=Counter)
    peak_mib: int = 0

    def report(self) -> None:
        """One line on stderr, for who runs it with -s."""
        row = {
            "reader": self.reader,
            "cases": self.outcomes.total(),
            "seconds": round(time.monotonic() - self.began, 1),
            "peak_mib": self.peak_mib,
            "outcomes": dict(self.outcomes.most_common()),
        }
        print(json.dumps(row), file=sys.stderr)


def run_case(
    call: Callable[[], Any],
    tally: Tally,
    *,
    allowed: tuple[type[NbpError], ...],
    memory: int = 256,
) -> Any:
    """The value of `call`, or None where it raises one of the `allowed` errors.

    memory: MiB that it may take at most. Everything else fails: other errors, an error of several
    lines or without its class's exit code, a hang.
    """
    try:
        with _limited(memory, tally):
            value = call()
    except allowed as caught:
        error = caught
    else:
        tally.outcomes["read"] += 1
        return value
    text = str(error)
    assert text.strip(), f"{type(error).__name__} without a text"
    assert len(text) < LONGEST, f"an error of {len(text)} characters: {text[:200]}"
    tally.outcomes[type(error).__name__] += 1
    return None


def run_command(
    main: Callable[[list[str] | None], None], argv: list[str], tally: Tally, *, memory: int = 256
) -> int:
    """The exit code of a command, which must be a documented one."""
    try:
        with (
            _limited(memory, tally),
            open(os.devnull, "w") as null,
            contextlib.redirect_stdout(null),
            contextlib.redirect_stderr(null),
        ):
            errors.run_main(main, argv)
        code: Any = 0
    except SystemExit as end:
        code = 0 if end.code is None else end.code
    assert code in CODES, f"exit code {code!r}"
    tally.outcomes[f"exit {code}"] += 1
    return code


@contextlib.contextmanager
def _limited(memory: int, tally: Tally) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang(f"more than {SECONDS:g} s")

    before = signal.signal(signal.SIGPROF, stop)
    start = _reset_peak()
    faulthandler.dump_traceback_later(WALL, exit=True)
    used = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGPROF, before)
        used = time.process_time() - used
        taken = (_read_status("VmHWM") - start) // 1024
        tally.peak_mib = max(tally.peak_mib, taken)
    # What a library does without Python is not interrupted, but found here.
    assert used < SECONDS, f"took {used:.1f} s"
    assert taken <= memory, f"took {taken} MiB, at most {memory}"


def _reset_peak() -> int:
    """Begins to measure the peak of memory anew; KiB that are in use."""
    Path("/proc/self/clear_refs").write_text("5")
    return _read_status("VmRSS")


def _read_status(name: str) -> int:
    for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise AssertionError(f"{STATUS} has no {name}")
