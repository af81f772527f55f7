# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's files: the zip format, TorchScript archives, and the format from before version 1.6.

All hold a pickle that describes nested containers with tensors in them, and the tensors' numbers
outside of it. Tensors get the dotted name of their place, e.g. `state_dict.conv.weight`; what the
containers are for is the business of `nbp.interop.states`.

The old format is five pickles (a magic number, a version, the machine, the content, the keys of the
storages), then each storage in that order: its length as int64 and its numbers, little-endian.
"""

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nbp.errors import CheckpointError
from nbp.interop.archives import OddTensor, Span, StoredTensor, list_zip, locate_member
from nbp.interop.mapping import Tensor
from nbp.interop.unpickle import (
    PICKLE_LIMIT,
    Inert,
    StorageRecord,
    TensorRecord,
    load_pickle,
    shorten,
)

MAGIC = 0x1950A86A20F9469CFC6C  # of the format from before 1.6
PROTOCOL = 1001
NODES_ALLOWED, DEPTH_LIMIT, NAME_LIMIT = 500_000, 200, 500
HINT_LIMIT = 1000  # characters of a text, and bits of a number

Locate = Callable[[StorageRecord], Span]


def find_root(members: Mapping[str, zipfile.ZipInfo]) -> str | None:
    """The folder of PyTorch's pickle in a zip file, "" or "NAME/"; None where it has none."""
    roots = [name.removesuffix("data.pkl") for name in members if name.endswith("data.pkl")]
    roots = [root for root in roots if root == "" or root.count("/") == 1]
    return roots[0] if len(roots) == 1 else None


def read_zip(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], bool]:
    """Tensors and hints of a zip file of PyTorch, and whether it is a TorchScript archive."""
    members = list_zip(path)
    root = find_root(members)
    if root is None:
        raise CheckpointError(f"{path} is a zip file, but neither PyTorch's nor .npz")
    order = members.get(f"{root}byteorder")
    if order is not None:
        _check_order(locate_member(path, order).read(0, min(order.file_size, 20)), path)
    pickled = members[f"{root}data.pkl"]
    if pickled.file_size > PICKLE_LIMIT:
        raise CheckpointError(f"{path}: refused, its pickle has {pickled.file_size} bytes")
    data = locate_member(path, pickled).read().tobytes()
    content = load_pickle(io.BytesIO(data), path, size=len(data))
    spans: dict[str, Span] = {}

    def locate(storage: StorageRecord) -> Span:
        if storage.key not in spans:
            member = f"{root}data/{storage.key}"
            if member not in members:
                raise CheckpointError(f"{path} is damaged: it has no {shorten(member)}")
            spans[storage.key] = locate_member(path, members[member])
        return spans[storage.key]

    scripted = any(name.startswith(f"{root}code/") for name in members)
    return _name_tensors(content, path, locate), _read_hints(content), scripted


def _check_order(order: np.ndarray, path: Path) -> None:
    if order.tobytes() != b"little":
        raise CheckpointError(f"{path} was written on a big-endian machine; not supported")


def read_legacy(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and hints of a file of the format from before PyTorch 1.6."""
    size = path.stat().st_size
    with path.open("rb") as file:

        def load() -> Any:
            return load_pickle(file, path, size=size - file.tell())

        if load() != MAGIC:
            raise CheckpointError(
                f"{path} is a Python pickle, but no weight file of PyTorch: it lacks its mark"
            )
        version, machine = load(), load()
        if version != PROTOCOL:
            raise CheckpointError(f"{path} has version {shorten(str(version))}, known is 1001")
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise CheckpointError(f"{path} was written on a big-endian machine; not supported")
        storages: dict[str, StorageRecord] = {}
        content = load_pickle(file, path, size=size - file.tell(), storages=storages)
        keys = load()
        if not isinstance(keys, list):
            raise CheckpointError(f"{path} is damaged: it has no list of its storages")
        spans = _find_storages(file, path, keys, storages)

    def locate(storage: StorageRecord) -> Span:
        if storage.key not in spans:
            raise CheckpointError(f"{path} is damaged: it has no storage {shorten(storage.key)}")
        return spans[storage.key]

    return _name_tensors(content, path, locate), _read_hints(content)


def _find_storages(
    file: io.BufferedIOBase, path: Path, keys: list[Any], records: Mapping[str, StorageRecord]
) -> dict[str, Span]:
    """Where each storage lies, from the current place of the file on; a length stands before it."""
    spans: dict[str, Span] = {}
    size = path.stat().st_size
    for key in keys:
        name = key.decode("ascii", "replace") if isinstance(key, bytes) else str(key)[:NAME_LIMIT]
        head = file.read(8)
        if len(head) < 8:
            raise CheckpointError(f"{path} is truncated: storage {shorten(name)} is missing")
        count = int.from_bytes(head, "little", signed=True)
        if name not in records or records[name].dtype is None:
            # Without the type of its numbers nobody knows where the next storage begins.
            raise CheckpointError(
                f"{path}: storage {shorten(name)} has numbers of a type that is not read"
            )
        dtype = records[name].dtype
        assert dtype is not None
        start, length = file.tell(), count * dtype.itemsize
        if count < 0 or start + length > size:
            raise CheckpointError(
                f"{path} is truncated: storage {shorten(name)} needs {length} bytes from {start} "
                f"on, the file has {size}"
            )
        spans[name] = Span(path, start, length)
        file.seek(start + length)
    return spans


# Content -----------------------------------------------------------------------------------------


def _walk(content: Any) -> Iterator[tuple[str, Any]]:
    """Values of nested containers and objects under dotted names; each container once.

    An object counts as the dict of its attributes, so modules of TorchScript and of a whole
    pickled network are containers of what is in them.
    """
    seen: set[int] = set()
    stack: list[tuple[str, Any, int]] = [("", content, 0)]
    steps = 0
    while stack:
        prefix, value, depth = stack.pop()
        if isinstance(value, Inert) and not value:
            value = value.state
        if not isinstance(value, dict | list | tuple):
            yield prefix, value
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        if not isinstance(value, dict):
            value = dict(enumerate(value))
        inner = []
        for key, item in value.items():
            name = f"{prefix}.{key}" if prefix else str(key)
            wanted = isinstance(item, dict | list | tuple | TensorRecord)
            if wanted and depth < DEPTH_LIMIT and len(name) <= NAME_LIMIT and name.isprintable():
                inner.append((name, item, depth + 1))
        steps += len(inner)
        if steps > NODES_ALLOWED:
            return
        stack += reversed(inner)


def _name_tensors(content: Any, path: Path, locate: Locate) -> dict[str, Tensor]:
    """All tensors by name; CheckpointError where one does not fit its storage, or without any."""
    tensors: dict[str, Tensor] = {}
    for name, value in _walk(content):
        if isinstance(value, TensorRecord):
            tensors[name or "tensor"] = _resolve(value, path, locate)
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors")
    return tensors


def _resolve(record: TensorRecord, path: Path, locate: Locate) -> Tensor:
    storage, dtype = record.storage, record.dtype
    if storage is None or dtype is None:
        return OddTensor(path, record.problem)
    whole = locate(storage)
    # The storage's own numbers: bytes, where the tensor's type is not that of its storage.
    item = dtype.itemsize if storage.dtype is None else storage.dtype.itemsize
    first, size = storage.first * item, storage.count * item
    if first + size > whole.size:
        raise CheckpointError(
            f"{path} is damaged: storage {shorten(storage.key)} has {whole.size} bytes for "
            f"{storage.count} numbers of {item} bytes from {storage.first} on"
        )
    part = whole if not first and whole.size == size else Span(path, whole.start + first, size)
    return StoredTensor(part, dtype, record.shape, record.strides, record.offset)


def _read_hints(content: Any) -> dict[str, Any]:
    """Plain values beside the tensors, in Lightning's `hyper_parameters` and in `args` in it."""
    hints: dict[str, Any] = {}
    group = content.get("hyper_parameters") if isinstance(content, dict) else None
    for part in (content, group, group.get("args") if isinstance(group, dict) else None):
        for values in (part, getattr(part, "state", None)):
            if isinstance(values, dict):
                hints |= {str(k): v for k, v in values.items() if _is_plain(v)}
    return hints


def _is_plain(value: Any) -> bool:
    if type(value) is str:
        return len(value) <= HINT_LIMIT
    return type(value) is float or (type(value) is int and value.bit_length() <= HINT_LIMIT)
