# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Locks that end with their process, on every file system: a lock that is left over blocks nobody.

The kernel holds them (`flock`), on a folder itself where that is possible, so that taking one
changes nothing on the disk. NFS wants a file that is open for writing. Where there are no locks at
all (SMB, Lustre, buckets mounted as folders) work goes on without, and this is said once.
"""

import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from nbp.errors import ConfigError

NAME = ".lock"
_told: set[str] = set()


class Held(Exception):
    """Another process has the lock."""


class Lock:
    """A lock that is held until `close`. A context manager.

    handle: the open file or folder; None where the file system has no locks.
    """

    def __init__(self, handle: int | None) -> None:
        self._handle = handle

    @property
    def held(self) -> bool:
        """Whether there is a lock at all."""
        return self._handle is not None

    @property
    def handle(self) -> int | None:
        """The open file: a process that inherits it holds the lock as long as it lives."""
        return self._handle

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the lock. A second call does nothing."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def lock_folder(folder: Path) -> Lock:
    """Takes the lock of an existing folder; nothing is written where the folder can be locked.

    Raises Held where another process has it.
    """
    handle = _try(os.open(folder, os.O_RDONLY))
    if handle is not None:
        return Lock(handle)
    file = folder / NAME
    absent = not file.exists()
    lock = lock_file(file)
    if absent and not lock.held:  # it serves no purpose
        with contextlib.suppress(OSError):
            file.unlink()
    return lock


def lock_file(file: Path) -> Lock:
    """Takes the lock of a file, which is made if absent, and neither emptied nor removed.

    Raises Held where another process has it.
    """
    try:
        opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # of another user: a lock needs no right to write, except on NFS
        opened = os.open(file, os.O_RDONLY)
    handle = _try(opened)
    if handle is None:
        _tell(file.parent)
    return Lock(handle)


def is_held(file: Path) -> bool:
    """Whether another process has the lock of a file or folder; changes nothing."""
    try:
        opened = os.open(file, os.O_RDONLY)
    except OSError:
        return False
    try:
        handle = _try(opened)
    except Held:
        return True
    if handle is not None:
        os.close(handle)
    return False


def _try(handle: int) -> int | None:
    """`handle`, locked; None, and it is closed, where that is not possible here."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the second where NFS plays `flock` with `fcntl`
        os.close(handle)
        raise Held from None
    except OSError:  # ENOTSUP, ENOLCK, ENOSYS, EINVAL; EBADF for a folder of NFS
        os.close(handle)
        return None
    return handle


def _tell(folder: Path) -> None:
    place = os.path.realpath(folder)
    if place in _told:
        return
    _told.add(place)
    print(
        f"nbp: warning: the file system of {folder} has no locks: see to it that no other process "
        "of nbp writes there",
        file=sys.stderr,
        flush=True,
    )


@contextlib.contextmanager
def hold_lock(file: Path) -> Iterator[bool]:
    """Whether this process got the lock; the kernel frees it however the process ends.

    Where the file system has no locks a file FILE.held stands for it, which is taken over from a
    process of this machine that is gone.
    """
    try:
        opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({error.strerror})") from None
    try:
        handle = _try(opened)
    except Held:
        yield False
        return
    if handle is None:
        with _hold_file(file.with_name(f"{file.name}.held")) as free:
            yield free
        return
    with Lock(handle):
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
