# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What a file is that cannot be read as weights: one phrase, so that the right one can be fetched.

Only the first bytes and the name are looked at.
"""

import re
from pathlib import Path

HEAD = 1024  # bytes that `name_kind` wants

_LFS = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\s.*?size (\d+)", re.DOTALL)
_SHARD = re.compile(r"(.*?)[-_](\d{4,6})-of-(\d{4,6})(\.\w+)")
# First bytes, and what has them.
_MARKS: tuple[tuple[bytes, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras's .h5)"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"BZh", "a bzip2 archive: unpack it first"),
    (b"\xfd7zXZ\0", "an xz archive: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x93NUMPY", "a single array (.npy)"),
    (b"GGUF", "a GGUF file of a language model"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
)
_SUFFIXES = {
    ".pb": "a graph of TensorFlow (.pb), the body of a SavedModel",
    ".h5": "a file of Keras (.h5)",
    ".keras": "a file of Keras",
    ".msgpack": "a msgpack file of Flax",
    ".flax": "a msgpack file of Flax",
    ".onnx": "an ONNX graph",
    ".tflite": "a TensorFlow Lite graph",
    ".caffemodel": "a file of Caffe",
    ".t7": "a file of Lua Torch",
    ".ckpt-index": "a checkpoint of TensorFlow",
}


def name_kind(path: Path, head: bytes) -> str:
    """What a file with these first bytes is: the rest of a sentence that begins with its name."""
    if not head:
        return "is empty: its download failed"
    found = _LFS.match(head)
    if found:
        return (
            f"is a pointer of Git LFS to a file of {int(found[1])} bytes, not that file: run "
            "`git lfs pull` in the repository, or download the file itself"
        )
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<!--")):
        return "is an HTML page, as failed downloads leave it: download the file itself"
    if start.startswith((b"<?xml", b"<error")):
        return "is an XML text, as failed downloads leave it: download the file itself"
    for mark, name in _MARKS:
        if head.startswith(mark):
            return f"is {name}"
    if head[257:262] == b"ustar":
        return "is a tar archive, or PyTorch's format from before version 0.1.10"
    if path.suffix.lower() in _SUFFIXES:
        return f"is {_SUFFIXES[path.suffix.lower()]}"
    if re.search(r"\.(index|data-\d{5}-of-\d{5})$|^events\.out", path.name):
        return "is a part of a checkpoint of TensorFlow"
    if head[0] in range(0x81, 0x90) and head[1:2] and (head[1] in range(0xA1, 0xC0)):
        return "is a msgpack file, as Flax writes"
    if head[:1] in (b"\xde", b"\xdf"):
        return "is a msgpack file, as Flax writes"
    if start.startswith((b"{", b"[")):
        return "is a JSON text"
    if _is_text(head):
        return f"is a text that begins {head[:40].decode('utf8', 'replace')!a}"
    return "is no weight file"


def name_folder(path: Path) -> str:
    """What a folder without weights is."""
    names = {entry.name for entry in path.iterdir()}
    if names & {"saved_model.pb", "saved_model.pbtxt", "tfhub_module.pb"}:
        return "is a SavedModel of TensorFlow"
    if "checkpoint" in names or any(".data-0" in name for name in names):
        return "is a checkpoint of TensorFlow"
    if names & {"_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt"}:
        return "is a checkpoint of Orbax"
    return "is a folder without a weight file" if names else "is an empty folder"


def read_shard(name: str) -> tuple[str, int, int] | None:
    """(name of the whole, number, of how many) of a shard's file name; None for any other."""
    match = _SHARD.fullmatch(name)
    return (match[1] + match[4], int(match[2]), int(match[3])) if match else None


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return False
        text = head[: error.start].decode("utf8")
    return all(c.isprintable() or c in "\r\n\t" for c in text)
