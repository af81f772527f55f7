# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Long work over numbered items as files of a fixed number of items each: killed, it goes on.

A file is there whole or not at all, and its arrays depend on the numbers of its items alone. What
is computed from all files in their order is therefore the same bits however often the work was
stopped, and however many processes shared it.
"""

import contextlib
import functools
import hashlib
import io
import itertools
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbp import files, locks
from nbp.errors import RestartError
from nbp.parallel import distributed
from nbp.progress import Progress

CHUNK = 64  # items in a file
SETTINGS = "settings.json"
# A file that another host has just written may show late on a shared file system.
LATE_SECONDS = 120.0

# Arrays whose names begin like this are no rows of items, but sums over those of a chunk.
SUM = "sum_"

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class ChunkStore:
    """The files of one piece of work: items 0 .. count - 1 in `folder`, `size` of them in each."""

    folder: Path
    count: int
    size: int = CHUNK

    @classmethod
    def open(
        cls, cache: Path, kind: str, settings: Mapping[str, Any], *, count: int, size: int = CHUNK
    ) -> "ChunkStore":
        """The store of work with these settings (JSON), new or begun; others are not touched."""
        store = cls(cache / f"{kind}-{hash_values({'chunk': size, **settings})}", count, size)
        if distributed.is_main():
            store.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
            files.write_text(store.folder / SETTINGS, text)
        return store

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def items(self, chunk: int) -> np.ndarray:
        """The numbers of the items of a chunk."""
        return np.arange(chunk * self.size, min((chunk + 1) * self.size, self.count))

    def save(self, chunk: int, arrays: Arrays) -> None:
        """Writes a chunk, and returns when it is on the disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self._file(chunk)
        data = io.BytesIO()
        np.savez_compressed(data, allow_pickle=False, **arrays)
        with files.open_part(target) as part, files.full_disk_named(part):
            part.write_bytes(data.getvalue())
            files.sync(part)
        files.sync(self.folder)

    def load(self, chunk: int) -> Arrays | None:
        """The arrays of a chunk; None where it is not there, or damaged."""
        try:
            with np.load(self._file(chunk), allow_pickle=False) as found:
                return {name: found[name] for name in found.files}  # checks their checksums
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None

    def is_whole(self) -> bool:
        """Whether every chunk is there."""
        return all(self.load(chunk) is not None for chunk in range(len(self)))

    def load_all(self) -> Arrays:
        """Every array, joined over all chunks in their order; those of `SUM` are added.

        Raises RestartError if one is missing.
        """
        chunks = [self._wait_for(chunk) for chunk in range(len(self))]
        found: Arrays = {}
        for name in chunks[0]:
            parts = [chunk[name] for chunk in chunks if name in chunk]
            added = name.startswith(SUM)
            found[name] = functools.reduce(np.add, parts) if added else np.concatenate(parts)
        return found

    def _wait_for(self, chunk: int) -> Arrays:
        end = time.monotonic() + (LATE_SECONDS if distributed.find_place()[1] > 1 else 0.0)
        while (arrays := self.load(chunk)) is None:
            if time.monotonic() > end:
                raise RestartError(
                    f"{self._file(chunk)} is missing, which another process has written: all "
                    "processes need the same workdir on a shared file system. Start again"
                )
            with contextlib.suppress(OSError):
                os.listdir(self.folder)  # asks the server again
            time.sleep(1.0)
        return arrays

    def _file(self, chunk: int) -> Path:
        return self.folder / f"{chunk:06d}.npz"


def fill_stores(
    stores: Sequence[ChunkStore],
    make: Callable[[np.ndarray, Sequence[int]], Sequence[Arrays]],
    *,
    unit: str,
    report: Callable[[str], None],
    share: tuple[int, int] | None = None,
) -> float:
    """Makes what is missing in stores over the same items; returns the seconds that it took.

    make: from the numbers of a chunk, and the places of the stores that lack it, to the arrays of
      each of these. A store with fewer items, a multiple of their size, has the first ones. Chunks
      are divided among the processes of the job; every process returns once all are there.
    share: (i, n) for task i of n that know nothing of each other: only its chunks are made.
    """
    place, processes = share or distributed.find_place()
    longest = max(stores, key=lambda store: store.count)
    began = time.monotonic()
    mine = range(place, len(longest), processes)
    missing = {
        chunk: [i for i, store in enumerate(stores) if chunk < len(store) and not store.load(chunk)]
        for chunk in mine
    }
    work = {chunk: lacking for chunk, lacking in missing.items() if lacking}
    left = sum(len(longest.items(chunk)) for chunk in work)
    there = sum(len(longest.items(chunk)) for chunk in mine) - left
    if there:
        report(f"{there} of {there + left} {unit} are there already")
    with Progress(left, unit, report) as progress:
        for chunk, lacking in work.items():
            found = make(longest.items(chunk), lacking)
            for i, arrays in zip(lacking, found, strict=True):
                stores[i].save(chunk, arrays)
            progress.step(len(longest.items(chunk)))
    distributed.wait_for_all(f"{unit} {next(_works)} {longest.folder.name}")
    return time.monotonic() - began


@contextlib.contextmanager
def hold_whole(stores: Sequence[ChunkStore]) -> Iterator[bool]:
    """Whether every chunk of the stores is there; never for two processes at the same time."""
    if not all(store.is_whole() for store in stores):
        yield False
        return
    try:
        lock = locks.lock_folder(stores[-1].folder)
    except locks.Held:
        yield False
        return
    with lock:
        yield True


_works = itertools.count()


def hash_values(values: Mapping[str, Any]) -> str:
    """A short name for settings (JSON), equal where they are."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
