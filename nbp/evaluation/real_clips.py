# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The real clips of a protocol: what the workdir must offer, which clips, how they are read."""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbp import build_data
from nbp.config.schema import Config
from nbp.data.augmentation import Transform
from nbp.data.pipeline import PipelineSpec, read_examples
from nbp.data.records import PREPARED, DecodeRecord
from nbp.data.sources import BadVideos
from nbp.data.video.decode import VideoInfo, resample_frames
from nbp.errors import ConfigError, DataError
from nbp.evaluation.drawn_clips import (
    ChosenItems,
    CropPlace,
    FlipPlace,
    JoinedSources,
    ListedItems,
    ReadPlace,
)
from nbp.evaluation.real_pixels import apply_rule, find_needed_size
from nbp.files import read_json
from nbp.protocols.clip_lists import (
    Draws,
    WindowList,
    draw_clips,
    draw_loader_starts,
    order_by_path,
    sorts_by_path,
    take_repeat,
)
from nbp.protocols.protocol import NAMED, ClipRule, Protocol

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
        splits = build_data.list_splits(config)
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
    folder = build_data.find_dataset(Path(config.data.root)) or Path(config.data.root)
    try:
        return dict(read_json(folder / PREPARED)["options"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / PREPARED} cannot be read: {error}") from error


@dataclass(frozen=True)
class RealClips:
    """The clips of one evaluation: clip i is of row `draws.rows[i]` of the source.

    complete: how many clips the protocol scores; fewer rows make another score. limit: that many
    were asked for. starts: first frame of each example, where the protocol's loader draws it.
    skipped: videos that were known as unusable beforehand, and are not among the
    rows. missing: listed videos that are not there. train: the training split.
    """

    config: Config
    data: build_data.ClipData
    draws: Draws
    complete: int
    limit: int | None
    starts: np.ndarray | None
    seed: int
    skipped: int
    rule: ClipRule
    missing: int
    train: build_data.ClipData

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
        if not take_repeat(self.rule, repeat):
            return self
        draws = draw_limited(self.rule, len(self.data.source), self.seed, repeat, self.limit)
        return dataclasses.replace(self, draws=draws)

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.data.label_names

    @property
    def replaced(self) -> dict[str, str]:
        """What this process could not read while clips were drawn; other clips stood in for it.

        Path of the video -> what is wrong with it.
        """
        errors = list(self.data.bad_videos or ())[self.skipped :]
        return {error.path: str(error) for error in errors}

    @property
    def is_complete(self) -> bool:
        """Whether these are the clips that the protocol asks for."""
        return len(self.rows) >= self.complete and not self.missing

    @functools.cached_property
    def chosen(self) -> build_data.ClipData:
        """The rows as data of their own."""
        source = ChosenItems(self.data.source, self.draws, self.rule, self.seed, self.starts)
        return dataclasses.replace(self.data, source=source)

    def batches(self, batch: int) -> Iterator[dict[str, np.ndarray]]:
        """ "video", "label" and "index" (of the clip) in order; the last may be shorter."""
        config = dataclasses.replace(self.config, seed=self.seed)
        yield from build_data.iterate_clips(config, self.chosen, limit=len(self.rows), batch=batch)

    def read(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """The same of any clips, by their numbers; "replaced" [k 2] as the property, of these."""
        spec = PipelineSpec(
            batch=1,
            seed=self.seed,
            shuffle=False,
            threads=os.cpu_count() or 1,
            bad=self.config.data.bad_records,
        )
        data, bad = self.chosen, BadVideos()
        indices = [int(number) % self.distinct for number in numbers]
        rows = read_examples(data.source, data.transforms, spec, indices=indices, bad_videos=bad)
        if data.bad_videos is not None and len(bad):
            data.bad_videos.add(*bad)
        replaced = np.array([(error.path, str(error)) for error in bad], str)
        return {**rows, "replaced": replaced.reshape(-1, 2)}

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
        data, source = self.config.data, self.data.source
        items = isinstance(source, ListedItems)
        return {
            "kind": data.kind,
            "root": data.root,
            "fingerprint": source.fingerprint,
            "prepared": read_prepared(self.config),
            "videos": len(source.order if items else source),
            **({"windows": len(source)} if items and source.windows is not None else {}),
            **build_data.describe_clips(self.config),
            **({"moving_shapes": self._describe_shapes()} if data.kind == "moving_shapes" else {}),
        }

    def _describe_shapes(self) -> dict[str, Any]:
        """What the shapes of a clip are drawn from."""
        found = dataclasses.asdict(self.config.data.moving_shapes)
        del found["train_clips"]
        return found


def open_clips(config: Config, protocol: Protocol, limit: int | None) -> RealClips:
    """The clips that the protocol scores; `limit` takes that many, spread evenly over them."""
    (rule,) = protocol.clips
    train, data = build_data.make_data(config.each_set[0])
    if "+" in rule.split:
        data = dataclasses.replace(data, source=JoinedSources((train.source, data.source)))
    missing = max(0, (rule.videos or 0) - len(data.source))
    starts = None
    if sorts_by_path(rule) or rule.window in ("all", "loader"):
        data, starts, lost = list_items(data, rule, config, seed=protocol.seed)
        missing += lost
    draws = draw_limited(rule, len(data.source), protocol.seed, 0, None)
    complete = rule.clips or rule.videos or len(draws)
    if rule.limit == "validation_clips":
        draws = draws.first(config.data.validation_clips)
        complete = len(draws)
    if limit is not None:
        draws = draws.spread(limit)
    if rule.split != "held out":
        data = dataclasses.replace(data, transforms=make_transforms(config, rule))
    transforms = apply_rule(data.transforms, rule, config.data.size)
    data = dataclasses.replace(data, transforms=transforms)
    skipped = len(data.bad_videos or ())
    return RealClips(
        config,
        data,
        draws,
        complete,
        limit,
        starts,
        protocol.seed,
        skipped,
        rule,
        missing,
        train,
    )


def draw_limited(rule: ClipRule, total: int, seed: int, repeat: int, limit: int | None) -> Draws:
    """The clips of a repeat, or `limit` of them, spread evenly."""
    draws = draw_clips(rule, total, seed, repeat=take_repeat(rule, repeat))
    return draws if limit is None else draws.spread(limit)


def make_transforms(config: Config, rule: ClipRule) -> tuple[Transform, ...]:
    """How prepared records, each with its `Place`, become the clips of a rule."""
    decode, *cut = build_data.make_transforms(config, training=False)
    assert isinstance(decode, DecodeRecord)
    read = ReadPlace(decode, rule.counted or decode.frames, black=rule.short == "black")
    return (read, *(CropPlace(config.data.size, rule.pixels.margin) for _ in cut), FlipPlace())


def list_items(
    data: build_data.ClipData, rule: ClipRule, config: Config, *, seed: int
) -> tuple[build_data.ClipData, np.ndarray | None, int]:
    """What a rule draws from: windows, or videos in the order of their paths; the first frames of
    examples where they follow from the lengths of all; and how many videos have no windows because
    they cannot be read. Reads every record.
    """
    source = data.source
    lengths, paths, unread = [], [], 0
    for row in range(len(source)):
        try:
            record = source[row]
        except DataError:
            if config.data.bad_records == "stop":
                raise
            # Its place in the list is that of its neighbour; reading it is what fails later.
            record = {"info": VideoInfo(0, 1.0, 0, 0), "path": paths[-1] if paths else ""}
            unread += 1
        info = record["info"]
        lengths.append(len(resample_frames(info.frames, info.fps, config.data.fps or None)))
        paths.append(str(record["path"]))
    order = order_by_path(rule, paths) if sorts_by_path(rule) else np.arange(len(source))
    ordered, windows = np.array(lengths, np.int64)[order], None
    if rule.window == "all":
        windows = WindowList(ordered, rule.counted or config.data.frames, rule.step)
    items = dataclasses.replace(data, source=ListedItems(source, order, windows))
    return items, draw_loader_starts(rule, ordered, seed), unread if windows is not None else 0
