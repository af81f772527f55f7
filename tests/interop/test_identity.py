# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Files are known by git's own id of their content."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from nbp import progress
from nbp.interop.identity import CHUNK, FILES, PUBLIC, describe_origin, identify


@pytest.mark.parametrize("content", [b"", b"hello\n", bytes(range(256)) * 20_000])
def test_the_blob_id_is_gits(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    found = identify([path])
    assert found.size == len(content)
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    known = {b"": "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"}
    known |= {b"hello\n": "ce013625030ba8dba906f756967f9e9ca394464a"}
    if content in known:
        assert found.blob == known[content]
    elif shutil.which("git"):
        told = subprocess.run(["git", "hash-object", path], capture_output=True, check=True)
        assert found.blob == told.stdout.decode().strip()


def test_long_hashing_tells_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.pt").write_bytes(bytes(2 * CHUNK + 1))
    monkeypatch.setattr(progress, "QUIET", -1.0)
    identify([tmp_path / "x.pt"])
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"nbp: {n}/3 MiB hashed" for n in (1, 2, 3)]


def test_a_set_of_files_has_the_hash_of_what_sha256sum_prints(tmp_path: Path) -> None:
    lines = ""
    paths = [tmp_path / name for name in ("b.index.json", "a-00001-of-00001.bin")]
    for path in paths:
        path.write_bytes(path.name.encode())
        lines += f"{hashlib.sha256(path.name.encode()).hexdigest()}  {path.name}\n"
    found = identify(paths)
    assert found.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert found.size == sum(len(path.name) for path in paths)
    assert found.blob not in PUBLIC


def test_the_public_files_are_told_apart() -> None:
    assert len(PUBLIC) == len(FILES) == 5
    assert all(len(file.blob) == 40 and int(file.blob, 16) and file.places for file in FILES)
    assert {file.name for file in FILES if file.network == "i3d" and file.published} == {
        "videogpt-pt",
        "styleganv-ts",
    }


def test_an_origin_is_described_by_what_was_recorded() -> None:
    origin = {"file": "x.pt", "blob": FILES[0].blob}
    assert describe_origin(origin, PUBLIC) == "videogpt-pt (i3d_pretrained_400.pt of VideoGPT)"
    assert describe_origin({"file": "x.pt", "blob": "ab" * 20}, PUBLIC) == (
        "unknown (x.pt, git blob abababababab)"
    )
    assert "before identities were recorded" in describe_origin({"file": "x.pt"}, PUBLIC)
