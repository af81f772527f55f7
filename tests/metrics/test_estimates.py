# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Repeats against the statistics module, and what feature sets are refused."""

import math
import statistics

import numpy as np
import pytest

from nbp.errors import NonFiniteError
from nbp.metrics.estimates import Repeats, check_features


def test_repeats_are_summarized():
    values = [3.0, 5.0, 4.5, 9.0]
    assert Repeats.of(values, ddof=0).deviation == pytest.approx(statistics.pstdev(values))
    repeats = Repeats.of(values)
    assert repeats.mean == pytest.approx(statistics.mean(values))
    assert repeats.deviation == pytest.approx(statistics.stdev(values))
    assert repeats.error == pytest.approx(statistics.stdev(values) / 2)
    assert repeats.count == 4


def test_one_repeat_has_no_deviation():
    assert Repeats.of([2.0]).mean == 2.0
    assert math.isnan(Repeats.of([2.0]).deviation)
    with pytest.raises(ValueError, match="no repeats"):
        Repeats.of([])


def test_feature_sets_that_do_not_fit_are_refused():
    x = np.ones((5, 3), np.float32)
    assert [rows.dtype for rows in check_features(x, x, least=5, statistic="s")] == [np.float64] * 2
    with pytest.raises(ValueError, match="s: features of 3 and 4 dimensions"):
        check_features(x, np.ones((5, 4)), least=2, statistic="s")
    with pytest.raises(ValueError, match="s needs at least 6 vectors of each set, got 5"):
        check_features(x, least=6, statistic="s")
    with pytest.raises(NonFiniteError, match="s: a feature"):
        check_features(np.where(np.eye(5) > 0, np.inf, 1.0), least=2, statistic="s")
