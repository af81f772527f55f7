# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, and survive a power failure once they are.

And places for them, tried before the work that they are for.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from nbp.errors import ConfigError, RestartError

LONGEST_NAME = 255  # bytes of a file's name on every common file system
LONGEST_PART = 200  # bytes of it that a temporary name beside it keeps


def write_text(path: Path, text: str) -> None:
    """Writes a small file whole or not at all, and durably."""
    with open_part(path) as part:
        part.write_text(text, encoding="utf8")
        sync(part)


@contextlib.contextmanager
def open_part(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, which takes its place when the block ends well, else goes.

    The part that a killed process left is taken up again, so that none stays for ever: its name is
    always the same, and it is free once nobody has its lock. Whoever writes the same file at the
    same time gets a part of another name.
    """
    part, handle = _take_part(path)
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _take_part(path: Path) -> tuple[Path, int]:
    """The part and its open file, which has the lock where the file system has locks."""
    part = path
    for number in itertools.count():
        part = name_part(path, str(number))
        try:
            handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError:
            if os.path.lexists(part):  # another user's
                continue
            raise
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # It may have taken its place, or gone, between the opening and the lock.
            if not _is_at(part, handle):
                os.close(handle)
                continue
            part.write_bytes(b"-")  # of SMB, a lock keeps us out as well
            os.ftruncate(handle, 0)
        except BlockingIOError:
            os.close(handle)
            continue
        except OSError:
            os.close(handle)
            break
        return part, handle
    # No locks here: a name of our own, which stays after a kill.
    part.unlink(missing_ok=True)
    own = name_part(path, f"{os.getpid()}-{threading.get_ident()}")
    return own, os.open(own, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)


def _is_at(path: Path, handle: int) -> bool:
    """Whether an open file has this name."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def name_part(path: Path, mark: str) -> Path:
    """A hidden name beside `path`, never too long. mark: tells several apart."""
    return path.with_name(f".{cut_name(path.name, LONGEST_PART)}.{mark}.tmp")


def cut_name(name: str, longest: int) -> str:
    """The first characters of a name that take at most `longest` bytes."""
    name = name[:longest]
    while len(os.fsencode(name)) > longest:
        name = name[:-1]
    return name


def check_writable_folder(folder: Path, remedy: str = "Name another folder.") -> None:
    """Makes sure that files can be made in `folder`, or it itself; leaves nothing behind.

    Tried, not looked up: neither permissions nor the name of a file system tell for certain.
    Raises ConfigError, in one line that ends with the remedy.
    """
    try:
        place = folder.absolute()
        while not os.path.lexists(place):
            if len(os.fsencode(place.name)) > LONGEST_NAME:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            place = place.parent
        if not os.path.isdir(place):
            raise NotADirectoryError(errno.ENOTDIR, f"{place} is no folder")
        before = os.stat(place)
        handle, name = tempfile.mkstemp(prefix=".nbp-", suffix=".tmp", dir=place)
        os.close(handle)
        os.unlink(name)
        with contextlib.suppress(OSError):  # not the owner's, who alone may set times
            os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        what = "write into" if os.path.isdir(folder) else "make"
        raise ConfigError(f"cannot {what} the folder {folder}: {why}. {remedy}") from error


def check_writable_file(path: Path, remedy: str = "Name another file.") -> None:
    """The same for one file, which may be there already: it would be replaced."""
    if os.path.isdir(path):
        raise ConfigError(f"{path} is a folder, a file is written. {remedy}")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise ConfigError(f"the name of {path} is longer than {LONGEST_NAME} bytes. {remedy}")
    check_writable_folder(path.parent, remedy)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk.

    File systems without that promise for a folder (SMB, FUSE) refuse; nothing is lost but it.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS):
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def full_disk_named(part: Path) -> Iterator[None]:
    """A full disk is no bug: it becomes a RestartError, and `part` gives back what it took."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error) or "quota" in str(error).lower():
            part.unlink(missing_ok=True)
            raise RestartError(
                f"{part.parent}: the disk is full. Free space and run the same command again; "
                "finished shards are kept"
            ) from None
        raise
