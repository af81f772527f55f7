# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Makes a token cache: in any number of processes and attempts, always with the same bytes.

    root/.incomplete/plan.json                 what the cache will hold; other attempts must agree
    root/.incomplete/<shard>.json              what a finished shard holds, beside its file in
    root/.incomplete/1.0.0/<shard>
    root/1.0.0                                 the same folder, once every shard is there

The format is that of `nbp.data.tokens`.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbp.data.tokens import FORMAT, NAME, PROVENANCE, VERSION, WORK, Shard, choose_dtype
from nbp.errors import ConfigError
from nbp.files import escape_label, full_disk_named, read_json, sync, write_text
from nbp.shapes import Int

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
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        shard = Shard(name, count, part.stat().st_size, digest)
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
