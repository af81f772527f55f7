# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Mistakes and faults that a user can act on, and the process exit code of each.

Library code raises these (or plain `ValueError` in `layout` and `nn`); the mains print one line and
exit with the code. So do they where a file or folder cannot be used, whatever it was for. Anything
else that escapes a main is a bug of ours: a traceback and exit code 1. What the standard streams
cannot take (a closed pipe, a character that they have no bytes for) ends no command.
"""

import errno
import importlib
import io
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

EXIT_USAGE = 2
EXIT_DATA = 3
EXIT_CHECKPOINT = 4
EXIT_NON_FINITE = 5
EXIT_RESTART = 42
EXIT_PREEMPTED = 143


class NbpError(ValueError):
    """Base of all errors that end a command with one line; `exit_code` is the process's status."""

    exit_code = EXIT_USAGE


class ConfigError(NbpError):
    """Wrong usage or configuration (exit code 2)."""


class DataError(NbpError):
    """Missing, empty or unreadable data (exit code 3)."""

    exit_code = EXIT_DATA


class CheckpointError(NbpError):
    """A checkpoint is absent, corrupt or does not fit the model (exit code 4)."""

    exit_code = EXIT_CHECKPOINT


class NonFiniteError(NbpError):
    """The loss or a gradient became NaN or infinite (exit code 5)."""

    exit_code = EXIT_NON_FINITE


class DivergedError(NbpError):
    """Training went wrong and going back did not help (exit code 5)."""

    exit_code = EXIT_NON_FINITE


class RestartError(NbpError):
    """A fault that a restart cures: stalled loader, lost worker, full disk (exit code 42)."""

    exit_code = EXIT_RESTART


class Preempted(NbpError):
    """The process was asked to stop and has saved its state (exit code 143)."""

    exit_code = EXIT_PREEMPTED


# Faults of a place that was named, not of the program.
PLACES = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
}
FULL = {errno.ENOSPC, errno.EDQUOT}
# What XLA's communication says when another process of the job is gone.
LOST = re.compile(r"gloo|nccl|connection|peer|heartbeat|coordination|unavailable|deadline", re.I)


def run_main(main: Callable[[list[str] | None], None], argv: list[str] | None = None) -> None:
    """Runs `main(argv)` and turns an `NbpError` into one line on stderr and its exit code.

    In a job of several processes an error ends this one at once, so that the others notice. An
    error of the connection to them means that one of them is gone: exit code 42.
    """
    settle_streams()
    try:
        main(argv)
    except NbpError as error:
        _end_with(error)
    except KeyboardInterrupt:
        print("nbp: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if (fault := _find_fault(error)) is not None:
            _end_with(fault)
        if not _is_one_of_several():
            raise
        if type(error).__name__ == "JaxRuntimeError" and LOST.search(str(error)):
            print(f"nbp: another process of this job is gone: {error}", file=sys.stderr)
            _end_at_once(EXIT_RESTART)
        traceback.print_exc()
        _end_at_once(1)


def run_command(module: str, make_parser: Callable[[], Any]) -> NoReturn:
    """Runs the command `python -m MODULE` to its end: its flags, then `MODULE.main`.

    Flags are read before the module is imported, so that help and mistakes do not wait for JAX.
    What the module defines has the module's name then, not `__main__`, in this process and in
    those that it starts; and these do not import the command, which they have no need of.
    """

    def main(argv: list[str] | None) -> None:
        make_parser().parse_known_args(argv)
        hide_main()
        importlib.import_module(module).main(argv)

    run_main(main)
    sys.exit()


def hide_main() -> None:
    """Keeps processes that multiprocessing starts from importing the main module of this one."""
    started = sys.modules["__main__"]
    started.__spec__ = None
    started.__file__ = None


def _end_with(error: NbpError) -> NoReturn:
    """Ends with one line, also where a name in it has line breaks or control characters."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))
    print(f"nbp: {type(error).__name__}: {text}", file=sys.stderr)
    # A thread that hangs in a decoder would keep the interpreter from ending.
    if isinstance(error, RestartError):
        _end_at_once(error.exit_code)
    # Processes that are preempted have all saved, and say goodbye to each other.
    if _is_one_of_several() and not isinstance(error, Preempted):
        _end_at_once(error.exit_code)
    sys.exit(error.exit_code)


def _find_fault(error: Exception) -> NbpError | None:
    """What a user can mend of an operating system's error; None for everything else."""
    if not isinstance(error, OSError) or not error.filename:
        return None
    text = f"{error.filename}: {error.strerror}"
    if error.errno in PLACES:
        return ConfigError(f"{text}. Name another place, or change its permissions.")
    if error.errno in FULL:
        return RestartError(f"{text}. Free space and run the same command again.")
    return None


def _is_one_of_several() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _end_at_once(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


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
