# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Writes `.safetensors`: one file, or shards with an index where it would be large.

The same tensors make the same bytes: nothing of the run, the machine or the day is in a file.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from nbp.interop.reading import INDEX, SAFETENSORS

SUFFIX = ".safetensors"
ALIGNMENT = 8  # bytes: the header is padded with spaces, so that tensors begin aligned
_NAMES = {np.dtype(kind): name for name, kind in SAFETENSORS.items()}


def write_file(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes one file; a tensor at a time is made contiguous.

    Raises KeyError for a type that the format does not have.
    """
    header: dict[str, object] = {"__metadata__": {"format": "np"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        kind = _NAMES[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            little = np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<"))
            file.write(little.reshape(-1).view(np.uint8).data)


def write_shards(
    folder: Path, stem: str, tensors: Mapping[str, np.ndarray], *, limit: int
) -> list[Path]:
    """Writes `STEM.safetensors`, or shards of at most `limit` bytes of tensors and their index.

    A tensor is never split: one that is larger than the limit has a shard of its own. Returns the
    files, the index last.
    """
    groups = list(_fill_shards(tensors, limit))
    if len(groups) == 1:
        path = folder / f"{stem}{SUFFIX}"
        write_file(path, tensors)
        return [path]
    files, places = [], {}
    for i, group in enumerate(groups):
        path = folder / f"{stem}-{i + 1:05d}-of-{len(groups):05d}{SUFFIX}"
        write_file(path, group)
        files.append(path)
        places |= dict.fromkeys(group, path.name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    table = {"metadata": {"total_size": total}, "weight_map": places}
    index = folder / f"{stem}{SUFFIX}{INDEX}"
    index.write_text(json.dumps(table, indent=2) + "\n", encoding="utf8")
    return [*files, index]


def _fill_shards(tensors: Mapping[str, np.ndarray], limit: int) -> Iterator[dict[str, np.ndarray]]:
    """The tensors in their order, cut where the next one would not fit any more."""
    group: dict[str, np.ndarray] = {}
    size = 0
    for name, tensor in tensors.items():
        if group and size + tensor.nbytes > limit:
            yield group
            group, size = {}, 0
        group[name] = tensor
        size += tensor.nbytes
    yield group
