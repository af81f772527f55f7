# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Shards of a dataset in preparation: fixed shares of the files, each written whole or not at all.

A finished shard is SPLIT-NUMBER.json, put in place last, and SPLIT-NUMBER.array_record beside it
unless none of its files is usable.
"""

import json
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nbp.data.prepare.annotations import Item
from nbp.data.prepare.quality_report import Outcome
from nbp.data.prepare.reencode import Stored
from nbp.data.records import open_writer, serialize_record
from nbp.errors import DataError
from nbp.files import VideoError, full_disk_named, hash_file, read_json, sync, write_text


@dataclass(frozen=True)
class ShardResult:
    """What a finished shard says of itself."""

    records: int
    size: int
    sha256: str
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Shard:
    """The `place`-th share of a split. number: counted over all splits."""

    number: int
    split: str
    place: int
    items: tuple[Item, ...]

    def file(self, work: Path, suffix: str) -> Path:
        return work / f"{self.split}-{self.place:05d}.{suffix}"

    def is_finished(self, work: Path) -> bool:
        """Whether it is there, whole as far as its size tells."""
        if not self.file(work, "json").is_file():
            return False
        result = self.read_result(work)
        try:
            size = self.file(work, "array_record").stat().st_size
        except FileNotFoundError:
            size = 0
        return size == result.size and len(result.outcomes) == len(self.items)

    def read_result(self, work: Path) -> ShardResult:
        file = self.file(work, "json")
        try:
            data = read_json(file)
            rows = [{**row, "notes": tuple(row.get("notes", ()))} for row in data.pop("outcomes")]
            outcomes = tuple(Outcome(**row) for row in rows)
            return ShardResult(outcomes=outcomes, **data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file}: damaged ({error}). Delete it and run again") from None

    def place_file(self, work: Path, target: Path) -> None:
        """Makes its record file appear at `target` as well."""
        try:
            os.link(self.file(work, "array_record"), target)
        except OSError:  # a file system without hard links
            shutil.copyfile(self.file(work, "array_record"), target)


def split_shards(items: Sequence[Item], splits: Sequence[str], size: int) -> list[Shard]:
    """Cuts each split's files, in their order, into shards of `size` files."""
    shards: list[Shard] = []
    for split in splits:
        of_it = [item for item in items if item.split == split]
        for place, start in enumerate(range(0, len(of_it), size)):
            share = tuple(of_it[start : start + size])
            shards.append(Shard(len(shards), split, place, share))
    return shards


class ShardWriter:
    """Writes a shard from results that come in any order; the bytes do not depend on it."""

    def __init__(self, shard: Shard, work: Path):
        self._shard, self._work = shard, work
        self._data = shard.file(work, "array_record")
        # Of its own: another machine may write the same shard, with the same number of process.
        self._part = self._data.with_name(f".{self._data.name}.{secrets.token_hex(8)}.tmp")
        self._waiting: dict[int, Stored | VideoError] = {}
        self._outcomes: list[Outcome] = []
        self._writer: Any = None
        self._records = 0

    def add(self, place: int, result: Stored | VideoError) -> bool:
        """Takes the result of the shard's file number `place`; True if it was the last one."""
        self._waiting[place] = result
        while (ready := self._waiting.pop(len(self._outcomes), None)) is not None:
            item = self._shard.items[len(self._outcomes)]
            if isinstance(ready, VideoError):
                status = (ready.reason, ready.detail)
                self._outcomes.append(Outcome(item.path, item.split, item.label, *status))
                continue
            self._write(item, ready)
            self._outcomes.append(
                Outcome(
                    item.path,
                    item.split,
                    item.label,
                    "ok",
                    sha256=ready.sha256,
                    frames=ready.info.frames,
                    notes=ready.info.notes,
                )
            )
        return len(self._outcomes) == len(self._shard.items)

    def finish(self) -> None:
        """Puts the shard in place; it survives a power failure from here on."""
        size, digest = 0, ""
        with full_disk_named(self._part):
            if self._writer is not None:
                self._writer.close()
                size, digest = self._part.stat().st_size, hash_file(self._part)
                sync(self._part)
                os.replace(self._part, self._data)
            else:
                self._data.unlink(missing_ok=True)
            rows = [asdict(outcome) for outcome in self._outcomes]
            data = {"records": self._records, "size": size, "sha256": digest, "outcomes": rows}
            write_text(self._shard.file(self._work, "json"), json.dumps(data) + "\n")
            sync(self._work)

    def _write(self, item: Item, stored: Stored) -> None:
        data = serialize_record(
            stored.clip, stored.info, label=item.label, path=item.path, sha256=stored.sha256
        )
        with full_disk_named(self._part):
            if self._writer is None:
                self._writer = open_writer(self._part)
            self._writer.write(data)
            self._records += 1
