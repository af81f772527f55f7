# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What a preparation refuses before it begins, and what a refusal leaves: nothing is decoded."""

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nbp.data.prepare import plan as plans
from nbp.data.prepare.plan import PrepareRequest, load_plan
from nbp.data.prepare.reencode import Recipe
from nbp.data.records import shard_name, write_metadata
from nbp.data.video.clip_codec import Coding
from nbp.errors import ConfigError, DataError, NbpError
from nbp.locks import find_held, hold_lock
from nbp.prepare import main


def make_videos(root: Path, *names: str) -> Path:
    for name in names or ("a/1.mp4", "a/2.mp4", "b/3.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def request(videos: Path, out: Path, **options) -> PrepareRequest:
    settings = {"kind": "folder", "recipe": Recipe(Coding()), "validation": 0.0}
    return PrepareRequest(videos=videos, out=out, **(settings | options))


def list_tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize(
    "number", [errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL]
)
def test_a_file_system_without_hard_links_holds_a_plan(tmp_path, monkeypatch, number):
    def refuse(source, target, **_):
        raise OSError(number, os.strerror(number), source, None, target)

    asked = request(make_videos(tmp_path / "v"), tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        first = load_plan(asked, print)
        make_videos(tmp_path / "v", "a/later.mp4")
        assert load_plan(asked, print) == first  # made once
    assert load_plan(asked, print) == first
    assert list_tree(tmp_path / "out") == [".incomplete-folder", ".incomplete-folder/plan.json"]


def test_file_systems_that_cannot_sync_a_folder_lose_only_that(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    load_plan(request(make_videos(tmp_path / "v"), tmp_path / "out"), print)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.ENAMETOOLONG])
@pytest.mark.parametrize("step", ["write", "rename"])
def test_a_place_that_cannot_be_written_is_refused_first(tmp_path, monkeypatch, number, step):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), "the file")

    def never(*_, **__):
        raise AssertionError("lists are read after the place is tried")

    asked = request(make_videos(tmp_path / "v"), tmp_path / "deep" / "out")
    before = list_tree(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(plans, "_list_files", never)
        if step == "write":
            patch.setattr(Path, "write_bytes", refuse)
        else:
            patch.setattr(os, "replace", refuse)
        with pytest.raises(ConfigError, match=r"--out .*: cannot write .* \(.*another --out"):
            load_plan(asked, print)
    assert list_tree(tmp_path) == before


@pytest.mark.parametrize("place", ["out", "out/folder"])
def test_a_file_where_a_folder_must_be_is_refused_first(tmp_path, place):
    videos = make_videos(tmp_path / "v")
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("mine")
    before = list_tree(tmp_path)
    with pytest.raises(ConfigError, match="cannot write .*(Not a directory|File exists)"):
        load_plan(request(videos, tmp_path / "out"), print)
    assert list_tree(tmp_path) == before


@pytest.mark.parametrize("restart", [False, True])
def test_a_refused_preparation_leaves_everything_as_it_was(tmp_path, restart):
    videos, out = make_videos(tmp_path / "v"), tmp_path / "out"
    wrong = request(tmp_path / "none", out, restart=restart)
    with pytest.raises(DataError, match="no such folder"):
        load_plan(wrong, print)
    assert not out.exists()
    load_plan(request(videos, out), print)
    (out / ".incomplete-folder" / "train-00000.json").write_text("finished")
    before = list_tree(tmp_path)
    for asked in (wrong, request(videos, out, restart=restart, validation=0.0001)):
        with pytest.raises(NbpError):
            load_plan(asked, print)
        assert list_tree(tmp_path) == before
    load_plan(request(videos, out, restart=True), print)
    assert list_tree(out) == [".incomplete-folder", ".incomplete-folder/plan.json"]


def test_restart_does_not_discard_what_another_process_makes(tmp_path):
    videos, out = make_videos(tmp_path / "v"), tmp_path / "out"
    load_plan(request(videos, out), print)
    with hold_lock(out / ".incomplete-folder" / "share-0-of-1.lock") as free:
        assert free
        before = list_tree(out)
        with pytest.raises(ConfigError, match=r"another nbp\.prepare works in .*share-0-of-1"):
            load_plan(request(videos, out, restart=True), print)
        assert list_tree(out) == before


NAMES = ("a", "my_data", "ucf101", "a_1__b_", "a" * 100)


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_taken_are_names_for_tfds(tmp_path, name):
    import tensorflow_datasets as tfds

    request(tmp_path, tmp_path, name=name)
    folder = tmp_path / name / "1.0.0"
    folder.mkdir(parents=True)
    (folder / shard_name(name, "train", 0, 1)).write_bytes(b"")
    write_metadata(folder, name, labels=["x"], splits={"train": [0]})
    assert tfds.builder_from_directory(folder).info.name == name


@pytest.mark.parametrize(
    "name",
    ["2024_set", "1", "_a", "übung", "a²", "a٣", "A", "my data", "a-b", "", "a\n", "a" * 101],
)
def test_names_that_tfds_or_a_file_system_refuses_are_refused_with_the_rule(tmp_path, name):
    with pytest.raises(ConfigError, match="--name .*a to z, digits and _, a letter first") as error:
        request(tmp_path, tmp_path, name=name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "flags",
    [
        *(f"--timeout {value}" for value in ("inf", "nan", "1e-42", "1e12", "-1", "0")),
        *(f"--fps {value}" for value in ("inf", "nan", "0", "-3", "1e-30", "1e12")),
        *(f"--min_frames {value}" for value in ("0", "-1", "9" * 30, "9" * 400)),
        *(f"--shard_size {value}" for value in ("0", "-1", "9" * 30)),
        *(f"--workers {value}" for value in ("0", "-1", "9" * 30)),
        *(f"--validation {value}" for value in ("1", "nan", "inf", "-0.1")),
        *(f"--quality {value}" for value in ("52", "-1", "9" * 30)),
        *(f"--group {value}" for value in ("0", "251")),
        *(f"--size {value}" for value in ("0", "9" * 9, "9" * 5000, "-1")),
        *(f"--shard {value}" for value in ("0/0", f"0/{'9' * 5000}", "1/1", "-1/2", "0/٣")),
    ],
)
def test_numbers_of_flags_have_a_range_that_is_named(tmp_path, flags):
    videos = make_videos(tmp_path / "v")
    flag, value = flags.split()
    with pytest.raises(ConfigError) as error:
        main(["folder", "--videos", str(videos), "--out", str(tmp_path / "out"), f"{flag}={value}"])
    text = str(error.value)
    assert flag.lstrip("-") in text
    assert "\n" not in text
    assert len(text) < 300 + len(value)
    assert not (tmp_path / "out").exists()


def test_plans_of_before_without_remarks_are_read(tmp_path):
    asked = request(make_videos(tmp_path / "v"), tmp_path / "out")
    made = load_plan(asked, print)
    file = tmp_path / "out" / ".incomplete-folder" / "plan.json"
    data = json.loads(file.read_text())
    del data["remarks"], data["skipped"]
    file.write_text(json.dumps(data))
    assert load_plan(asked, print) == made


def test_what_is_odd_about_the_lists_is_said_at_the_start(tmp_path):
    videos = make_videos(tmp_path / "v", "a b/1.mp4", "a_b/2.mp4", "@eaDir/3.mp4")
    for _ in range(2):  # when resumed, too
        lines: list[str] = []
        load_plan(request(videos, tmp_path / "out"), lines.append)
        assert lines[1].startswith("1 hidden entries and folders of the system")
        assert lines[2] == "1 class spelled twice: a_b: a class beside 'a b'"


def refuse_locks(monkeypatch, number: int) -> None:
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_locks_keep_others_out_and_end_with_their_process(tmp_path):
    file = tmp_path / "a.lock"
    with hold_lock(file) as free:
        assert free
        assert find_held(tmp_path) == file
    with hold_lock(file) as free:
        assert free
    assert find_held(tmp_path) is None


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL])
def test_file_systems_without_locks_have_a_file_instead(tmp_path, monkeypatch, number):
    refuse_locks(monkeypatch, number)
    file = tmp_path / "a.lock"
    with hold_lock(file) as free, hold_lock(file) as again:
        assert (free, again) == (True, False)
        assert find_held(tmp_path) == file
    assert os.listdir(tmp_path) == ["a.lock"]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with hold_lock(file):
        mine = (tmp_path / "a.lock.held").read_text()
    for owner, taken_over in [
        (re.sub(r"\d+$", str(ended.pid), mine), True),  # of a process that was killed
        (mine, False),
        (f"another-host {ended.pid}", False),
        ("", False),
    ]:
        (tmp_path / "a.lock.held").write_text(owner)
        with hold_lock(file) as free:
            assert free == taken_over
