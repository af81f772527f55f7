# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Where the bytes of tensors lie in a file, and zip files that are listed but never extracted."""

import math
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from nbp.errors import CheckpointError
from nbp.interop.mapping import Shape

MEMBERS_ALLOWED = 100_000
NUMBER_LIMIT = 1 << 48  # of a tensor: its elements, their distances
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # of a zip member; the two last are name and extra sizes


@dataclass(frozen=True)
class Span:
    """Bytes `[start, start + size)` of a file; `checksum` is their CRC-32, None if unknown."""

    path: Path
    start: int
    size: int
    checksum: int | None = None

    def read(self, offset: int = 0, size: int | None = None) -> np.ndarray:
        """uint8 of a part, by default of everything; a whole span is checked."""
        size = self.size - offset if size is None else size
        data = np.fromfile(self.path, np.uint8, count=size, offset=self.start + offset)
        if data.size != size:
            raise CheckpointError(f"{self.path} became shorter while it was read")
        whole = offset == 0 and size == self.size
        if whole and self.checksum is not None and zlib.crc32(data.data) != self.checksum:
            raise CheckpointError(
                f"{self.path} is damaged: the bytes at {self.start} do not have their checksum. "
                "Fetch the file again."
            )
        return data


@dataclass(frozen=True)
class StoredTensor:
    """A tensor inside a file, read on demand. offset and strides count elements of its span.

    Strides of 0 let few bytes pose as many. What is read then is a view of these few: who copies
    it knows the shape that is wanted.
    """

    span: Span
    dtype: np.dtype
    shape: Shape
    strides: Shape
    offset: int = 0

    def __post_init__(self) -> None:
        numbers = (*self.shape, *self.strides, self.offset)
        sane = all(type(n) is int and 0 <= n <= NUMBER_LIMIT for n in numbers)
        sane = sane and math.prod(self.shape) <= NUMBER_LIMIT
        if not sane or len(self.shape) != len(self.strides) or len(self.shape) > 32:
            raise CheckpointError(f"{self.span.path} is damaged: a tensor of impossible shape")
        if (self.offset + self.extent) * self.dtype.itemsize > self.span.size:
            raise CheckpointError(
                f"{self.span.path} is damaged: a tensor of shape {list(self.shape)} reaches beyond "
                f"its {self.span.size} bytes"
            )

    @property
    def extent(self) -> int:
        """Elements from the first to the last one, both included."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))

    def read(self) -> np.ndarray:
        item = self.dtype.itemsize
        data = self.span.read(self.offset * item, self.extent * item).view(self.dtype)
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        steps = tuple(s * item for s in self.strides)
        return np.lib.stride_tricks.as_strided(data, self.shape, steps, writeable=False)


@dataclass(frozen=True)
class OddTensor:
    """A tensor that is there but cannot be read; it harms nobody who does not need it."""

    path: Path
    problem: str
    shape: Shape = ()
    dtype: np.dtype = np.dtype(np.void)  # noqa: RUF009 - a constant

    def read(self) -> np.ndarray:
        raise CheckpointError(f"{self.path}: a tensor that is needed {self.problem}")


def dense_strides(shape: Shape) -> Shape:
    """Strides in elements of a C-ordered array."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def list_zip(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The members of a zip file by name.

    Raises CheckpointError for a damaged file and for everything that no honest writer produces:
    paths out of the archive, duplicates, links, encryption, and members that overlap or claim more
    than the file holds. Members may be compressed (PyTorch compresses source texts); whoever reads
    one looks at the size that it claims first.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"{path} is truncated or damaged: {error}") from error
    if len(infos) > MEMBERS_ALLOWED:
        raise CheckpointError(f"{path} has {len(infos)} members, more than {MEMBERS_ALLOWED}")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        problem = _find_problem(info)
        if info.filename in members:
            problem = "occurs twice"
        if problem:
            raise CheckpointError(f"{path}: refused, member {info.filename[:200]!a} {problem}")
        members[info.filename] = info
    size = path.stat().st_size
    if sum(info.compress_size for info in infos) > size:
        raise CheckpointError(f"{path} is truncated or damaged: members overlap")
    return members


def locate_member(path: Path, info: zipfile.ZipInfo) -> Span:
    """The bytes of a member, which must be stored without compression, as PyTorch stores data."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(f"{path}: refused, member {info.filename!a} is compressed")
    with path.open("rb") as file:
        file.seek(info.header_offset)
        head = file.read(_LOCAL_HEADER.size)
        if len(head) < _LOCAL_HEADER.size or not head.startswith(b"PK\3\4"):
            raise CheckpointError(f"{path} is damaged: no header of {info.filename!r}")
        *_, name, extra = _LOCAL_HEADER.unpack(head)
        start = info.header_offset + _LOCAL_HEADER.size + name + extra
    if start + info.file_size > path.stat().st_size:
        raise CheckpointError(f"{path} is truncated: {info.filename!r} reaches beyond its end")
    # A writer that was told not to compute checksums leaves a zero.
    return Span(path, start, info.file_size, info.CRC or None)


def _find_problem(info: zipfile.ZipInfo) -> str:
    name = PurePosixPath(info.filename)
    odd = "\\" in info.filename or ":" in info.filename or "\0" in info.orig_filename
    if name.is_absolute() or ".." in name.parts or odd or not name.parts:
        return "lies outside the archive"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if info.flag_bits & 0x60 or info.compress_type not in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
    ):
        return "is packed in a way that neither PyTorch nor NumPy uses"
    stored = info.compress_type == zipfile.ZIP_STORED
    if stored and info.compress_size != info.file_size:
        return "has contradictory sizes"
    return ""
