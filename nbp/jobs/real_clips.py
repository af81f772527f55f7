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
from nbp.data.transforms import Crop, Flip, Record, Transform
from nbp.data.video import resample_frames
from nbp.errors import ConfigError, DataError
from nbp.evaluation.drawing import (
    Draws,
    WindowList,
    choose_start,
    draw_clips,
    order_by_path,
    place_clip,
    take_repeat,
)
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
    """The clips of one evaluation: clip i is of row `draws.rows[i]` of the source.

    complete: how many clips the protocol scores; fewer rows make another score. limit: that many
    were asked for. skipped: videos that were known as unusable beforehand, and are not among the
    rows. missing: listed videos that are not there. train: the training split.
    """

    config: Config
    data: datasets.ClipData
    draws: Draws
    complete: int
    limit: int | None
    seed: int
    skipped: int
    rule: ClipRule
    missing: int
    train: datasets.ClipData

    @property
    def rows(self) -> np.ndarray:
        """The row of each clip."""
        return self.draws.rows

    @property
    def distinct(self) -> int:
        """Clip i is the same as clip i % distinct."""
        return self.draws.distinct

    def of_repeat(self, repeat: int) -> "RealClips":
        """The clips of a repeat of the evaluation: others where the protocol takes others."""
        draws = draw_limited(self.rule, len(self.data.source), self.seed, repeat, self.limit)
        return dataclasses.replace(self, draws=draws) if take_repeat(self.rule, repeat) else self

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
        source = _Chosen(self.data.source, self.draws, self.rule, self.seed)
        return dataclasses.replace(self.data, source=source)

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
    if rule.order == "sample" or rule.window == "all":
        data = dataclasses.replace(data, source=list_windows(data.source, rule, config))
    draws = draw_limited(rule, len(data.source), protocol.seed, 0, None)
    complete = rule.clips or rule.videos or len(draws)
    if rule.limit == "validation_clips":
        draws = draws.first(config.data.validation_clips)
        complete = len(draws)
    if limit is not None:
        draws = draws.spread(limit)
    if rule.split != "held out":
        data = dataclasses.replace(data, transforms=make_transforms(config, rule))
    skipped = len(data.bad_videos or ())
    return RealClips(
        config, data, draws, complete, limit, protocol.seed, skipped, rule, missing, train
    )


def draw_limited(rule: ClipRule, total: int, seed: int, repeat: int, limit: int | None) -> Draws:
    """The clips of a repeat, or `limit` of them, spread evenly."""
    draws = draw_clips(rule, total, seed, repeat=take_repeat(rule, repeat))
    return draws if limit is None else draws.spread(limit)


def make_transforms(config: Config, rule: ClipRule) -> tuple[Transform, ...]:
    """How prepared records, each with its `Place`, become the clips of a rule."""
    decode, *cut = datasets.make_transforms(config, training=False)
    assert isinstance(decode, DecodeRecord)
    read = ReadPlace(decode, rule.counted or decode.frames, black=rule.short == "black")
    return (read, *(CropPlace(config.data.size) for _ in cut), FlipPlace())


@dataclass(frozen=True)
class ReadPlace:
    """Decodes the window that a record's "place" names.

    counted: frames that a window has; more may be read (`decode.frames`), and those after the
    video's last one repeat it. black: a video with fewer frames than are counted ends in black
    ones; else it cannot be read (DataError).
    """

    decode: DecodeRecord
    counted: int
    black: bool = False

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        info, wanted = record["info"], self.decode.frames
        length = len(resample_frames(info.frames, info.fps, self.decode.fps))
        if length == 0 or (length < self.counted and not self.black):
            return self.decode(record, rng)  # says so
        first = record.get("start")
        if first is None:
            first = choose_start(record["place"].start, length, self.counted)
        there = min(wanted, length - first)
        # The middle of its share of the starts, where rounding cannot move it.
        share = (first + 0.5) / (length - there + 1)
        decode = dataclasses.replace(self.decode, frames=there, random=False)
        found = decode({**record, "window": share}, rng)
        ends = ((0, wanted - there), (0, 0), (0, 0), (0, 0))
        mode = "constant" if length < self.counted else "edge"
        return {**found, "video": np.pad(found["video"], ends, mode=mode)}


@dataclass(frozen=True)
class CropPlace:
    """Cuts a square where a record's "place" says, else from the centre."""

    size: int

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        if record["place"].crop is None:
            return Crop(self.size, random=False)(record, rng)
        video = record["video"]
        top, left = (
            int(share * (side - self.size + 1))
            for share, side in zip(record["place"].crop, video.shape[1:3], strict=True)
        )
        return {**record, "video": video[:, top : top + self.size, left : left + self.size]}


@dataclass(frozen=True)
class FlipPlace:
    """Mirrors left and right where a record's "place" says so."""

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        return Flip(float(record["place"].flip))(record, rng)


class _Source:
    """What sources that are made of others have in common."""

    source: Any

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.source.label_names


@dataclass(frozen=True)
class _Chosen(_Source):
    """The drawn items of a source, in their order, each with its place in the video."""

    source: Any
    draws: Draws
    rule: ClipRule
    seed: int

    @functools.cached_property
    def fingerprint(self) -> str:
        drawn = {"rows": self.draws.rows.tolist(), "examples": self.draws.examples.tolist()}
        return f"{self.source.fingerprint}-{datasets.hash_settings(drawn)}"

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = place_clip(self.rule, self.seed, int(self.draws.examples[index]))
        return {**self.source[int(self.draws.rows[index])], "place": place}


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
class Listed(_Source):
    """The videos of a source in another order, or all windows of them: (row, first frame)."""

    source: Any
    order: np.ndarray
    windows: WindowList | None

    @functools.cached_property
    def fingerprint(self) -> str:
        found: dict[str, Any] = {"order": self.order.tolist()}
        if self.windows is not None:
            found |= {"frames": self.windows.frames.tolist()}
            found |= {"counted": self.windows.counted, "step": self.windows.step}
        return f"{self.source.fingerprint}-{datasets.hash_settings(found)}"

    def __len__(self) -> int:
        return len(self.order if self.windows is None else self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.windows is None:
            return self.source[int(self.order[index])]
        row, start = self.windows[index]
        return {**self.source[int(self.order[row])], "start": start}


def list_windows(source: Any, rule: ClipRule, config: Config) -> Listed:
    """The items of a rule that counts windows, or orders videos by path. Reads every record."""
    lengths, paths = [], []
    for row in range(len(source)):
        record = source[row]
        info = record["info"]
        lengths.append(len(resample_frames(info.frames, info.fps, config.data.fps or None)))
        paths.append(str(record["path"]))
    order = np.arange(len(source))
    if rule.order == "sample":
        order = order_by_path(rule, paths)
    if rule.window != "all":
        return Listed(source, order, None)
    counted = rule.counted or config.data.frames
    return Listed(source, order, WindowList(np.array(lengths)[order], counted, rule.step))
