# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Files from users, which are hostile input to the libraries that read them: what is opened at all,
and how a file that cannot serve is told from a fault of ours."""

import codecs
import json
import os
import stat
import unicodedata
from pathlib import Path
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


# Of a text file; the lists of the largest data sets are some 50 MB.
MAX_TEXT = 2**29
_MARKS = (  # the longer mark of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_text(path: str | Path) -> str:
    """The text of a file that a user wrote: UTF-8, or what its byte order mark says.

    Raises `DataError`, one line with file, line and byte, for bytes that are no text.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_TEXT + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(data) > MAX_TEXT:
        raise DataError(f"{path}: more than {MAX_TEXT // 2**20} MiB is no list or text of ours")
    mark, encoding = next((m for m in _MARKS if data.startswith(m[0])), (b"", "utf-8"))
    body = data[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        before = body[: error.start].decode(encoding, "replace")
        raise DataError(
            f"{path}, line {before.count(chr(10)) + 1}: byte {len(mark) + error.start + 1} "
            f"(0x{body[error.start]:02x}) is not {encoding.upper()}. Save the file as UTF-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(
            f"{path}, line {line}: byte {data.index(0) + 1} is NUL, which no text has. Save the "
            "file as UTF-8"
        )
    return text


def read_json(path: str | Path, kind: type = dict) -> Any:
    """The value of a JSON file, which is a `kind`: dict or list.

    Raises ValueError, one line without the path, for what is no such file, `OSError` as ever.
    """
    try:
        value = json.loads(Path(path).read_bytes())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, kind):
        raise ValueError(f"it holds a {type(value).__name__}, not a {kind.__name__}")
    return value


def read_lines(path: str | Path) -> list[str]:
    """The lines of `read_text`; only a newline, or carriage return and newline, ends one.

    Other characters that look like an end (a carriage return alone, U+2028, ...) may be part of a
    name.
    """
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def name_text(name: str) -> str:
    """The name as text: bytes of a file's name that are no UTF-8 become backslash escapes."""
    return os.fsencode(name).decode("utf8", "backslashreplace")


def escape_name(name: str) -> str:
    """The name of a file or class on one line of printable text; names may hold any bytes.

    Bytes that are no UTF-8, control characters and ends of lines become backslash escapes.
    """
    return "".join(
        char.encode("unicode_escape").decode("ascii") if _breaks(char) else char
        for char in name_text(name)
    )


def escape_label(name: str) -> str:
    """`escape_name` where different names stay different although a reader strips white space.

    That of TFDS does, which also takes a carriage return for the end of a line.
    """
    text = escape_name(name.replace("\\", "\\\\"))
    core = text.strip()
    start = text.index(core)
    spaces = text[:start], text[start + len(core) :]
    before, after = ("".join(f"\\u{ord(char):04x}" for char in part) for part in spaces)
    return before + core + after


def _breaks(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Zl", "Zp")
