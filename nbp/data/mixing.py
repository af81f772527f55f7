# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which row comes when: several data sets mixed by weight, and classes drawn equally often.

Both are one endless order of rows that is a function of the seed alone, as is the plain one: in
each stretch of WINDOW examples every set and class has its share as nearly as it can be, at places
that chance decides; each class, or set, goes through an order of its own, shuffled in every epoch.
"""

import bisect
import functools
import hashlib
import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbp.data.augmentation import Record, Transform
from nbp.data.sources import ClipSource, LabelledSource
from nbp.errors import DataError
from nbp.shapes import Int

WINDOW = 1024  # examples in which shares are kept
Rows = range | Int[np.ndarray, "_"]  # as many as there are


@dataclass(frozen=True)
class MixedSource:
    """Several clip sources as one: the rows of the first, then those of the next, and so on.

    `source[i]` is the record of its source, with "set", the number of that source, and the label
    among all names: classes of equal names are one, those of the first source keep their ids.
    weights: how often each is drawn against the others, above 0.
    """

    sources: tuple[ClipSource, ...]
    weights: tuple[float, ...]

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for one in self.sources for name in one.label_names))

    @functools.cached_property
    def ends(self) -> list[int]:
        """The row behind the last one of each source."""
        return list(itertools.accumulate(map(len, self.sources)))

    @functools.cached_property
    def _ids(self) -> list[Int[np.ndarray, "_"]]:
        """For each source, the id among all names of each of its own."""
        known = {name: number for number, name in enumerate(self.label_names)}
        return [np.array([known[n] for n in s.label_names], np.int32) for s in self.sources]

    @property
    def fingerprint(self) -> str:
        """Changes with each source, its length and its weight."""
        parts = [
            (weight, source.fingerprint, len(source))
            for weight, source in zip(self.weights, self.sources, strict=True)
        ]
        return "mixed-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Record:
        number = bisect.bisect_right(self.ends, index)
        start = self.ends[number] - len(self.sources[number])
        record = self.sources[number][index - start]
        return {**record, "label": self._ids[number][record["label"]], "set": number}


@dataclass(frozen=True)
class TransformBySet:
    """Applies the chain of the source that a record of a `MixedSource` is from."""

    chains: tuple[tuple[Transform, ...], ...]

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        for transform in self.chains[record["set"]]:
            record = transform(record, rng)
        return record


def list_groups(source: ClipSource, *, balance: bool) -> list[tuple[float, list[Rows]]]:
    """The weight of each set of a source, and the rows of each of its classes.

    Without `balance`, and where a source draws its classes alike by itself, a set is one class.
    Rows whose class cannot be read are left out. Raises DataError where none can, ValueError for a
    source that knows no classes.
    """
    if not isinstance(source, MixedSource):
        return [(1.0, _list_classes(source, 0) if balance else [range(len(source))])]
    groups = []
    for one, weight, end in zip(source.sources, source.weights, source.ends, strict=True):
        start = end - len(one)
        groups.append((weight, _list_classes(one, start) if balance else [range(start, end)]))
    return groups


def _list_classes(source: ClipSource, start: int) -> list[Rows]:
    """The rows of each class that has any; `start` is added to them."""
    if not isinstance(source, LabelledSource):
        raise ValueError(f"{source!r} lists no classes to balance")
    labels = source.list_labels()
    if labels is None:
        return [range(start, start + len(source))]
    known = [label for label in np.unique(labels) if label >= 0]
    found: list[Rows] = [np.flatnonzero(labels == label) + start for label in known]
    if not found:
        raise DataError(f"no class can be read of {len(source)} clips: check the data.")
    return found


def make_order(groups: Sequence[tuple[float, Sequence[Rows]]], *, seed: int, shuffle: bool) -> Any:
    """The row of example 0, 1, 2, ..., without an end: a `grain.MapDataset` of integers."""
    # Slow to import (it brings JAX), and not needed on a machine that only samples.
    import grain

    def derive(*names: int) -> int:
        return zlib.crc32(repr((seed, *names)).encode()) >> 1  # numbers of windows are added to it

    def endless(rows: Rows, *names: int) -> Any:
        own = derive(*names)  # so that equal sizes get other orders
        numbers: Any = rows  # grain's type of a source has no arrays
        if isinstance(rows, range):
            data = grain.MapDataset.range(rows.start, rows.stop)
        else:
            data = grain.MapDataset.source(numbers)
        return (data.shuffle(seed=own) if shuffle else data).repeat()

    (_, first), *others = groups
    if not others and len(first) == 1 and isinstance(first[0], range):
        plain = grain.MapDataset.range(first[0].start, first[0].stop).seed(seed)
        return (plain.shuffle() if shuffle else plain).repeat()
    sets = []
    for number, (_, classes) in enumerate(groups):
        parts = [endless(rows, number, place) for place, rows in enumerate(classes)]
        sets.append(parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts))
    order = sets[0]
    if others:
        order = grain.MapDataset.mix(sets, [weight for weight, _ in groups])
    if not shuffle:
        return order
    return grain.experimental.WindowShuffleMapDataset(order, window_size=WINDOW, seed=derive())
