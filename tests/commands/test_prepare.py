# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""nbp.prepare on a tree of good and bad videos: every file in its place, whatever happens."""

import csv
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbp import prepare
from nbp.data.augmentation import resize_frame
from nbp.data.prepare import shards
from nbp.data.prepare.plan import PrepareRequest
from nbp.data.prepare.quality_report import HEADINGS
from nbp.data.prepare.reencode import Recipe
from nbp.data.records import PREPARED, RecordSource
from nbp.data.video.clip_codec import Coding, decode_clip
from nbp.data.video.decode import read_clip
from nbp.errors import ConfigError, DataError, RestartError
from nbp.files import escape_name
from nbp.prepare import main, prepare_dataset
from tests.data.trees import BAD, CLASSES, GOOD, OK, build_tree
from tests.data.videos import encode, make_clip, psnr

ROOT = Path(__file__).resolve().parents[2]
# A lossless source has no noise for the stored clip to hide in; this is near-transparent.
CAP = 42.0


def hash_tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def read_report(folder: Path) -> dict[str, tuple[str, str]]:
    """path -> (heading, detail)."""
    with (folder / "report.csv").open(newline="", encoding="utf8") as file:
        return {row["path"]: (row["heading"], row["detail"]) for row in csv.DictReader(file)}


def request(videos: Path, out: Path, **options) -> PrepareRequest:
    settings = {"kind": "folder", "recipe": Recipe(Coding()), "shard_size": 4, "workers": 2}
    return PrepareRequest(videos=videos, out=out, **(settings | options))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree") / "videos"
    made = build_tree(root, good=len(GOOD), bad=len(BAD))
    shutil.copy(root / made[0].path, (root / made[0].path).with_name("copy.avi"))
    return root, made


@pytest.fixture(scope="module")
def prepared(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    lines: list[str] = []
    target = prepare_dataset(request(tree[0], out), lines.append)
    return target, lines


def test_every_bad_file_is_under_its_heading_and_every_good_clip_is_stored(tree, prepared):
    root, made = tree
    target, lines = prepared
    report = read_report(target.parent)
    bad = {m.path: m.heading for m in made if m.heading != OK}
    for path, heading in bad.items():
        assert re.fullmatch(heading, report.pop(path)[0]), path
    assert {heading for heading, _ in report.values()} <= {"duplicate", "overlap"}
    assert len(report) == 1
    stored: dict[str, np.ndarray] = {}
    for split in ("train", "validation"):
        source = RecordSource(target, split)
        assert source.label_names == CLASSES
        for i in range(len(source)):
            record = source[i]
            assert record["path"].split("/")[0] == CLASSES[record["label"]]
            frames = record["info"].frames
            stored[record["path"]] = decode_clip(record["clip"], np.arange(frames), name="x")
    assert len(stored) == len(GOOD) + 1
    for m in made:
        if m.heading != OK:
            continue
        found = stored[m.path]
        size = found.shape[1:3]

        def fit(frame, size=size):
            return resize_frame(np.ascontiguousarray(frame), *size)

        truth = np.stack([fit(frame) for frame in m.truth()])
        assert found.shape == truth.shape, m
        decoded = read_clip(root / m.path, frames=len(found), resize=fit)
        assert psnr(found, truth) > min(psnr(decoded, truth), CAP) - 1, m
    assert lines[-1].startswith(f"{target}: ")


def test_report_sums_up(tree, prepared):
    target, lines = prepared
    text = (target.parent / "report.md").read_text(encoding="utf8")
    for heading in ("corrupt", "zero bytes", "too short", "not a video", "unreadable"):
        assert f"## {heading}: " in text
        assert HEADINGS[heading] in text
    rows = re.findall(r"^\| (train|validation) \| (\d+) \| (\d+) \|", text, re.MULTILINE)
    listed = sum(int(row[1]) for row in rows)
    usable = {row[0]: int(row[2]) for row in rows}
    assert listed == len(GOOD) + len(BAD) + 1
    assert usable == {split: len(RecordSource(target, split)) for split in usable}
    assert any("31 files" in line or "32 files" in line for line in lines)
    assert any("zero bytes" in line and "report.md" in line for line in lines)


def test_shares_and_workers_change_no_byte(tree, prepared, tmp_path):
    """Three machines, one worker each, one after the other; the last one finishes."""
    target, _ = prepared
    lines: list[str] = []
    for share in (1, 0, 2):
        assert not (tmp_path / "folder").exists()  # nothing opens before the end
        asked = request(tree[0], tmp_path, shard=(share, 3), workers=1)
        prepare_dataset(asked, lines.append)
    assert sum("left to other machines" in line for line in lines) == 2
    assert hash_tree(tmp_path) == hash_tree(target.parent.parent)


def run_main(videos: Path, out: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "nbp.prepare", "folder", "--videos", str(videos)]
    command += ["--out", str(out), "--shard_size", "4", "--workers", "2", *options]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_killed_and_resumed_is_byte_identical(tree, prepared, tmp_path):
    target, _ = prepared
    work = tmp_path / ".incomplete-folder"
    for number, sent in enumerate((signal.SIGKILL, signal.SIGTERM)):
        process = run_main(tree[0], tmp_path)
        began = time.monotonic()
        while len(list(work.glob("*.json"))) < 2 + number * 2:  # the plan and some shards
            assert process.poll() is None, process.communicate()
            assert time.monotonic() - began < 60
            time.sleep(0.01)
        process.send_signal(sent)
        _, err = process.communicate(timeout=30)
        assert not (tmp_path / "folder").exists()
        if sent == signal.SIGTERM:
            assert process.returncode == 143
            assert err.startswith("nbp: Preempted: stopped; the same command resumes")
    finished = {p: p.stat().st_mtime_ns for p in work.glob("*-*.json")}
    assert finished
    lines: list[str] = []
    done = prepare_dataset(request(tree[0], tmp_path), lines.append)
    assert f"resuming: {len(finished)} of" in "".join(lines)
    assert hash_tree(tmp_path) == hash_tree(target.parent.parent)
    assert done.is_dir()
    assert not work.exists()


def test_finished_is_not_repeated_and_other_options_are_refused(tree, prepared):
    target, _ = prepared
    out = target.parent.parent
    before = hash_tree(out)
    lines: list[str] = []
    assert prepare_dataset(request(tree[0], out), lines.append) == target
    assert "finished already" in lines[0]
    with pytest.raises(ConfigError, match=r"shard_size was 4, now 5; quality was 12, now 20"):
        prepare_dataset(
            request(tree[0], out, shard_size=5, recipe=Recipe(Coding(quality=20))), lines.append
        )
    with pytest.raises(DataError, match="--strict: .*corrupt"):
        prepare_dataset(request(tree[0], out, strict=True), lines.append)
    assert hash_tree(out) == before


@pytest.fixture
def few(tmp_path):
    """Four short videos in two classes, all of them used for training."""
    for i in range(4):
        encode(tmp_path / "few" / f"c{i % 2}" / f"v{i}.avi", make_clip(17 + i, seed=i))
    return tmp_path / "few"


def few_request(few: Path, out: Path, **options) -> PrepareRequest:
    return request(few, out, **({"validation": 0.0, "workers": 1} | options))


def test_half_finished_with_other_options_and_restart(few, tmp_path, monkeypatch):
    out = tmp_path / "out"
    prepare_dataset(few_request(few, out, shard=(0, 2), shard_size=2), print)
    with pytest.raises(ConfigError, match="shard_size was 2, now 4.*--restart"):
        prepare_dataset(few_request(few, out), print)
    target = prepare_dataset(few_request(few, out, restart=True), print)
    first = hash_tree(out)
    encode(few / "c0" / "new.avi", make_clip(20, seed=9))
    prepare_dataset(few_request(few, out), print)
    assert hash_tree(out) == first  # finished is finished
    # Killed while replacing: the old dataset stays until the new one is whole.
    monkeypatch.setattr(prepare, "write_metadata", lambda *_, **__: os.kill(0, 0) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare_dataset(few_request(few, out, restart=True), print)
    assert len(RecordSource(target, "train")) == 4
    monkeypatch.undo()
    prepare_dataset(few_request(few, out), print)
    assert len(RecordSource(target, "train")) == 5
    assert sorted(path.name for path in out.iterdir()) == ["folder"]


def test_the_tree_may_change_while_it_is_prepared(few, tmp_path):
    """A file that vanishes is reported; one that appears waits for --restart."""
    out = tmp_path / "out"
    prepare_dataset(few_request(few, out, shard=(0, 2), shard_size=1), print)
    gone = sorted(few.rglob("*.avi"))[1]
    gone.unlink()
    encode(few / "c0" / "new.avi", make_clip(20, seed=9))
    target = prepare_dataset(few_request(few, out, shard=(1, 2), shard_size=1), print)
    assert read_report(target.parent) == {
        str(gone.relative_to(few)): ("vanished", "it was there when the folder was listed")
    }
    assert len(RecordSource(target, "train")) == 3


def test_full_disk_is_one_line_and_resumes(few, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def refuse(path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shards, "open_writer", refuse)
        with pytest.raises(RestartError, match="the disk is full.*finished shards are kept"):
            prepare_dataset(few_request(few, out), print)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
        with pytest.raises(ConfigError, match=r"has 0\.0 GiB free, and 4 clips"):
            prepare_dataset(few_request(few, out), print)
    assert len(RecordSource(prepare_dataset(few_request(few, out), print), "train")) == 4


def test_ucf101_reports_missing_copies_and_shared_groups(tmp_path):
    videos, names = tmp_path / "v", {}
    for number, name in enumerate(
        [
            "YoYo/v_YoYo_g01_c01.avi",
            "YoYo/v_YoYo_g01_c02.avi",
            "Archery/v_Archery_g02_c01.avi",
            "Archery/v_Archery_g03_c01.avi",
            "Archery/v_Archery_g04_c01.avi",
        ]
    ):
        names[number] = name
        encode(videos / name, make_clip(17, seed=number))
    shutil.copy(videos / names[2], videos / names[3])
    shutil.copy(videos / names[2], videos / names[4])
    lists = tmp_path / "lists"
    lists.mkdir()
    train = [names[0], names[2], names[3], "YoYo/v_YoYo_g09_c01.avi"]
    (lists / "trainlist01.txt").write_text("".join(f"{name} 1\n" for name in train))
    (lists / "testlist01.txt").write_text(f"{names[1]}\n{names[4]}\n")
    encode(videos / "extra.mp4", make_clip())
    asked = request(videos, tmp_path / "out", kind="ucf101", annotations=lists, workers=1)
    with pytest.raises(DataError, match="--strict: 1 missing, 1 duplicate, 1 overlap, 1 group"):
        prepare_dataset(request(videos, tmp_path / "out", kind="ucf101", annotations=lists,
                                workers=1, strict=True), print)  # fmt: skip
    assert not (tmp_path / "out" / "ucf101" / "split1" / "1.0.0").exists()
    target = prepare_dataset(asked, print)  # all shards are there: only the end is repeated
    assert target == tmp_path / "out" / "ucf101" / "split1" / "1.0.0"
    assert read_report(target.parent) == {
        "YoYo/v_YoYo_g09_c01.avi": ("missing", ""),
        names[3]: ("duplicate", f"same content as {names[2]}"),
        names[4]: ("overlap", f"same content as {names[2]} of train"),
        names[1]: ("group overlap", f"v_YoYo_g01 is in train too: {names[0]}"),
        "extra.mp4": ("unlisted", ""),
    }
    assert len(RecordSource(target, "train")) == 3
    assert len(RecordSource(target, "test")) == 2
    assert RecordSource(target, "test").label_names[100] == "YoYo"


# What other readers take for the end of a line, strip, or cannot decode.
ODD = ["a\rb", "a\nb", "a\u2028b", "a\x0bb", "a\x0cb", "a\x85b", "a\x1cb", " a", "a ", "a\u3000"]


ODD += ["a\\rb", "a\tb", "a\ufeff", "\ufeffa", "zz", os.fsdecode(b"a\xe9")]


def test_class_names_of_any_characters_come_back(tmp_path):
    """Each clip with its own class; TFDS reads as many different names."""
    import tensorflow_datasets as tfds

    source = encode(tmp_path / "one.avi", make_clip(2, 16, 16))
    for name in ODD:
        (tmp_path / "v" / name).mkdir(parents=True)
        shutil.copy(source, tmp_path / "v" / name / "x\r.avi")
    recipe = Recipe(Coding(codec="jpeg"), min_frames=1)
    options = {"recipe": recipe, "validation": 0.0, "workers": 1, "shard_size": 100}
    target = prepare_dataset(request(tmp_path / "v", tmp_path / "out", **options), print)
    records = RecordSource(target, "train")
    shown = [os.fsencode(name).decode("utf8", "backslashreplace") for name in ODD]
    assert sorted(records.label_names) == sorted(shown)
    for i in range(len(ODD)):
        name = records.label_names[records[i]["label"]]
        assert records[i]["path"] == f"{escape_name(name)}/x\\r.avi"
    features: Any = tfds.builder_from_directory(target).info.features
    names = features["label"].names
    assert len(set(names)) == len(ODD)
    assert names[records.label_names.index("zz")] == "zz"
    report = (target.parent / "report.csv").read_text(encoding="utf8")
    assert len(report.splitlines()) == len(list(csv.reader(report.splitlines())))
    assert report.count(",train,") == len(ODD) - 1  # all but the first are duplicates
    (target / PREPARED).write_text("{}")  # what the names of TFDS alone say
    assert list(RecordSource(target, "train").label_names) == names


def test_without_links_locks_and_syncs_the_bytes_are_the_same(few, tmp_path, monkeypatch):
    """As on exFAT, SMB, gcsfuse and other file systems that are not of Linux."""

    def refuse(*_, **__):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    prepare_dataset(few_request(few, tmp_path / "first"), print)
    for module, name in ((os, "link"), (os, "symlink"), (fcntl, "flock"), (os, "fsync")):
        monkeypatch.setattr(module, name, refuse)
    prepare_dataset(few_request(few, tmp_path / "second"), print)
    assert hash_tree(tmp_path / "first") == hash_tree(tmp_path / "second")
    assert os.listdir(tmp_path / "second") == ["folder"]


def test_a_split_without_usable_videos_names_the_remedy(tmp_path):
    for name in ("train/a/1.avi", "val/a/2.avi"):
        (tmp_path / "v" / name).parent.mkdir(parents=True)
        encode(tmp_path / "v" / name, make_clip(2 if "val" in name else 17, 16, 16))
    asked = few_request(tmp_path / "v", tmp_path / "out", validation=0.1)
    with pytest.raises(DataError, match=r"split validation; .*--validation 0.*--restart"):
        prepare_dataset(asked, print)


def test_main_prints_one_line_and_the_exit_code(few, tmp_path, capfd):
    (few / "c1" / "empty.mp4").touch()
    options = ["--validation", "0", "--strict"]
    process = run_main(few, tmp_path / "out", *options)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert err.splitlines() == [
        "nbp: DataError: --strict: 1 zero bytes. Mend the sources and use --restart, or run the "
        "same command without --strict to leave the bad files out"
    ]
    assert not (tmp_path / "out" / "folder" / "1.0.0").exists()
    assert (tmp_path / "out" / "folder" / "report.md").is_file()
    flags = ["folder", "--videos", str(few), "--out", str(tmp_path / "other")]
    for wrong, message in [
        (["--codec", "vp9"], "--codec: invalid choice: 'vp9'"),
        (["--shard", "3/3"], "--shard 3/3"),
        (["--shard", "a"], "write I/N"),
        (["--size", "big"], "give pixels, or native"),
        (["--size", "native", "--squash"], "--squash needs"),
        (["--name", "My Data"], "--name 'My Data'"),
        (["--restart", "--shard", "0/2"], "--restart and --shard"),
    ]:
        with pytest.raises(ConfigError, match=message):
            main([*flags, *wrong])
    assert not (tmp_path / "other").exists()
    with pytest.raises(DataError, match="no such folder"):
        main(["folder", "--videos", str(few / "nope"), "--out", str(tmp_path / "other")])


def test_prepare_imports_neither_tensorflow_nor_jax(few, tmp_path):
    code = f"""
import sys
from nbp.prepare import main
if __name__ == "__main__":
    main(["folder", "--videos", {str(few)!r}, "--out", {str(tmp_path / "out")!r},
          "--validation", "0", "--workers", "1", "--size", "16", "--codec", "jpeg"])
    print({{"tensorflow", "jax", "torch"}} & set(sys.modules))
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"
    prepared = json.loads((tmp_path / "out" / "folder" / "1.0.0" / "prepare.json").read_text())
    assert prepared["options"]["codec"] == "jpeg"
