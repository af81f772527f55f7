# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of videos: what is found, in which order, how it is split, and what is refused."""

import csv
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from nbp import progress
from nbp.data.augmentation import make_clip_transforms
from nbp.data.sources import (
    BadVideos,
    ClipSource,
    FolderSpec,
    VideoFolder,
    find_files,
    scan_folder,
)
from nbp.errors import DataError
from nbp.files import VideoError
from tests.data.videos import encode, make_clip

SAME = FolderSpec(frames=8, validation="same")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """One good video, 20 frames at 10 fps; tests copy it."""
    return encode(tmp_path_factory.mktemp("good") / "clip.mp4", make_clip())


def _fill(root: Path, video: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, root / name)
    return root


def _names(folder: VideoFolder) -> list[str]:
    return [file.name for file in folder.files]


def test_classes_order_and_suffixes(tmp_path, video):
    root = _fill(
        tmp_path / "data",
        video,
        "b10/x.MP4",  # the content decides how it is read, the suffix only that it is
        "b9/clip10.mp4",
        "b9/clip9.mp4",
        "b9/deep/er/clip1.mov",
        "a/one.mp4",
        "a/.hidden.mp4",
        ".cache/clip.mp4",
        "loose.mp4",
    )
    (root / "b9" / "notes.txt").write_text("not a video, and not said to be one")
    (root / "empty").mkdir()
    scan = scan_folder(root, SAME)
    assert scan.train.label_names == ("a", "b9", "b10", "data")
    assert _names(scan.train) == [
        "a/one.mp4",
        "b9/clip9.mp4",
        "b9/clip10.mp4",
        "b9/deep/er/clip1.mov",
        "b10/x.MP4",
        "loose.mp4",
    ]
    assert [file.label for file in scan.train.files] == [0, 1, 1, 1, 2, 3]
    assert len(scan.bad) == 0


def test_records_lead_to_clips(tmp_path, video):
    root = _fill(tmp_path, video, "a/one.mp4", "b/two.mp4")
    source = scan_folder(root, SAME).train
    assert isinstance(source, ClipSource)
    assert len(source) == 2
    record = source[1]
    assert record["path"] == str(root / "b" / "two.mp4")
    assert (record["label"], record["label"].dtype) == (1, np.int32)
    for transform in make_clip_transforms(frames=8, size=16, fps=None, training=False):
        record = transform(record, np.random.default_rng(0))
    assert record["video"].shape == (8, 16, 16, 3)
    with pytest.raises(IndexError):
        source[2]


def test_links_are_followed_once(tmp_path, video):
    outside = _fill(tmp_path / "outside", video, "clip.mp4")
    root = _fill(tmp_path / "data", video, "a/one.mp4")
    (root / "b").symlink_to(outside)  # a class kept elsewhere
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a" / "self")
    (root / "a" / "two.mp4").symlink_to(outside / "clip.mp4")
    (root / "a" / "dead.mp4").symlink_to(root / "nowhere.mp4")
    scan = scan_folder(root, SAME)
    assert _names(scan.train) == ["a/one.mp4", "a/two.mp4", "b/clip.mp4"]
    assert [(Path(error.path).name, error.reason) for error in scan.bad] == [
        ("dead.mp4", "unreadable")
    ]


def test_bad_files_are_skipped_and_listed(tmp_path, video, monkeypatch):
    root = _fill(tmp_path / "data", video, "a/good.mp4", "a/cut.mp4", "b/good.mp4")
    (root / "a" / "cut.mp4").write_bytes(video.read_bytes()[:500])
    (root / "a" / 'odd, "name".mp4').write_bytes(b"")
    (root / "c").mkdir()
    (root / "c" / "page.mp4").write_text("<html></html>")
    encode(root / "b" / "short.mkv", make_clip(5))
    listed = tmp_path / "work" / "bad_videos.csv"
    monkeypatch.setattr(progress, "QUIET", -1.0)
    lines: list[str] = []
    scan = scan_folder(root, SAME, bad_videos=listed, report=lines.append)
    assert _names(scan.train) == ["a/good.mp4", "b/good.mp4"]
    assert scan.train.label_names == ("a", "b", "c")  # a bad file never renumbers classes
    assert [file.label for file in scan.train.files] == [0, 1]
    with listed.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(Path(row["path"]).name, row["reason"]) for row in rows] == [
        ("cut.mp4", "corrupt"),
        ('odd, "name".mp4', "zero bytes"),
        ("short.mkv", "too short"),
        ("page.mp4", "not a video"),
    ]
    assert "a clip needs 8" in rows[2]["detail"]
    assert scan.bad.summarize() == "1 corrupt, 1 zero bytes, 1 too short, 1 not a video"
    assert [line.split(",")[0] for line in lines] == [
        f"{done}/6 video files looked at" for done in range(1, 7)
    ]
    assert ", 4 bad" in lines[-1]
    assert os.listdir(listed.parent) == ["bad_videos.csv"]

    # Once they are repaired the list is empty again, not stale.
    for row in rows:
        Path(row["path"]).unlink()
    scan_folder(root, SAME, bad_videos=listed)
    assert listed.read_text() == "path,reason,detail\n"


def test_too_short_depends_on_the_rate(tmp_path, video):
    root = _fill(tmp_path, video, "a/one.mp4")  # 20 frames at 10 fps: 10 frames at 5
    assert len(scan_folder(root, FolderSpec(10, 5.0, "same")).train) == 1
    with pytest.raises(DataError, match=r"1 too short.*ask for shorter clips"):
        scan_folder(root, FolderSpec(11, 5.0, "same"))


def test_headers_check_trusts_frames(tmp_path, video):
    root = _fill(tmp_path, video, "a/good.mp4", "a/damaged.mp4", "a/empty.mp4")
    data = bytearray(video.read_bytes())
    start = data.index(b"mdat") + 4
    third = (data.index(b"moov") - start) // 3
    data[start + third : start + 2 * third] = b"\x55" * third
    (root / "a" / "damaged.mp4").write_bytes(data)
    (root / "a" / "empty.mp4").write_bytes(b"")
    thorough = scan_folder(root, FolderSpec(8, validation="same", check="frames"))
    trusting = scan_folder(root, FolderSpec(8, validation="same", check="headers"))
    assert _names(thorough.train) == ["a/good.mp4"]
    assert _names(trusting.train) == ["a/damaged.mp4", "a/good.mp4"]


def test_split_is_by_path_and_stable(tmp_path, video):
    root = _fill(tmp_path / "one", video, *(f"c{i % 3}/v{i}.mp4" for i in range(30)))
    spec = FolderSpec(frames=8, validation_fraction=0.3, check="headers")
    scan = scan_folder(root, spec)
    train, held_out = set(_names(scan.train)), set(_names(scan.validation))
    assert not train & held_out
    assert len(train | held_out) == 30
    assert 4 <= len(held_out) <= 14  # 9 expected
    assert scan.train.label_names == scan.validation.label_names
    # Elsewhere, and with more files, each file stays on its side.
    other = _fill(tmp_path / "two", video, *train, *held_out, "c0/new1.mp4", "c9/new2.mp4")
    again = scan_folder(other, spec)
    assert train <= set(_names(again.train))
    assert held_out <= set(_names(again.validation))


def test_split_that_leaves_nothing_is_refused(tmp_path, video):
    root = _fill(tmp_path, video, "a/one.mp4")
    with pytest.raises(DataError, match=r"leaves none for .*--config.data.validation=0.0"):
        scan_folder(root, FolderSpec(frames=8))
    scan = scan_folder(root, SAME)
    assert _names(scan.train) == _names(scan.validation) == ["a/one.mp4"]


def test_fingerprint_follows_content_not_place(tmp_path, video):
    names = ["a/one.mp4", "b/two.mp4"]
    first = scan_folder(_fill(tmp_path / "x" / "data", video, *names), SAME).train
    moved = scan_folder(_fill(tmp_path / "y" / "data", video, *names), SAME).train
    assert first.fingerprint == moved.fingerprint
    assert pickle.loads(pickle.dumps(first)).fingerprint == first.fingerprint
    others = [
        scan_folder(_fill(tmp_path / "y" / "data", video, "b/three.mp4"), SAME).train,
        scan_folder(_fill(tmp_path / "z" / "data", video, "b/one.mp4", "a/two.mp4"), SAME).train,
        scan_folder(tmp_path / "x" / "data", FolderSpec(7, validation="same")).train,
    ]
    encode(tmp_path / "x" / "data" / "a" / "one.mp4", make_clip(21))
    others.append(scan_folder(tmp_path / "x" / "data", SAME).train)
    prints = {source.fingerprint for source in [first, *others]}
    assert len(prints) == 5


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "no videos", "all bad"])
def test_unusable_folder_gets_one_clear_line(tmp_path, video, kind):
    root = tmp_path / "data"
    listed = tmp_path / "bad_videos.csv"
    match kind:
        case "missing":
            remedy = "no such folder. Check the path"
        case "file":
            shutil.copy(video, root)
            remedy = "not a folder"
        case "empty":
            root.mkdir()
            remedy = "Put videos (.avi, "
        case "no videos":
            (root / "a").mkdir(parents=True)
            (root / "a" / "notes.txt").write_text("no video")
            remedy = "Put videos (.avi, "
        case _:
            (root / "a").mkdir(parents=True)
            (root / "a" / "one.mp4").write_bytes(b"")
            (root / "a" / "two.mp4").write_bytes(b"nothing that plays")
            remedy = f"listed in {listed}"
    with pytest.raises(DataError) as caught:
        scan_folder(root, SAME, bad_videos=listed)
    text = str(caught.value)
    assert text.startswith(f"{root}: ")
    assert remedy in text
    assert "\n" not in text
    assert listed.exists() == (kind == "all bad")


@pytest.mark.parametrize(
    "fields", [{"frames": 0}, {"frames": 1, "fps": 0.0}, {"frames": 1, "validation_fraction": 1.0}]
)
def test_wrong_spec_names_the_field(fields):
    with pytest.raises(ValueError, match=rf"FolderSpec\.{list(fields)[-1]} is"):
        FolderSpec(**fields)


def test_bad_list_counts_a_path_once_and_survives_odd_names(tmp_path):
    bad = BadVideos(tmp_path / "bad.csv")
    bad.add(VideoError("a.mp4", "corrupt", "first"), VideoError("a.mp4", "corrupt", "second"))
    bad.add(VideoError(os.fsdecode(b"\xff\n.mp4"), "zero bytes"))
    assert len(bad) == 2
    with (tmp_path / "bad.csv").open(newline="") as file:
        assert [row["detail"] for row in csv.DictReader(file)] == ["first", ""]


@pytest.mark.parametrize("char", "\r\n\x0b\x85\u2028")
def test_bad_list_is_read_back_as_one_row_a_file(tmp_path, char):
    bad = BadVideos(tmp_path / "bad.csv")
    bad.add(VideoError(f"a{char}b.mp4", "corrupt"), VideoError("c.mp4", "corrupt"))
    with (tmp_path / "bad.csv").open(newline="") as file:
        assert [row["path"][-5:] for row in csv.DictReader(file)] == ["b.mp4", "c.mp4"]
    assert len((tmp_path / "bad.csv").read_text().splitlines()) == 3


def test_system_entries_are_neither_files_nor_classes(tmp_path):
    names = ["a/1.mp4", "a/@eaDir/1.mp4/x.mp4", "@eaDir/1.mp4", "lost+found/1.mp4", ".hid/1.mp4"]
    names += ["a/._1.mp4", "__MACOSX/a/1.mp4", "#recycle/1.mp4", "System Volume Information/1.mp4"]
    names += ["$RECYCLE.BIN/1.mp4", "a/eaDir/2.mp4"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    skipped = []
    found = find_files(tmp_path, on_skip=skipped.append)
    assert found == [("a/1.mp4", "a"), ("a/eaDir/2.mp4", "a")]
    assert len(skipped) == 9


@pytest.fixture
def closed(monkeypatch):
    """Folders named `closed` cannot be listed; root could list any."""
    scan = os.scandir

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)


def test_a_folder_without_rights_is_listed_and_does_not_end_the_scan(tmp_path, video, closed):
    root = _fill(tmp_path, video, "a/one.mp4", "a/closed/two.mp4", "closed/three.mp4")
    scan = scan_folder(root, SAME, bad_videos=tmp_path / "bad.csv")
    assert _names(scan.train) == ["a/one.mp4"]
    assert scan.train.label_names == ("a",)
    assert [(Path(e.path).name, e.reason, e.detail) for e in scan.bad] == [
        ("closed", "unreadable", "Permission denied")
    ] * 2
    with pytest.raises(DataError, match=r"closed: cannot be listed \(Permission denied\)"):
        find_files(root)


def test_a_root_without_rights_is_fatal(tmp_path, closed, monkeypatch):
    (tmp_path / "closed").mkdir()
    with pytest.raises(DataError, match="closed: cannot be listed"):
        find_files(tmp_path / "closed", lambda error: None)
    (tmp_path / "only" / "closed").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no video files in it that can be read \(.*closed"):
        scan_folder(tmp_path / "only", SAME)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)"):
        find_files(tmp_path / "below")


def test_longer_clips_come_from_the_longer_videos(tmp_path):
    for name, frames in (("a", 4), ("b", 8), ("c", 12)):
        encode(tmp_path / f"{name}.mp4", make_clip(frames))
    scan = scan_folder(tmp_path, FolderSpec(4, validation="same"))
    longer = scan.train.of_length(8)
    assert [file.name for file in longer.files] == ["b.mp4", "c.mp4"]
    direct = scan_folder(tmp_path, FolderSpec(8, validation="same")).train
    assert longer == direct
    assert longer.fingerprint == direct.fingerprint
    with pytest.raises(DataError, match="no video has 20 frames, for clips of data.grids"):
        scan.train.of_length(20)
