# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Names of classes and splits as people write them: several spellings of one name."""

import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# What folders, files and columns call the splits.
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validate": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
ORDER = ("train", "validation", "test")


@functools.lru_cache(2**16)
def normalise_name(name: str) -> str:
    """What the spellings of a class share: letters regardless of case, form and underscores."""
    text = unicodedata.normalize("NFKC", name.replace("_", " "))
    return unicodedata.normalize("NFKC", " ".join(text.split()).casefold())


def find_split(name: str) -> str | None:
    """The split that a folder, or a cell of a table, is named after."""
    return SPLITS.get(name.strip().lower())


def find_split_above(path: str) -> str | None:
    """The split that the folders of a path tell: the one at the top, else the nearest."""
    folders = path.split("/")[:-1]
    for folder in (*folders[:1], *reversed(folders)):
        if (split := find_split(folder)) is not None:
            return split
    return None


def find_split_in(stem: str) -> str | None:
    """The split that a file's name tells: `k600_train`, `val.part2`."""
    words = re.split(r"[^a-z]+", stem.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), None)


@dataclass(frozen=True)
class Spellings:
    """One spelling for each class. others: chosen -> spellings that are not used."""

    chosen: Mapping[str, str]
    others: Mapping[str, tuple[str, ...]]


def unify_names(names: Iterable[str]) -> Spellings:
    """Takes for each class the spelling that comes first."""
    first: dict[str, str] = {}
    chosen: dict[str, str] = {}
    others: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        chosen[name] = first.setdefault(normalise_name(name), name)
        if chosen[name] != name:
            others.setdefault(chosen[name], []).append(name)
    return Spellings(chosen, {name: tuple(rest) for name, rest in others.items()})
