# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Weight files of others, damaged as files and, with right checksums around it, inside."""

import io
import json
import math
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbp.errors import CheckpointError
from nbp.interop.reading import open_tensors
from nbp.interop.states import find_state
from tests.fuzz.bounds import Tally, fuzz_settings, run_case
from tests.fuzz.mutations import damaged, edits

FIXTURES = Path(__file__).parents[1] / "interop" / "fixtures"
FILES = {
    path.name: path.read_bytes()
    for path in sorted(FIXTURES.iterdir())
    if path.suffix in (".pt", ".pth", ".npz", ".safetensors")
}
ZIPPED = [data for data in FILES.values() if data.startswith(b"PK")]
SHARDED = ("sharded_bin", "sharded_safetensors")
TOKENS = [
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"X\5\0\0\0", b"q\0"),
    *(b"ctorch\nFloatStorage\n", b"K\1", b"J\xff\xff\xff\xff", b"M\xff\xff", b"N", b"\x8a\x09"),
    *(b"}", b"]", b"(", b"u", b"e", b"a", b"s", b"b", b"R", b"Q", b"0", b"2", b"1", b"h\0", b"j"),
    *(b"\x8c\4main", b"\x93", b"\x94", b"c__builtin__\neval\n", b"\x88", b"\x89", b"G", b"I1\n"),
    *(b'"dtype":"F32"', b'"shape":[', b'"data_offsets":[0,4]', b"BF16", b"1e400", b"-1", b"NaN"),
    *(b'"weight_map":', b"descr", b"|O", b"<f8", b"fortran_order", b"(99999999,)", b"True"),
]
LARGEST = 10**6  # elements of a tensor that is read


def read_all(path: Path) -> None:
    """Opens, reads what is not too large, and looks for a network in it."""
    found = open_tensors(path)
    for tensor in list(found.tensors.values())[:20]:
        if math.prod(tensor.shape) <= LARGEST:
            tensor.read()
    find_state(found.tensors, lambda name: name.endswith("weight"))


def fuzz(
    tmp_path: Path,
    cases: int,
    reader: str,
    make: st.SearchStrategy,
    write: Callable[..., Path],
) -> Tally:
    tally = Tally(reader)
    folder = tmp_path / "files"

    @fuzz_settings(cases)
    @given(make)
    def check(value) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        path = write(folder, value)
        run_case(lambda: read_all(path), tally, allowed=(CheckpointError,))

    check()
    tally.report()
    return tally


def fuzz_files(tmp_path: Path, cases: int) -> Tally:
    def write(folder: Path, value: tuple[bytes, str]) -> Path:
        path = folder / f"x{value[1]}"
        path.write_bytes(value[0])
        return path

    suffix = st.sampled_from((".pt", ".safetensors", ".npz", ".bin", "-00001-of-00002.bin"))
    make = st.tuples(damaged(list(FILES.values()), TOKENS), suffix)
    return fuzz(tmp_path, cases, "weights: files", make, write)


def fuzz_members(tmp_path: Path, cases: int) -> Tally:
    """A member of a zip file (pickle, array, byte order) is damaged, the zip file is whole."""

    def write(folder: Path, value) -> Path:
        data, choice, changes, renamed = value
        path = folder / "x.pt"
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(path, "w") as new:
            names = old.namelist()
            special = [n for n in names if n.endswith((".pkl", ".npy", "byteorder", "version"))]
            target = (special or names)[choice % len(special or names)]
            for name in names:
                content = old.read(name)
                if name == target:
                    for change in changes:
                        content = change.apply(content)
                new.writestr(name + renamed * (name == target), content)
        return path

    make = st.tuples(
        st.sampled_from(ZIPPED),
        st.integers(0, 20),
        st.lists(edits(TOKENS), min_size=1, max_size=4),
        st.sampled_from(("", "", "", "", "x", "/y", "\x1b")),
    )
    return fuzz(tmp_path, cases, "weights: members", make, write)


def fuzz_headers(tmp_path: Path, cases: int) -> Tally:
    """The header of safetensors with its length right, as text and as values of wrong kinds."""
    whole = FILES["model.safetensors"]
    length = int.from_bytes(whole[:8], "little")
    header, rest = whole[8 : 8 + length], whole[8 + length :]
    names = list(json.loads(header))

    def write(folder: Path, text: bytes) -> Path:
        path = folder / "x.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + rest)
        return path

    odd = st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.sampled_from((0, -1, 4, 2**31, 2**63, 2**64, 10**400, 1e308, 0.5, "F32", "", "x")),
        ),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("a"), inner),
        max_leaves=4,
    )

    def put(changes: list) -> bytes:
        table = json.loads(header)
        for number, key, value in changes:
            entry = table[names[number % len(names)]]
            if key == "":
                table[names[number % len(names)]] = value
            elif isinstance(entry, dict):
                entry[key] = value
        return json.dumps(table).encode()

    key = st.sampled_from(("dtype", "shape", "data_offsets", "x", ""))
    change = st.lists(st.tuples(st.integers(0, 50), key, odd), min_size=1, max_size=3)
    make = damaged([header], TOKENS, most=4) | change.map(put)
    return fuzz(tmp_path, cases, "weights: safetensors", make, write)


def fuzz_shards(tmp_path: Path, cases: int) -> Tally:
    """A file of a set of shards is damaged: the index, or one of the shards."""

    def write(folder: Path, value) -> Path:
        source, choice, changes = value
        files = sorted((FIXTURES / source).iterdir())
        for number, file in enumerate(files):
            data = file.read_bytes()
            if number == choice:
                for change in changes:
                    data = change.apply(data)
            (folder / file.name).write_bytes(data)
        return folder

    make = st.tuples(
        st.sampled_from(SHARDED),
        st.sampled_from((0, 1, 2, 2)),
        st.lists(edits(TOKENS), min_size=1, max_size=4),
    )
    return fuzz(tmp_path, cases, "weights: shards", make, write)


ALL = (fuzz_files, fuzz_members, fuzz_headers, fuzz_shards)


def test_damaged_weights_in_short(tmp_path: Path) -> None:
    for run in ALL:
        assert run(tmp_path, 12).outcomes["CheckpointError"]


@pytest.mark.slow
@pytest.mark.parametrize("run", ALL)
def test_damaged_weights(run: Callable[[Path, int], Tally], tmp_path: Path) -> None:
    assert {"read", "CheckpointError"} <= set(run(tmp_path, 1500).outcomes)
