# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What several runs drew of the same condition: a class, first frames, a held-out clip.

Clips are those that evaluations kept, then `samples/`, then the last preview of each stage. None is
chosen for its looks: of an evaluation those that it spread over the classes come first.
"""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from nbp.build import stage_directory
from nbp.config import to_json
from nbp.config.schema import Config
from nbp.files import VideoError
from nbp.report.clips import FoundClip, Shown, pack, read_listing, read_samples, read_video
from nbp.report.comparison.runs import Run
from nbp.report.records import Kind
from nbp.shapes import Clip, UInt8

CONDITIONS = 24  # most that a page shows
CLIPS = 400  # most of all conditions together
PREVIEWED = 4  # clips of a preview
GAP = 2  # pixels between those
SPREAD, EXTREME, OF_SAMPLES, PREVIEW = range(4)  # ranks: where a clip is from, the first best
# Keys of the data that say where it lies and how it is read, not which clips are held out.
PLACES = ("root", "workers", "stall_seconds", "bad_records")


class Drawn(NamedTuple):
    """A clip that a run has of a condition; of a kind `real`, what belongs beside all of these.

    condition: equal for clips of one condition. title: of it. rank: of a run's clips of one
    condition the lowest is shown. file: below the run's folder. place: of the clip in the file.
    """

    condition: tuple[str, ...]
    title: str
    run: int
    kind: Kind
    rank: int
    file: str
    label: str = ""
    place: int = 0
    given_frames: int = 0


@dataclass
class Condition:
    """What was drawn of it: a clip of each run."""

    title: str
    real: Drawn | None = None
    runs: dict[int, Drawn] = field(default_factory=dict)

    def add(self, drawn: Drawn) -> None:
        if drawn.kind == "real":
            self.real = self.real or drawn
        elif drawn.run not in self.runs or drawn.rank < self.runs[drawn.run].rank:
            self.runs[drawn.run] = drawn

    @property
    def members(self) -> list[Drawn]:
        real = [] if self.real is None else [self.real]
        return [*real, *(self.runs[number] for number in sorted(self.runs))]


def collect_conditions(runs: Sequence[Run]) -> Shown:
    """The clips of the conditions that most runs drew, each condition a group of its own."""
    conditions, unread = choose_conditions(runs)
    read = dict(read_clips(runs, {drawn for c in conditions for drawn in c.members}))
    found: list[FoundClip] = []
    bad: list[str] = []
    for condition in conditions:
        for drawn in condition.members:
            file = f"{runs[drawn.run].name}/{drawn.file}"
            if isinstance(read[drawn], VideoError):
                bad.append(f"{file}: {read[drawn].reason}")
                continue
            pixels, fps = read[drawn]
            row = {"kind": drawn.kind, "label": drawn.label, "group": condition.title}
            row |= {"file": file, "given_frames": drawn.given_frames}
            row |= {} if drawn.kind == "real" else {"run": drawn.run}
            found.append(FoundClip(pixels, row, fps))
    clips, dropped = pack(found)
    notes = [*unread, *([f"{len(bad)} clips are left out, the first: {bad[0]}"] if bad else [])]
    if dropped:
        notes.append(f"{dropped} clips are left out: the page would be too large with them")
    return Shown(clips, tuple(notes))


def choose_conditions(runs: Sequence[Run]) -> tuple[list[Condition], list[str]]:
    """Those that two runs drew (one, where there is no other), of most runs first; and what could
    not be read.
    """
    known: dict[tuple[str, ...], Condition] = {}
    notes: list[str] = []
    for number, run in enumerate(runs):
        found, unread = list_drawn(number, run)
        notes += [f"{run.name}: {note}" for note in unread]
        for drawn in found:
            known.setdefault(drawn.condition, Condition(drawn.title)).add(drawn)
    shared = [c for c in known.values() if len(c.runs) >= min(2, len(runs))]
    shared.sort(key=lambda c: (-len(c.runs), min(drawn.rank for drawn in c.runs.values())))
    chosen: list[Condition] = []
    for condition in shared[:CONDITIONS]:
        alike = sum(c.title.startswith(condition.title) for c in chosen)
        condition.title += f" ({alike + 1})" * bool(alike)  # of other held-out clips
        if sum(len(c.runs) for c in chosen) + len(condition.runs) > max(CLIPS, len(runs)):
            break
        chosen.append(condition)
    return chosen, notes


def list_drawn(number: int, run: Run) -> tuple[list[Drawn], list[str]]:
    """All that a run keeps, and what cannot be read; nothing where its configuration is not known.

    number: of the run.
    """
    if run.config is None:
        return [], []
    rows, notes = read_listing(run.folder / "report")
    samples, unread = read_samples(run.folder, run.config)
    found = [
        *list_evaluated(number, run, run.config, rows),
        *list_sampled(number, run.config, samples),
        *list_previewed(number, run, run.config),
    ]
    return found, [*notes, *unread]


def list_evaluated(
    number: int, run: Run, config: Config, rows: Sequence[dict[str, Any]]
) -> Iterator[Drawn]:
    """Generated clips of `report/clips.json`, and the real ones beside them."""
    given = {
        (str(row.get("protocol")), str(row.get("id"))): _count(row.get("given_frames"))
        for row in rows
        if row["kind"] == "generated"
    }
    for row in rows:
        if row["kind"] == "reconstructed":
            continue
        protocol, clip = str(row.get("protocol")), str(row.get("id"))
        label = str(row.get("label") or "")
        frames = given.get((protocol, clip), 0)
        if frames:
            result = run.results.get(protocol)
            seed = "" if result is None else str(result.conditions.seed)
            condition = ("given", protocol, clip, str(frames), seed, describe_held_out(config))
            title = f"{protocol} clip {clip}, of which {frames} frames are given"
        elif label:
            condition, title = ("label", simplify(label)), label
        else:
            condition = ("none", protocol, clip)
            title = f"{protocol} clip {clip}, without a condition"
        yield Drawn(
            condition,
            title,
            number,
            row["kind"],
            rank=SPREAD if row.get("why") == "spread" else EXTREME,
            file=f"report/{row.get('file')}",
            label=label,
            given_frames=frames if row["kind"] == "generated" else 0,
        )


def list_sampled(number: int, config: Config, samples: Sequence[FoundClip]) -> Iterator[Drawn]:
    """The clips of `samples/`."""
    for place, clip in enumerate(samples):
        label = clip.row["label"]
        condition, title = ("label", simplify(label)), label
        if not label:
            condition = ("sample", str(place), describe_held_out(config))
            title = f"sample {place}"
        file = "samples/samples.npz"
        yield Drawn(condition, title, number, "generated", OF_SAMPLES, file, label, place)


def list_previewed(number: int, run: Run, config: Config) -> Iterator[Drawn]:
    """The first clips of the last preview of each stage, which are of the first held-out clips."""
    count = config.train.preview_clips
    if config.data.validation_clips < count or config.data.grids:
        return  # the picture has another arrangement
    kinds: dict[str, Kind] = {"generator": "generated", "tokenizer": "reconstructed"}
    told = {"generated": "generated in training", "reconstructed": "reconstructed in training"}
    known = describe_held_out(config)
    for stage, kind in kinds.items():
        folder = stage_directory(run.folder, stage)
        pictures = sorted(folder.glob("previews/*-clips.gif"))
        if not pictures:
            continue
        file = str(pictures[-1].relative_to(run.folder))
        for place in range(min(PREVIEWED, count)):
            title = f"held-out clip {place}, {told[kind]}"
            condition = ("held-out", kind, str(place), known)
            at = place + (count if kind == "reconstructed" else 0)
            yield Drawn(condition, title, number, kind, PREVIEW, file, place=at)
            if kind == "reconstructed":  # the real clips stand above
                for each in kinds.values():
                    beside = ("held-out", each, str(place), known)
                    title = f"held-out clip {place}, {told[each]}"
                    yield Drawn(beside, title, number, "real", PREVIEW, file, place=place)


def describe_held_out(config: Config) -> str:
    """Equal where the same clips are held out. Moving shapes are made from the seed."""
    data = json.loads(to_json(config))["data"]
    kept = {key: value for key, value in data.items() if key not in PLACES}
    seed = config.seed if config.data.kind == "moving_shapes" else None
    return json.dumps([kept, seed], sort_keys=True)


def simplify(label: str) -> str:
    """A class name without what the name of a sample's file does not keep."""
    return re.sub(r"[\W_]+", " ", label.casefold()).strip()


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def read_clips(runs: Sequence[Run], wanted: Iterable[Drawn]) -> Iterator[tuple[Drawn, Any]]:
    """Each clip with its frames and their rate, or with the VideoError for which it has none."""
    ordered = sorted(wanted, key=lambda d: (d.run, d.file, d.place))
    for (number, file), members in itertools.groupby(ordered, lambda d: (d.run, d.file)):
        folder, config = runs[number].folder, runs[number].config
        assert config is not None
        several: Sequence[Clip] = ()
        for drawn in members:
            try:
                if drawn.rank < OF_SAMPLES:
                    name = file.removeprefix("report/")
                    yield drawn, read_video(folder / "report", name, config.data.size)
                    continue
                if not several and drawn.rank == OF_SAMPLES:
                    several = [clip.pixels for clip in read_samples(folder, config)[0]]
                elif not several:
                    several = split_preview(read_video(folder, file, None)[0], config.data.sides)
                if drawn.place >= len(several):
                    raise VideoError(file, "of another size than the configuration says")
                yield drawn, (several[drawn.place], config.sampling.fps)
            except VideoError as error:
                yield drawn, error


def split_preview(
    frames: UInt8[np.ndarray, "t rows columns c"], size: tuple[int, int]
) -> list[Clip]:
    """The clips [t h w c] of a tiled picture [t rows columns c], row by row; see `tile_clips`.

    size: height and width of a clip. [] where the picture is not made of such.
    """
    steps = [side + GAP for side in size]
    sides = [side + GAP for side in frames.shape[1:3]]
    if any(side % step for side, step in zip(sides, steps, strict=True)):
        return []
    return [
        np.ascontiguousarray(frames[:, top : top + size[0], left : left + size[1]])
        for top in range(0, sides[0], steps[0])
        for left in range(0, sides[1], steps[1])
    ]
