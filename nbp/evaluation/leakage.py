# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What makes a score better than it should be: clips that were trained on, clips that are twice.

Names are compared between the splits of the workdir's data. For a prepared data set the contents
were compared by nbp.prepare, whose report lies beside the data; its findings are repeated here.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from nbp import build_data
from nbp.data.moving_shapes import MovingShapes
from nbp.data.sources import VideoFolder
from nbp.evaluation.real_clips import RealClips
from nbp.evaluation.reference_set import Reference
from nbp.evaluation.result import Leaks

SHOWN = 20  # names and pairs in a report
# Findings of nbp.prepare that are leaks.
LEAKS = ("overlap", "group overlap", "duplicate")


def check_leaks(clips: RealClips, report: Callable[[str], None]) -> Leaks:
    """What is known of leaks beforehand, told at once."""
    found = {**find_leaks(clips), "duplicates": [], "duplicate_clips": 0}
    for line in describe_leaks(found, split=clips.rule.split):
        report(line)
    return cast(Leaks, found)


def find_copies(
    clips: RealClips, reference: Reference, leaks: Leaks, report: Callable[[str], None]
) -> None:
    """Adds equal real clips to what is known of leaks, and tells of them."""
    pairs, count = find_duplicates(clips, reference.hashes, distinct=reference.distinct)
    leaks["duplicates"], leaks["duplicate_clips"] = pairs, count
    for line in describe_leaks({"duplicates": pairs, "duplicate_clips": count}, split=""):
        report(line)


def find_leaks(clips: RealClips) -> dict[str, Any]:
    """What is known before anything is computed: names in both splits, findings of nbp.prepare."""
    train, held_out, config = clips.train, clips.data, clips.config
    found: dict[str, Any] = {"checked": "nothing: the data have no names", "train_test_names": []}
    if isinstance(train.source, MovingShapes):
        found["checked"] = "the index ranges of the splits, which cannot overlap"
    elif isinstance(train.source, VideoFolder):
        found["checked"] = "file names"
        names = {file.name for file in train.source.files}
        both = [file.name for file in held_out.source.files if file.name in names]
        found |= {"train_test_names": both[:SHOWN], "train_test_count": len(both)}
    elif config.data.kind == "records":
        folder = build_data.find_dataset(Path(config.data.root)) or Path(config.data.root)
        found |= read_findings(folder.parent / "report.csv")
    return found


def read_findings(path: Path) -> dict[str, Any]:
    """The leaks that a report of nbp.prepare names."""
    if not path.is_file():
        return {"checked": f"nothing: {path.name} of nbp.prepare is not beside the data"}
    with path.open(newline="", encoding="utf8") as file:
        rows = [row for row in csv.DictReader(file) if row["heading"] in LEAKS]
    across = [row["path"] for row in rows if row["heading"] != "duplicate"]
    return {
        "checked": "contents and groups of all files, by nbp.prepare",
        "train_test_names": across[:SHOWN],
        "train_test_count": len(across),
        "prepared": {name: sum(row["heading"] == name for row in rows) for name in LEAKS},
    }


def find_duplicates(
    clips: RealClips, hashes: np.ndarray, *, distinct: int
) -> tuple[list[list[str]], int]:
    """Pairs of equal clips, first ones of each, and how many clips repeat an earlier one.

    Clips that a protocol repeats on purpose (beyond `distinct`, or of the same row) do not count.
    """
    first: dict[int, int] = {}
    pairs: list[tuple[int, int]] = []
    for i, value in enumerate(hashes[:distinct].tolist()):
        earlier = first.setdefault(value, i)
        if earlier != i and clips.rows[earlier] != clips.rows[i]:
            pairs.append((earlier, i))
    shown = [[name_clip(clips, i) for i in pair] for pair in pairs[:SHOWN]]
    return shown, len(pairs)


def name_clip(clips: RealClips, index: int) -> str:
    return str(clips.describe(index).get("path", f"clip {index}"))


def describe_leaks(leaks: Mapping[str, Any], *, split: str) -> Sequence[str]:
    """Lines for a person; none where nothing was found."""
    lines = []
    if count := leaks.get("train_test_count", 0):
        first = leaks["train_test_names"][0]
        lines.append(f"leak: {count} names or videos are in both splits, the first: {first}")
    if count := leaks.get("duplicate_clips", 0):
        pair = " and ".join(leaks["duplicates"][0])
        lines.append(f"leak: {count} real clips are copies of others, the first pair: {pair}")
    if "train" in split:
        lines.append(
            f"the real clips are those of the split {split}, as the protocol says: it does not "
            "tell memory from generalisation"
        )
    return lines
