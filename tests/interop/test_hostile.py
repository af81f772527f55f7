# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A hostile pickle runs nothing in any container that holds one, and costs neither time nor memory.

Each file leaves a folder behind if its pickle is loaded as Python would load it.
"""

import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nbp import convert
from nbp.errors import EXIT_CHECKPOINT, CheckpointError, run_main
from nbp.interop.reading import open_tensors
from tests.interop.torch_files import Foreign, write_torch

MAGIC = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})


class Attack:
    """Unpickled by an ordinary reader this makes a folder."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write_zip(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)


def write_script(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", data)
        archive.writestr("net/code/__torch__.py", "import os\n" * 99, zipfile.ZIP_DEFLATED)
        archive.writestr("net/constants.pkl", data)
        archive.writestr("net/version", "3\n")


def write_legacy(path: Path, data: bytes) -> None:
    begin = b"".join(pickle.dumps(part, protocol=2) for part in MAGIC)
    path.write_bytes(begin + data + pickle.dumps([], protocol=2))


def write_legacy_head(path: Path, data: bytes) -> None:
    path.write_bytes(data + b"".join(pickle.dumps(part, protocol=2) for part in MAGIC))


def write_legacy_keys(path: Path, data: bytes) -> None:
    begin = b"".join(pickle.dumps(part, protocol=2) for part in MAGIC)
    path.write_bytes(begin + pickle.dumps({}, protocol=2) + data)


def write_tar(path: Path, data: bytes) -> None:
    """The form of PyTorch's first versions: members that are pickles."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def write_nested(path: Path, data: bytes) -> None:
    """A tensor whose storage is the bytes of a file of its own, as plain pickle writes it."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    code = b"\x80\x02}X\x01\x00\x00\x00wctorch.storage\n_load_from_bytes\n"
    raw = inner.getvalue()
    write_zip(path, code + b"B" + struct.pack("<I", len(raw)) + raw + b"\x85Rs.")


CONTAINERS: dict[str, Callable[[Path, bytes], None]] = {
    "zip": write_zip,
    "torchscript": write_script,
    "legacy": write_legacy,
    "legacy magic": write_legacy_head,
    "legacy keys": write_legacy_keys,
    "tar": write_tar,
    "nested": write_nested,
}
CALLS = {
    "mkdir": (os.mkdir, "{target}"),
    "system": (os.system, "mkdir {target}"),
    "eval": (eval, "__import__('os').mkdir('{target}')"),
    "subprocess": (subprocess.call, ("mkdir", "{target}")),
    "touch": (Path.touch, Path("{target}")),
    "getattr": (getattr, os, "mkdir"),
}


def make_attack(kind: str, target: Path) -> Attack:
    function, *arguments = CALLS[kind]

    def name(part):
        if isinstance(part, tuple):
            return tuple(map(name, part))
        if isinstance(part, Path):
            return target
        return part.__name__ if part is os else part.format(target=target)

    return Attack(function, *map(name, arguments))


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_nothing_runs(tmp_path, container, kind, protocol):
    target = tmp_path / "target"
    attack = make_attack(kind, target)
    data = pickle.dumps({"state_dict": {"w": 1}, "x": attack}, protocol=protocol)
    CONTAINERS[container](tmp_path / "x.pt", data)
    with pytest.raises(CheckpointError, match="x.pt"):
        open_tensors(tmp_path / "x.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_the_attacks_would_work(tmp_path):
    """Else the test above could not fail."""
    target = tmp_path / "target"
    pickle.loads(pickle.dumps(make_attack("system", target)))
    assert target.exists()


@pytest.mark.parametrize("container", ["zip", "torchscript", "legacy"])
def test_the_command_names_what_was_asked_for_in_one_line(tmp_path, container, capsys):
    data = pickle.dumps({"x": make_attack("mkdir", tmp_path / "target")}, protocol=2)
    CONTAINERS[container](tmp_path / "x.pt", data)
    with pytest.raises(SystemExit) as stop:
        run_main(convert.main, ["i3d", "--source", str(tmp_path / "x.pt"), "--out", "never"])
    assert stop.value.code == EXIT_CHECKPOINT
    (line,) = capsys.readouterr().err.splitlines()
    assert "refused, its pickle wants to import 'posix.mkdir'" in line
    assert "nothing of it was run" in line


@pytest.mark.parametrize(
    "name",
    [
        *("torch.hub.load", "torch.load", "torch.jit.load", "torch.utils.cpp_extension.load"),
        *("numpy.load", "numpy.testing.runstring", "runpy.run_path", "importlib.import_module"),
        *("shutil.rmtree", "cloudpickle.loads", "socket.socket", "pip._internal.main"),
    ],
)
def test_loaders_are_refused_by_name(tmp_path, name):
    module, _, last = name.rpartition(".")
    write_zip(tmp_path / "x.pt", f"c{module}\n{last}\n".encode() + b"X\1\0\0\0a\x85R.")
    with pytest.raises(CheckpointError, match=f"wants to import '{name}'"):
        open_tensors(tmp_path / "x.pt")


def test_classes_of_a_strangers_project_harm_nobody(tmp_path):
    """Neither a module of this name nor one that it would import has to exist."""
    content = {
        "options": Foreign("their_project.config.Options", mode=Foreign("their_project.Mode")),
        "optimizer": Foreign("torch.optim.adam.Adam", defaults={"lr": 1.0}),
        "state_dict": {"w": np.ones(2, np.float32)},
    }
    write_torch(tmp_path / "x.pt", content)
    before = set(sys.modules)
    tensors = open_tensors(tmp_path / "x.pt").tensors
    assert list(tensors) == ["state_dict.w"]
    assert not {name for name in set(sys.modules) - before if "their_project" in name}


# Time and memory -------------------------------------------------------------------------------


def text(size: int) -> bytes:
    return b"X" + struct.pack("<I", size)


SHARED = b"}q\0" + b"".join(
    b"}q" + bytes([i + 1]) + b"X\1\0\0\0ah" + bytes([i]) + b"sX\1\0\0\0bh" + bytes([i]) + b"s"
    for i in range(100)
)  # fmt: skip
PAIRS = b"]q\0" + b"".join(
    b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(100)
)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02" + text(1 << 31) + b"a.",  # longer than the file
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 36) + b".",  # a bytearray of 64 GiB
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 36) + b".",  # bytes of 64 GiB
        b"\x80\x02\x8b" + struct.pack("<I", 1 << 30) + b"\1.",  # a number of a gigabyte
        b"\x80\x02K\1r" + struct.pack("<I", (1 << 32) - 1) + b".",  # a huge memo
        b"\x80\x02" + SHARED + b".",  # 2^100 paths to walk
        b"\x80\x02}" + PAIRS + b"K\1s.",  # a key that takes 2^100 steps to hash
        b"\x80\x02" + PAIRS + b"a" + b".",
        b"\x80\x02(" + b"}" * 10_000 + b"t.",
    ],
)
def test_small_files_cost_little(tmp_path, data):
    write_zip(tmp_path / "x.pt", data)
    began = time.process_time()
    with pytest.raises(CheckpointError, match="x.pt"):
        open_tensors(tmp_path / "x.pt")
    assert time.process_time() - began < 20


def test_steps_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("nbp.interop.unpickle.STEPS_LIMIT", 1000)
    write_zip(tmp_path / "x.pt", b"\x80\x02(" + b"}" * 1001 + b"t.")
    with pytest.raises(CheckpointError, match="more than 1000 steps"):
        open_tensors(tmp_path / "x.pt")


def test_a_pickle_that_claims_to_be_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("nbp.interop.torch_files.PICKLE_LIMIT", 1000)
    write_zip(tmp_path / "x.pt", b"\x80\x02" + b"N" * 2000 + b".")
    with pytest.raises(CheckpointError, match="its pickle has 2003 bytes"):
        open_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_every_part_of_an_old_file_is_needed(tmp_path, share):
    whole = (Path(__file__).parent / "fixtures" / "legacy.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"x\.pt is (truncated|damaged)"):
        open_tensors(tmp_path / "x.pt")


def test_an_old_file_with_an_impossible_storage_is_refused(tmp_path):
    whole = bytearray((Path(__file__).parent / "fixtures" / "vgg_heads.pth").read_bytes())
    place = whole.rindex(struct.pack("<q", 512))
    for count in (-1, 1 << 40, 100_000):
        whole[place : place + 8] = struct.pack("<q", count)
        (tmp_path / "x.pt").write_bytes(bytes(whole))
        with pytest.raises(CheckpointError, match=r"x\.pt is (truncated|damaged)"):
            open_tensors(tmp_path / "x.pt")


def test_names_of_a_file_stay_on_one_line_and_short(tmp_path):
    name = ("os\nb" + "c" * 1000).encode()
    part = b"X" + struct.pack("<I", len(name)) + name
    write_zip(tmp_path / "x.pt", b"\x80\x04X\2\0\0\0os" + part + b"\x93.")
    with pytest.raises(CheckpointError) as caught:
        open_tensors(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
