# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which clips of several runs are of the same condition."""

from pathlib import Path

import numpy as np

from nbp.data.video.encode import tile_clips
from nbp.report.comparison import conditions
from nbp.report.comparison.conditions import (
    choose_conditions,
    collect_conditions,
    read_clips,
    simplify,
    split_preview,
)
from nbp.report.comparison.runs import read_runs
from tests.report.comparison.runs_example import (
    LABELS,
    add_clips,
    add_previews,
    load_tiny,
    make_clip,
    make_run,
)


def test_samples_of_one_class_stand_side_by_side(tmp_path: Path) -> None:
    runs, _ = read_runs([make_run(tmp_path / str(i), i) for i in range(3)])
    shown = collect_conditions(runs)
    assert [clip.group for clip in shown.clips] == [name for name in LABELS for _ in range(3)]
    assert [clip.run for clip in shown.clips] == [0, 1, 2] * 3
    assert {clip.kind for clip in shown.clips} == {"generated"}
    wanted = {drawn for c in choose_conditions(runs)[0] for drawn in c.members}
    for drawn, found in read_clips(runs, wanted):
        number = LABELS.index(drawn.title)
        np.testing.assert_array_equal(found[0], make_clip(7 * number + drawn.run))
        assert found[1] == load_tiny().sampling.fps


def test_clips_of_an_evaluation_come_before_samples(tmp_path: Path) -> None:
    """The spread one, not the one that looks best; a class is the same however it is written."""
    folders = [make_run(tmp_path / str(i), i) for i in range(2)]
    add_clips(
        folders[0],
        {
            "media/best.mp4": {"label": "Red_Square-RIGHT", "why": "best"},
            "media/spread.mp4": {"label": "Red_Square-RIGHT"},
            "media/real.mp4": {"label": "Red_Square-RIGHT", "kind": "real"},
            "media/alone.mp4": {"label": "nobody else's"},
        },
    )
    (folders[0] / "samples" / "samples.npz").unlink()
    runs, _ = read_runs(folders)
    ((condition,), _) = choose_conditions(runs)
    assert [(d.run, d.kind, d.file) for d in condition.members] == [
        (0, "real", "report/media/real.mp4"),
        (0, "generated", "report/media/spread.mp4"),
        (1, "generated", "samples/samples.npz"),
    ]
    shown = collect_conditions(runs)
    assert [(clip.run, clip.picture.width) for clip in shown.clips] == [
        (None, 16),
        (0, 16),
        (1, 16),
    ]


def test_given_frames_are_the_same_only_of_the_same_held_out_clips(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / str(i), seed) for i, seed in enumerate((0, 0, 1))]
    for folder in folders:
        (folder / "samples" / "samples.npz").unlink()
        add_clips(folder, {"media/g.mp4": {"id": 3, "given_frames": 2, "label": LABELS[0]}})
    runs, _ = read_runs(folders)
    ((condition,), _) = choose_conditions(runs)
    assert sorted(condition.runs) == [0, 1]
    assert condition.title == "moving-shapes clip 3, of which 2 frames are given"


def test_previews_show_the_same_held_out_clips(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / str(i), 0, name=str(i)) for i in range(2)]
    for folder in folders:
        (folder / "samples" / "samples.npz").unlink()
        add_previews(folder, 100)
        add_previews(folder)
    runs, _ = read_runs(folders)
    found, _ = choose_conditions(runs)
    titles = {condition.title: condition for condition in found}
    assert len(titles) == 8
    assert all(drawn.file.endswith("00000400-clips.gif") for c in found for drawn in c.members)
    first = {"generated": 32, "reconstructed": 22}
    for kind, number in first.items():
        condition = titles[f"held-out clip 2, {kind} in training"]
        clips = dict(read_clips(runs, set(condition.members)))
        for drawn, expected in zip(condition.members, (12, number, number), strict=True):
            error = np.abs(clips[drawn][0].astype(int) - make_clip(expected))
            assert error.mean() < 6, "but for the palette of the GIF"


def test_a_preview_of_another_size_is_none() -> None:
    clips = np.stack([make_clip(i) for i in range(6)])
    tiled = tile_clips(clips, columns=3)
    np.testing.assert_array_equal(np.stack(split_preview(tiled, (16, 16))), clips)
    assert split_preview(tiled, (8, 16)) == []


def test_what_cannot_be_read_is_counted(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, i) for i, name in enumerate("ab")]
    for folder in folders:
        add_clips(folder, {"media/g.mp4": {"label": "red"}})
    (folders[1] / "report" / "media" / "g.mp4").write_bytes(b"no video")
    shown = collect_conditions(read_runs(folders)[0])
    note = "1 clips are left out, the first: b/report/media/g.mp4: not a video"
    assert shown.left_out == (note,)


def test_there_is_an_end_to_the_clips(tmp_path: Path, monkeypatch) -> None:
    runs, _ = read_runs([make_run(tmp_path / str(i), i) for i in range(3)])
    monkeypatch.setattr(conditions, "CLIPS", 6)
    assert [c.title for c in choose_conditions(runs)[0]] == list(LABELS[:2])


def test_conditions_of_most_runs_come_first(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / str(i), i) for i in range(3)]
    for folder in folders[:2]:
        (folder / "samples" / "0000-red-square-right.mp4").rename(
            folder / "samples" / "0000-blue-triangle-up.mp4"
        )
        (folder / "samples" / "0002-blue-triangle-up.mp4").unlink()
    runs, _ = read_runs(folders)
    found, _ = choose_conditions(runs)
    assert [(c.title, sorted(c.runs)) for c in found] == [
        ("blue triangle up", [0, 1, 2]),
        ("green disk left", [0, 1, 2]),
    ]


def test_class_names_are_compared_as_files_of_samples_write_them() -> None:
    assert simplify("ApplyEyeMakeup") == "applyeyemakeup"
    assert simplify("  Red_square--RIGHT ") == simplify("red square right")
