# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The real clips of a protocol: what the workdir must offer, which clips, how they are read."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbp import datasets
from nbp.config import Config
from nbp.data.records import PREPARED, DecodeRecord
from nbp.data.transforms import Crop, Record, Transform
from nbp.data.video import resample_frames
from nbp.errors import ConfigError, DataError
from nbp.evaluation.rules import NAMED, ClipRule, Protocol

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
    for key in ("size", "frames"):
        wanted, found = getattr(rule, key), getattr(data, key)
        if wanted not in (None, found):
            unit = "px" if key == "size" else "frames"
            problems.append(f"it scores clips of {wanted} {unit}, the workdir's have {found}")
    fixed = {f"data.{key}": getattr(rule, key) for key in KEYS if getattr(rule, key) is not None}
    if rule.split != "held out":
        fixed["data.validation_split"] = rule.split
        splits = datasets.list_splits(config)
        if rule.split not in splits:
            problems.append(f"it needs the split {rule.split}, {data.root} has {', '.join(splits)}")
        problems += check_prepared(rule, prepared)
    problems += [
        f"it fixes {key} at {fixed[key]!r}, so --config.{key}={text} cannot be"
        for key, text in overrides.items()
        if key in fixed and str(fixed[key]) != text and str(fixed[key]).removesuffix(".0") != text
    ]
    if problems:
        raise ConfigError(f"protocol {protocol.name}: {'; '.join(problems)}")
    changes = {key.removeprefix("data."): value for key, value in fixed.items()}
    return protocol, dataclasses.replace(config, data=dataclasses.replace(data, **changes))


def check_prepared(rule: ClipRule, prepared: Mapping[str, Any]) -> list[str]:
    """What is wrong with a prepared data set: another split, or pixels that are lost."""
    problems = []
    if rule.dataset == "ucf101" and prepared["split"] != 1:
        problems.append(f"it needs split 1 of UCF101, this is {prepared['split']}: --split 1")
    fit, size = prepared["fit"], prepared["size"]
    if fit != "native" and rule.size is not None and size < rule.size:
        problems.append(
            f"its clips of {rule.size} px are stored at {size}: nbp.prepare --size {rule.size}"
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

    complete: how many clips the protocol scores; fewer `rows` make another score. skipped: videos
    that were known as unusable beforehand, and are not among the rows.
    """

    config: Config
    data: datasets.ClipData
    rows: np.ndarray
    complete: int
    seed: int
    skipped: int

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.data.label_names

    @property
    def replaced(self) -> list[str]:
        """What could not be read while clips were drawn; other clips stood in for it."""
        return [str(error) for error in self.data.bad_videos or ()][self.skipped :]

    def batches(self, batch: int) -> Iterator[dict[str, np.ndarray]]:
        """ "video", "label" and "index" (of the clip) in order; the last may be shorter."""
        chosen = dataclasses.replace(self.data, source=_Chosen(self.data.source, self.rows))
        config = dataclasses.replace(self.config, seed=self.seed)
        yield from datasets.iterate_clips(config, chosen, limit=len(self.rows), batch=batch)

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
    _, data = datasets.make_data(config)
    total = len(data.source)
    rows = choose_rows(rule, total, protocol.seed)
    complete = rule.clips or rule.videos or len(rows)
    if rule.limit == "validation_clips":
        rows = rows[: config.data.validation_clips]
        complete = len(rows)
    if limit is not None and limit < len(rows):
        rows = rows[np.arange(limit) * len(rows) // limit]
    if rule.window != "centre" or rule.crop != "centre" or rule.short != "left out":
        data = dataclasses.replace(data, transforms=make_transforms(config, rule))
    skipped = len(data.bad_videos or ())
    return RealClips(config, data, rows, complete, protocol.seed, skipped)


def choose_rows(rule: ClipRule, total: int, seed: int) -> np.ndarray:
    """The row of each clip: all `total` once, then duplicates up to `rule.clips`."""
    count = rule.clips or total
    if count <= total or rule.duplicates == "none":
        return np.arange(min(count, total))
    if rule.duplicates == "cycle":
        return np.arange(count) % total
    rng = np.random.default_rng(seed)
    rows = np.arange(total)
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


@dataclass(frozen=True)
class _Chosen:
    """Rows of a source in another order, or some of them more than once."""

    source: Any
    rows: np.ndarray

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.source.label_names

    @property
    def fingerprint(self) -> str:
        return f"{self.source.fingerprint}-{datasets.hash_settings({'rows': self.rows.tolist()})}"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[int(self.rows[index])]
