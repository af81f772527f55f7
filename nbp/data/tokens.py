# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The token cache: codes of clips, made once by a trained tokenizer, for the generator stage.

    root/1.0.0/tokens-train.array_record-00000-of-00008 ...   codes, label, path, crop
    root/1.0.0/dataset_info.json features.json ...            TFDS's description of them
    root/1.0.0/provenance.json                                what made it, hashes of the shards

A cache is a dataset in the TFDS on-disk format: it opens with
`tfds.builder_from_directory("root/1.0.0").as_data_source("train")`. `TokenSource` reads the same
files without that detour, ten times as fast. While a cache is made it lies in `root/.incomplete`;
one rename puts it in place, so that half a cache never opens.
"""

import bisect
import hashlib
import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbp.data.tf_example import find_example_class
from nbp.errors import DataError
from nbp.files import VideoError, read_json

NAME, VERSION, FORMAT = "tokens", "1.0.0", 1
PROVENANCE = "provenance.json"
WORK = ".incomplete"

READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


def choose_dtype(codes: int) -> np.dtype[Any]:
    """The stored type of codes 0 .. `codes` - 1."""
    return np.dtype(np.uint16 if codes <= 2**16 else np.int32)


@dataclass(frozen=True)
class Shard:
    """One file of a split. Its entry in the provenance has these, and what was skipped."""

    name: str
    examples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class TokenCache:
    """An opened cache: its folder and its provenance, the parsed `provenance.json`."""

    directory: Path
    provenance: Mapping[str, Any]

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.provenance["splits"])

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape (T, H, W) of each example's codes."""
        return tuple(self.provenance["grid"])

    def source(self, split: str) -> "TokenSource":
        """The examples of a split; DataError for files that are not as they were written."""
        keys = ("name", "examples", "bytes", "sha256")
        entries = self.provenance["splits"][split]
        shards = [Shard(*(entry[key] for key in keys)) for entry in entries]
        for shard in shards:
            path = self.directory / shard.name
            size = path.stat().st_size if path.is_file() else None
            if size != shard.bytes:
                raise DataError(
                    f"{path}: {'missing' if size is None else f'{size} bytes'}, {shard.bytes} bytes"
                    " were written. Copy it again or make the cache anew with nbp.encode."
                )
        return TokenSource(
            self.directory,
            shards,
            grid=self.grid,
            dtype=choose_dtype(self.provenance["codes"]),
            label_names=tuple(self.provenance["labels"]),
        )


def open_cache(root: str | Path) -> TokenCache:
    """Opens the cache in `root` or in its folder 1.0.0; DataError where there is none."""
    for directory in (Path(root), Path(root) / VERSION):
        path = directory / PROVENANCE
        if not path.is_file():
            continue
        try:
            provenance = read_json(path)
            known = provenance["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} cannot be read: {error}. Make the cache anew.") from error
        if known != FORMAT:
            raise DataError(f"{path} has format {known}, not {FORMAT}: make the cache anew.")
        return TokenCache(directory, provenance)
    half = "half a token cache; run nbp.encode again to finish it"
    why = half if (Path(root) / WORK).is_dir() else "no token cache; make one with nbp.encode"
    raise DataError(f"{root}: {why}.")


class TokenSource:
    """The clip source over one split of a cache.

    `source[i]` is {"codes": uint16 or int32 [T, H, W], "label": np.int32, "path": str}. Raises
    `VideoError` for a record that fails its checksum. Picklable; safe to read from many threads.
    """

    def __init__(
        self,
        directory: Path,
        shards: Sequence[Shard],
        *,
        grid: tuple[int, ...],
        dtype: np.dtype[Any],
        label_names: tuple[str, ...],
    ) -> None:
        self._directory, self._shards = directory, tuple(shards)
        self._grid, self._dtype, self._label_names = grid, dtype, label_names
        self._ends = list(itertools.accumulate(shard.examples for shard in shards))
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()
        find_example_class()  # before there are threads

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_readers": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())
        find_example_class()

    @property
    def label_names(self) -> tuple[str, ...]:
        return self._label_names

    @property
    def fingerprint(self) -> str:
        """Changes with every bit of the split; not with the place of the cache."""
        parts = (self._label_names, [(shard.name, shard.sha256) for shard in self._shards])
        return "tokens-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"the cache has examples 0 .. {len(self) - 1}; asked for {index}.")
        number = bisect.bisect_right(self._ends, index)
        place = index - self._ends[number] + self._shards[number].examples
        try:
            return self._parse(self._open(number).read([place])[0])
        except Exception as error:  # ArrayRecord and protobuf have no class of their own for it
            name = f"{self._directory / self._shards[number].name} record {place}"
            raise VideoError(name, "corrupt", " ".join(str(error).split())) from None

    def _open(self, number: int) -> Any:
        with self._lock:
            if number not in self._readers:
                from array_record.python.array_record_module import ArrayRecordReader

                path = str(self._directory / self._shards[number].name)
                self._readers[number] = ArrayRecordReader(path, READER_OPTIONS)
            return self._readers[number]

    def _parse(self, record: bytes) -> dict[str, Any]:
        features = find_example_class().FromString(record).features.feature
        codes = np.frombuffer(features["tokens"].bytes_list.value[0], self._dtype)
        return {
            "codes": codes.reshape(self._grid),
            "label": np.int32(features["label"].int64_list.value[0]),
            "path": features["path"].bytes_list.value[0].decode(errors="replace"),
        }
