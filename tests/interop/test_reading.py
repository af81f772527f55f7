# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Honest files are read exactly; damaged and hostile ones end in one clear error."""

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nbp.errors import CheckpointError
from nbp.interop.reading import open_tensors
from tests.interop.official_files import write_lightning
from tests.interop.torch_files import dump_pickle, write_torch

RNG = np.random.default_rng(0)
ARRAYS = {
    "a.weight": RNG.standard_normal((3, 5), np.float32),
    "b": RNG.standard_normal((2, 1, 4)),
    "steps": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
}


def read_all(path: Path) -> dict[str, np.ndarray]:
    return {name: tensor.read() for name, tensor in open_tensors(path).tensors.items()}


def assert_same(found: dict[str, np.ndarray], prefix: str = "") -> None:
    assert set(found) == {prefix + name for name in ARRAYS}
    for name, values in ARRAYS.items():
        assert found[prefix + name].dtype == values.dtype
        np.testing.assert_array_equal(found[prefix + name], values)


def write_safetensors(path: Path, arrays: dict[str, np.ndarray], **changes: object) -> None:
    names = {"<f4": "F32", "<f8": "F64", "<i8": "I64"}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, x in arrays.items():
        raw = x.tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": names[x.dtype.str], "shape": x.shape, "data_offsets": offsets}
        data += raw
    header |= changes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


# Honest files ------------------------------------------------------------------------------------


def test_torch_files_name_tensors_by_their_place(tmp_path):
    write_torch(tmp_path / "x.pt", ARRAYS)
    assert_same(read_all(tmp_path / "x.pt"))
    write_torch(tmp_path / "x.pt", {"net": {"model_state_dict": ARRAYS}, "epoch": 3})
    assert_same(read_all(tmp_path / "x.pt"), "net.model_state_dict.")


def test_lightning_checkpoints_with_their_bookkeeping(tmp_path):
    write_lightning(tmp_path / "x.ckpt", ARRAYS, n_head=16, n_layer=24, name="nbp")
    file = open_tensors(tmp_path / "x.ckpt")
    assert_same({name: t.read() for name, t in file.tensors.items()}, "state_dict.")
    assert (file.hints["n_head"], file.hints["n_layer"], file.hints["name"]) == (16, 24, "nbp")
    assert file.hints["global_step"] == 100


def test_torchscript_modules_become_dotted_names(tmp_path):
    path = tmp_path / "x.pt"
    from tests.interop.torch_files import Foreign

    inner = Foreign("__torch__.net.Layer", weight=ARRAYS["a.weight"], training=False)
    write_torch(path, Foreign("__torch__.net.Net", layer=inner, bias=ARRAYS["b"]))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/code/net.py", "raise SystemExit")
    found = read_all(path)
    assert set(found) == {"layer.weight", "bias"}
    np.testing.assert_array_equal(found["layer.weight"], ARRAYS["a.weight"])


def test_safetensors(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", ARRAYS)
    assert_same(read_all(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    save(tmp_path / "x.npz", **ARRAYS)
    assert_same(read_all(tmp_path / "x.npz"))


# Hostile pickles ---------------------------------------------------------------------------------


class Attack:
    """Unpickled by an ordinary reader this makes a folder."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write_pickle(path: Path, data: bytes, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in members.items():
            archive.writestr(f"archive/data/{name}", content)


@pytest.mark.parametrize(
    "function, arguments, name",
    [
        (os.mkdir, ("{target}",), "posix.mkdir"),
        (eval, ("__import__('os').mkdir('{target}')",), "eval"),
        (getattr, (os, "mkdir"), "getattr"),
        (open, ("{target}", "w"), "open"),
        (__import__, ("os",), "__import__"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_imports_is_refused_and_runs_nothing(
    tmp_path, function, arguments, name, protocol
):
    target = tmp_path / "target"
    arguments = tuple(
        a.format(target=target) if isinstance(a, str) else a.__name__ for a in arguments
    )
    content = {"state_dict": {"w": 1}, "attack": Attack(function, *arguments)}
    write_pickle(tmp_path / "x.pt", pickle.dumps(content, protocol=protocol))
    with pytest.raises(CheckpointError, match=rf"wants to import '\w+\.{name.split('.')[-1]}'"):
        open_tensors(tmp_path / "x.pt")
    assert not target.exists()


def op(*parts: object) -> bytes:
    """A protocol 2 pickle from opcodes and short strings."""
    data = b"\x80\x02"
    for part in parts:
        if isinstance(part, bytes):
            data += part
        else:
            raw = str(part).encode()
            data += b"X" + struct.pack("<I", len(raw)) + raw
    return data + b"."


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
FLOATS = b"ctorch\nFloatStorage\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02}q\x00",
        op(b"cargparse\nNamespace\n", b"}", "a", b"K\x01s", b"b"),  # state for a class
        op(REBUILD, b"}", "__code__", b"K\x01s", b"b"),  # state for a function
        op(REBUILD, b"N}", "__defaults__", b"K\x01s\x86b"),
        op(REBUILD, b"(K\x01K\x02K\x03K\x04tR"),  # numbers for a storage
        op(b"K\x01Q"),  # a persistent id that is no tuple
        op(b"(", "module", b"NNNNtQ"),
        op(b"\x82\x01"),  # the extension registry
        op(FLOATS, b")R"),  # a storage type called
        b"\x80\x02" + b"(" * 10_000 + b".",
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # a memo index of two billion
    ],
)
def test_malformed_pickles_are_one_clear_error(tmp_path, data):
    write_pickle(tmp_path / "x.pt", data)
    with pytest.raises(CheckpointError, match="x.pt"):
        open_tensors(tmp_path / "x.pt")


def tensor(shape: tuple[int, ...], strides: tuple[int, ...], *, offset: int = 0, count: int = 4):
    """A dictionary with one tensor over the storage "0"."""

    def number(n: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", n)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(number(n) for n in values) + b"t"

    pid = [b"(", "storage", FLOATS, "0", "cpu", number(count), b"tQ"]
    call = [REBUILD, b"(", *pid, number(offset), numbers(shape), numbers(strides), b"NNtR"]
    return op(b"}", "w", *call, b"s")


def test_a_view_into_a_storage_is_read(tmp_path):
    values = np.arange(6, dtype=np.float32)
    write_pickle(tmp_path / "x.pt", tensor((2, 2), (1, 2), offset=1, count=6), **{
        "0": values.tobytes()
    })  # fmt: skip
    np.testing.assert_array_equal(read_all(tmp_path / "x.pt")["w"], [[1, 3], [2, 4]])


@pytest.mark.parametrize(
    "data",
    [
        tensor((5,), (1,)),
        tensor((2,), (1,), offset=3),
        tensor((-1,), (1,)),
        tensor((2,), (-1,)),
        tensor((2,), (1,), offset=-1),
        tensor((2, 2), (1,)),
        tensor((1 << 40, 1 << 40), (0, 0)),
        tensor((4,), (1,), count=1 << 40),
    ],
)
def test_tensors_beyond_their_storage_are_refused(tmp_path, data):
    write_pickle(tmp_path / "x.pt", data, **{"0": bytes(16)})
    with pytest.raises(CheckpointError, match="x.pt"):
        open_tensors(tmp_path / "x.pt")


# Hostile and damaged archives --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "c:\\evil", "a\\..\\b"])
def test_path_traversal_is_refused(tmp_path, name):
    write_torch(tmp_path / "x.pt", ARRAYS)
    with zipfile.ZipFile(tmp_path / "x.pt", "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"boo")
    with pytest.raises(CheckpointError, match="lies outside the archive"):
        open_tensors(tmp_path / "x.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicates_and_links_are_refused(tmp_path):
    cases = {"twice": "archive/version", "link": "archive/link"}
    for reason, name in cases.items():
        path = tmp_path / f"{reason}.pt"
        write_torch(path, ARRAYS)
        info = zipfile.ZipInfo(name)
        info.external_attr = 0o120777 << 16 if reason == "link" else 0
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(info, b"x" * 1000)
        with pytest.raises(CheckpointError, match=reason):
            open_tensors(path)


@pytest.mark.parametrize("member", ["data.pkl", "byteorder", "data/0"])
def test_members_that_are_read_must_be_stored_plainly(tmp_path, member):
    """Others, such as the source texts of TorchScript, are compressed by PyTorch itself."""
    write_torch(tmp_path / "plain.pt", ARRAYS)
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_STORED) as archive,
    ):
        for info in plain.infolist():
            packed = info.filename == f"archive/{member}"
            kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            archive.writestr(info.filename, plain.read(info), kind)
        archive.writestr("archive/code/net.py", "x = 1\n" * 1000, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=f"archive/{member}' is compressed"):
        open_tensors(tmp_path / "x.pt")


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "x.pt"
    write_torch(path, ARRAYS)
    whole = path.read_bytes()
    for size in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="x.pt"):
            read_all(path)


def test_a_flipped_bit_in_a_tensor_is_noticed(tmp_path):
    path = tmp_path / "x.pt"
    write_torch(path, ARRAYS)
    whole = bytearray(path.read_bytes())
    whole[whole.index(ARRAYS["a.weight"].tobytes()) + 5] ^= 4
    path.write_bytes(bytes(whole))
    with pytest.raises(CheckpointError, match="damaged"):
        read_all(path)


def test_what_is_no_weight_file_is_one_line(tmp_path):
    other = tmp_path / "x.pt"
    other.write_bytes(bytes(range(200, 256)))
    with pytest.raises(CheckpointError, match="is no weight file"):
        open_tensors(other)
    with pytest.raises(CheckpointError, match="no file"):
        open_tensors(tmp_path / "absent.pt")
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(
        CheckpointError, match=r"neither PyTorch's nor \.npz; it holds 'readme.txt'"
    ):
        open_tensors(other)


@pytest.mark.parametrize(
    "change",
    [
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},  # does not fill its bytes
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},  # a hole
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},  # bytes left over
        {"w": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 8]}},
        {"w": [1, 2]},
        {"v": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},  # overlap
    ],
)
def test_wrong_safetensors_headers_are_refused(tmp_path, change):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"w": np.zeros(2, np.float32)}, **change)
    with pytest.raises(CheckpointError, match="x.safetensors"):
        open_tensors(path)


def test_numbers_of_an_unknown_type_harm_nobody_who_does_not_need_them(tmp_path):
    path = tmp_path / "x.safetensors"
    odd = {"dtype": "F4", "shape": [2, 4], "data_offsets": [8, 12]}
    write_safetensors(path, {"w": np.ones(2, np.float32)}, odd=odd)
    path.write_bytes(path.read_bytes() + bytes(4))
    tensors = open_tensors(path).tensors
    np.testing.assert_array_equal(tensors["w"].read(), [1, 1])
    with pytest.raises(CheckpointError, match="unknown type 'F4'"):
        tensors["odd"].read()


def test_oversized_and_doubled_safetensors_headers_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(CheckpointError, match="truncated"):
        open_tensors(path)
    entry = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    text = f'{{"w":{entry},"w":{entry}}}'.encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0")
    with pytest.raises(CheckpointError, match="twice"):
        open_tensors(path)


def test_npz_with_objects_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, w=np.array([Attack(os.mkdir, str(tmp_path / "target"))], object))
    with pytest.raises(CheckpointError, match="no plain array"):
        open_tensors(path)
    assert not (tmp_path / "target").exists()


def test_zip_bombs_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f4", "fortran_order": False, "shape": (80 << 20,)}
    )
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("w.npy", "w") as file,
    ):
        file.write(head.getvalue())
        for _ in range(320):
            file.write(bytes(1 << 20))
    with pytest.raises(CheckpointError, match="refused"):
        open_tensors(path)


def test_the_test_writer_makes_what_pytorch_makes():
    """The opcodes of a tensor in a file written by PyTorch."""
    data = dump_pickle({"w": np.zeros((2, 3), np.float32)}, [])
    for part in (b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"storage"):
        assert part in data
    assert data.startswith(b"\x80\x02")


NPY = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}"


@pytest.mark.parametrize(
    "header",
    [
        *(NPY[:-1], "((((", "'''", "  x\n y\n", "{[]: 1}", "-" * 5000 + "1", "(" * 3000, "\0"),
        *(
            NPY.replace("2", size)
            for size in ("True", "-2", "0, 99999999999999999999", "2.0", "[]")
        ),
        *(NPY.replace("'<f4'", kind) for kind in ("3", "''", "'|O'", "('<f4', (2, 2))")),
    ],
    ids=lambda header: header[:60],
)
def test_whatever_numpy_raises_for_a_header_is_one_line(tmp_path, header):
    text = header.encode()
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(8)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", data)
    with pytest.raises(CheckpointError, match=r"x\.npz") as caught:
        read_all(tmp_path / "x.npz")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_damage_in_a_compressed_member_is_one_line(tmp_path):
    """At every byte of the packed data: zlib has errors of its own."""
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.arange(64, dtype=np.float32))
    whole = path.read_bytes()
    noticed = 0
    for place in range(35, whole.index(b"PK\1\2"), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(bytes(damaged))
        try:
            read_all(path)
        except CheckpointError:
            noticed += 1
    assert noticed > 20


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 99, "patched", "strong"])
def test_members_packed_in_other_ways_are_refused(tmp_path, kind):
    path = tmp_path / "x.npz"
    npy = b"\x93NUMPY\x01\x00" + len(NPY).to_bytes(2, "little") + NPY.encode() + bytes(8)
    with zipfile.ZipFile(path, "w", kind if kind in (12, 14) else 0) as archive:
        archive.writestr("a.npy", npy)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2")
    if kind == 99:
        data[entry + 10] = 99
    elif kind in ("patched", "strong"):
        data[entry + 8] |= 0x20 if kind == "patched" else 0x40
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="packed in a way"):
        read_all(path)


@pytest.mark.parametrize("offsets", [[0.0, 8.0], [0, 8.0], [False, 8], [0, True], ["0", "8"], [0]])
def test_offsets_of_safetensors_are_whole_numbers(tmp_path, offsets):
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": offsets}}
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(CheckpointError, match="is damaged"):
        read_all(path)
