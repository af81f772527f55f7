# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The process: compiled programs that are kept between runs, memory that is freed, children."""

import contextlib
import ctypes
import hashlib
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from nbp.errors import EXIT_PREEMPTED, EXIT_RESTART, NbpError, Preempted
from nbp.files import check_writable_folder


def keep_compiled() -> None:
    """Turns on JAX's persistent compilation cache, in the user's cache folder.

    A folder that was chosen before (JAX_COMPILATION_CACHE_DIR) is kept, and none is used where JAX
    was told not to (JAX_ENABLE_COMPILATION_CACHE=0), where the user has no home (as in containers),
    or where no file can be made in it. Others could write into a folder that all share.
    """
    config: Any = jax.config  # its fields are made at run time
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    folder = find_folder()
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_writable_folder(folder)
    except (OSError, NbpError):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def find_folder() -> Path | None:
    """One for each kind of host: programs for a CPU run only where its instructions are known.

    In XDG_CACHE_HOME, else in the user's home; None where there is neither. Relative paths are
    none, as that specification has it.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(chosen) and os.environ.get("HOME") == "":
        return None  # Python would take the root of the file system for the home
    try:
        root = Path(chosen) if os.path.isabs(chosen) else Path.home() / ".cache"
    except RuntimeError:  # neither HOME nor an entry in the list of users
        return None
    if not root.is_absolute():
        return None
    return root / "nbp" / "compiled" / name_host()


def name_host() -> str:
    """A name for this kind of host: machines with the same instructions have the same."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf8").splitlines() if info.is_file() else []
    names = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    host = "\n".join([platform.machine(), *sorted(names)])
    return hashlib.sha256(host.encode()).hexdigest()[:16]


_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # numbers of mallopt(3)


def keep_freed_memory() -> bool:
    """Keeps freed memory in the process where JAX computes on the host; returns whether it does.

    XLA's CPU backend asks for all temporaries of a program anew at each call. The C library maps
    large ones from the kernel and gives them back at once, so that every update pays for clearing
    hundreds of megabytes of fresh pages: 10 to 20% of its time. Only glibc has these switches. An
    arena of a thread cannot hold large blocks and maps them all the same, so threads share the one
    of the process.
    """
    if jax.default_backend() != "cpu" or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    switches = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENA_MAX, 1))
    return all(mallopt(name, value) for name, value in switches)


QUIET = 30.0  # seconds between two lines of a child that are passed on
TAIL = 4096  # bytes of a log in which its last line is looked for


class CommandFailed(Exception):
    """A command ended with `code`, which says so, and `line` last."""

    def __init__(self, code: int, line: str, log: Path) -> None:
        super().__init__(f"exit code {code}: {line}; see {log}")
        self.code = code


class CommandRunner:
    """Runs commands of this project, each as a process, whose memory is free when it ends.

    A context manager: inside, SIGTERM is passed on to the child, which saves, and ends the work
    with Preempted. compiled: folder in which all children keep their compiled programs, unless the
    user has chosen one. say: takes lines of progress. restarts: of a command after faults that a
    restart cures.
    """

    def __init__(self, compiled: Path, say: Callable[[str], None], *, restarts: int = 3) -> None:
        self._compiled, self._say, self._restarts = compiled.absolute(), say, restarts
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._before: Any = None

    def __enter__(self) -> "CommandRunner":
        self._before = signal.signal(signal.SIGTERM, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)
        self._pass_on()

    def _stop(self, *_: object) -> None:
        self._stopped = True
        self._pass_on()

    def _pass_on(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def check(self) -> None:
        """Raises Preempted where this process was told to stop."""
        if self._stopped:
            raise Preempted("stopped by SIGTERM; the same command goes on")

    def run(
        self, command: str, words: Sequence[str], log: Path, *, inherited: int | None = None
    ) -> None:
        """Runs `python -m nbp.COMMAND WORDS` to its end; what it says is added to `log`.

        inherited: an open file that the child holds too. Raises CommandFailed, and Preempted where
        this process, or the child, was told to stop.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        line = [sys.executable, "-m", f"nbp.{command}", *words]
        for attempt in range(1 + self._restarts):
            code = self._run_once(line, log, () if inherited is None else (inherited,))
            self.check()
            if code == EXIT_PREEMPTED:
                raise Preempted(f"nbp.{command} was told to stop; the same command goes on")
            if not code:
                return
            if attempt == self._restarts or (code != EXIT_RESTART and code > 0):
                raise CommandFailed(code, read_last_line(log), log)
            self._say(f"exit code {code}; restart {attempt + 1} of {self._restarts}")

    def _run_once(self, line: Sequence[str], log: Path, inherited: tuple[int, ...]) -> int:
        self.check()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(self._compiled / name_host()))
        shown = read_last_line(log)  # of an earlier start
        with log.open("ab") as out:
            self._child = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=inherited,
            )
        if self._stopped:  # told to between the look and the start
            self._pass_on()
        told = time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._child.wait(timeout=1.0)
            if time.monotonic() - told > QUIET:
                told, text = time.monotonic(), read_last_line(log)
                if text != shown:
                    self._say(text)
                shown = text


def read_last_line(log: Path) -> str:
    """The last line of a log that has a letter or digit (XLA ends warnings in stars), else ""."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        lines = file.read().decode("utf8", "replace").replace("\r", "\n").splitlines()
        return next((line.strip() for line in reversed(lines) if any(map(str.isalnum, line))), "")
    return ""
