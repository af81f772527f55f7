# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Chunk files: whole or not there, found again, and divided among processes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from nbp.errors import RestartError
from nbp.evaluation.chunk_store import ChunkStore, fill_stores
from nbp.parallel import distributed


def open_store(cache: Path, kind: str, settings: dict[str, int], *, count: int) -> ChunkStore:
    return ChunkStore.open(cache, kind, settings, count=count, size=4)


def fill(stores: Sequence[ChunkStore]) -> list[tuple[list[int], list[int]]]:
    """Squares of the numbers; returns what was asked for."""
    asked: list[tuple[list[int], list[int]]] = []

    def make(numbers: np.ndarray, lacking: Sequence[int]) -> list[dict[str, np.ndarray]]:
        asked.append((numbers.tolist(), list(lacking)))
        found = {"square": numbers**2, "sum_all": numbers.sum(keepdims=True)}
        return [found for _ in lacking]

    fill_stores(stores, make, unit="numbers", report=lambda text: None)
    return asked


def test_chunks_are_joined_in_order_and_made_once(tmp_path: Path) -> None:
    store = open_store(tmp_path, "squares", {"a": 1}, count=10)
    assert [numbers for numbers, _ in fill([store])] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    found = store.load_all()
    assert found["square"].tolist() == [i * i for i in range(10)]
    assert found["sum_all"].tolist() == [45]
    assert fill([open_store(tmp_path, "squares", {"a": 1}, count=10)]) == []
    assert len(fill([open_store(tmp_path, "squares", {"a": 2}, count=10)])) == 3


def test_damaged_and_missing_files_are_made_again(tmp_path: Path) -> None:
    store = open_store(tmp_path, "squares", {}, count=10)
    fill([store])
    files = sorted(store.folder.glob("*.npz"))
    files[0].unlink()
    data = bytearray(files[1].read_bytes())
    data[len(data) // 3] ^= 255
    files[1].write_bytes(bytes(data))
    files[2].write_bytes(b"")
    with pytest.raises(RestartError, match="another process has written"):
        store.load_all()
    assert len(fill([store])) == 3
    assert store.load_all()["square"].tolist() == [i * i for i in range(10)]


def test_a_shorter_store_has_the_beginning(tmp_path: Path) -> None:
    long = open_store(tmp_path, "long", {}, count=10)
    short = open_store(tmp_path, "short", {}, count=4)
    assert [lacking for _, lacking in fill([short, long])] == [[0, 1], [1], [1]]
    assert short.load_all()["square"].tolist() == [0, 1, 4, 9]


def test_processes_divide_the_chunks_and_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = open_store(tmp_path, "alone", {}, count=18)
    fill([alone])
    shared = open_store(tmp_path, "shared", {}, count=18)
    asked = []
    for place in range(3):
        monkeypatch.setattr(distributed, "find_place", lambda place=place: (place, 3))
        asked += [numbers[0] for numbers, _ in fill([shared])]
    assert sorted(asked) == [0, 4, 8, 12, 16]
    for name, values in alone.load_all().items():
        np.testing.assert_array_equal(shared.load_all()[name], values)
