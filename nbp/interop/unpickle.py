# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the pickles of PyTorch's files without running anything of them.

A pickle is a program for a small machine that can import names and call them. This machine imports
nothing and calls nothing: a name becomes a `Symbol`, a call of the known functions that rebuild
tensors becomes a `TensorRecord`, any other call becomes an empty placeholder that keeps items and
state (`Inert`). So every class of a stranger's project can stand beside the weights and costs
nothing. Names that no honest checkpoint has (functions of the standard library, loaders) are
refused aloud, so that a hostile file is told as such.

Work is bounded by the size of the pickle: numbers of steps and lengths are checked before anything
is made of them, and nothing is hashed or printed that the file could have nested.

This is the only module that may import pickle (tests/test_architecture.py lists it).
"""

import io
import pickle
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from nbp.errors import CheckpointError

PICKLE_LIMIT = 64 << 20  # bytes; a list of tensors needs a few hundred bytes for each
STEPS_LIMIT = 4_000_000  # instructions and lengths read; a tensor needs about 100
NUMBER_LIMIT = 1 << 10  # bytes of a whole number
SHOWN = 100  # characters of a name in a message

DTYPES: dict[str, Any] = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
    "complex64": np.complex64,
    "complex128": np.complex128,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
}
STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
# What an honest checkpoint may name of the standard library.
LIBRARY = re.compile(
    r"collections\.\w+|argparse\.Namespace|types\.SimpleNamespace|_codecs\.encode"
    r"|functools\.partial|enum\.\w+|typing\.\w+|datetime\.\w+|decimal\.Decimal|uuid\.UUID"
    r"|fractions\.Fraction|copy_?reg\._reconstructor|(pathlib|pathlib\._local)\.\w*Path"
    r"|random\.Random|logging\.(Logger|RootLogger|getLogger)|weakref\.\w+|abc\.\w+"
    r"|(__builtin__|builtins)\.(set|frozenset|bytearray|complex|slice|range|xrange|object|dict|list"
    r"|tuple|int|long|float|str|unicode|bytes|bool|type|NoneType)"
)
# Of other packages: what only somebody who wants to run something names.
LOADERS = re.compile(
    r"numpy\.(load\w*|save\w*|memmap|fromfile|lib|f2py|testing|distutils)\b.*"
    r"|torch\.(load|save|hub|package|ops|classes|testing|multiprocessing|compile|onnx|_dynamo"
    r"|_inductor|serialization\.(load|save)|distributed\.(rpc|run|launch|elastic))\b.*"
    r"|torch\.(jit\.(?!_pickle\.)|utils\.(?!data\.|_pytree\.|hooks\.)).*"
    r"|(cloudpickle|dill|joblib|pip|setuptools|pkg_resources|IPython|yaml|paramiko|requests|fabric"
    r"|invoke|sh)\..*"
)
# Names of the standard library that Python 2 had.
OLD_LIBRARY = {"__builtin__", "copy_reg", "commands", "exceptions", "popen2", "urllib2", "cPickle"}

_REBUILD = re.compile(r"torch\._utils\._rebuild_tensor(_v2|_v3)?")
_PARAMETER = re.compile(
    r"torch\._utils\._rebuild_parameter(_with_state)?|torch\.nn(\.parameter)?\.(Parameter|Buffer)"
)
_WRAPPED = re.compile(r"torch\._tensor\._rebuild_from_type(_v2)?")
_MAPPING = re.compile(r"collections\.(OrderedDict|defaultdict|Counter)|\w+\.dict")


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name that a pickle mentions; nothing was imported."""

    name: str

    @property
    def dtype(self) -> np.dtype | None:
        """The type of the numbers that a storage class or a dtype of torch has."""
        module, _, last = self.name.rpartition(".")
        if module.partition(".")[0] != "torch":
            return None
        known = DTYPES.get(STORAGES.get(last, last))
        return None if known is None else np.dtype(known)


class Inert(dict):
    """Stands for any container or object: keeps items and state, does nothing."""

    state: Any = None

    def append(self, item: object) -> None:
        """Other lists and sets lose their items: nobody asks for them."""

    def extend(self, items: object) -> None:
        """As `append`."""

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__


@dataclass(frozen=True, slots=True, eq=False)
class StorageRecord:
    """Numbers of a file: `count` of them from `first` on, under a key. dtype: None if unknown."""

    dtype: np.dtype | None
    key: str
    count: int
    first: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class TensorRecord:
    """A tensor as the pickle describes it, unchecked; `problem` says why it cannot be read."""

    storage: StorageRecord | None
    offset: Any = 0
    shape: tuple[Any, ...] = ()
    strides: tuple[Any, ...] = ()
    dtype: np.dtype | None = None
    problem: str = ""


class _Stream(io.BufferedIOBase):
    """The pickle's bytes from the current place of a file on, counted: see `STEPS_LIMIT`."""

    def __init__(self, file: io.BufferedIOBase, size: int) -> None:
        super().__init__()
        self._file, self.left, self.steps = file, size, 0

    def _count(self, data: bytes) -> bytes:
        self.steps += 1
        self.left -= len(data)
        if self.steps > STEPS_LIMIT:
            raise ValueError(f"it has more than {STEPS_LIMIT} steps")
        return data

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= self.left:
            raise EOFError("it ends too early")
        return self._count(self._file.read(size))

    def readline(self, size: int | None = -1) -> bytes:
        del size
        return self._count(self._file.readline(self.left))


def shorten(text: str) -> str:
    """Text of a stranger for a message: quoted, of bounded length, on one line."""
    return ascii(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def load_pickle(
    file: io.BufferedIOBase,
    path: Path,
    *,
    size: int,
    storages: dict[str, StorageRecord] | None = None,
) -> Any:
    """What the pickle at the current place of a file describes; the file then stands behind it.

    size: bytes that it may have. storages: gets all that the pickle refers to, by key. The result
    holds plain numbers, texts, lists, tuples and dicts, and the classes of this module. Raises
    CheckpointError for a damaged or a hostile pickle.
    """
    try:
        found = {} if storages is None else storages
        return _Unpickler(_Stream(file, min(size, PICKLE_LIMIT)), path, found).load()
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        told = shorten(str(error))[1:-1]
        raise CheckpointError(
            f"{path} is damaged: its pickle ends in {type(error).__name__}: {told}"
        ) from error


class _Unpickler(pickle._Unpickler):  # the Python one: its memo cannot be made to allocate
    """Builds records and placeholders; see the module's text."""

    stack: list[Any]
    append: Callable[[Any], None]

    def __init__(self, stream: _Stream, path: Path, storages: dict[str, StorageRecord]) -> None:
        super().__init__(stream, encoding="utf8")  # type: ignore[arg-type]
        self._path, self._storages = path, storages

    def find_class(self, module: str, name: str) -> Symbol:
        full = f"{module}.{name}"
        root = module.partition(".")[0]
        library = root in sys.stdlib_module_names or root in OLD_LIBRARY
        if not LIBRARY.fullmatch(full) if library else LOADERS.fullmatch(full):
            raise CheckpointError(
                f"{self._path}: refused, its pickle wants to import {shorten(full)}, which no "
                "checkpoint needs; nothing of it was run. Fetch the file from its authors"
            )
        return Symbol(full)

    def persistent_load(self, pid: Any) -> Any:
        kind = pid[0] if isinstance(pid, tuple) and pid else None
        if isinstance(kind, bytes):
            kind = kind.decode("ascii", "replace")
        if kind == "module" and len(pid) > 1:  # a whole module, with its source text beside it
            return pid[1]
        if kind != "storage" or len(pid) < 5 or not isinstance(pid[1], Symbol):
            raise CheckpointError(f"{self._path} is damaged: it has an unknown persistent object")
        _, symbol, key, _, count, *view = pid
        if type(count) is not int or not 0 <= count < 1 << 60 or type(key) not in (str, int, bytes):
            raise CheckpointError(f"{self._path} is damaged: a storage of impossible size")
        name = key.decode("ascii", "replace") if isinstance(key, bytes) else str(key)
        record = self._storages.setdefault(name, StorageRecord(symbol.dtype, name, count))
        if view and view[0] is not None:  # the oldest files: a part of another storage
            _, first, length = view[0]
            if type(first) is not int or type(length) is not int or first < 0 or length < 0:
                raise CheckpointError(f"{self._path} is damaged: a view of impossible size")
            return StorageRecord(record.dtype, name, length, first)
        return record

    def _call(self, function: Any, arguments: Any) -> Any:
        """What a call would have made: a record or a placeholder."""
        if not isinstance(function, Symbol) or not isinstance(arguments, tuple):
            raise ValueError("it calls what is no function")
        name = function.name
        if _REBUILD.fullmatch(name):
            return _rebuild(*arguments)
        if _PARAMETER.fullmatch(name) and arguments:
            return arguments[0]
        if _WRAPPED.fullmatch(name) and len(arguments) > 2:
            return self._call(arguments[0], arguments[2])
        if name.startswith("torch._utils._rebuild_"):
            kind = name.removeprefix("torch._utils._rebuild_")
            return TensorRecord(None, problem=f"is of a kind that is not read ({shorten(kind)})")
        if name == "torch.jit._pickle.restore_type_tag" and arguments:
            return arguments[0]
        made = Inert()
        if _MAPPING.fullmatch(name) and arguments:  # Python 2 wrote its items as an argument
            _fill(made, arguments[-1])
        return made

    # Instructions. Those of calling, of state and of items never meet an object of ours.

    def _do_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def _do_newobj_ex(self) -> None:
        self.stack.pop()  # arguments by name
        self._do_reduce()

    def _do_obj(self) -> None:
        function, *arguments = self.pop_mark()  # type: ignore[attr-defined]
        self.append(self._call(function, tuple(arguments)))

    def _do_inst(self) -> None:
        module = self.readline()[:-1].decode("ascii")  # type: ignore[attr-defined]
        name = self.readline()[:-1].decode("ascii")  # type: ignore[attr-defined]
        arguments = tuple(self.pop_mark())  # type: ignore[attr-defined]
        self.append(self._call(self.find_class(module, name), arguments))

    def _do_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.state = state
        elif isinstance(target, Symbol):
            raise ValueError("it changes a class or a function")

    def _do_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _fill(self.stack[-1], [(key, value)])

    def _do_setitems(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        _fill(self.stack[-1], list(zip(items[::2], items[1::2], strict=True)))

    def _do_append(self) -> None:
        item = self.stack.pop()
        if isinstance(self.stack[-1], list):
            self.stack[-1].append(item)

    def _do_appends(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def _do_dict(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        made: dict[Any, Any] = {}
        _fill(made, list(zip(items[::2], items[1::2], strict=True)))
        self.append(made)

    def _do_set(self) -> None:
        self.append(Inert())

    def _do_items(self) -> None:
        self.pop_mark()  # type: ignore[attr-defined]

    def _do_frozenset(self) -> None:
        self.pop_mark()  # type: ignore[attr-defined]
        self.append(Inert())

    def _do_frame(self) -> None:
        self.read(8)  # type: ignore[attr-defined]  # frames only help to read ahead

    def _do_long4(self) -> None:
        size = int.from_bytes(self.read(4), "little")  # type: ignore[attr-defined]
        if size > NUMBER_LIMIT:
            raise ValueError(f"a number of {size} bytes")
        self.append(int.from_bytes(self.read(size), "little", signed=True))  # type: ignore[attr-defined]

    def _do_bytes(self) -> None:
        size = int.from_bytes(self.read(8), "little")  # type: ignore[attr-defined]
        self.append(self.read(size))  # type: ignore[attr-defined]

    def _refuse(self) -> None:
        raise ValueError("it uses the extension registry or buffers of another process")

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,  # type: ignore[attr-defined]
        pickle.REDUCE[0]: _do_reduce,
        pickle.NEWOBJ[0]: _do_reduce,
        pickle.NEWOBJ_EX[0]: _do_newobj_ex,
        pickle.OBJ[0]: _do_obj,
        pickle.INST[0]: _do_inst,
        pickle.BUILD[0]: _do_build,
        pickle.SETITEM[0]: _do_setitem,
        pickle.SETITEMS[0]: _do_setitems,
        pickle.APPEND[0]: _do_append,
        pickle.APPENDS[0]: _do_appends,
        pickle.DICT[0]: _do_dict,
        pickle.EMPTY_SET[0]: _do_set,
        pickle.ADDITEMS[0]: _do_items,
        pickle.FROZENSET[0]: _do_frozenset,
        pickle.FRAME[0]: _do_frame,
        pickle.LONG4[0]: _do_long4,
        pickle.BYTEARRAY8[0]: _do_bytes,
        pickle.BINBYTES8[0]: _do_bytes,
        **dict.fromkeys(pickle.EXT1 + pickle.EXT2 + pickle.EXT4, _refuse),
        **dict.fromkeys(pickle.NEXT_BUFFER + pickle.READONLY_BUFFER, _refuse),
    }


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> TensorRecord:
    """`_rebuild_tensor` and its later forms; the third names the type of the numbers."""
    if not isinstance(storage, StorageRecord):
        raise ValueError("a tensor without storage")
    dtype = storage.dtype
    if len(rest) > 2 and isinstance(rest[2], Symbol):  # (requires_grad, hooks, dtype, metadata)
        dtype = rest[2].dtype
    problem = "" if dtype is not None else "has numbers of a type that is not read"
    sides = tuple(shape) if isinstance(shape, tuple | list) else ("?",)
    steps = tuple(strides) if isinstance(strides, tuple | list) else ()
    return TensorRecord(storage, offset, sides, steps, dtype, problem)


def _fill(target: Any, items: Any) -> None:
    """Puts pairs into a dict. Only plain keys: what a file nests could take forever to hash."""
    if isinstance(items, dict):
        items = list(items.items())
    if not isinstance(target, dict) or not isinstance(items, list | tuple):
        return
    for pair in items:
        if isinstance(pair, list | tuple) and len(pair) == 2:
            key, value = pair
            if isinstance(key, bytes):
                key = key.decode("utf8", "replace")
            if type(key) in (str, int, float, bool):
                target[key] = value
