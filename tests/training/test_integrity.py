# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
import json

import pytest

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
    (step / integrity.MANIFEST).write_text(json.dumps([1]))
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
