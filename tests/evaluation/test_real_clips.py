# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which real clips a protocol scores, and how they are read."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbp.build_data import ClipData
from nbp.config import load_config
from nbp.config.schema import Config
from nbp.data.video.decode import VideoInfo
from nbp.errors import DataError
from nbp.evaluation.real_clips import RealClips, choose_rule, list_items, open_clips
from nbp.files import VideoError
from nbp.protocols import PROTOCOLS
from nbp.protocols.clip_lists import list_clips
from nbp.protocols.protocol import Protocol
from nbp.report.table import describe_data
from tests import tiny
from tests.evaluated import make_prepared


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 20 frames, 20x24 px, at 10 frames per second."""
    return make_prepared(tmp_path_factory.mktemp("ucf") / "data", {"train": 6, "test": 3})


def make_config(root: Path, **changes: str) -> Config:
    keys = {"data.kind": "records", "data.root": str(root), **changes}
    return load_config(tiny.CONFIG, {**tiny.OVERRIDES, **keys})


def shrink(name: str, frames: int = 5) -> Protocol:
    """A published protocol for the toy data: fewer videos, smaller clips."""
    rule = PROTOCOLS[name].clips[0]
    clips = None if rule.clips is None else 9
    counted = rule.counted and frames - 1
    rule = dataclasses.replace(
        rule, videos=6, clips=clips, frames=frames, size=16, counted=counted, step=min(rule.step, 4)
    )
    return dataclasses.replace(PROTOCOLS[name], clips=(rule,))


def read(clips: RealClips) -> np.ndarray:
    return np.concatenate([batch["video"] for batch in clips.batches(4)])


def open_protocol(root: Path, protocol: Protocol, limit: int | None = None) -> RealClips:
    frames = str(protocol.clips[0].frames)
    chosen, config = choose_rule(protocol, make_config(root, **{"data.frames": frames}), {})
    return open_clips(config, chosen, limit)


def test_a_smaller_number_of_clips_is_spread_over_all(prepared: Path) -> None:
    protocol = shrink("seed-rfvd")
    whole = open_protocol(prepared, protocol)
    assert (len(whole.rows), whole.complete) == (9, 9)
    part = open_protocol(prepared, protocol, limit=4)
    assert part.rows.tolist() == whole.rows[[0, 2, 4, 6]].tolist()
    assert part.complete == 9


def test_random_windows_are_fixed_and_differ_from_the_centre(prepared: Path) -> None:
    protocol = shrink("larp-rfvd")
    clips = read(open_protocol(prepared, protocol))
    assert clips.shape == (6, 5, 16, 16, 3)
    np.testing.assert_array_equal(clips, read(open_protocol(prepared, protocol)))
    (rule,) = protocol.clips
    centred = dataclasses.replace(
        protocol, clips=(dataclasses.replace(rule, window="centre", crop="centre"),)
    )
    centre = read(open_protocol(prepared, centred))
    assert sum((a != b).any() for a, b in zip(clips, centre, strict=True)) >= 4
    moved = dataclasses.replace(protocol, seed=1)
    assert (clips != read(open_protocol(prepared, moved))).any()


def test_random_crops_move_sideways_alone(prepared: Path) -> None:
    """20x24 px with the short side at 16 leave 3 columns to choose among, and no rows."""
    protocol = shrink("seed-rfvd")
    clips = open_protocol(prepared, protocol)
    found = read(clips)
    (rule,) = protocol.clips
    wide = dataclasses.replace(rule, crop="centre", duplicates="none", clips=None)
    centre = read(open_protocol(prepared, dataclasses.replace(protocol, clips=(wide,))))
    shifts = [find_shift(a, centre[row]) for a, row in zip(found, clips.rows, strict=True)]
    assert None not in shifts
    assert len({*shifts}) > 2


def find_shift(clip: np.ndarray, centre: np.ndarray) -> int | None:
    """How many columns to the right of the centre a crop of the same frames was cut."""
    for shift in range(-3, 4):
        left, right = max(0, -shift), max(0, shift)
        if (clip[:, :, left : 16 - right] == centre[:, :, right : 16 - left]).all():
            return shift
    return None


def test_short_videos_end_in_black_where_the_protocol_says_so(tmp_path: Path) -> None:
    data = make_prepared(tmp_path / "data", {"train": 1, "test": 2}, frames=7)
    clips = read(open_protocol(data, shrink("nbp-rfvd", frames=9)))
    assert clips.shape == (2, 9, 16, 16, 3)
    assert (clips[:, 7:] == 0).all()
    whole = read(open_protocol(data, shrink("nbp-rfvd", frames=7)))
    np.testing.assert_array_equal(clips[:, :7], whole)


def test_clips_are_described_by_label_and_path(prepared: Path) -> None:
    clips = open_protocol(prepared, shrink("seed-rfvd"), limit=4)
    row = int(clips.rows[1])
    assert clips.describe(1) == {"label": ("one", "two")[row % 2], "path": f"train/{row}.avi"}
    made = clips.provenance()
    assert made["prepared"]["kind"] == "ucf101"
    assert made["videos"] == 6
    assert made["fingerprint"].startswith("records-")


def test_the_workdirs_own_clips_are_the_first_of_its_limit(prepared: Path) -> None:
    config = make_config(prepared, **{"data.validation_clips": "2"})
    folder, same = choose_rule(PROTOCOLS["folder"], config, {"data.fps": "8"})
    assert same == config
    clips = open_clips(config, folder, None)
    assert clips.rows.tolist() == [0, 1]
    assert clips.complete == 2
    whole = open_clips(config, PROTOCOLS["reconstruction"], None)
    assert len(whole.rows) == 3


def change(name: str, **changes: Any) -> Protocol:
    rule = shrink(name).clips[0]
    rules = (dataclasses.replace(rule, **changes),)
    return dataclasses.replace(PROTOCOLS[name], clips=rules, generation=None)


def test_clips_are_read_by_their_numbers_as_in_their_order(prepared: Path) -> None:
    """Also with random windows; a clip that comes again is the very same one."""
    listed = {"order": "listed", "window": "random"}
    clips = open_protocol(prepared, change("nbp-ucf", **listed, clips=8))
    assert clips.distinct == 6
    in_order = read(open_protocol(prepared, change("nbp-ucf", **listed, clips=6)))
    found = clips.read([7, 3, 0, 6])
    for clip, number in zip(found["video"], (1, 3, 0, 0), strict=True):
        np.testing.assert_array_equal(clip, in_order[number])
    assert found["label"].tolist() == [clips.find_label(i) for i in (7, 3, 0, 6)] == [1, 1, 0, 0]


def read_videos(prepared: Path, name: str) -> np.ndarray:
    """All 20 frames of the six training videos, scaled and cut as under a protocol."""
    rule = {"window": "centre", "order": "listed", "clips": 6, "frames": 21, "counted": 20}
    return read(open_protocol(prepared, change(name, **rule)))[:, :20]


@pytest.mark.parametrize("name,step,each", [("larp-ucf", 4, 5), ("tats-ucf", 1, 17)])
def test_clips_are_cut_where_the_drawing_says(
    prepared: Path, name: str, step: int, each: int
) -> None:
    """Windows of four frames; the fifth, for causal tokenizers, repeats the last of a video."""
    videos = read_videos(prepared, name)
    protocol = change(name, clips=24)
    clips = open_protocol(prepared, protocol)
    assert len(clips.data.source) == 6 * each
    found = clips.read(range(24))
    assert clips.provenance()["videos"] == 6
    assert clips.provenance()["windows"] == 6 * each
    paths = [f"train/{i}.avi" for i in range(6)]
    (rule,) = protocol.clips
    listed = list_clips(
        rule, [20] * 6, seed=protocol.seed, paths=paths, labels=[i % 2 for i in range(6)]
    )
    last = 0
    for clip, label, want in zip(found["video"], found["label"], listed, strict=True):
        frames = np.minimum(np.arange(want.start, want.start + 5), 19)
        np.testing.assert_array_equal(clip, videos[want.video][frames])
        assert label == want.label
        last += int(want.start == 16)
    assert last
    assert clips.is_complete
    assert rule.step == step


def test_loader_windows_are_those_of_the_drawing(tmp_path: Path) -> None:
    """nbp-k600, whose real clips of a process that begins again are the same."""
    data = make_prepared(tmp_path / "data", {"train": 1, "validation": 6}, kind="k600")
    protocol = change("nbp-k600", clips=16, frames=5, fps=0.0)
    config = make_config(data, **{"data.frames": "5"})
    chosen, config = choose_rule(protocol, config, {})
    clips = open_clips(config, chosen, None)
    assert clips.distinct == 8  # six videos, two of them for two processes
    listed = {"order": "listed", "window": "centre"}
    whole = change("nbp-k600", **listed, clips=6, frames=21, counted=20, fps=0.0)
    chosen, long = choose_rule(whole, make_config(data, **{"data.frames": "21"}), {})
    videos = read(open_clips(long, chosen, None))
    found = clips.read(range(16))["video"]
    drawn = list_clips(protocol.clips[0], [20] * 6, seed=42)
    for clip, want in zip(found, drawn, strict=True):
        np.testing.assert_array_equal(clip, videos[want.video][want.start : want.start + 5])
    np.testing.assert_array_equal(found[:8], found[8:])


def test_each_repeat_has_its_own_clips_crops_and_flips(prepared: Path) -> None:
    """magvit-ucf: labels follow the clips, and what is mirrored is mirrored whole."""
    protocol = change("magvit-ucf", clips=8, counted=20, frames=21)
    clips = open_protocol(prepared, protocol)
    wide = read_wide(prepared)
    seen = []
    for repeat in range(2):
        own = clips.of_repeat(repeat)
        found = own.read(range(8))
        listed = list(
            list_clips(
                protocol.clips[0], [20] * 6, seed=0, repeat=repeat, labels=[i % 2 for i in range(6)]
            )
        )
        for clip, label, want in zip(found["video"], found["label"], listed, strict=True):
            assert want.crop is not None
            left = int(want.crop[1] * 4)  # of 19 columns 16 are kept
            cut = wide[want.video][:, :, left : left + 16]
            np.testing.assert_array_equal(clip, cut[:, :, ::-1] if want.flip else cut)
            assert label == want.label
        seen.append([(clip.video, clip.crop, clip.flip) for clip in listed])
        assert {clip.flip for clip in listed} == {True, False}
    assert not {*seen[0]} & {*seen[1]}
    first, second = (clips.of_repeat(repeat).chosen.source.fingerprint for repeat in range(2))
    assert first != second
    fixed = open_protocol(prepared, change("larp-ucf", clips=8))
    assert fixed.of_repeat(1) is fixed


def read_wide(prepared: Path) -> np.ndarray:
    """The six training videos at a height of 16 and their whole width of 19: [6 21 16 19 3]."""
    rule = {"window": "centre", "order": "listed", "crop": "centre", "flip": 0.0}
    protocol = change("magvit-ucf", **rule, clips=6, frames=21, counted=20)
    clips = open_protocol(prepared, protocol)
    decode = clips.data.transforms[0]
    return np.stack(
        [
            decode(clips.chosen.source[i], np.random.default_rng(0))["video"]
            for i in range(len(clips.rows))
        ]
    )


def test_two_splits_are_one_set(prepared: Path) -> None:
    clips = open_protocol(prepared, change("omni-ucf", videos=9, clips=9))
    paths = {clips.describe(i)["path"] for i in range(9)}
    assert paths == {*(f"train/{i}.avi" for i in range(6)), *(f"test/{i}.avi" for i in range(3))}
    assert clips.is_complete
    fewer = open_protocol(prepared, change("omni-ucf", videos=11, clips=9))
    assert (fewer.missing, len(fewer.rows), fewer.is_complete) == (2, 9, False)


class _Damaged:
    """Videos of which the second cannot be read."""

    fingerprint, label_names = "damaged", ("one",)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, row: int) -> dict[str, Any]:
        if row == 1:
            raise VideoError("b.avi", "corrupt", "its checksum")
        return {"path": f"x/{'dcba'[row]}.avi", "info": VideoInfo(20, 10.0, 20, 24), "label": 0}


@pytest.mark.parametrize("name", ["nbp-ucf", "nbp-k600", "larp-ucf", "tats-ucf"])
def test_an_unreadable_video_does_not_stop_the_listing_of_others(name: str, prepared: Path) -> None:
    rule = shrink(name).clips[0]
    data = ClipData(_Damaged(), ())
    config = make_config(prepared, **{"data.frames": "5"})
    items, _, lost = list_items(data, rule, config, seed=0)
    assert lost == (rule.window == "all")
    if rule.window == "all":
        assert len(items.source) == 3 * len(range(0, 17, rule.step))
    else:
        assert sorted(items.source.order.tolist()) == [0, 1, 2, 3]
        assert items.source.order.tolist() == ([3, 2, 0, 1] if name == "nbp-ucf" else [0, 1, 2, 3])
    config = make_config(prepared, **{"data.frames": "5", "data.bad_records": "stop"})
    with pytest.raises(DataError, match="checksum"):
        list_items(data, rule, config, seed=0)


def test_what_is_replaced_is_told_with_each_reading(tmp_path: Path) -> None:
    folder = make_prepared(tmp_path / "data", {"train": 6, "test": 3})
    (records,) = folder.glob("*train.array_record*")
    content = bytearray(records.read_bytes())
    content[content.index(b"train/4.avi")] ^= 1
    records.write_bytes(content)
    clips = open_protocol(folder, shrink("seed-rfvd"))
    others = np.flatnonzero(clips.rows != 4).tolist()
    assert 0 < len(others) < len(clips.rows)
    assert clips.read(others)["replaced"].shape == (0, 2)
    assert clips.replaced == {}
    for _ in range(2):  # also for whoever reads it again
        ((path, reason),) = clips.read(range(len(clips.rows)))["replaced"].tolist()
        assert "4" in path
        assert reason.startswith(path)
        assert clips.replaced == {path: reason}


def test_a_report_says_what_moving_shapes_are_drawn_from() -> None:
    """Whatever tells two such data apart, and neither the seed nor the number for training."""

    def describe(**changes: str) -> dict[str, Any]:
        config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes})
        protocol, config = choose_rule(PROTOCOLS["moving-shapes"], config, {})
        report = {"protocol": dataclasses.asdict(protocol)}
        return describe_data(report | {"data": open_clips(config, protocol, None).provenance()})

    known = describe()
    assert known["moving_shapes"]["shapes"] == ("square", "disk", "triangle")
    assert known == describe(**{"seed": "5", "data.moving_shapes.train_clips": "9"})
    for key, value in (
        ("data.frames", "9"),
        ("data.width", "32"),
        ("data.moving_shapes.texture", "3.0"),
        ("data.moving_shapes.world.border", "wrap"),
    ):
        assert known != describe(**{key: value}), key
