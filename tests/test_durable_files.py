# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Durable files: whole or not there, and a full disk is named."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nbp import files
from nbp.errors import ConfigError, RestartError


def test_text_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "note.json"
    files.write_text(path, "old")

    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="gone"):
            files.write_text(path, "new")
    assert path.read_text() == "old"
    files.write_text(path, "newer")
    assert path.read_text() == "newer"


def test_what_a_killed_writer_left_is_taken_up_again(tmp_path):
    path = tmp_path / "clip.gif"
    code = (
        "import os, sys; from pathlib import Path; from nbp import files\n"
        "with files.open_part(Path(sys.argv[1])) as part:\n"
        "    part.write_text('half of it'); os.kill(os.getpid(), 9)"
    )
    run = subprocess.run([sys.executable, "-c", code, path], check=False)
    assert run.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.read_text() == "half of it"
    with files.open_part(path) as part:
        assert (part, part.read_bytes()) == (left, b"")
        part.write_text("all")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"clip.gif": "all"}
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_two_writers_of_a_file_never_mix(tmp_path):
    path = tmp_path / "note"
    with files.open_part(path) as first:
        first.write_text("first")
        with files.open_part(path) as second:
            assert second != first
            second.write_text("second")
        assert path.read_text() == "second"
        with pytest.raises(KeyError), files.open_part(path):
            raise KeyError
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
    for _ in range(2):  # threads, each at its own pace
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: files.write_text(path, f"{n:02d}" * 5000), range(40)))
        assert path.read_text() in [f"{n:02d}" * 5000 for n in range(40)]
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["none", "mandatory"])
def test_parts_need_no_locks(tmp_path, monkeypatch, kind):
    """File systems without locks, and those whose locks keep out the process itself."""
    path = tmp_path / "note"

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP if kind == "none" else errno.EACCES, "no")

    if kind == "none":
        monkeypatch.setattr(fcntl, "flock", refuse)
    else:
        monkeypatch.setattr(Path, "write_bytes", refuse)
    with files.open_part(path) as first, files.open_part(path.with_name("other")) as second:
        first.write_text("a")
        second.write_text("b")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"note": "a", "other": "b"}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("write failed: No space left on device"),  # as ArrayRecord says it
    ],
)
def test_a_full_disk_asks_for_a_restart_and_gives_back_what_it_took(tmp_path, error):
    part = tmp_path / "part"
    part.write_bytes(b"half")
    with pytest.raises(RestartError, match="the disk is full"), files.full_disk_named(part):
        raise error
    assert not part.exists()


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(PermissionError), files.full_disk_named(tmp_path / "part"):
        raise PermissionError(errno.EACCES, "no")


def list_all(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("place", ["there", "missing", "missing/deeper/still", "link"])
def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path, place):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    before = list_all(tmp_path)
    files.check_writable_folder(tmp_path / place)
    files.check_writable_file(tmp_path / place / "report.json")
    assert list_all(tmp_path) == before


@pytest.mark.parametrize(
    "place, why",
    [
        ("file", "cannot make the folder .*file: .*file is a file. Use --out."),
        ("file/below", "file is a file"),
        ("dangling", "dangling is a link to nothing"),
        ("é" * 128, "File name too long"),  # 256 bytes
        ("new/" + "x" * 256 + "/below", "File name too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path, place, why):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = list_all(tmp_path)
    with pytest.raises(ConfigError, match=why) as caught:
        files.check_writable_folder(tmp_path / place, "Use --out.")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=why):
        files.check_writable_file(tmp_path / place / "report.json", "Use --out.")
    assert list_all(tmp_path) == before
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_whose_file_system_refuses_is_found_though_its_mode_allows_all():
    with pytest.raises(ConfigError, match="cannot write into the folder /proc"):
        files.check_writable_folder(Path("/proc"))  # also root cannot make files there


def test_a_file_is_not_made_in_place_of_a_folder_nor_under_a_name_too_long(tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        files.check_writable_file(tmp_path)
    with pytest.raises(ConfigError, match="longer than 255 bytes"):
        files.check_writable_file(tmp_path / ("é" * 128))


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "日本" * 42, "short"])
def test_temporary_names_are_never_too_long(tmp_path, name):
    path = tmp_path / name
    assert len(os.fsencode(files.name_part(path, f"{2**22}-{2**64}").name)) <= 255
    files.write_text(path, "text")
    assert list_all(tmp_path) == [path]


@pytest.mark.parametrize("longest, kept", [(0, ""), (1, ""), (2, "é"), (4, "éa"), (99, "éa日")])
def test_names_are_cut_between_characters(longest, kept):
    assert files.cut_name("éa日", longest) == kept
