# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Reports name the videos that are read by a rule, and do not call them wrong."""

import shutil
from pathlib import Path

from nbp.data.prepare.annotations import Item, Listing
from nbp.data.prepare.quality_report import collect_findings, format_report
from nbp.data.prepare.reencode import Recipe, reencode_video
from nbp.data.prepare.shards import Shard, ShardWriter
from nbp.data.sources import FolderSpec, scan_folder
from nbp.data.video.clip_codec import Coding
from nbp.data.video.notes import NOTES
from nbp.train import describe_split_folders

FILES = Path(__file__).parents[1] / "fixtures"
NAMES = ("aspect_pal.mkv", "interlaced.mp4", "interlaced.ts", "plain.mp4")


def test_report_of_a_preparation_names_what_was_read_by_a_rule(tmp_path):
    items = tuple(Item(name, "train", 0) for name in NAMES)
    shard = Shard(0, "train", 0, items)
    writer = ShardWriter(shard, tmp_path)
    for place, name in enumerate(NAMES):
        writer.add(place, reencode_video(FILES / name, Recipe(Coding(), min_frames=2)))
    writer.finish()
    outcomes = shard.read_result(tmp_path).outcomes
    assert [outcome.notes for outcome in outcomes] == [
        ("pixel aspect",),
        ("interlaced",),
        ("interlaced",),
        (),
    ]
    listing = Listing(("a",), ("train",), items)
    findings = collect_findings(listing, outcomes, groups=False)
    text, _ = format_report("folder", listing, outcomes=outcomes, findings=findings)
    assert "Nothing is wrong with the sources." in text
    read = text.split("## How videos were read\n\n")[1].split("\n\n")[0]
    assert read.splitlines() == [
        f"* 1 file: {NOTES['pixel aspect']}: `aspect_pal.mkv`",
        f"* 2 files: {NOTES['interlaced']}: `interlaced.mp4`, `interlaced.ts`",
    ]
    plain, _ = format_report("folder", listing, outcomes=outcomes[-1:], findings=[])
    assert "How videos were read" not in plain


def test_start_of_training_names_what_is_read_by_a_rule(tmp_path):
    for name in NAMES:
        shutil.copy(FILES / name, tmp_path / f"{name}.mp4")
    for check in ("frames", "headers"):
        scan = scan_folder(tmp_path, FolderSpec(4, validation="same", check=check))
        assert not len(scan.bad)
        assert scan.train.describe_notes(scan.validation) == [
            f"1 file: {NOTES['pixel aspect']}",
            f"2 files: {NOTES['interlaced']}",
        ]


def test_training_on_folders_named_like_splits_is_told() -> None:
    assert describe_split_folders(("train", "Val")) == [
        "the classes are train, Val, which look like splits: each folder at the top of data.root "
        "is a class. Set data.root to one of them, or use nbp.prepare folder"
    ]
    assert not describe_split_folders(("train", "tram"))  # vehicles
    assert not describe_split_folders(("videos",))
