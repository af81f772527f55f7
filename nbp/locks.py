# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Locks between processes and machines, also on file systems that have none."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from nbp.errors import ConfigError

_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextlib.contextmanager
def hold_lock(file: Path) -> Iterator[bool]:
    """Whether this process got the lock; the kernel frees it however the process ends.

    Where the file system has no locks a file FILE.held stands for it, which is taken over from a
    process of this machine that is gone.
    """
    try:
        handle = file.open("w")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({error.strerror})") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _BUSY:
                yield False
                return
            with _hold_file(file.with_name(f"{file.name}.held")) as free:
                yield free
            return
        yield True


def find_held(folder: Path) -> Path | None:
    """A lock in the folder that another process holds."""
    for file in sorted(folder.glob("*.lock")):
        with hold_lock(file) as free:
            if not free:
                return file
    return None


@contextlib.contextmanager
def _hold_file(file: Path) -> Iterator[bool]:
    owner = f"{socket.gethostname()} {os.getpid()}"
    for _ in range(2):
        try:
            with file.open("x", encoding="utf8") as handle:
                handle.write(owner)
            break
        except FileExistsError:
            if not _is_gone(file):
                yield False
                return
            file.unlink(missing_ok=True)
    else:
        yield False
        return
    try:
        yield True
    finally:
        file.unlink(missing_ok=True)


def _is_gone(file: Path) -> bool:
    """Whether the process that made the file ran on this machine and has ended."""
    try:
        host, pid = file.read_text(encoding="utf8").split()
        if host != socket.gethostname():
            return False
        os.kill(int(pid), 0)
    except (ProcessLookupError, FileNotFoundError):
        return True
    except (OSError, ValueError):  # of another user, or not written yet
        return False
    return False
