# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Files and folders that are no weights are named, with the one to fetch; sets of shards."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from nbp import convert
from nbp.errors import EXIT_CHECKPOINT, CheckpointError, run_main
from nbp.interop.reading import open_tensors

FIXTURES = Path(__file__).parent / "fixtures"
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 51235320\n"
)


def make_npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ones(3))
    return stream.getvalue()


def make_tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    return stream.getvalue()


KINDS = {
    ("x.pt", b""): "is empty",
    ("x.pt", b"\n<!DOCTYPE html><html><body>429</body></html>"): "HTML page",
    ("x.safetensors", b"<html>sign in</html>"): "HTML page",
    ("x.pt", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'): "XML text",
    ("x.pt", b'{"message": "Not Found"}'): "JSON text",
    ("x.pt", POINTER): "pointer of Git LFS to a file of 51235320 bytes",
    ("x.safetensors", POINTER): "pointer of Git LFS",
    ("x.h5", b"\x89HDF\r\n\x1a\n" + bytes(20)): "HDF5",
    ("saved_model.pb", b"\x08\x01\x12\xa0\x8c\x07"): "SavedModel",
    ("x.msgpack", b"\x81\xa6params\x81\xa5dense"): "msgpack",
    ("x.flax", b"\xdf\0\0\0\1\xa6params"): "msgpack",
    ("checkpoint", b"\x82\xa6params\x81\xa5dense"): "msgpack",
    ("x.tar.gz", gzip.compress(b"hello")): "gzip archive: unpack it first",
    ("x.pt", make_tar()): "PyTorch's format from before version 0.1.10",
    ("x.npy", make_npy()): "single array",
    ("model.ckpt.index", b"\0\0\4\0"): "checkpoint of TensorFlow",
    ("x.onnx", b"\x08\x07\x12\x07pytorch"): "ONNX",
    ("x.txt", b"please see the README\n"): "is a text that begins 'please see the README",
    ("x.pt", b"\x80\x04\x95\x05\0\0\0\0\0\0\0}\x94."): "no weight file of PyTorch",
    ("x.pt", b"\x80\x02}q\0."): "no weight file of PyTorch",
    ("x.pt", bytes(range(200, 256))): "is no weight file",
}


@pytest.mark.parametrize("case", KINDS, ids=lambda case: f"{case[0]}-{KINDS[case]}")
def test_a_wrong_file_is_named(tmp_path, case):
    name, content = case
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        open_tensors(tmp_path / name, get="get right.pt")
    assert f"{name} " in str(caught.value)
    assert KINDS[case] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "files, told",
    [
        (("saved_model.pb", "variables/variables.index"), "is a SavedModel of TensorFlow"),
        (("checkpoint", "model.ckpt-1.index"), "is a checkpoint of TensorFlow"),
        (("_METADATA", "manifest.ocdbt"), "is a checkpoint of Orbax"),
        (("readme.md",), "is a folder without a weight file"),
        ((), "is an empty folder"),
        (("a.pt", "b.pt"), "several weight files: name one of a.pt, b.pt"),
        (("m-00001-of-00002.bin", "m-00002-of-00002.bin"), "shards without their index"),
    ],
)
def test_a_wrong_folder_is_named(tmp_path, files, told):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=told):
        open_tensors(tmp_path)


@pytest.mark.parametrize("what", ["i3d", "lpips", "c3d", "generator", "tokenizer"])
def test_each_command_says_which_file_to_get(tmp_path, what, capsys):
    np.savez(tmp_path / "wrong.npz", clips=np.zeros((2, 3), np.float32), labels=np.zeros(2))
    for source in (tmp_path, tmp_path / "wrong.npz"):
        flags = ["--source", str(source), "--out", str(tmp_path / "out")]
        with pytest.raises(SystemExit) as stop:
            run_main(convert.main, [what, *flags])
        assert stop.value.code == EXIT_CHECKPOINT
        (line,) = capsys.readouterr().err.splitlines()
        assert "clips, labels" in line
        assert ("get " in line) or what in ("generator", "tokenizer")
    assert not (tmp_path / "out").exists()


# Shards ------------------------------------------------------------------------------------------


def copy_shards(folder: Path, into: Path) -> Path:
    into.mkdir()
    for path in folder.iterdir():
        (into / path.name).write_bytes(path.read_bytes())
    return next(into.glob("*.index.json"))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_an_index_and_its_folder_are_the_same_set(tmp_path, kind):
    index = copy_shards(FIXTURES / f"sharded_{kind}", tmp_path / "set")
    whole = open_tensors(FIXTURES / "zip.pt").tensors
    for source in (index, index.parent):
        file = open_tensors(source)
        assert file.tensors.keys() == whole.keys()
        for name, tensor in file.tensors.items():
            np.testing.assert_array_equal(tensor.read(), whole[name].read())
        assert file.files[0].name == index.name
        assert len(file.files) == 3


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_one_shard_alone_says_what_is_missing(tmp_path, kind):
    index = copy_shards(FIXTURES / f"sharded_{kind}", tmp_path / "set")
    one, two = sorted(p for p in index.parent.iterdir() if p != index)
    with pytest.raises(CheckpointError, match=f"is part 1 of 2: name its index {index.name}"):
        open_tensors(one)
    two.unlink()
    with pytest.raises(CheckpointError, match=f"1 of them missing beside it: fetch '{two.name}'"):
        open_tensors(index)
    index.unlink()
    with pytest.raises(CheckpointError, match="is part 1 of 2: fetch the index beside it"):
        open_tensors(one)


@pytest.mark.parametrize(
    "table, told",
    [
        ({"a": "../zip.pt"}, "outside its folder"),
        ({"a": "/etc/passwd"}, "outside its folder"),
        ({}, "outside its folder, or none"),
        ({"a": 3}, "no index of shards"),
        (["a"], "no index of shards"),
        (None, "no index of shards"),
        ({"other": "shard.pt"}, "lacks the tensor 'other'"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path, table, told):
    (tmp_path / "shard.pt").write_bytes((FIXTURES / "zip.pt").read_bytes())
    content = {} if table is None else {"weight_map": table}
    (tmp_path / "model.bin.index.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=told):
        open_tensors(tmp_path / "model.bin.index.json")
