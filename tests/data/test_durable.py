# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Durable files: whole or not there, and a full disk is named."""

import errno
import os
from pathlib import Path

import pytest

from nbp.data import durable
from nbp.errors import ConfigError, RestartError


def test_text_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "note.json"
    durable.write_text(path, "old")

    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="gone"):
            durable.write_text(path, "new")
    assert path.read_text() == "old"
    durable.write_text(path, "newer")
    assert path.read_text() == "newer"


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
    with pytest.raises(RestartError, match="the disk is full"), durable.full_disk_named(part):
        raise error
    assert not part.exists()


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(PermissionError), durable.full_disk_named(tmp_path / "part"):
        raise PermissionError(errno.EACCES, "no")


# Places ----------------------------------------------------------------------------------------


def list_all(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("place", ["there", "missing", "missing/deeper/still", "link"])
def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path, place):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    before = list_all(tmp_path)
    durable.check_writable_folder(tmp_path / place)
    durable.check_writable_file(tmp_path / place / "report.json")
    assert list_all(tmp_path) == before


@pytest.mark.parametrize(
    "place, why",
    [
        ("file", "cannot make the folder .*file: .*file is no folder. Use --out."),
        ("file/below", "file is no folder"),
        ("dangling", "dangling is no folder"),
        ("é" * 128, "File name too long"),  # 256 bytes
        ("new/" + "x" * 256 + "/below", "File name too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path, place, why):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = list_all(tmp_path)
    with pytest.raises(ConfigError, match=why) as caught:
        durable.check_writable_folder(tmp_path / place, "Use --out.")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=why):
        durable.check_writable_file(tmp_path / place / "report.json", "Use --out.")
    assert list_all(tmp_path) == before
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_whose_file_system_refuses_is_found_though_its_mode_allows_all():
    with pytest.raises(ConfigError, match="cannot write into the folder /proc"):
        durable.check_writable_folder(Path("/proc"))  # also root cannot make files there


def test_a_file_is_not_made_in_place_of_a_folder_nor_under_a_name_too_long(tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        durable.check_writable_file(tmp_path)
    with pytest.raises(ConfigError, match="longer than 255 bytes"):
        durable.check_writable_file(tmp_path / ("é" * 128))


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "日本" * 42, "short"])
def test_temporary_names_are_never_too_long(tmp_path, name):
    path = tmp_path / name
    assert len(os.fsencode(durable.name_part(path).name)) <= 255
    durable.write_text(path, "text")
    assert list_all(tmp_path) == [path]


@pytest.mark.parametrize("longest, kept", [(0, ""), (1, ""), (2, "é"), (4, "éa"), (99, "éa日")])
def test_names_are_cut_between_characters(longest, kept):
    assert durable.cut_name("éa日", longest) == kept
