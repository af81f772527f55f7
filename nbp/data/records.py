# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Prepared datasets: the TFDS on-disk format with ArrayRecord files, without TensorFlow.

A dataset is a folder that `tfds.builder_from_directory(folder).as_data_source(split)` opens. Each
record is one clip, already scaled and re-encoded for fast access (see `coding`):

    video   bytes of an mp4 or mov   path    source file below the videos folder, text
    label   class id                 sha256  of the source file's content, text
    fps     frames per second        frames, height, width   of the stored clip

`nbp.prepare` writes such folders; here is what both sides must agree on.
"""

import functools
import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from nbp.data.augmentation import (
    Fit,
    Flip,
    Record,
    ShortSide,
    Sides,
    Squash,
    Transform,
    choose_spatial,
    resize_frame,
)
from nbp.data.tf_example import find_example_class
from nbp.data.video.clip_codec import decode_clip
from nbp.data.video.decode import VideoInfo, choose_frames, too_short
from nbp.data.video.resize import Scaling
from nbp.errors import DataError
from nbp.files import VideoError, escape_label, escape_name, read_json
from nbp.shapes import Int

VERSION = "1.0.0"
FORMAT = "array_record"
# Written last into a finished dataset: what it was prepared from, and the hash of each file.
PREPARED = "prepare.json"
_LABELS = "label.labels.txt"
_FEATURES = ("video", "label", "path", "fps", "frames", "height", "width", "sha256")


def shard_name(name: str, split: str, shard: int, shards: int) -> str:
    """The file name that TFDS expects."""
    return f"{name}-{split}.{FORMAT}-{shard:05d}-of-{shards:05d}"


def open_writer(path: Path) -> ArrayRecordWriter:
    """Writes a record file: each record is read by itself, and stored as it is (video is dense)."""
    return ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")


def count_records(path: str | Path) -> int:
    """Records in an ArrayRecord file; 0 where it is cut off, which shows nowhere else."""
    try:
        reader = ArrayRecordReader(os.fspath(path))
        if reader.ok():
            count = reader.num_records()
            reader.close()
            return count
    except RuntimeError:
        pass
    return 0


def serialize_record(clip: bytes, info: VideoInfo, *, label: int, path: str, sha256: str) -> bytes:
    """One record as a `tf.train.Example`, the same bytes in every process.

    A path that is not UTF-8 is stored with backslash escapes: the feature is text.
    """
    example = find_example_class()()

    def data(name: str, value: bytes) -> None:
        example.features.feature[name].bytes_list.value.append(value)

    def integer(name: str, value: int) -> None:
        example.features.feature[name].int64_list.value.append(value)

    data("video", clip)
    integer("label", label)
    data("path", escape_name(path).encode())
    example.features.feature["fps"].float_list.value.append(info.fps)
    integer("frames", info.frames)
    integer("height", info.height)
    integer("width", info.width)
    data("sha256", sha256.encode())
    return example.SerializeToString(deterministic=True)  # maps have no order otherwise


def write_metadata(
    directory: Path, name: str, *, labels: Sequence[str], splits: Mapping[str, Sequence[int]]
) -> None:
    """Makes `directory`, which holds the record files, a TFDS dataset.

    splits: number of records in each file of each split.
    """
    import tensorflow_datasets as tfds
    from etils import epath

    folder = epath.Path(directory)
    features = tfds.features.FeaturesDict(
        {
            "video": tfds.features.Tensor(shape=(), dtype=np.object_),
            "label": tfds.features.ClassLabel(names=[escape_label(label) for label in labels]),
            "path": tfds.features.Text(),
            "fps": tfds.features.Scalar(np.float32),
            "frames": tfds.features.Scalar(np.int32),
            "height": tfds.features.Scalar(np.int32),
            "width": tfds.features.Scalar(np.int32),
            "sha256": tfds.features.Text(),
        }
    )

    def describe(split: str, lengths: Sequence[int]) -> Any:
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=name, split=split, filetype_suffix=FORMAT
        )
        files = [directory / shard_name(name, split, i, len(lengths)) for i in range(len(lengths))]
        size = sum(file.stat().st_size for file in files)
        return tfds.core.SplitInfo(
            name=split, shard_lengths=list(lengths), num_bytes=size, filename_template=template
        )

    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=features,
        split_infos=[describe(split, lengths) for split, lengths in splits.items()],
        version=VERSION,
        filename_template=tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=name, filetype_suffix=FORMAT
        ),
        check_data=False,  # that would need TensorFlow
    )
    # TFDS writes it in the encoding of the locale; the place is where it looks for it.
    (directory / _LABELS).write_text(
        "".join(f"{escape_label(label)}\n" for label in labels), encoding="utf8", newline=""
    )


@dataclass(frozen=True)
class _Layout:
    """What a dataset's folder says about one split."""

    name: str
    labels: tuple[str, ...]
    files: tuple[str, ...]
    lengths: tuple[int, ...]
    fingerprint: str


class RecordSource:
    """The clip source over one split of a prepared dataset.

    `source[i]` is {"path": str, "label": np.int32, "clip": bytes, "info": VideoInfo}, a record
    for `DecodeRecord`. Every file is checked once, when the source is made (a copy in a loader
    worker trusts that); readers are opened lazily in each process.

    Raises `DataError` for a folder that is no prepared dataset, for a split that it does not have,
    and for missing or truncated files. A record that fails its checksum raises `VideoError`
    (corrupt) when it is read.
    """

    def __init__(self, directory: str | Path, split: str):
        self.directory, self.split = os.fspath(directory), split
        self._layout = _read_layout(Path(directory), split)
        self._check_files()
        self._open()

    def _open(self) -> None:
        self._records: Any = None
        self._lock = threading.Lock()
        self._ends = np.cumsum(self._layout.lengths)
        find_example_class()  # before there are threads

    def __getstate__(self) -> dict[str, Any]:
        return {"directory": self.directory, "split": self.split, "_layout": self._layout}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __repr__(self) -> str:
        return f"RecordSource({self.directory!r}, {self.split!r})"

    @property
    def label_names(self) -> tuple[str, ...]:
        return self._layout.labels

    @property
    def fingerprint(self) -> str:
        """Changes with the dataset's content and the split, not with the folder's place."""
        return self._layout.fingerprint

    def __len__(self) -> int:
        return sum(self._layout.lengths)

    @functools.cached_property
    def _labels(self) -> Int[np.ndarray, "n"]:
        file = Path(self.directory) / PREPARED
        noted = read_json(file).get("classes", {}).get(self.split) if file.is_file() else None
        if noted is not None and len(noted) == len(self):
            return np.array(noted, np.int64)
        with ThreadPoolExecutor() as pool:  # of an older nbp.prepare: every record is read
            return np.fromiter(pool.map(self._find_label, range(len(self))), np.int64, len(self))

    def _find_label(self, index: int) -> int:
        try:
            return int(self[index]["label"])
        except DataError:
            return -1

    def list_labels(self) -> Int[np.ndarray, "n"]:
        """The class id of each record: as nbp.prepare noted them, else from all records."""
        return self._labels

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        features = self._read(index)
        try:
            info = VideoInfo(
                frames=features["frames"].int64_list.value[0],
                fps=_restore_rate(features["fps"].float_list.value[0]),
                height=features["height"].int64_list.value[0],
                width=features["width"].int64_list.value[0],
            )
            return {
                "path": features["path"].bytes_list.value[0].decode(),
                "label": np.int32(features["label"].int64_list.value[0]),
                "clip": features["video"].bytes_list.value[0],
                "info": info,
            }
        except (IndexError, UnicodeDecodeError) as error:
            raise self._corrupt(index, f"it lacks a feature ({error})") from None

    def _read(self, index: int) -> Any:
        try:
            with self._lock:
                if self._records is None:
                    self._records = ArrayRecordDataSource(list(self._layout.files))
            data = self._records[index]
            if not data:
                raise ValueError("it is empty")
            return find_example_class().FromString(data).features.feature
        except Exception as error:  # riegeli raises RuntimeError, protobuf an error of its own
            raise self._corrupt(index, str(error)) from None

    def _corrupt(self, index: int, detail: str) -> VideoError:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        file = os.path.basename(self._layout.files[shard])
        place = f"{self._layout.name}/{self.split} record {index}"
        return VideoError(place, "corrupt", f"in {file}: {' '.join(detail.split())[:160]}")

    def _check_files(self) -> None:
        remedy = "Copy the dataset again, or delete it and run nbp.prepare again."
        for path, length in zip(self._layout.files, self._layout.lengths, strict=True):
            if not os.path.isfile(path):
                raise DataError(f"{path}: missing, though {self.directory} lists it. {remedy}")
            found = count_records(path)
            if found != length:
                raise DataError(
                    f"{path}: damaged: {found} readable records, {length} expected. {remedy}"
                )


def _read_layout(directory: Path, split: str) -> _Layout:
    if not (directory / "dataset_info.json").is_file():
        raise DataError(f"{directory}: {_say_what_is_there(directory)}")
    try:
        described = read_json(directory / "dataset_info.json")
        features = read_json(directory / "features.json")
        known = set(features["featuresDict"]["features"])
        kind = described.get("fileFormat", "another format")
        name = described["name"]
        splits = {item["name"]: item for item in described.get("splits", ())}
        lengths = {key: tuple(map(int, item["shardLengths"])) for key, item in splits.items()}
        labels = _read_labels(directory)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{directory}: a TFDS dataset, but not one that nbp.prepare wrote ({error!r}). Prepare "
            "its videos with python -m nbp.prepare."
        ) from None
    if kind != FORMAT or not known.issuperset(_FEATURES):
        raise DataError(
            f"{directory}: a TFDS dataset with {', '.join(sorted(known))} as {kind}, not one that "
            f"nbp.prepare wrote ({', '.join(_FEATURES)} as {FORMAT}). Prepare its videos with "
            "python -m nbp.prepare."
        )
    if split not in splits:
        raise DataError(f"{directory}: no split {split!r}; it has {', '.join(sorted(splits))}")
    shards = lengths[split]
    files = tuple(
        os.path.join(directory, shard_name(name, split, shard, len(shards)))
        for shard in range(len(shards))
    )
    digest = hashlib.sha256(repr((name, split, labels, shards, sorted(known))).encode())
    digest.update(str([os.path.getsize(f) if os.path.isfile(f) else 0 for f in files]).encode())
    prepared = directory / PREPARED
    if prepared.is_file():  # the hashes of the files
        digest.update(prepared.read_bytes())
    return _Layout(name, tuple(labels), files, shards, "records-" + digest.hexdigest()[:16])


def _read_labels(directory: Path) -> list[str]:
    """The names of the classes: as they are where nbp.prepare noted them, else as TFDS has them."""
    if (directory / PREPARED).is_file():
        noted = read_json(directory / PREPARED).get("labels")
        if noted is not None:
            return list(noted)
    with (directory / _LABELS).open(encoding="utf8", newline="") as file:  # only \n ends a name
        return file.read().removesuffix("\n").split("\n")


def _say_what_is_there(directory: Path) -> str:
    """Why a folder is no dataset, and the way out."""
    usage = "python -m nbp.prepare {ucf101,k600,folder} --videos DIR --out DIR"
    if not directory.exists():
        return f"no such folder. Prepare a dataset first: {usage}"
    if not directory.is_dir():
        return "not a folder. Give the folder that holds dataset_info.json."
    below = sorted(directory.glob("*/dataset_info.json"))
    below += sorted(directory.glob("*/*/dataset_info.json"))
    below += sorted(directory.glob("*/*/*/dataset_info.json"))
    finished = [path.parent for path in below if ".incomplete-" not in str(path)]
    if finished:
        places = ", ".join(str(path) for path in finished[:4])
        return f"no dataset in this very folder. Give one of those below it: {places}"
    entries = sorted(entry.name for entry in directory.iterdir())
    if any(entry.startswith(".incomplete-") for entry in entries):
        return "a dataset that is not finished. Run the same nbp.prepare command again to resume."
    held = ", ".join(entries[:6]) + (", ..." if entries[6:] else "")
    held = f"it holds {held}" if entries else "it is empty"
    return f"no prepared dataset: {held}. Prepare one: {usage}"


def _restore_rate(stored: float) -> float:
    """The rate before it was rounded to float32, so that windows are those of the source file."""
    return float(Fraction(stored).limit_denominator(1001)) or stored


@dataclass(frozen=True)
class DecodeRecord:
    """Decodes a window of `frames` frames at `fps` of the record's "clip" into "video".

    random: a uniformly drawn window, else the one in the centre; the same choice, for the same
    generator, as `transforms.DecodeClip` makes for the source file. A record may have a "window"
    in [0, 1), the share of the possible starts, which is then taken. resize: for clips stored at
    another size; a `Scaling` works on the decoded frames, whatever their size. Raises `VideoError`
    for a clip that cannot be decoded or is too short.
    """

    frames: int
    fps: float | None
    random: bool
    resize: ShortSide | Squash | Scaling | None = None

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        start = float(rng.random()) if self.random else record.get("window")
        info: VideoInfo = record["info"]
        numbers = choose_frames(info, frames=self.frames, fps=self.fps, start=start)
        if len(numbers) < self.frames:
            raise too_short(record["path"], info, frames=self.frames, fps=self.fps)
        exact = self.resize if isinstance(self.resize, Scaling) else None
        scale = None if exact is None else exact.scale
        video = decode_clip(record["clip"], numbers, name=record["path"], scale=scale)
        if self.resize is not None and exact is None:
            height, width = self.resize.target(*video.shape[1:3])
            if (height, width) != video.shape[1:3]:
                video = np.stack([resize_frame(frame, height, width) for frame in video])
        rest = {key: value for key, value in record.items() if key not in _CONSUMED}
        return {**rest, "video": video}


_CONSUMED = ("clip", "path", "info", "window")


def make_record_transforms(
    *,
    frames: int,
    size: Sides,
    fps: float | None,
    training: bool,
    fit: Fit = "crop",
    flip: bool = False,
) -> tuple[Transform, ...]:
    """The usual chain from a record to a clip uint8 [frames size size 3].

    training: random window and crop (and mirroring, if `flip`); else both in the centre.
    fit: "crop" scales the short side to `size` and cuts a square; "squash" scales both sides, as
        the official loader does; "random_crop" cuts the square from frames 1.5 times larger, as
        the official `--resizecrop` does, but keeps the aspect ratio.
    """
    resize, cut = choose_spatial(fit, size, training=training)
    decode = DecodeRecord(frames, fps, training, resize)
    return (decode, *cut, *((Flip(),) if flip and training else ()))
