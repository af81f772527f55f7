# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, and survive a power failure once they are."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from nbp.errors import RestartError


def write_text(path: Path, text: str) -> None:
    """Writes a small file whole or not at all, and durably."""
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    part.write_text(text, encoding="utf8")
    sync(part)
    os.replace(part, path)


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
