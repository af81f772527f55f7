# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Inception score against its definition, its bounds and hand-made cases."""

import numpy as np
import pytest

from nbp.evaluation.inception import inception_score


def test_is_the_published_formula_of_each_part():
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.full(7, 0.4), 53) + 1e-12
    scores = []
    for part in range(5):
        p = rows[part * 10 : part * 10 + 10]
        kl = p * (np.log(p) - np.log(p.mean(axis=0, keepdims=True)))
        scores.append(np.exp(np.mean(np.sum(kl, axis=1))))
    found = inception_score(rows, splits=5)
    assert found.value == pytest.approx(np.mean(scores), rel=1e-9)
    assert found.error == pytest.approx(np.std(scores), rel=1e-8)


def test_bounds():
    """Every class in turn without doubt gives the number of classes; no information gives 1."""
    sure = np.eye(4)[np.arange(40) % 4]
    assert inception_score(sure, splits=2).value == pytest.approx(4)
    assert inception_score(sure, splits=2).error == pytest.approx(0, abs=1e-12)
    assert inception_score(np.full((40, 4), 0.25)).value == pytest.approx(1)
    assert inception_score(np.eye(4)[np.zeros(40, int)]).value == pytest.approx(1)


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="sum to 1"):
        inception_score(np.full((20, 4), 0.5))
    with pytest.raises(ValueError, match="sum to 1"):
        inception_score(np.tile([2.0, -1.0], (20, 1)))
    with pytest.raises(ValueError, match="at least 10 vectors"):
        inception_score(np.full((9, 4), 0.25))
