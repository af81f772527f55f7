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
import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbp.data.tf_example import find_example_class
from nbp.errors import ConfigError, DataError
from nbp.files import (
    VideoError,
    escape_label,
    full_disk_named,
    hash_file,
    read_json,
    sync,
    write_text,
)
from nbp.shapes import Int

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

    def list_labels(self) -> Int[np.ndarray, "n"]:
        """The class id of each example, from all records."""

        def find(index: int) -> int:
            try:
                return int(self[index]["label"])
            except DataError:
                return -1

        return np.fromiter(map(find, range(len(self))), np.int64, len(self))

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


# Codes hardly compress, and a record of its own for each clip is what random access needs.
WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclass(frozen=True)
class TokenExample:
    """What is stored of one clip: its codes, class id, the video it is from, and which crop."""

    tokens: Int[np.ndarray, "T H W"]
    label: int
    path: str
    crop: int


class CacheWriter:
    """Makes a cache in `root`, shard by shard, from any number of processes and attempts.

    plan: everything that decides what the cache will hold, as JSON; another attempt with another
        plan is refused. It becomes the provenance, and has the keys grid, codes and labels.
    examples: number of examples of each split, before any is skipped.
    shard_size: of them in a shard.
    """

    def __init__(
        self,
        root: Path,
        plan: Mapping[str, Any],
        *,
        examples: Mapping[str, int],
        shard_size: int,
    ) -> None:
        self.root, self.plan = root, json.loads(json.dumps(dict(plan)))
        self.examples, self.shard_size = dict(examples), shard_size
        self._work, self._made = root / WORK, root / WORK / VERSION
        self._features: Any = None
        self._serializer: Any = None

    @property
    def final(self) -> Path:
        """Where the cache lies once it is whole."""
        return self.root / VERSION

    def begin(self) -> None:
        """Makes the folder of work; raises ConfigError where it belongs to another plan.

        That is found before anything is made.
        """
        if self.final.is_dir():
            self._compare(self.final / PROVENANCE)
            shutil.rmtree(self._work, ignore_errors=True)  # killed just before it was removed
            return
        if (self._work / "plan.json").is_file():
            self._compare(self._work / "plan.json")
        self._made.mkdir(parents=True, exist_ok=True)
        if not (self._work / "plan.json").is_file():
            write_text(self._work / "plan.json", _format({"format": FORMAT, **self.plan}))
        self._compare(self._work / "plan.json")

    def _compare(self, path: Path) -> None:
        """Compares what was begun or made with the plan; every difference is named."""
        try:
            found = read_json(path)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{path.parent} is no token cache ({error}). Use another --out."
            ) from error
        then, now = _flatten(found), _flatten({"format": FORMAT, **self.plan})
        changed = [
            f"{key} {then.get(key)!r} then, {now.get(key)!r} now"
            for key in sorted(then.keys() | now.keys())
            if then.get(key) != now.get(key) and key.split(".")[0] != "splits"
        ]
        if changed:
            raise ConfigError(
                f"{path.parent} was made with other settings: {'; '.join(changed[:8])}. Use "
                "another --out, or remove it."
            )

    def list_shards(self, split: str) -> list[range]:
        """The numbers of the examples in each shard of a split."""
        count, size = self.examples[split], self.shard_size
        return [range(first, min(first + size, count)) for first in range(0, count, size)]

    def is_made(self, split: str, number: int) -> bool:
        """Whether a shard is in place, in the work or in the finished cache."""
        name = self._name(split, number)
        return (self._made / name).is_file() or self.final.is_dir()

    def is_whole(self) -> bool:
        """Whether every shard of every split is in place."""
        return all(
            self.is_made(split, number)
            for split in self.examples
            for number in range(len(self.list_shards(split)))
        )

    def write_shard(
        self,
        split: str,
        number: int,
        *,
        examples: Iterable[TokenExample],
        skipped: Iterable[tuple[str, int, str]],
    ) -> None:
        """Writes a shard whole or not at all.

        skipped: (path, crop, reason) of examples that could not be made; read after the last one.
        """
        from array_record.python.array_record_module import ArrayRecordWriter

        name = self._name(split, number)
        part = self._work / f"{name}.{os.getpid()}.tmp"
        count = 0
        with full_disk_named(part):
            writer = ArrayRecordWriter(str(part), WRITER_OPTIONS)
            try:
                for example in examples:
                    writer.write(self._serialize(example))
                    count += 1
            finally:
                writer.close()
            sync(part)
        shard = Shard(name, count, part.stat().st_size, hash_file(part))
        # The note first: a shard in place always has one.
        write_text(
            self._work / f"{name}.json", _format({**asdict(shard), "skipped": list(skipped)})
        )
        os.replace(part, self._made / name)
        sync(self._made)

    def finish(self) -> None:
        """Describes the whole cache and puts it in place; of several processes one does it."""
        import tensorflow_datasets as tfds
        from etils import epath

        with self._alone():
            if self.final.is_dir():
                return
            splits, infos = {}, []
            for split in self.examples:
                names = [self._name(split, n) for n in range(len(self.list_shards(split)))]
                notes = [json.loads((self._work / f"{name}.json").read_text()) for name in names]
                splits[split] = notes
                template = tfds.core.ShardedFileTemplate(
                    data_dir=epath.Path(self._made),
                    dataset_name=NAME,
                    split=split,
                    filetype_suffix="array_record",
                )
                infos.append(
                    tfds.core.SplitInfo(
                        name=split,
                        shard_lengths=[note["examples"] for note in notes],
                        num_bytes=sum(note["bytes"] for note in notes),
                        filename_template=template,
                    )
                )
            provenance = {"format": FORMAT, **self.plan, "splits": splits}
            write_text(self._made / PROVENANCE, _format(provenance))
            tfds.folder_dataset.write_metadata(
                data_dir=str(self._made),
                features=self._make_features(),
                split_infos=infos,
                version=VERSION,
                check_data=False,
            )
            for path in (*self._made.iterdir(), self._made):
                sync(path)
            os.replace(self._made, self.final)
            sync(self.root)
            shutil.rmtree(self._work, ignore_errors=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Waits for the other processes that finish this cache; the lock ends with its process."""
        if not self._work.is_dir():  # another one has finished and tidied up
            yield
            return
        with (self._work / ".lock").open("w") as file:
            with contextlib.suppress(OSError):  # a file system without locks: the rename is atomic
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _name(self, split: str, number: int) -> str:
        count = len(self.list_shards(split))
        return f"{NAME}-{split}.array_record-{number:05d}-of-{count:05d}"

    def _make_features(self) -> Any:
        import tensorflow_datasets as tfds

        features = tfds.features
        return features.FeaturesDict(
            {
                "tokens": features.Tensor(
                    shape=tuple(self.plan["grid"]),
                    dtype=choose_dtype(self.plan["codes"]),
                    encoding=features.Encoding.BYTES,
                ),
                "label": features.ClassLabel(names=[*map(escape_label, self.plan["labels"])]),
                "path": features.Text(),
                "crop": np.int32,
            }
        )

    def _serialize(self, example: TokenExample) -> bytes:
        from tensorflow_datasets.core.example_serializer import ExampleSerializer

        if self._features is None:
            self._features = self._make_features()
            self._serializer = ExampleSerializer(self._features.get_serialized_info())
        values = {
            "tokens": np.asarray(example.tokens, choose_dtype(self.plan["codes"])),
            "label": int(example.label),
            "path": os.fsencode(example.path),  # names of files may hold any bytes
            "crop": example.crop,
        }
        message = self._serializer.get_tf_example(self._features.encode_example(values))
        # Maps are written in any order otherwise, and the same cache must have the same bytes.
        return message.SerializeToString(deterministic=True)


def _format(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1) + "\n"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
