# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Nested mappings become frozen dataclasses, strictly.

Unknown and missing keys and wrong types are reported with their dotted path, all at once, and with
the nearest valid name. Ranges are part of the annotations (`nbp.ranges`); a rule of several
fields is an error that the dataclass raises. Nothing here knows what the keys mean.
"""

import ast
import contextlib
import dataclasses
import difflib
import importlib.util
import inspect
import math
import os
import sys
import traceback
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

from nbp.errors import ConfigError

T = TypeVar("T")
PACKAGE = "configs"  # the folder of configurations, which they import helpers from


def convert(schema: type[T], values: Mapping[str, Any]) -> T:
    """`values` as the dataclass `schema`; ConfigError names every problem."""
    problems: list[str] = []
    result = _convert_group(schema, values, "", problems=problems)
    if problems:
        raise ConfigError("; ".join(problems))
    return typing.cast(T, result)


def call_get_config(path: str, variant: str, *, function: str = "get_config") -> dict[str, Any]:
    """The nested values that a config file returns. The file is the user's own Python code.

    function: the one that returns them, of the variant if it takes one.
    """
    spec = importlib.util.spec_from_file_location("nbp_user_config", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file; configurations end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        with importing_beside(path):
            spec.loader.exec_module(module)
            get_config = getattr(module, function)
            takes_variant = bool(inspect.signature(get_config).parameters)
            if variant and not takes_variant:
                raise ConfigError(f"{path} has no variants; use it without {variant!r}")
            tree = get_config(variant) if takes_variant else get_config()
        values = tree.to_dict() if hasattr(tree, "to_dict") else tree
        if not isinstance(values, Mapping):
            kind = type(tree).__name__
            raise ConfigError(f"{path}: {function} returns a {kind}, not a ConfigDict or a dict")
        return dict(values)
    except ConfigError:
        raise
    except KeyError as error:
        text = error.args[0] if error.args else ""
        raise ConfigError(f"{path} has no variant {variant!r}: {text}") from error
    except (Exception, SystemExit) as error:  # whatever the user's file does wrong
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        where = f"{path}, line {lines[-1]}" if lines else path
        if not hasattr(module, function):
            where += f" (it must define {function})"
        raise ConfigError(f"{where}: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def importing_beside(path: str) -> Iterator[None]:
    """Lets a configuration import what lies beside it, wherever it was started from.

    A file in (a folder of) a folder `configs` finds that one as the package `configs`, before any
    other of that name. Folders beside are looked through after all others.
    """
    folder = os.path.dirname(os.path.abspath(path))
    first: list[str] = []
    place = folder
    while os.path.dirname(place) != place and not first:
        if os.path.basename(place) == PACKAGE:
            first = [os.path.dirname(place)]
        place = os.path.dirname(place)
    before = list(sys.path)
    if first:  # what was imported from another folder of this name is not meant
        for name, module in list(sys.modules.items()):
            if name.split(".")[0] == PACKAGE:
                file = getattr(module, "__file__", None) or ""
                if not file.startswith(os.path.join(first[0], PACKAGE) + os.sep):
                    del sys.modules[name]
    sys.path[:] = [*first, *before, folder]
    try:
        yield
    finally:
        sys.path[:] = before


def set_override(values: dict[str, Any], schema: type, key: str, *, text: str) -> None:
    """Sets one dotted key of nested `values`, in place, to what `text` says.

    The text is read as a Python literal, or as a string where it is none or the key is a string.
    Raises ConfigError when the schema has no such key.
    """
    parts = key.split(".")
    group = schema
    for depth, part in enumerate(parts):
        fields = typing.get_type_hints(group)
        if part not in fields:
            raise ConfigError(f"unknown config key {key!r}{suggest_key(key, schema)}")
        annotation = fields[part]
        if depth == len(parts) - 1:
            if dataclasses.is_dataclass(annotation):
                raise ConfigError(f"config key {key!r} is a group; set one of its keys")
            values[part] = text if annotation is str else _read_value(text)
            return
        if not dataclasses.is_dataclass(annotation):
            raise ConfigError(f"config key {'.'.join(parts[: depth + 1])!r} has no keys below it")
        group = typing.cast(type, annotation)
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            above = ".".join(parts[: depth + 1])
            raise ConfigError(f"config key {above!r} is {values!r}, not a group of keys")


def set_overrides(
    values: dict[str, Any], schema: type, overrides: Mapping[str, str], *, section: str = ""
) -> list[str]:
    """Sets many keys as `set_override` does; returns a text for each that cannot be set.

    section: the only one whose keys may be, empty for all.
    """
    problems = []
    for key, text in overrides.items():
        if section and not key.startswith(f"{section}."):
            problems.append(f"--config.{key}: only keys of {section} can be changed here")
            continue
        try:
            set_override(values, schema, key, text=text)
        except ConfigError as error:
            problems.append(str(error))
    return problems


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest of the known names, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"


def suggest_key(key: str, schema: type) -> str:
    """As `suggest`, for a dotted key: the right name in the wrong group is found as well."""
    keys = list(list_keys(schema))
    last = key.rpartition(".")[2]
    elsewhere = [known for known in keys if known.rpartition(".")[2] == last]
    if 1 <= len(elsewhere) <= 2:
        return f"; did you mean {' or '.join(elsewhere)}?"
    return suggest(key, elsewhere or keys)


def list_keys(schema: type, prefix: str = "") -> Iterator[str]:
    """All dotted keys of a dataclass of dataclasses, groups before their members."""
    for name, annotation in typing.get_type_hints(schema).items():
        yield prefix + name
        if dataclasses.is_dataclass(annotation):
            yield from list_keys(typing.cast(type, annotation), f"{prefix}{name}.")


def _read_value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {"true": True, "false": False}.get(text, text)


def _convert(annotation: Any, value: Any, path: str, *, problems: list[str]) -> Any:
    """`value` as `annotation`; collects problems and then returns None."""
    if dataclasses.is_dataclass(annotation):
        return _convert_group(typing.cast(type, annotation), value, path, problems=problems)
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        count = len(problems)
        result = _convert(args[0], value, path, problems=problems)
        if len(problems) == count and result not in args[1]:
            problems.append(f"{path}: {value!r} must be {args[1]}")
        return result
    if origin is tuple and isinstance(value, list | tuple):
        if args[-1] is Ellipsis:
            args = args[:1] * len(value)
        if len(args) == len(value):
            return tuple(
                _convert(a, v, f"{path}[{i}]", problems=problems)
                for i, (a, v) in enumerate(zip(args, value, strict=True))
            )
    elif origin is Literal:
        # 1 == True and 1.0 == 1, hence the comparison of types.
        for allowed in args:
            if type(value) is type(allowed) and value == allowed:
                return value
        problems.append(f"{path}: {value!r}{suggest(str(value), map(str, args))}")
        return None
    elif origin in (typing.Union, types.UnionType):
        for option in args:
            attempt: list[str] = []
            result = _convert(option, value, path, problems=attempt)
            if not attempt:
                return result
    elif annotation is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # a whole number beyond all of them
            return math.inf if value > 0 else -math.inf
    elif isinstance(annotation, type) and type(value) is annotation:
        return value
    problems.append(f"{path}: {value!r} is not {_describe(annotation)}")
    return None


def _describe(annotation: Any) -> str:
    """An annotation in words, e.g. `str or (int, int, int)`."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _describe(args[0])
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_describe, args))
    if origin is tuple:
        return f"({', '.join('...' if a is Ellipsis else _describe(a) for a in args)})"
    return annotation.__name__


def _convert_group(schema: type, value: Any, path: str, *, problems: list[str]) -> Any:
    if not isinstance(value, Mapping):
        problems.append(f"{path or 'config'}: {value!r} is not a group of keys")
        return None
    hints = typing.get_type_hints(schema, include_extras=True)
    dotted = {name: f"{path}.{name}" if path else name for name in hints}
    for name in value:
        if name not in hints:
            full = f"{path}.{name}" if path else name
            problems.append(f"unknown config key {full!r}{suggest(full, dotted.values())}")
    result = {}
    before = len(problems)
    for f in dataclasses.fields(schema):
        if f.name in value:
            result[f.name] = _convert(
                hints[f.name], value[f.name], dotted[f.name], problems=problems
            )
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            problems.append(f"missing config key {dotted[f.name]!r}")
    if len(problems) > before:
        return None
    try:
        return schema(**result)
    except ConfigError as error:  # names the key itself
        problems.append(str(error))
    except ValueError as error:
        problems.append(f"{path}: {error}")
    return None
