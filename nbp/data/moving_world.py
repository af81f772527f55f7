# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The world of moving shapes: what happens in clips longer than those of training.

A clip of training ends before its shape has touched the border for long. Here it goes on: it
bounces or comes back on the other side, turns, passes behind something, and its label may change.
So long generation has a right answer, which `WorldTruth` holds for each frame.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from nbp.ranges import Natural
from nbp.shapes import Array, Float, Int

Border = Literal["bounce", "wrap"]
Part = Literal["shape", "colour", "motion"]
PARTS: tuple[Part, ...] = ("shape", "colour", "motion")

# Darker than any background, so that no tracker takes it for a palette colour.
BAR_COLOUR = 10.0
BAR_WIDTH = 0.1  # of the frame
BAR_PLACES = (0.35, 0.65)  # where its middle may be


@dataclass(frozen=True)
class WorldRules:
    """Keys of the section `data.moving_shapes.world`. Raises `ValueError` naming the field.

    border: `bounce`: the shape turns back where it would leave the frame; `wrap`: it leaves, and
        comes back on the other side.
    start: where the path begins. `inside`: as far from the wall ahead as a clip of training needs;
        `anywhere`: so that clips of training meet the border.
    clip_frames: the path begins as in a clip of so many frames; 0: of all. So the beginning of a
        long clip is a clip of training.
    changes: frames, from 1, at which the label changes. change_share: the chance of each. changing:
        the parts of it that do, each to another one of the spec's. changing_share: the chance of
        each; one does at least.
    turn_every: after so many frames the motion changes to another one; 0: never.
    occlusion: what may be in front of the shape: a dark bar across its path, or a smaller shape of
        another colour that moves by itself.
    """

    border: Border = "bounce"
    start: Literal["inside", "anywhere"] = "inside"
    clip_frames: Natural = 0
    changes: tuple[int, ...] = ()
    changing: tuple[Part, ...] = ("motion",)
    change_share: float = 1.0
    changing_share: float = 1.0
    turn_every: Natural = 0
    occlusion: Literal["none", "bar", "shape"] = "none"

    def __post_init__(self) -> None:
        def check(field: str, fits: bool, allowed: str) -> None:
            if not fits:
                value = getattr(self, field)
                raise ValueError(f"WorldRules.{field} is {value!r}; allowed: {allowed}.")

        check("border", self.border in ("bounce", "wrap"), "bounce, wrap")
        check("start", self.start in ("inside", "anywhere"), "inside, anywhere")
        for name in ("change_share", "changing_share"):
            check(name, 0 < getattr(self, name) <= 1, "above 0, at most 1")
        check("occlusion", self.occlusion in ("none", "bar", "shape"), "none, bar, shape")
        check("clip_frames", self.clip_frames == 0 or self.clip_frames >= 2, "0, or 2 and more")
        check("turn_every", self.turn_every >= 0, "0 or more")
        growing = all(a < b for a, b in itertools.pairwise((0, *self.changes)))
        check("changes", growing, "frames from 1, each larger than the one before")
        known = bool(self.changing) and set(self.changing) <= set(PARTS)
        check("changing", known, "one or more of shape, colour, motion")

    @property
    def steady(self) -> "WorldRules":
        """The same world, whose labels never change."""
        return replace(self, changes=(), turn_every=0)

    @property
    def changed_parts(self) -> frozenset[str]:
        """Parts of the label that change at some time."""
        parts: set[str] = set(self.changing) if self.changes else set()
        return frozenset(parts | {"motion"} if self.turn_every else parts)

    def list_changes(self, frames: int) -> list[int]:
        """Frames below `frames` at which the label may change."""
        turns = range(self.turn_every, frames, self.turn_every) if self.turn_every else ()
        return sorted({*turns, *(frame for frame in self.changes if frame < frames)})


PLAIN_WORLD = WorldRules()


class Label(NamedTuple):
    """A class by the places of its shape, colour and motion among those of the spec."""

    shape: int
    colour: int
    motion: int

    @classmethod
    def of(cls, number: int, counts: tuple[int, int, int]) -> "Label":
        """Of a class id; counts: of shapes, colours and motions."""
        rest, motion = divmod(number, counts[2])
        return cls(*divmod(rest, counts[1]), motion)

    def number(self, counts: tuple[int, int, int]) -> int:
        """The class id."""
        return (self.shape * counts[1] + self.colour) * counts[2] + self.motion


@dataclass(frozen=True, eq=False)
class WorldTruth:
    """What is true of each frame of a clip.

    labels: class ids [t]. centres: of the shape, (x, y) in pixels [t 2], between 0 and the size at
    a border that wraps. visible: share of the shape that nothing in front of it hides, 0..1 [t].
    """

    labels: Int[np.ndarray, "t"]
    centres: Float[np.ndarray, "t 2"]
    visible: Float[np.ndarray, "t"]

    @property
    def label_from(self) -> int:
        """The first frame of the last stretch with one label."""
        return int(np.flatnonzero(self.labels != self.labels[-1]).max(initial=-1)) + 1

    def script(self, names: Sequence[str]) -> tuple[tuple[int, str], ...]:
        """(first frame, label) of each stretch with one label. names: of the classes."""
        starts = np.flatnonzero(np.diff(self.labels, prepend=-1))
        return tuple((int(start), names[int(self.labels[start])]) for start in starts)


def draw_labels(
    rng: np.random.Generator,
    world: WorldRules,
    first: Label,
    *,
    counts: tuple[int, int, int],
    frames: int,
) -> list[tuple[int, Label]]:
    """(first frame, label) of each stretch; each change is to another of its part, all alike."""

    def happens(share: float) -> bool:
        return share == 1 or rng.random() < share

    changed: dict[int, set[str]] = {}
    for frame in range(world.turn_every, frames, world.turn_every) if world.turn_every else ():
        changed.setdefault(frame, set()).add("motion")
    for frame in world.changes:
        if frame < frames and happens(world.change_share):
            parts = [part for part in world.changing if happens(world.changing_share)]
            if not parts:
                parts = [world.changing[rng.integers(len(world.changing))]]
            changed.setdefault(frame, set()).update(parts)
    labels = [(0, first)]
    for frame in sorted(changed):
        now = labels[-1][1]
        new = {
            part: (getattr(now, part) + int(rng.integers(1, count))) % count
            for part, count in zip(PARTS, counts, strict=True)
            if part in changed[frame]
        }
        labels.append((frame, now._replace(**new)))
    return labels


def reflect(position: Array, low: Array, high: Array) -> Array:
    """Folds an unbounded straight path into [low, high], as a ball between walls."""
    span = high - low
    offset = (position - low) % (2 * span)
    return low + np.minimum(offset, 2 * span - offset)


def fold(
    position: Array, walls: tuple[Array, Array], *, border: Border, sides: tuple[int, int]
) -> Array:
    """An unbounded straight path (x, y) [t 2] as the border has it: see `WorldRules`.

    sides: height and width.
    """
    return position % np.array(sides[::-1]) if border == "wrap" else reflect(position, *walls)


def bar_cover(
    rng: np.random.Generator, sides: tuple[int, int], *, upright: bool
) -> tuple[Array, Array]:
    """A still dark bar from border to border: its cover, float32 [1 h w 1], and colour.

    sides: height and width.
    """
    across = sides[1] if upright else sides[0]
    middle = rng.uniform(*BAR_PLACES) * across
    distance = np.abs(np.arange(across) + 0.5 - middle)
    line = np.clip(0.5 * BAR_WIDTH * min(sides) + 0.5 - distance, 0, 1).astype(np.float32)
    cover = np.broadcast_to(line if upright else line[:, None], sides)
    return cover[None, :, :, None], np.full(3, BAR_COLOUR, np.float32)
