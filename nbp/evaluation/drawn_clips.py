# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Real clips as a protocol drew them: sources of chosen records, and reading each at its place.

A record of `ChosenItems` has a "place" (`nbp.protocols.clip_lists.Place`), and a "start" where the
first frame is known already.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbp import build_data
from nbp.data.augmentation import Crop, Flip, Record
from nbp.data.records import DecodeRecord
from nbp.data.video.decode import resample_frames
from nbp.evaluation.real_pixels import CentreCrop
from nbp.protocols.clip_lists import Draws, WindowList, choose_start, place_clip
from nbp.protocols.protocol import ClipRule, Margin


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
    """Cuts a square where a record's "place" says, else from the centre.

    margin: of an odd number of pixels that are cut off there, the half is rounded down, or to an
    even number as torchvision's CenterCrop does.
    """

    size: int
    margin: Margin = "floor"

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        if record["place"].crop is None and self.margin == "round":
            return CentreCrop(self.size)(record, rng)
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
class ChosenItems(_Source):
    """The drawn items of a source, in their order, each with its place in the video."""

    source: Any
    draws: Draws
    rule: ClipRule
    seed: int
    starts: np.ndarray | None

    @functools.cached_property
    def fingerprint(self) -> str:
        drawn = {"rows": self.draws.rows.tolist(), "examples": self.draws.examples.tolist()}
        if self.starts is not None:
            drawn["starts"] = self.starts.tolist()
        return f"{self.source.fingerprint}-{build_data.hash_settings(drawn)}"

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = int(self.draws.examples[index])
        place = place_clip(self.rule, self.seed, example)
        start = {} if self.starts is None else {"start": int(self.starts[example])}
        return {**self.source[int(self.draws.rows[index])], **start, "place": place}


@dataclass(frozen=True)
class JoinedSources:
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
class ListedItems(_Source):
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
        return f"{self.source.fingerprint}-{build_data.hash_settings(found)}"

    def __len__(self) -> int:
        return len(self.order if self.windows is None else self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.windows is None:
            return self.source[int(self.order[index])]
        row, start = self.windows[index]
        return {**self.source[int(self.order[row])], "start": start}
