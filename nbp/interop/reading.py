# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Reads weight files of others without trusting them and without torch.

Supported: PyTorch's zip format and the one from before version 1.6 (`.pt`, `.pth`, `.ckpt`,
`.bin`), TorchScript archives, `.safetensors`, `.npz`, and sets of shards with an index
(`*.index.json`), each also as the one set of weights in a folder. The kind is found by looking into
the file. Tensors stay in the file until they are asked for.

Names are full: where tensors lie in nested dictionaries, their names are joined by dots.
"""

import json
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from nbp.errors import CheckpointError
from nbp.interop import kinds, torch_files
from nbp.interop.archives import OddTensor, Span, StoredTensor, dense_strides, list_zip
from nbp.interop.mapping import Tensor
from nbp.interop.unpickle import shorten

HEADER_LIMIT = 32 << 20  # bytes of the header of safetensors, and of an index
NPZ_LIMIT, NPZ_RATIO = 256 << 20, 20  # larger members must not be compressed better than this
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz")  # in a folder, the best first
INDEX = ".index.json"

SAFETENSORS: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
    "C64": np.complex64,
}

Format = Literal["torch", "torch-legacy", "torchscript", "npz", "safetensors"]


@dataclass(frozen=True)
class TensorFile:
    """What a weight file holds.

    Attributes:
        path: of the file, or of the index of a set of shards.
        tensors: by name, unread.
        hints: plain values stored beside them (training flags), by name; may be empty.
        format: of the file, or of the shards.
        files: all that belong to it.
    """

    path: Path
    tensors: dict[str, Tensor]
    hints: dict[str, Any]
    format: Format
    files: tuple[Path, ...] = ()


def open_tensors(path: Path, *, get: str = "") -> TensorFile:
    """Lists the tensors of a weight file, of a set of shards, or of the one set in a folder.

    get: which file to fetch instead of a wrong one, for messages.

    Raises:
        CheckpointError: absent, truncated, of an unknown or obsolete format, or hostile.
    """
    try:
        if path.is_dir():
            path = _choose_in_folder(path, get)
        if not path.is_file():
            raise CheckpointError(f"no file {path}")
        if path.name.endswith(INDEX):
            return _open_index(path, get)
        return _open_file(path, get)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def _open_file(path: Path, get: str) -> TensorFile:
    with path.open("rb") as file:
        head = file.read(kinds.HEAD)
    shard = kinds.read_shard(path.name)
    if shard and shard[2] > 1:
        found = _find_index(path.parent, shard[0])
        rest = f"name its index {found.name}" if found else "fetch the index beside it as well"
        raise CheckpointError(
            f"{path} is part {shard[1]} of {shard[2]}: {rest}, or name the folder, with all parts"
        )
    if head.startswith(b"PK\3\4"):
        return _open_zip(path, get)
    if head[8:9] == b"{" or (path.suffix == ".safetensors" and head):
        if not _looks_wrong(path, head):
            return TensorFile(path, _open_safetensors(path), {}, "safetensors", (path,))
    elif head.startswith((b"\x80\x02", b"\x80\x03")):
        tensors, hints = torch_files.read_legacy(path)
        return TensorFile(path, tensors, hints, "torch-legacy", (path,))
    elif head[:1] == b"\x80" and head[1:2] in (b"\4", b"\5"):
        raise CheckpointError(
            f"{path} is a Python pickle, but no weight file of PyTorch{_tell(get)}"
        )
    raise CheckpointError(f"{path} {kinds.name_kind(path, head)}{_tell(get)}")


def _looks_wrong(path: Path, head: bytes) -> bool:
    """Whether a file that is called .safetensors is, say, an HTML page."""
    return head[8:9] != b"{" and kinds.name_kind(path, head) != "is no weight file"


def _tell(get: str) -> str:
    readable = "read are PyTorch files, .safetensors and .npz"
    return f"; {readable}" + (f": {get}" if get else "")


def _open_zip(path: Path, get: str) -> TensorFile:
    members = list_zip(path)
    if members and all(name.endswith(".npy") for name in members):
        return TensorFile(path, _open_npz(path, members), {}, "npz", (path,))
    if torch_files.find_root(members) is None:
        raise CheckpointError(
            f"{path} is a zip file, but neither PyTorch's nor .npz; it holds "
            f"{', '.join(shorten(name) for name in list(members)[:3]) or 'nothing'}{_tell(get)}"
        )
    tensors, hints, scripted = torch_files.read_zip(path)
    return TensorFile(path, tensors, hints, "torchscript" if scripted else "torch", (path,))


# Several files -----------------------------------------------------------------------------------


def _choose_in_folder(folder: Path, get: str) -> Path:
    """The one set of weights in a folder: an index, else the only file of the best kind."""
    entries = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    indices = [p for p in entries if p.name.endswith(INDEX)]
    for suffix in WEIGHTS:
        found = [p for p in indices if p.name.endswith(suffix + INDEX)]
        found += [p for p in entries if p.suffix == suffix and not kinds.read_shard(p.name)]
        if len(found) > 1:
            names = ", ".join(p.name for p in found[:4])
            raise CheckpointError(f"{folder} holds several weight files: name one of {names}")
        if found:
            return found[0]
    if any(kinds.read_shard(p.name) for p in entries):
        raise CheckpointError(f"{folder} holds shards without their index (*{INDEX}): fetch it too")
    raise CheckpointError(f"{folder} {kinds.name_folder(folder)}{_tell(get)}")


def _find_index(folder: Path, whole: str) -> Path | None:
    path = folder / f"{whole}{INDEX}"
    return path if path.is_file() else None


def _open_index(path: Path, get: str) -> TensorFile:
    """A set of shards: the index says which file holds which tensor."""
    if path.stat().st_size > HEADER_LIMIT:
        raise CheckpointError(f"{path}: refused, an index of {path.stat().st_size} bytes")
    try:
        table = json.loads(path.read_text(encoding="utf8"))["weight_map"]
        names = sorted(set(table.values()))
        if not names or not all(isinstance(n, str) and n == Path(n).name for n in names):
            raise ValueError("it names files outside its folder, or none")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no index of shards: {shorten(str(error))}") from error
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{path} names {len(names)} files, {len(missing)} of them missing beside it: fetch "
            f"{shorten(missing[0])}" + (" and the others" if missing[1:] else "")
        )
    shards = {name: _open_shard(path.parent / name, get) for name in names}
    tensors: dict[str, Tensor] = {}
    for tensor, name in table.items():
        if tensor not in shards[name].tensors:
            raise CheckpointError(
                f"{path.parent / name} lacks the tensor {shorten(tensor)} that {path.name} says "
                "it has: index and shards are of different downloads"
            )
        tensors[tensor] = shards[name].tensors[tensor]
    files = (path, *(path.parent / name for name in names))
    return TensorFile(path, tensors, {}, next(iter(shards.values())).format, files)


def _open_shard(path: Path, get: str) -> TensorFile:
    with path.open("rb") as file:
        head = file.read(kinds.HEAD)
    if head.startswith(b"PK\3\4"):
        return _open_zip(path, get)
    if head[8:9] == b"{":
        return TensorFile(path, _open_safetensors(path), {}, "safetensors", (path,))
    if head[:1] == b"\x80":
        tensors, hints = torch_files.read_legacy(path)
        return TensorFile(path, tensors, hints, "torch-legacy", (path,))
    raise CheckpointError(f"{path} {kinds.name_kind(path, head)}{_tell(get)}")


# Other formats -----------------------------------------------------------------------------------


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    """Checks that the header describes every byte of the file exactly once."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise CheckpointError(f"{path} is truncated or no safetensors file")
        if length > HEADER_LIMIT:
            raise CheckpointError(f"{path}: refused, its header has {length} bytes")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_refuse_duplicates)
        header.pop("__metadata__", None)
        entries = sorted((e["data_offsets"], e["dtype"], e["shape"], n) for n, e in header.items())
        tensors: dict[str, Tensor] = {}
        end = 0
        for (start, stop), kind, shape, name in entries:
            if type(start) is not int or type(stop) is not int:
                raise ValueError(f"{shorten(name)} begins or ends at no whole number")
            if start != end or not start <= stop <= size:
                raise ValueError(f"{shorten(name)} begins at byte {start}, expected {end}")
            end = stop
            if kind not in SAFETENSORS:
                problem = f"has numbers of the unknown type {shorten(str(kind))}"
                tensors[name] = OddTensor(path, problem)
                continue
            dtype, sides = np.dtype(SAFETENSORS[kind]), tuple(shape)
            span = Span(path, 8 + length + start, stop - start)
            tensors[name] = StoredTensor(span, dtype, sides, dense_strides(sides))
            if int(np.prod(sides, dtype=object)) * dtype.itemsize != stop - start:
                raise ValueError(f"{shorten(name)} does not fill its {stop - start} bytes")
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if 8 + length + end != size:
        raise CheckpointError(f"{path} is truncated: {size} bytes, header says {8 + length + end}")
    return tensors


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("the header names a tensor twice")
    return dict(pairs)


# What NumPy, which parses a header as Python's text, and zipfile raise for damaged members.
_NPY_ERRORS = (
    *(ValueError, TypeError, KeyError, OverflowError, SyntaxError, RecursionError, EOFError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error, OSError),
)


def _explain(member: str, error: BaseException) -> str:
    """One short line."""
    text = " ".join(str(error).split())
    return f"{shorten(member)}: {text[:200] or type(error).__name__}"


@dataclass(frozen=True)
class _NpyTensor:
    """A member of an .npz file."""

    path: Path
    member: str
    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                return np.lib.format.read_array(file, allow_pickle=False)
        except _NPY_ERRORS as error:
            raise CheckpointError(
                f"{self.path} is damaged: {_explain(self.member, error)}"
            ) from error


_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _open_npz(path: Path, members: Mapping[str, zipfile.ZipInfo]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    with zipfile.ZipFile(path) as archive:
        for member, info in members.items():
            bomb = info.file_size > NPZ_LIMIT and info.file_size > NPZ_RATIO * info.compress_size
            if bomb:
                raise CheckpointError(f"{path}: refused, {member} unpacks to {info.file_size} B")
            try:
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    shape, _, dtype = _NPY_HEADERS[version](file)
            except _NPY_ERRORS as error:
                raise CheckpointError(f"{path} is damaged: {_explain(member, error)}") from error
            if dtype.hasobject or int(np.prod(shape, dtype=object)) * dtype.itemsize > (
                info.file_size
            ):
                raise CheckpointError(f"{path}: refused, {member} is no plain array")
            tensors[member.removesuffix(".npy")] = _NpyTensor(path, member, dtype, shape)
    return tensors
