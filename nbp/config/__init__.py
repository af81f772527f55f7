# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration: files return a ConfigDict, the library sees frozen dataclasses, converted once.

The conversion is strict: unknown and missing keys and wrong types fail with the dotted path, all at
once. What can be derived (grid, vocabulary, plan) is a property, never a field.
"""

import ast
import dataclasses
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nbp.config.parsing import call_get_config, convert, set_override, suggest
from nbp.config.schema import Config
from nbp.config.validation import validate
from nbp.errors import ConfigError

# Holds `configs` in the package as well: a link here, a copy where NBP is installed. Nothing else
# lies beside it, for configurations import from there (`nbp.config.parsing.importing_beside`).
SHIPPED = Path(__file__).parent.parent / "shipped"


def load_config(argument: str, overrides: Mapping[str, str], *, expand: bool = True) -> Config:
    """Reads `FILE[:VARIANT]`, applies `{"a.b": "value"}`, converts and validates.

    A value is read as a Python literal, or as a string where it is none. expand: see
    `expand_paths`; without it paths stay as they are written. Raises ConfigError.
    """
    path, variant = split_argument(argument)
    values = call_get_config(path, variant)
    problems: list[str] = []

    def collect(problem: ConfigError) -> None:
        known = "; ".join(problems)
        problems.extend(text for text in problem.args if text not in known)

    for key, text in overrides.items():
        try:
            set_override(values, Config, key, text=text)
        except ConfigError as problem:
            collect(problem)
    config = None
    try:
        config = from_dict(values)
        config = expand_paths(config) if expand else config
        validate(config)
    except ConfigError as problem:
        collect(problem)
    if problems or config is None:
        raise ConfigError("; ".join(problems))
    return config


def split_argument(argument: str) -> tuple[str, str]:
    """`FILE[:VARIANT]` as a file that exists and a variant, "" for none; a path may have colons.

    What is not there may be one that NBP ships: then it is that one, and stderr says so. Raises
    ConfigError, with the nearest configuration below `configs`, where there is none.
    """
    if found := _split_existing(argument):
        return found
    if argument.startswith("configs/") and (found := _split_existing(f"{SHIPPED}/{argument}")):
        print(f"nbp: the configuration is that of the package, {found[0]}", file=sys.stderr)
        return found
    path, colon, variant = argument.rpartition(":")
    path = path if colon and "/" not in variant and not variant.endswith(".py") else argument
    if Path(path).is_dir():
        raise ConfigError(f"{path} is a folder: name a configuration in it, FILE.py[:VARIANT]")
    known = {
        str(file.relative_to(root))
        for root in (Path(), SHIPPED)
        for file in (root / "configs").glob("**/*.py")
        if is_configuration(file)
    }
    raise ConfigError(f"no config file {path}{suggest(path, sorted(known))}")


def _split_existing(argument: str) -> tuple[str, str] | None:
    """A file and a variant; None where there is no such file."""
    places = [len(argument), *(i for i in reversed(range(len(argument))) if argument[i] == ":")]
    for place in places:  # the longest path first
        if Path(argument[:place]).is_file():
            return argument[:place], argument[place + 1 :]
    return None


def is_configuration(path: Path) -> bool:
    """Whether a file defines `get_config`, so is no helper of others; it is not run."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    return any(getattr(node, "name", "") == "get_config" for node in tree.body)


def expand_paths(config: Config) -> Config:
    """The configuration with `~`, `~user`, `$NAME` and `${NAME}` in its paths replaced.

    Raises ConfigError, which names every key, for a user or a variable that there is none of.
    """
    problems: list[str] = []

    def expand(group: Any, prefix: str, *names: str) -> Any:
        changed = {}
        for name in names:
            path = getattr(group, name)
            try:
                changed[name] = expand_path(path)
            except ValueError as error:
                problems.append(f"{prefix}.{name}: {error}")
        return dataclasses.replace(group, **changed)

    stages = {
        name: expand(getattr(config.train, name), f"train.{name}", "start_from")
        for name in ("tokenizer", "generator")
    }
    mix = enumerate(config.data.mix)
    data = dataclasses.replace(
        config.data, mix=tuple(expand(one, f"data.mix[{i}]", "root") for i, one in mix)
    )
    expanded = dataclasses.replace(
        config,
        data=expand(data, "data", "root"),
        images=expand(config.images, "images", "root"),
        losses=expand(config.losses, "losses", "lpips_root"),
        evaluation=expand(config.evaluation, "evaluation", "features"),
        sampling=expand(config.sampling, "sampling", "opener"),
        train=dataclasses.replace(config.train, **stages),
    )
    if problems:
        raise ConfigError("; ".join(problems))
    return expanded


def expand_path(path: str) -> str:
    """`path` with the home folder and variables put in, unless it exists as it is written.

    Raises ValueError for a user or a variable that there is none of.
    """
    if (not path.startswith("~") and "$" not in path) or os.path.exists(path):
        return path
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError(f"{path}: there is no home folder of {path.partition('/')[0]}")
    expanded = os.path.expandvars(expanded)
    if missing := re.search(r"\$(\w+|\{\w+\})", expanded):
        raise ValueError(f"{path}: the variable {missing[1].strip('{}')} is not set")
    return expanded


def parse_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """`["--config.a.b=value", "--config.c", "value"]` as `{"a.b": "value", "c": "value"}`.

    Raises ConfigError, which names every argument that is none of these.
    """
    overrides: dict[str, str] = {}
    problems: list[str] = []
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--config."):
            flags = ("--config", "--workdir", "--config.KEY=VALUE")
            problems.append(f"unknown argument {name!r}{suggest(name, flags)}")
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                problems.append(f"{name} needs a value: {name}=VALUE")
                continue
            value = rest.pop(0)
        overrides[name.removeprefix("--config.")] = value
    if problems:
        raise ConfigError("; ".join(problems))
    return overrides


def from_dict(values: Mapping[str, Any]) -> Config:
    """The configuration of a nested mapping (a ConfigDict's or a `config.json`'s)."""
    return convert(Config, values)


def to_json(config: Config) -> str:
    """The resolved configuration as JSON text; `from_dict(json.loads(text))` gives it back."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"
