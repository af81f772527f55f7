# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts over time: a story tells the condition of each latent frame of one long video.

A story is a function from the latent frame to the scene in force, `Story.at`. Nothing else knows
of time: what draws asks it where a window (or a block of a rolling cache) begins, and draws with
the label and the guidance that it gives. The condition of a block is that of its latent frame.

A window that reaches over the end of a scene is cut there, and the next one begins with its last
latent frames and the new condition. What it is shown was drawn under the old one, but all keys are
computed again with the new one: as in training, where a clip has one prompt, and what it reads
before a change of its label knows it.
"""

import functools
import itertools
import json
from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nbp.errors import ConfigError
from nbp.flags import COUNT
from nbp.layout import frames_of_latents, latents_of_frames
from nbp.sampling.request import GUIDANCE

NONE = "none"  # the label of a scene without a condition
FORM = "write FRAMES LABEL, or FRAMES guidance=G LABEL"


@dataclass(frozen=True)
class Line:
    """A scene as it was written: its frames, its label, its guidance or None."""

    frames: int
    label: str
    guidance: float | None = None


@dataclass(frozen=True)
class Scene:
    """frames: of the video. label: a class id, None for no condition. guidance: None for that of
    the request."""

    frames: int
    label: int | None
    guidance: float | None = None


class Condition(NamedTuple):
    """What is in force at a latent frame. scene: its number. end: latent frame with which the next
    one begins, None for the last."""

    scene: int
    label: int | None
    guidance: float | None
    end: int | None


@dataclass(frozen=True)
class Story:
    """Scenes one after the other. stride: frames of a latent frame but the first."""

    scenes: tuple[Scene, ...]
    stride: int

    @property
    def frames(self) -> int:
        return sum(scene.frames for scene in self.scenes)

    @functools.cached_property
    def first_frames(self) -> tuple[int, ...]:
        """The first frame of each scene."""
        return tuple(itertools.accumulate((s.frames for s in self.scenes[:-1]), initial=0))

    @functools.cached_property
    def starts(self) -> tuple[int, ...]:
        """The latent frame with which each scene begins."""
        return tuple(latents_of_frames(frame, self.stride) for frame in self.first_frames)

    def at(self, latent: int) -> Condition:
        """What is in force at a latent frame from 0; behind the end, what was last."""
        index = max(i for i, start in enumerate(self.starts) if start <= latent)
        scene, later = self.scenes[index], self.starts[index + 1 :]
        return Condition(index, scene.label, scene.guidance, later[0] if later else None)

    def check(self, *, depth: int, least: int) -> None:
        """ConfigError where a scene begins within a block or the first one is too short.

        depth: latent frames of a block. least: latent frames that the first scene has at least.
        """
        allowed = functools.partial(frames_of_latents, stride=self.stride)
        for number, frame in enumerate(self.first_frames[1:], start=2):
            latent = latents_of_frames(frame, self.stride)
            if allowed(latent) != frame or latent % depth:
                before = max(depth, (latent - 1) // depth * depth)
                places = f"{allowed(before)} or {allowed(before + depth)}"
                raise ConfigError(
                    f"--story: scene {number} begins with frame {frame}, within a block; let the "
                    f"scenes before have {places} frames in all"
                )
        if len(self.starts) > 1 and self.starts[1] < least:
            raise ConfigError(
                f"--story: the first scene takes {self.scenes[0].frames} of the {allowed(least)} "
                "frames that it needs here: the next one begins with a window of them"
            )


def read_story(source: Any) -> list[Line]:
    """The lines of a story: a file, or a list of (frames, label), (frames, label, guidance) or
    mappings with these names.

    A file is JSON, such a list, or a text with a scene in each line: `FRAMES LABEL` or `FRAMES
    guidance=G LABEL`; a word that begins with # begins a remark. Raises ConfigError, which names
    the line.
    """
    if not isinstance(source, str | Path):
        return _read_items(source, "story")
    path = Path(source)
    try:
        text = path.read_text(encoding="utf8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--story {path}: it cannot be read ({error})") from error
    if text.lstrip()[:1] in ("[", "{"):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"--story {path}: this is no JSON ({error})") from error
        return _read_items(found, f"--story {path}")
    lines = []
    for number, written in enumerate(text.splitlines(), start=1):
        words = list(itertools.takewhile(lambda word: word[0] != "#", written.split()))
        if words:
            lines.append(_read_words(words, f"--story {path}, line {number}"))
    return _check_lines(lines, f"--story {path}")


def _read_words(words: list[str], place: str) -> Line:
    guidance = None
    if len(words) > 1 and words[1].startswith("guidance="):
        guidance = words.pop(1).removeprefix("guidance=")
    return _make_line(words[0], " ".join(words[1:]), guidance, place)


def _read_items(items: Any, place: str) -> list[Line]:
    if not isinstance(items, Sequence) or isinstance(items, str | bytes):
        raise ConfigError(f"{place}: give a list of scenes, each [frames, label]")
    lines = []
    for number, item in enumerate(items, start=1):
        here = f"{place}, scene {number}"
        if isinstance(item, Mapping):
            unknown = sorted(set(map(str, item)) - {"frames", "label", "guidance"})
            if unknown:
                raise ConfigError(f"{here}: unknown {unknown[0]!r}; use frames, label, guidance")
            values = (item.get("frames"), item.get("label"), item.get("guidance"))
        elif isinstance(item, Sequence) and not isinstance(item, str) and len(item) in (2, 3):
            values = (item[0], item[1], item[2] if len(item) == 3 else None)
        else:
            raise ConfigError(f"{here}: {item!r} is no scene; give [frames, label]")
        lines.append(_make_line(*values, here))
    return _check_lines(lines, place)


def _make_line(frames: Any, label: Any, guidance: Any, place: str) -> Line:
    try:
        count = COUNT(str(frames))
        scale = None if guidance is None else GUIDANCE(str(guidance))
    except ArgumentTypeError as error:
        raise ConfigError(f"{place}: {error}; {FORM}") from error
    if not isinstance(label, str | int | np.integer) or not str(label).strip():
        raise ConfigError(f"{place}: no label; {FORM}")
    return Line(count, str(label), scale)


def _check_lines(lines: list[Line], place: str) -> list[Line]:
    if not lines:
        raise ConfigError(f"{place}: there is no scene; {FORM}")
    return lines
