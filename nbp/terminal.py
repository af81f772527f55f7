# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The standard streams of a command: what they cannot take never ends its work."""

import io
import os
import sys
from typing import Any


def settle_streams() -> None:
    """Makes stdout and stderr take everything that is printed, in this process, from now on.

    A character that the encoding lacks is written as an escape (`LANG=C`, PYTHONIOENCODING=ascii).
    A stream whose reader has gone (`| head`), whose terminal was closed, or whose disk is full is
    silent from then on, and the work goes on: what a command makes are files. A stream that was
    closed from the start is the null device, so that no file that is opened later gets its number.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    sys.stdout = _settle(sys.stdout, sys.__stdout__)
    sys.stderr = _settle(sys.stderr, sys.__stderr__)


def _settle(stream: Any, original: Any) -> Any:
    if stream is None:
        return open(os.devnull, "w", encoding="utf8")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
        if stream is original and not isinstance(stream, Patient):
            stream.flush()
            return Patient(stream)
    return stream


class Patient(io.TextIOWrapper):
    """A standard stream that outlives its reader."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        self._original = stream  # it closes the buffer when it goes

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            self._leave()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._leave()

    def _leave(self) -> None:
        """Sends what is still to come, and what was not taken, to the null device."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
