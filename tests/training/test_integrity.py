# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
import errno
import fcntl
import json
import os
import stat

import pytest

from nbp import locks
from nbp.errors import CheckpointError, ConfigError
from nbp.training import integrity
from nbp.training.integrity import Damaged


@pytest.fixture
def step(tmp_path):
    directory = tmp_path / "7"
    (directory / "model" / "d").mkdir(parents=True)
    (directory / "data").mkdir()
    (directory / "model" / "d" / "weights").write_bytes(b"0123456789")
    (directory / "data" / "metadata").write_text('{"next": 3}')
    (directory / "beside").write_text("not part of an item")
    integrity.write_manifest(directory)
    return directory


def test_the_manifest_lists_the_files_of_the_items(step):
    assert sorted(integrity.read_manifest(step) or {}) == ["data/metadata", "model/d/weights"]
    assert integrity.verify_files(step, ("model", "data"))


def test_one_flipped_bit_is_found(step):
    (step / "model" / "d" / "weights").write_bytes(b"0123456788")
    with pytest.raises(Damaged, match="model/d/weights has other contents"):
        integrity.verify_files(step, ("model",))
    assert integrity.verify_files(step, ("data",)), "only the items asked for are read"


def test_without_a_manifest_nothing_is_claimed(step):
    (step / integrity.MANIFEST).unlink()
    assert not integrity.verify_files(step, ("model",))


def test_a_whole_step_that_cannot_be_read_is_not_called_damaged(step):
    def fail():
        raise KeyError("too new")

    with pytest.raises(CheckpointError, match="whole but cannot be read: KeyError: 'too new'"):
        integrity.load_whole(step, fail, items=("model",), report=print)
    (step / integrity.MANIFEST).unlink()
    with pytest.raises(Damaged, match="too new"):
        integrity.load_whole(step, fail, items=("model",), report=print)


def test_the_hash_follows_the_contents_of_one_item(step):
    before = integrity.hash_item(step, "model")
    (step / "data" / "metadata").write_text('{"next": 4}')
    integrity.write_manifest(step)
    assert integrity.hash_item(step, "model") == before
    (step / "model" / "d" / "weights").write_bytes(b"012345678X")
    integrity.write_manifest(step)
    assert integrity.hash_item(step, "model") != before
    for value in ([1], {"files": 1}, {"files": {"model/x": 1}}, {"files": {"model/x": [1]}}):
        (step / integrity.MANIFEST).write_text(json.dumps(value))
        with pytest.raises(CheckpointError, match="unreadable"):
            integrity.hash_item(step, "model")
    with pytest.raises(CheckpointError, match="absent"):
        integrity.hash_item(step / "nowhere", "model")


def test_the_lock_holds_until_it_is_closed(tmp_path):
    lock = integrity.take_lock(tmp_path)
    with pytest.raises(ConfigError, match="another process trains in"):
        integrity.take_lock(tmp_path)
    lock.close()
    integrity.take_lock(tmp_path).close()
    (tmp_path / ".lock").write_text("of somebody who is gone")
    before = (tmp_path / ".lock").stat()
    integrity.take_lock(tmp_path).close()
    assert (tmp_path / ".lock").stat().st_mtime_ns == before.st_mtime_ns, "it is not touched"


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL])
def test_file_systems_without_locks_are_used_and_named_once(tmp_path, monkeypatch, capsys, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    folder = tmp_path / str(number)
    folder.mkdir()
    for _ in range(2):
        with locks.lock_folder(folder) as lock:
            assert not lock.held
    assert not list(folder.iterdir()), "a lock that is none leaves no file"
    integrity.take_lock(folder).close()
    assert not locks.is_held(folder)
    assert capsys.readouterr().err.count("has no locks") == 1


def test_a_folder_that_only_a_file_in_it_can_lock(tmp_path, monkeypatch):
    """NFS locks what is open for writing."""
    flock = fcntl.flock

    def of_files(handle, how):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", of_files)
    with locks.lock_folder(tmp_path) as lock:
        assert lock.held
        with pytest.raises(locks.Held):
            locks.lock_folder(tmp_path)
        assert locks.is_held(tmp_path / locks.NAME)
    locks.lock_folder(tmp_path).close()


def test_a_folder_is_locked_without_a_file_and_free_again_after(tmp_path):
    with locks.lock_folder(tmp_path):
        with pytest.raises(locks.Held):
            locks.lock_folder(tmp_path)
        assert locks.is_held(tmp_path)
        assert not list(tmp_path.iterdir())
    assert not locks.is_held(tmp_path)
    assert not locks.is_held(tmp_path / "absent")
