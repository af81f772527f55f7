# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Clips through a compiled function, always the same number at a time: it is compiled once."""

from collections.abc import Callable
from typing import Any

import numpy as np

from nbp.shapes import Array


def fill_batch(rows: Array, size: int) -> Array:
    """At most `size` rows, with the last one repeated up to that number; a full batch as it is."""
    missing = size - len(rows)
    if not missing:
        return rows
    rows = np.asarray(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])


def map_batches(
    function: Callable[..., Array], *arrays: Array, size: int, place: Callable[[Array], Any]
) -> list[np.ndarray]:
    """`function` of `size` rows of every array at a time, as float64; [] for no rows.

    place: puts a batch where the function computes.
    """
    results = []
    for start in range(0, len(arrays[0]), size):
        pieces = [rows[start : start + size] for rows in arrays]
        values = function(*(place(fill_batch(rows, size)) for rows in pieces))
        results.append(np.asarray(values, np.float64)[: len(pieces[0])])
    return results
