# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Durable files: whole or not there, and a full disk is named."""

import errno
import os

import pytest

from nbp.data import durable
from nbp.errors import RestartError


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
