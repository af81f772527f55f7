# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Writes files as PyTorch does, without PyTorch: the zip archive, its pickle and its storages."""

import argparse
import contextlib
import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STORAGES = {"<f4": "FloatStorage", "<f8": "DoubleStorage", "<i8": "LongStorage"}


@dataclass(frozen=True)
class Lazy:
    """A tensor whose values are made when they are written."""

    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]
    dtype: np.dtype = np.dtype("<f4")  # noqa: RUF009


class Foreign:
    """An instance of a class by its full name, e.g. of Lightning, with attributes."""

    def __init__(self, name: str, /, **attributes: Any) -> None:
        self.name, self.attributes = name, attributes


class _Storage:
    def __init__(self, key: str, tensor: Any) -> None:
        self.key, self.tensor = key, tensor


def write_torch(path: Path, content: Any, *, root: str = "archive") -> None:
    """Writes what `torch.save(content, path)` would: arrays and `Lazy` stand for tensors."""
    storages: list[_Storage] = []
    data = dump_pickle(content, storages)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{root}/data.pkl", data)
        archive.writestr(f"{root}/byteorder", "little")
        for storage in storages:
            tensor = storage.tensor
            values = tensor.make() if isinstance(tensor, Lazy) else tensor
            raw = np.ascontiguousarray(values, tensor.dtype)
            with archive.open(f"{root}/data/{storage.key}", "w", force_zip64=True) as file:
                file.write(raw.tobytes())
        archive.writestr(f"{root}/version", "3\n")


def dump_pickle(content: Any, storages: list[_Storage]) -> bytes:
    """The pickle of PyTorch (protocol 2) and, appended to `storages`, what it refers to."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            if not isinstance(obj, _Storage):
                return None
            kind = getattr(sys.modules["torch"], STORAGES[obj.tensor.dtype.str])
            count = int(np.prod(obj.tensor.shape, dtype=np.int64))
            return ("storage", kind, obj.key, "cpu", count)

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, np.ndarray | Lazy):
                storage = _Storage(str(len(storages)), obj)
                storages.append(storage)
                shape = tuple(obj.shape)
                strides = tuple(
                    int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape))
                )
                rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
                return rebuild, (storage, 0, shape, strides, False, OrderedDict())
            return NotImplemented

    stream = io.BytesIO()
    with _pose(_list_names(content)):
        Pickler(stream, protocol=2).dump(_realise(content))
    return stream.getvalue()


def _realise(content: Any) -> Any:
    """Real instances of the posing classes in place of `Foreign`."""
    if isinstance(content, Foreign):
        module, _, name = content.name.rpartition(".")
        make: Any = getattr(sys.modules[module], name)
        instance: Any = make()
        vars(instance).update({k: _realise(v) for k, v in content.attributes.items()})
        return instance
    if isinstance(content, Mapping):
        kind: Any = type(content)
        return kind((key, _realise(value)) for key, value in content.items())
    return content


def _list_names(content: Any) -> set[str]:
    """The full names of all `Foreign` instances."""
    if isinstance(content, Foreign):
        return {content.name}.union(*(_list_names(v) for v in content.attributes.values()))
    if isinstance(content, Mapping):
        return set().union(*(_list_names(value) for value in content.values()))
    return set()


@contextlib.contextmanager
def _pose(names: set[str]) -> Iterator[None]:
    """Modules of PyTorch and others with the names that a pickle mentions, for a moment."""
    made: dict[str, types.ModuleType] = {}

    def add(module: str, name: str, thing: Any) -> None:
        parts = module.split(".")
        for end in range(1, len(parts) + 1):  # importing a module imports its parents
            parent = ".".join(parts[:end])
            made.setdefault(parent, types.ModuleType(parent))
        thing.__module__, thing.__qualname__, thing.__name__ = module, name, name
        setattr(made[module], name, thing)

    for storage in STORAGES.values():
        add("torch", storage, type(storage, (), {}))
    add("torch._utils", "_rebuild_tensor_v2", lambda *_: None)
    for full in names - {f"{argparse.__name__}.Namespace"}:
        module, _, name = full.rpartition(".")
        add(module, name, type(name, (), {}))
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
