# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which real clips a protocol scores, and how they are read."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbp.config import Config, load_config
from nbp.evaluation.protocols import PROTOCOLS
from nbp.evaluation.rules import ClipRule, Protocol
from nbp.jobs.real_clips import RealClips, choose_rows, choose_rule, open_clips
from tests import tiny
from tests.jobs.evaluated import make_prepared


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 20 frames, 20x24 px, at 10 frames per second."""
    return make_prepared(tmp_path_factory.mktemp("ucf") / "data", {"train": 6, "test": 3})


def make_config(root: Path, **changes: str) -> Config:
    keys = {"data.kind": "records", "data.root": str(root), **changes}
    return load_config(tiny.CONFIG, {**tiny.OVERRIDES, **keys})


def shrink(name: str, frames: int = 5) -> Protocol:
    """A published protocol for the toy data: fewer videos, smaller clips."""
    (rule,) = PROTOCOLS[name].choose("ucf101", "records").clips
    clips = None if rule.clips is None else 9
    rule = dataclasses.replace(rule, videos=6, clips=clips, frames=frames, size=16)
    return dataclasses.replace(PROTOCOLS[name], clips=(rule,))


def read(clips: RealClips) -> np.ndarray:
    return np.concatenate([batch["video"] for batch in clips.batches(4)])


def open_protocol(root: Path, protocol: Protocol, limit: int | None = None) -> RealClips:
    frames = str(protocol.clips[0].frames)
    chosen, config = choose_rule(protocol, make_config(root, **{"data.frames": frames}), {})
    return open_clips(config, chosen, limit)


def test_rows_of_a_rule() -> None:
    assert choose_rows(ClipRule("ucf101"), 4, 0).tolist() == [0, 1, 2, 3]
    cycle = ClipRule("ucf101", clips=7, duplicates="cycle")
    assert choose_rows(cycle, 3, 0).tolist() == [0, 1, 2, 0, 1, 2, 0]
    random = ClipRule("ucf101", clips=13, duplicates="random")
    rows = choose_rows(random, 10, 0)
    assert rows[:10].tolist() == list(range(10))
    assert len({*rows[10:].tolist()}) == 3  # as random.sample: no video three times
    np.testing.assert_array_equal(rows, choose_rows(random, 10, 0))
    assert (rows != choose_rows(random, 10, 1)).any()
    assert choose_rows(ClipRule("ucf101", clips=2, duplicates="random"), 10, 0).tolist() == [0, 1]


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
    (rule,) = shrink(name).clips
    rules = (dataclasses.replace(rule, **changes),)
    return dataclasses.replace(PROTOCOLS[name], clips=rules, generation=None)


def test_clips_are_read_by_their_numbers_as_in_their_order(prepared: Path) -> None:
    """Also with random windows; a clip that comes again is the very same one."""
    clips = open_protocol(prepared, change("nbp-ucf", window="random", clips=8))
    assert clips.distinct == 6
    in_order = read(open_protocol(prepared, change("nbp-ucf", window="random", clips=6)))
    found = clips.read([7, 3, 0, 6])
    for clip, number in zip(found["video"], (1, 3, 0, 0), strict=True):
        np.testing.assert_array_equal(clip, in_order[number])
    assert found["label"].tolist() == [clips.find_label(i) for i in (7, 3, 0, 6)] == [1, 1, 0, 0]


def test_all_windows_of_a_video_are_clips(prepared: Path) -> None:
    """20 frames hold four windows of five at a distance of four: the features' number of frames."""
    features = PROTOCOLS["larp-ucf"].features
    assert features is not None
    features = dataclasses.replace(features, frames=4)
    protocol = dataclasses.replace(change("larp-ucf", clips=24), features=features)
    clips = open_protocol(prepared, protocol)
    assert len(clips.rows) == 24  # of six videos
    assert sorted(clips.rows.tolist()) == list(range(24))
    assert clips.rows.tolist() != list(range(24))
    whole = change("larp-ucf", frames=19, window="centre", order="listed", clips=6)
    videos = read(open_protocol(prepared, whole))  # from the second frame on
    found = clips.read(range(24))["video"]
    for clip, row in zip(found, clips.rows.tolist(), strict=True):
        video, window = divmod(row, 4)
        first = 4 * window - 1
        skipped = int(first < 0)
        want = videos[video][first + skipped : first + 5]
        np.testing.assert_array_equal(clip[skipped:], want)
    assert clips.is_complete


def test_two_splits_are_one_set(prepared: Path) -> None:
    clips = open_protocol(prepared, change("omni-ucf", videos=9, clips=9))
    paths = {clips.describe(i)["path"] for i in range(9)}
    assert paths == {*(f"train/{i}.avi" for i in range(6)), *(f"test/{i}.avi" for i in range(3))}
    assert clips.is_complete
    fewer = open_protocol(prepared, change("omni-ucf", videos=11, clips=9))
    assert (fewer.missing, len(fewer.rows), fewer.is_complete) == (2, 9, False)
