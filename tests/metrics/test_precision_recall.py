# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Precision, recall, density and coverage against loops over balls and drawn cases."""

from dataclasses import astuple

import numpy as np
import pytest

from nbp.metrics import precision_recall
from nbp.metrics.precision_recall import manifold_scores


def loop_scores(real, made, k: int):
    """The definitions, one ball at a time: precision, recall, density, coverage."""

    def radius(rows, i):
        return sorted(np.linalg.norm(rows[i] - rows[j]) for j in range(len(rows)) if j != i)[k - 1]

    balls = np.array([radius(real, i) for i in range(len(real))])
    made_balls = np.array([radius(made, i) for i in range(len(made))])
    distances = np.array([[np.linalg.norm(a - b) for b in made] for a in real])
    return [
        np.mean([(distances[:, j] <= balls).any() for j in range(len(made))]),
        np.mean([(distances[i] <= made_balls).any() for i in range(len(real))]),
        np.mean([(distances[:, j] <= balls).sum() / k for j in range(len(made))]),
        np.mean([(distances[i] <= balls[i]).any() for i in range(len(real))]),
    ]


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("chunk", [4, 1024])
def test_are_the_loops_over_balls(k, chunk, monkeypatch):
    monkeypatch.setattr(precision_recall, "CHUNK", chunk)
    rng = np.random.default_rng(k)
    real = rng.standard_normal((23, 3)) + 100.0
    made = 0.8 * rng.standard_normal((17, 3)) + 100.7
    got, want = manifold_scores(real, made, neighbours=k), loop_scores(real, made, k)
    np.testing.assert_allclose(astuple(got), want, atol=1e-12)
    assert 0.1 < got.precision < 1


def test_the_same_set_has_all_of_it():
    x = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32) * 30 + 7
    scores = manifold_scores(x, x[::-1])
    assert scores.precision == scores.recall == scores.coverage == 1
    # Each ball of k neighbours also holds its own centre.
    assert scores.density == pytest.approx(4 / 3, abs=0.02)


def test_copies_of_one_vector_are_inside_their_ball_of_no_size():
    """Rounding of a distance between equal vectors must not put them apart."""
    vector = np.random.default_rng(1).standard_normal(50) * 1e3
    real = np.stack([vector] * 5 + list(np.random.default_rng(2).standard_normal((5, 50))))
    made = np.stack([vector] * 6)
    scores = manifold_scores(real, made)
    assert (scores.precision, scores.recall) == (1.0, 0.5)


def test_lost_modes_cost_recall_and_bad_clips_cost_precision():
    rng = np.random.default_rng(3)
    centres = np.repeat(10.0 * np.eye(4), 30, axis=0)
    real = centres + rng.standard_normal((120, 4))
    lost = centres[:60] + rng.standard_normal((60, 4))
    scores = manifold_scores(real, lost)
    assert scores.precision > 0.8
    assert scores.recall < 0.55
    assert scores.coverage < 0.55
    bad = np.concatenate([centres + rng.standard_normal((120, 4)), np.full((120, 4), 50.0)])
    scores = manifold_scores(real, bad + 1e-3 * rng.standard_normal(bad.shape))
    assert scores.precision < 0.55
    assert scores.recall > 0.8


def test_density_counts_balls_where_precision_asks_for_one():
    """A single outlier's ball covers made-up clips far from the data: precision does not notice."""
    rng = np.random.default_rng(4)
    real = np.concatenate([rng.standard_normal((60, 2)), [[30.0, 0.0]]])
    made = rng.standard_normal((30, 2)) + np.array([15.0, 0.0])
    scores = manifold_scores(real, made)
    assert scores.precision == 1
    assert scores.density < 0.4


def test_too_few_vectors_are_refused():
    with pytest.raises(ValueError, match="at least 4 vectors"):
        manifold_scores(np.zeros((3, 2)), np.zeros((9, 2)))
