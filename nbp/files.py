# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Files of ours, whole or not at all, safe from power failures; files of users, not trusted."""

import codecs
import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import stat
import tempfile
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nbp.errors import FULL, ConfigError, DataError, RestartError

LONGEST_NAME = 255  # bytes of a file's name on every common file system
# Bytes below which a disk counts as full: not even a configuration and a lock would be safe.
LEAST_FREE = 2**20
LONGEST_PART = 200  # bytes of it that a temporary name beside it keeps


def write_text(path: Path, text: str) -> None:
    """Writes a small file whole or not at all, and durably; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
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

    Rights are looked up, which tells why there are none, and then it is tried: neither permissions
    nor the name of a file system tell for certain. Raises ConfigError, in one line that ends with
    the remedy, or RestartError for a full disk.
    """
    try:
        _try_place(Path(os.path.abspath(folder)))
    except (OSError, ValueError) as error:
        what = f"cannot {'write into' if os.path.isdir(folder) else 'make'} the folder {folder}"
        if getattr(error, "errno", None) in FULL:
            raise RestartError(f"{what}: the disk is full. Free space and start again") from error
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{what}: {why}. {remedy}") from error


def _try_place(place: Path) -> None:
    """Makes a file in a folder, or in the nearest above it that is there, and removes it."""
    while not os.path.lexists(place):
        if len(os.fsencode(place.name)) > LONGEST_NAME:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        place = place.parent
    if not os.path.isdir(place):
        kind = "a file" if os.path.exists(place) else "a link to nothing"
        raise NotADirectoryError(errno.ENOTDIR, f"{place} is {kind}")
    if not os.access(place, os.W_OK | os.X_OK):
        readonly = os.statvfs(place).f_flag & os.ST_RDONLY
        why = "the file system is read-only" if readonly else f"no right to write in {place}"
        raise PermissionError(errno.EACCES, why)
    before = os.stat(place)
    handle, name = tempfile.mkstemp(prefix=".nbp-", suffix=".tmp", dir=place)
    os.close(handle)
    os.unlink(name)
    with contextlib.suppress(OSError):  # not the owner's, who alone may set times
        os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    usage = shutil.disk_usage(place)
    if usage.total and usage.free < LEAST_FREE:  # file systems without a size tell nothing
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


class VideoError(DataError):
    """A video or image file that cannot serve.

    `path`, `reason` (one of `nbp.data.video.decode.REASONS`) and `detail`.
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


def make_folder(path: Path) -> None:
    """Makes a folder that the user named; ConfigError where that or a file in it cannot be."""
    check_writable_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {path}: {error.strerror}") from error
