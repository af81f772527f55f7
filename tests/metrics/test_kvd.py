# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Kernel distance against loops over pairs, a closed form, and its own error over many sets."""

from itertools import combinations, product

import numpy as np
import pytest

from nbp.metrics import kvd
from nbp.metrics.kvd import kernel_distance


def loop_distance(x, y):
    """One pair at a time, from the definition."""

    def k(a, b):
        return (sum(a * b) / len(a) + 1) ** 3

    within = [np.mean([k(a, b) for a, b in combinations(rows, 2)]) for rows in (x, y)]
    return sum(within) - 2 * np.mean([k(a, b) for a, b in product(x, y)])


def draw(seed: int, n: int, d: int, *, shift: float = 0.0):
    return np.random.default_rng(seed).standard_normal((n, d)) + shift


def test_is_the_sum_over_pairs():
    x, y = draw(0, 9, 4), draw(1, 6, 4, shift=0.5)
    assert kernel_distance(x, y).value == pytest.approx(loop_distance(x, y), rel=1e-10)
    assert kernel_distance(y, x).value == pytest.approx(loop_distance(x, y), rel=1e-10)


def test_error_leaves_out_one_vector_after_the_other():
    x, y = draw(2, 8, 3), draw(3, 5, 3, shift=0.7)
    variance = 0.0
    for rows, put in ((x, lambda r: (r, y)), (y, lambda r: (x, r))):
        parts = [put(np.delete(rows, i, axis=0)) for i in range(len(rows))]
        left = np.array([loop_distance(*part) for part in parts])
        variance += (len(rows) - 1) / len(rows) * np.square(left - left.mean()).sum()
    assert kernel_distance(x, y).error == pytest.approx(np.sqrt(variance), rel=1e-9)


def test_chunks_change_nothing(monkeypatch):
    x, y = draw(4, 50, 6), draw(5, 33, 6, shift=0.2)
    want = kernel_distance(x, y)
    monkeypatch.setattr(kvd, "CHUNK", 7)
    got = kernel_distance(x, y)
    assert got.value == pytest.approx(want.value, rel=1e-11)
    assert got.error == pytest.approx(want.error, rel=1e-11)


def test_mean_is_the_closed_form_whatever_the_size():
    """One dimension, N(0, 1) and N(s, 1): E (xy + 1)^3 = E x^3 y^3 + 3 E x^2 y^2 + 3 E x y + 1."""
    shift = 0.6
    first = np.array([0.0, 1.0, 0.0])  # E x, E x^2, E x^3
    second = np.array([shift, 1 + shift**2, shift**3 + 3 * shift])
    want = np.array([3.0, 3.0, 1.0]) @ np.square(first - second)
    values, spread = [], 0.0
    for n in (10, 40):
        values = [
            kernel_distance(draw(2 * i, n, 1), draw(2 * i + 1, n, 1, shift=shift))
            for i in range(200)
        ]
        found = np.array([v.value for v in values])
        spread = found.std(ddof=1)
        assert abs(found.mean() - want) < 4 * spread / np.sqrt(200)
    # The error says how far one value is off.
    assert np.mean([v.error for v in values]) == pytest.approx(spread, rel=0.25)


def test_equal_distributions_are_around_zero():
    found = [kernel_distance(draw(2 * i, 60, 8), draw(2 * i + 1, 60, 8)).value for i in range(60)]
    assert 10 < sum(value < 0 for value in found) < 50
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(60)


def test_too_few_vectors_are_refused():
    with pytest.raises(ValueError, match="at least 3"):
        kernel_distance(draw(0, 2, 3), draw(1, 5, 3))
