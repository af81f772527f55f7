# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Files from users, which are hostile input to the libraries that read them: what is opened at all,
and how a file that cannot serve is told from a fault of ours."""

import os
import stat
from typing import Any, BinaryIO

from nbp.errors import DataError


class VideoError(DataError):
    """A video or image file that cannot serve.

    `path`, `reason` (one of `nbp.data.video.REASONS`) and `detail`.
    """

    def __init__(self, path: str, reason: str, detail: str = ""):
        super().__init__(f"{path}: {reason}" + (f" ({detail})" if detail else ""))
        self.path, self.reason, self.detail = path, reason, detail

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle their message only; loader workers need the parts.
        return type(self), (self.path, self.reason, self.detail)


def open_regular(name: str, limit: int) -> BinaryIO:
    """Opens a regular file of at most `limit` bytes, and at least one. Raises `VideoError`."""
    try:
        # Look before opening: opening a pipe would wait for its writer for ever.
        status = os.stat(name)
        if not stat.S_ISREG(status.st_mode):
            raise VideoError(name, "unreadable", "not a regular file")
        if status.st_size == 0:
            raise VideoError(name, "zero bytes")
        if status.st_size > limit:
            raise VideoError(name, "too large", f"{status.st_size} bytes, at most {limit}")
        return open(name, "rb")
    except OSError as error:
        raise VideoError(name, "unreadable", error.strerror or str(error)) from None
