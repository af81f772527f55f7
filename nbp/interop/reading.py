# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Reads weight files of others without trusting them and without torch.

Supported: PyTorch's zip format (`.pt`, `.ckpt`), TorchScript archives, `.safetensors`, `.npz`. The
kind is found by looking into the file. Tensors stay in the file until they are asked for.

The pickle inside a PyTorch file is read by an unpickler that knows a fixed list of names: tensor
rebuilding, storages, containers. Nothing is imported and nothing of the file is called. Names of
Lightning, argparse and the like become inert placeholders; any other name is an error.

This is the only module that may import pickle (tests/test_architecture.py lists it).
"""

import io
import json
import pickle  # allowed here only: see the module's text
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from nbp.errors import CheckpointError
from nbp.interop.archives import (
    Span,
    StoredTensor,
    dense_strides,
    list_zip,
    locate_member,
)
from nbp.interop.mapping import Tensor

PICKLE_LIMIT = 64 << 20  # bytes; a list of tensors needs a few hundred bytes for each
HEADER_LIMIT = 100 << 20  # of safetensors, as in its reference implementation
NPZ_LIMIT, NPZ_RATIO = 256 << 20, 20  # larger members must not be compressed better than this
NODES_ALLOWED, DEPTH_LIMIT = 100_000, 64  # of nested modules

STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
SAFETENSORS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
# What may occur beside tensors in published checkpoints; none of it is ever looked up or run.
INERT = re.compile(
    r"collections\.(OrderedDict|defaultdict|Counter)|argparse\.Namespace|_codecs\.encode"
    r"|(__builtin__|builtins)\.(set|frozenset|bytearray|complex|slice)|pathlib\.\w*Path"
    r"|torch\.(device|Size|float32|float16|float64|bfloat16|int64|int32)"
    r"|torch\.jit\._pickle\.(build_\w+list|restore_type_tag)"
    r"|(pytorch_lightning|lightning|lightning_fabric|deepspeed|omegaconf|__torch__)\.[\w.]+"
    r"|numpy(\._?core\.multiarray)?\.(scalar|dtype|ndarray|_reconstruct)"
)
STATES = ("state_dict", "model_state_dict", "model", "module", "state")


@dataclass(frozen=True)
class TensorFile:
    """What a weight file holds.

    Attributes:
        tensors: by name, unread.
        hints: plain values stored beside them (training flags), by name; may be empty.
        format: of the file.
    """

    path: Path
    tensors: dict[str, Tensor]
    hints: dict[str, Any]
    format: Literal["torch", "torchscript", "npz", "safetensors"]


def open_tensors(path: Path) -> TensorFile:
    """Lists the tensors of a weight file.

    Raises:
        CheckpointError: absent, truncated, of an unknown or obsolete format, or hostile.
    """
    if not path.is_file():
        raise CheckpointError(f"no file {path}")
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\3\4"):
        return _open_zip(path)
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return TensorFile(path, _open_safetensors(path), {}, "safetensors")
    if head.startswith(b"\x80") or head[257:262] == b"ustar":
        raise CheckpointError(
            f"{path} has PyTorch's format from before version 1.6, which cannot be read safely. "
            "Where you trust it: torch.save(torch.load(OLD, weights_only=True), NEW)"
        )
    raise CheckpointError(
        f"{path} is no weight file: neither a PyTorch zip file, .safetensors nor .npz"
        + (" (it is empty)" if not head else "")
    )


def _open_zip(path: Path) -> TensorFile:
    members = list_zip(path, compressed=True)
    if members and all(name.endswith(".npy") for name in members):
        return TensorFile(path, _open_npz(path, members), {}, "npz")
    members = list_zip(path)
    roots = [name.removesuffix("data.pkl") for name in members if name.endswith("data.pkl")]
    roots = [root for root in roots if root == "" or root.count("/") == 1]
    if len(roots) != 1:
        raise CheckpointError(f"{path} is a zip file, but neither PyTorch's nor .npz")
    return _open_torch(path, roots[0], members)


# PyTorch -----------------------------------------------------------------------------------------


def _open_torch(path: Path, root: str, members: Mapping[str, zipfile.ZipInfo]) -> TensorFile:
    order = members.get(f"{root}byteorder")
    if order is not None and locate_member(path, order).read().tobytes() != b"little":
        raise CheckpointError(f"{path} was written on a big-endian machine; not supported")
    content, unpickler = _unpickle(path, root, members)
    named: dict[str, Any] = {}
    scripted = any(name.startswith(f"{root}code/") for name in members)
    if scripted:
        named = dict(_walk(content, path))
    elif isinstance(content, dict):
        state = next((content[k] for k in STATES if isinstance(content.get(k), dict)), content)
        named = {str(name): value for name, value in state.items()}
    found = {name: unpickler.find_tensor(value) for name, value in named.items()}
    tensors: dict[str, Tensor] = {k: tensor for k, tensor in found.items() if tensor is not None}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors under any of {', '.join(STATES)}")
    kind = "torchscript" if scripted else "torch"
    return TensorFile(path, tensors, _read_hints(content), kind)


class _Inert(dict):
    """Stands for any container or object: keeps items and state, does nothing."""

    state: Any = None

    def __new__(cls, *_: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: object) -> None:
        """Lists and sets lose their items: nobody asks for them."""

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__


@dataclass(frozen=True, slots=True)
class _StorageType:
    dtype: Any


@dataclass(frozen=True, slots=True)
class _Reference:
    index: Any


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: Any
    key: Any
    count: Any


class _Unpickler(pickle._Unpickler):  # the Python one: its memo cannot be made to allocate
    """Builds tensors and inert placeholders, refuses everything else."""

    def __init__(self, data: bytes, path: Path, root: str, members: Mapping[str, Any]) -> None:
        super().__init__(io.BytesIO(data), encoding="utf8")
        self._path, self._root, self._members = path, root, members
        self._spans: dict[str, Span] = {}
        self._tensors: list[StoredTensor] = []  # out of reach of the pickle's instructions

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if module == "torch" and name in STORAGES:
            return _StorageType(np.dtype(STORAGES[name]))
        if full in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
            return self._rebuild
        if full == "torch._utils._rebuild_parameter":
            return self._keep_first
        if INERT.fullmatch(full):
            return _Inert
        raise CheckpointError(
            f"{self._path}: refused, its pickle wants to import {full!r}. Only tensors, plain "
            "containers and Lightning's bookkeeping are read; nothing of it was run."
        )

    def persistent_load(self, pid: Any) -> Any:
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(storage, _StorageType):
            raise CheckpointError(f"{self._path}: refused, unknown persistent object {kind!r}")
        return _Storage(storage.dtype, key, count)

    def _keep_first(self, value: object, *_: object) -> object:
        return value

    def _rebuild(
        self, storage: Any, offset: Any, shape: Any, strides: Any, *_: object
    ) -> "_Reference":
        if not isinstance(storage, _Storage) or not isinstance(storage.dtype, np.dtype):
            raise CheckpointError(f"{self._path} is damaged: a tensor without storage")
        span = self._locate(str(storage.key))
        if span.size < storage.count * storage.dtype.itemsize:
            raise CheckpointError(
                f"{self._path} is damaged: storage {storage.key} has {span.size} bytes for "
                f"{storage.count} numbers of {storage.dtype}"
            )
        self._tensors.append(
            StoredTensor(span, storage.dtype, tuple(shape), tuple(strides), offset)
        )
        return _Reference(len(self._tensors) - 1)

    def find_tensor(self, value: object) -> StoredTensor | None:
        """The tensor that a value of the loaded content stands for, if it does."""
        if not isinstance(value, _Reference) or type(value.index) is not int:
            return None
        return self._tensors[value.index] if 0 <= value.index < len(self._tensors) else None

    def _locate(self, key: str) -> Span:
        if key not in self._spans:
            member = f"{self._root}data/{key}"
            if member not in self._members:
                raise CheckpointError(f"{self._path} is damaged: it has no {member}")
            self._spans[key] = locate_member(self._path, self._members[member])
        return self._spans[key]


def _unpickle(
    path: Path, root: str, members: Mapping[str, zipfile.ZipInfo]
) -> tuple[Any, _Unpickler]:
    info = members[f"{root}data.pkl"]
    if info.file_size > PICKLE_LIMIT:
        raise CheckpointError(f"{path}: refused, its pickle has {info.file_size} bytes")
    data = locate_member(path, info).read().tobytes()
    try:
        unpickler = _Unpickler(data, path, root, members)
        return unpickler.load(), unpickler
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise CheckpointError(
            f"{path} is damaged: its pickle ends in {type(error).__name__}: {error}"
        ) from error


def _walk(content: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Leaves of nested modules (TorchScript) under dotted names."""
    stack = [("", content, 0)]
    for _ in range(NODES_ALLOWED):
        if not stack:
            return
        prefix, value, depth = stack.pop()
        nested = value.state if isinstance(value, _Inert) and value.state is not None else value
        if not isinstance(nested, dict):
            yield prefix, nested
        elif depth < DEPTH_LIMIT:
            inner = [
                (f"{prefix}.{k}" if prefix else str(k), v, depth + 1) for k, v in nested.items()
            ]
            stack += reversed(inner)
    raise CheckpointError(f"{path}: refused, its modules are nested without end")


def _read_hints(content: Any) -> dict[str, Any]:
    """Plain values beside the tensors, in Lightning's `hyper_parameters` and in `args` in it."""
    hints: dict[str, Any] = {}
    group = content.get("hyper_parameters") if isinstance(content, dict) else None
    for part in (content, group, group.get("args") if isinstance(group, dict) else None):
        for values in (part, getattr(part, "state", None)):
            if isinstance(values, dict):
                hints |= {str(k): v for k, v in values.items() if type(v) in (int, float, str)}
    return hints


# Other formats -----------------------------------------------------------------------------------


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    """Checks that the header describes every byte of the file exactly once."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(HEADER_LIMIT, size - 8):
            raise CheckpointError(f"{path} is truncated or no safetensors file")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_refuse_duplicates)
        header.pop("__metadata__", None)
        entries = sorted((e["data_offsets"], e["dtype"], e["shape"], n) for n, e in header.items())
        tensors: dict[str, Tensor] = {}
        end = 0
        for (start, stop), kind, shape, name in entries:
            if kind not in SAFETENSORS:
                raise ValueError(f"{name} has the unknown type {kind}")
            dtype, sides = np.dtype(SAFETENSORS[kind]), tuple(shape)
            if start != end or stop < start:
                raise ValueError(f"{name} begins at byte {start}, expected {end}")
            span = Span(path, 8 + length + start, stop - start)
            tensors[name] = StoredTensor(span, dtype, sides, dense_strides(sides))
            if int(np.prod(sides, dtype=object)) * dtype.itemsize != stop - start:
                raise ValueError(f"{name} {list(sides)} does not fill its {stop - start} bytes")
            end = stop
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
        except (ValueError, zipfile.BadZipFile, OSError, EOFError) as error:
            raise CheckpointError(f"{self.path}: {self.member}: {error}") from error


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
            except (ValueError, KeyError, zipfile.BadZipFile, OSError, EOFError) as error:
                raise CheckpointError(f"{path} is damaged: {member}: {error}") from error
            if dtype.hasobject or int(np.prod(shape, dtype=object)) * dtype.itemsize > (
                info.file_size
            ):
                raise CheckpointError(f"{path}: refused, {member} is no plain array")
            tensors[member.removesuffix(".npy")] = _NpyTensor(path, member, dtype, shape)
    return tensors
