# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The real clips of a protocol: what the workdir must offer, which clips, how they are read."""

import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbp import datasets
from nbp.config import Config
from nbp.data.pipeline import PipelineSpec, read_examples
from nbp.data.records import PREPARED, DecodeRecord
from nbp.data.sources import BadVideos
from nbp.data.transforms import Crop, Record, Transform
from nbp.data.video import resample_frames
from nbp.errors import ConfigError, DataError
from nbp.evaluation.rules import NAMED, ClipRule, Protocol
from nbp.jobs.reading import apply_rule, find_needed_size

# Fields of a rule that are keys of `data` as well.
KEYS = ("frames", "size", "fps", "spatial")


def choose_rule(
    protocol: Protocol, config: Config, overrides: Mapping[str, str]
) -> tuple[Protocol, Config]:
    """The protocol for the configured data, and the configuration that reads clips as it says.

    Raises ConfigError, naming every problem, where the data set or its split is not the
    protocol's, where clips of the tokenizer have another size or length, and where `overrides`
    contradict the protocol.
    """
    data = config.data
    prepared = read_prepared(config)
    name = prepared.get("kind", "")
    protocol = protocol.choose(name if name in NAMED else "", data.kind)
    (rule,) = protocol.clips
    problems = []
    made = protocol.generation and protocol.generation.size
    for key, wanted in (("size", made or rule.size), ("frames", rule.frames)):
        found = getattr(data, key)
        if wanted not in (None, found):
            unit = "px" if key == "size" else "frames"
            does = "generates" if made and key == "size" else "scores"
            problems.append(f"it {does} clips of {wanted} {unit}, the workdir's have {found}")
    fixed = {f"data.{key}": getattr(rule, key) for key in KEYS if getattr(rule, key) is not None}
    if rule.split != "held out":
        wanted = rule.split.split("+")
        fixed["data.validation_split"] = wanted[-1]
        splits = datasets.list_splits(config)
        problems += [
            f"it needs the split {split}, {data.root} has {', '.join(splits)}"
            for split in wanted
            if split not in splits
        ]
        problems += check_prepared(rule, prepared, find_needed_size(protocol))
    problems += [
        f"it fixes {key} at {fixed[key]!r}, so --config.{key}={text} cannot be"
        for key, text in overrides.items()
        if key in fixed and str(fixed[key]) != text and str(fixed[key]).removesuffix(".0") != text
    ]
    if problems:
        raise ConfigError(f"protocol {protocol.name}: {'; '.join(problems)}")
    changes = {key.removeprefix("data."): value for key, value in fixed.items()}
    return protocol, dataclasses.replace(config, data=dataclasses.replace(data, **changes))


def check_prepared(rule: ClipRule, prepared: Mapping[str, Any], needed: int | None) -> list[str]:
    """What is wrong with a prepared data set: another split, or pixels that are lost.

    needed: the px at which its clips are read.
    """
    problems = []
    if rule.dataset == "ucf101" and prepared["split"] != 1:
        problems.append(f"it needs split 1 of UCF101, this is {prepared['split']}: --split 1")
    fit, size = prepared["fit"], prepared["size"]
    if fit != "native" and needed is not None and size < needed:
        problems.append(
            f"its clips of {needed} px are stored at {size}: nbp.prepare --size {needed}"
        )
    if fit == "squash" and rule.spatial == "crop":
        problems.append("it cuts squares, and the stored clips are squashed: omit --squash")
    return problems


def read_prepared(config: Config) -> dict[str, Any]:
    """The options of nbp.prepare that made the configured data; {} for other data."""
    if config.data.kind != "records":
        return {}
    folder = datasets.find_dataset(Path(config.data.root)) or Path(config.data.root)
    try:
        return json.loads((folder / PREPARED).read_text(encoding="utf8"))["options"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder / PREPARED} cannot be read: {error}") from error


@dataclass(frozen=True)
class RealClips:
    """The clips of one evaluation: row `rows[i]` of the source is clip i.

    complete: how many clips the protocol scores; fewer `rows` make another score. distinct: clip i
    is the same as clip i % distinct. skipped: videos that were known as unusable beforehand, and
    are not among the rows. missing: listed videos that are not there. train: the training split.
    """

    config: Config
    data: datasets.ClipData
    rows: np.ndarray
    complete: int
    seed: int
    skipped: int
    distinct: int
    rule: ClipRule
    missing: int
    train: datasets.ClipData

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.data.label_names

    @property
    def replaced(self) -> list[str]:
        """What could not be read while clips were drawn; other clips stood in for it."""
        return [str(error) for error in self.data.bad_videos or ()][self.skipped :]

    @property
    def is_complete(self) -> bool:
        """Whether these are the clips that the protocol asks for."""
        return len(self.rows) >= self.complete and not self.missing

    @functools.cached_property
    def chosen(self) -> datasets.ClipData:
        """The rows as data of their own."""
        return dataclasses.replace(self.data, source=_Chosen(self.data.source, self.rows))

    def batches(self, batch: int) -> Iterator[dict[str, np.ndarray]]:
        """ "video", "label" and "index" (of the clip) in order; the last may be shorter."""
        config = dataclasses.replace(self.config, seed=self.seed)
        yield from datasets.iterate_clips(config, self.chosen, limit=len(self.rows), batch=batch)

    def read(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """The same of any clips, by their numbers."""
        spec = PipelineSpec(
            batch=1,
            seed=self.seed,
            shuffle=False,
            threads=os.cpu_count() or 1,
            bad=self.config.data.bad_records,
        )
        data = self.chosen
        bad = BadVideos() if data.bad_videos is None else data.bad_videos
        indices = [int(number) % self.distinct for number in numbers]
        return read_examples(data.source, data.transforms, spec, indices=indices, bad_videos=bad)

    def find_label(self, number: int) -> int:
        """The class id of a clip, as its record has it."""
        return int(self.chosen.source[number % self.distinct]["label"])

    def describe(self, index: int) -> dict[str, Any]:
        """Label and, for real videos, path of a clip."""
        try:
            record = self.data.source[int(self.rows[index])]
        except DataError as error:
            return {"error": str(error)}
        label = int(record["label"])
        path = {"path": str(record["path"])} if "path" in record else {}
        return {"label": self.label_names[label], **path}

    def provenance(self) -> dict[str, Any]:
        """What the clips are, for the report."""
        data = self.config.data
        return {
            "kind": data.kind,
            "root": data.root,
            "fingerprint": self.data.source.fingerprint,
            "prepared": read_prepared(self.config),
            "videos": len(self.data.source),
            **datasets.describe_clips(self.config),
        }


def open_clips(config: Config, protocol: Protocol, limit: int | None) -> RealClips:
    """The clips that the protocol scores; `limit` takes that many, spread evenly over them."""
    (rule,) = protocol.clips
    train, data = datasets.make_data(config)
    if "+" in rule.split:
        data = dataclasses.replace(data, source=Joined((train.source, data.source)))
    missing = max(0, (rule.videos or 0) - len(data.source))
    if rule.window == "all":
        scored = protocol.features and protocol.features.frames
        source = cut_windows(data.source, frames=config.data.frames, step=scored or 1)
        data = dataclasses.replace(data, source=source)
    total = len(data.source)
    rows = choose_rows(rule, total, protocol.seed)
    complete = rule.clips or rule.videos or len(rows)
    distinct = min(len(rows), total) if rule.duplicates == "cycle" else len(rows)
    if rule.limit == "validation_clips":
        rows = rows[: config.data.validation_clips]
        complete = len(rows)
    if limit is not None and limit < len(rows):
        rows = rows[np.arange(limit) * len(rows) // limit]
        distinct = limit
    if rule.window != "centre" or rule.crop != "centre" or rule.short != "left out":
        data = dataclasses.replace(data, transforms=make_transforms(config, rule))
    transforms = apply_rule(data.transforms, rule, config.data.size)
    data = dataclasses.replace(data, transforms=transforms)
    skipped = len(data.bad_videos or ())
    return RealClips(
        config, data, rows, complete, protocol.seed, skipped, distinct, rule, missing, train
    )


def choose_rows(rule: ClipRule, total: int, seed: int) -> np.ndarray:
    """The row of each clip: all `total` once, then duplicates up to `rule.clips`."""
    count = rule.clips or total
    rows = np.arange(total)
    if rule.order == "shuffled":
        rows = np.random.default_rng(seed).permutation(total)
    if count <= total or rule.duplicates == "none":
        return rows[:count]
    if rule.duplicates == "cycle":
        return rows[np.arange(count) % total]
    rng = np.random.default_rng(seed)
    while len(rows) < count:
        more = min(count - len(rows), total)
        rows = np.concatenate([rows, rng.choice(total, more, replace=False)])
    return rows


def make_transforms(config: Config, rule: ClipRule) -> tuple[Transform, ...]:
    """How prepared records become clips where a rule reads them otherwise than an evaluation."""
    decode, *cut = datasets.make_transforms(config, training=False)
    assert isinstance(decode, DecodeRecord)
    decode = dataclasses.replace(decode, random=rule.window == "random")
    crops = tuple(Crop(config.data.size, random=rule.crop == "random") for _ in cut)
    return (BlackEnd(decode) if rule.short == "black" else decode, *crops)


@dataclass(frozen=True)
class BlackEnd:
    """Decodes what a short video has and fills the clip up with black frames."""

    decode: DecodeRecord

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        info, wanted = record["info"], self.decode.frames
        there = min(wanted, len(resample_frames(info.frames, info.fps, self.decode.fps)))
        if there == 0:
            return self.decode(record, rng)  # says so
        decoded = dataclasses.replace(self.decode, frames=there)(record, rng)
        ends = ((0, wanted - there), (0, 0), (0, 0), (0, 0))
        return {**decoded, "video": np.pad(decoded["video"], ends)}


class _Source:
    """What sources that are made of others have in common."""

    source: Any

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.source.label_names


@dataclass(frozen=True)
class _Chosen(_Source):
    """Rows of a source in another order, or some of them more than once."""

    source: Any
    rows: np.ndarray

    @functools.cached_property
    def fingerprint(self) -> str:
        return f"{self.source.fingerprint}-{datasets.hash_settings({'rows': self.rows.tolist()})}"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[int(self.rows[index])]


@dataclass(frozen=True)
class Joined:
    """Sources of the same classes, one after the other."""

    sources: tuple[Any, ...]

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.sources[0].label_names

    @property
    def fingerprint(self) -> str:
        return "+".join(source.fingerprint for source in self.sources)

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def __getitem__(self, index: int) -> dict[str, Any]:
        for source in self.sources:
            if index < len(source):
                return source[index]
            index -= len(source)
        raise IndexError(index)


@dataclass(frozen=True)
class Windows(_Source):
    """Windows of a source's videos: (row, share of the possible starts) of each."""

    source: Any
    places: tuple[tuple[int, float], ...]

    @functools.cached_property
    def fingerprint(self) -> str:
        return f"{self.source.fingerprint}-{datasets.hash_settings({'windows': self.places})}"

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, start = self.places[index]
        return {**self.source[row], "window": start}


def cut_windows(source: Any, *, frames: int, step: int) -> Windows:
    """All windows of `frames` frames that start at multiples of `step`, at the videos' own rate."""
    places = []
    for row in range(len(source)):
        starts = source[row]["info"].frames - frames + 1
        # In the middle of its share, where rounding cannot move it.
        places += [(row, (start + 0.5) / starts) for start in range(0, starts, step)]
    return Windows(source, tuple(places))
