# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, and survive a power failure once they are.

And places for them, tried before the work that they are for.
"""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nbp.errors import ConfigError, RestartError

LONGEST_NAME = 255  # bytes of a file's name on every common file system
LONGEST_PART = 200  # bytes of it that a temporary name beside it keeps


def write_text(path: Path, text: str) -> None:
    """Writes a small file whole or not at all, and durably."""
    part = name_part(path)
    try:
        part.write_text(text, encoding="utf8")
        sync(part)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def name_part(path: Path) -> Path:
    """The hidden name beside `path` under which this process writes it; never too long."""
    return path.with_name(f".{cut_name(path.name, LONGEST_PART)}.{os.getpid()}.tmp")


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
