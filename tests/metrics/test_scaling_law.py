# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Known laws are found again, the stated errors are true, and bad data are refused in one line."""

import numpy as np
import pytest

from nbp.errors import DataError
from nbp.metrics.scaling_law import (
    Cost,
    Interval,
    Law,
    compute_multiplier,
    count_distinct,
    describe,
    find_optimum,
    fit_law,
    predict,
    select_efficient,
)

COMPUTE = np.geomspace(1e12, 1e16, 9)
OF_COMPUTE = Law(np.array(1.2), np.array([60.0]), np.array([0.12]))
OF_SIZE = Law(np.array(1.5), np.array([40.0, 300.0]), np.array([0.35, 0.4]))
SIZES = np.array([(n, d) for n in np.geomspace(1e4, 3e6, 5) for d in np.geomspace(1e5, 1e8, 5)])


def make_losses(law: Law, x: np.ndarray, *, noise: float, seed: int) -> np.ndarray:
    return law(x) * np.exp(noise * np.random.default_rng(seed).normal(size=len(x)))


def huber(residuals: np.ndarray, width: float) -> float:
    size = np.abs(residuals)
    return float(np.where(size < width, size**2 / 2, width * (size - width / 2)).sum())


# Laws ----------------------------------------------------------------------------------------


def test_a_law_is_what_it_says() -> None:
    x = np.array([[10.0, 100.0], [3.0, 7.0]])
    law = Law(np.array(0.5), np.array([2.0, 3.0]), np.array([0.5, 1.0]))
    by_hand = [0.5 + 2 / 10**0.5 + 3 / 100, 0.5 + 2 / 3**0.5 + 3 / 7]
    np.testing.assert_allclose(law(x), by_hand)


def test_inversion_undoes_the_law() -> None:
    found = OF_COMPUTE.invert_log(OF_COMPUTE(COMPUTE[:, None]))
    np.testing.assert_allclose(np.exp(found), COMPUTE)
    assert np.all(np.isinf(OF_COMPUTE.invert_log(np.array([1.2, 0.7]))))


# Fits ----------------------------------------------------------------------------------------


def test_exact_data_give_their_law() -> None:
    fit = fit_law(COMPUTE[:, None], OF_COMPUTE(COMPUTE[:, None]), draws=50)
    for name in ("constant", "factors", "exponents"):
        np.testing.assert_allclose(getattr(fit.law, name), getattr(OF_COMPUTE, name), rtol=0.02)
    fit = fit_law(SIZES, OF_SIZE(SIZES), draws=50)
    for name in ("constant", "factors", "exponents"):
        np.testing.assert_allclose(getattr(fit.law, name), getattr(OF_SIZE, name), rtol=0.02)


def test_noisy_data_give_their_law_within_the_stated_error() -> None:
    x = np.repeat(COMPUTE, 3)[:, None]
    fit = fit_law(x, make_losses(OF_COMPUTE, x, noise=0.005, seed=1))
    error = Interval.of(fit.law.exponents[0], fit.draws.exponents[:, 0])
    assert 0.001 < error.error < 0.03
    assert abs(error.value - 0.12) < 3 * error.error
    fit = fit_law(SIZES, make_losses(OF_SIZE, SIZES, noise=0.005, seed=2))
    for axis, truth in enumerate((0.35, 0.4)):
        error = Interval.of(fit.law.exponents[axis], fit.draws.exponents[:, axis])
        assert error.error < 0.05
        assert abs(error.value - truth) < 3 * error.error


def test_what_is_found_is_a_minimum() -> None:
    """No law nearby has a smaller Huber loss, at the width that the residuals themselves give."""
    x = COMPUTE[:, None]
    losses = make_losses(OF_COMPUTE, x, noise=0.02, seed=3)
    fit = fit_law(x, losses, draws=50)
    rng = np.random.default_rng(0)
    widths = [0.5 * np.abs(fit.residuals).max(), 10.0]
    below = 0
    for _ in range(300):
        near = Law(*(np.asarray(v * np.exp(0.02 * rng.normal(size=np.shape(v))))
                     for v in (fit.law.constant, fit.law.factors, fit.law.exponents)))  # fmt: skip
        residuals = np.log(losses) - np.log(near(x))
        below += huber(residuals, widths[0]) < 0.98 * huber(fit.residuals, widths[0])
    assert below == 0


def test_a_run_that_went_wrong_hardly_counts() -> None:
    x = np.repeat(COMPUTE, 2)[:, None]
    losses = make_losses(OF_COMPUTE, x, noise=0.004, seed=4)
    spoilt = losses.copy()
    spoilt[[6, 13]] *= 1.5
    whole, robust = (fit_law(x, values, draws=50).law for values in (losses, spoilt))
    np.testing.assert_allclose(robust(x), whole(x), rtol=0.01)


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_cover_the_truth_as_often_as_they_say(seeds: int) -> None:
    """95% intervals, of 30 sets of data: at 93% fewer than 24 would come once in 100 times."""
    x = np.repeat(COMPUTE, seeds)[:, None]
    covered = np.zeros(2, int)
    for trial in range(30):
        losses = make_losses(OF_COMPUTE, x, noise=0.01, seed=100 + trial)
        fit = fit_law(x, losses, draws=60, seed=trial)
        exponent = Interval.of(fit.law.exponents[0], fit.draws.exponents[:, 0])
        covered[0] += exponent.low <= 0.12 <= exponent.high
        inside = predict(fit, np.array([3e15]), seed=trial)
        covered[1] += inside.low <= make_losses(
            OF_COMPUTE, np.array([[3e15]]), noise=0.01, seed=900 + trial
        )[0] <= inside.high  # fmt: skip
    assert covered[0] >= 24
    assert covered[1] >= 24


def test_the_bootstrap_can_be_repeated() -> None:
    losses = make_losses(OF_COMPUTE, COMPUTE[:, None], noise=0.01, seed=5)
    first, again, other = (
        fit_law(COMPUTE[:, None], losses, draws=60, seed=s).draws.exponents for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# What follows --------------------------------------------------------------------------------


def test_a_larger_run_is_predicted() -> None:
    x = np.repeat(COMPUTE, 2)[:, None]
    fit = fit_law(x, make_losses(OF_COMPUTE, x, noise=0.003, seed=6))
    truth = float(OF_COMPUTE(np.array([[1e17]]))[0])
    told = predict(fit, np.array([1e17]))
    assert told.low < truth < told.high
    assert abs(told.value / truth - 1) < 0.02
    assert not fit.covers(np.array([[1e17]]))
    assert fit.covers(np.array([[1e14]]))
    by_size = fit_law(SIZES, make_losses(OF_SIZE, SIZES, noise=0.003, seed=7))
    larger = np.array([1e7, 3e8])
    assert abs(predict(by_size, larger).value / OF_SIZE(larger[None])[0] - 1) < 0.02


def test_the_best_size_is_that_of_the_closed_form() -> None:
    """Hoffmann et al., equation 4: N = G (C / 6)^(b / (a + b)), G = (aA / bB)^(1 / (a + b))."""
    fit = fit_law(SIZES, OF_SIZE(SIZES), draws=50)
    (a, b), (big_a, big_b) = OF_SIZE.exponents, OF_SIZE.factors
    cost = Cost(6.0, 1.0)
    for compute in (1e14, 1e16):
        g = (a * big_a / (b * big_b)) ** (1 / (a + b))
        best = g * (compute / 6) ** (b / (a + b))
        found = find_optimum(fit, compute, cost)
        assert found.parameters.value == pytest.approx(best, rel=0.05)
        assert found.tokens.value == pytest.approx(compute / 6 / best, rel=0.05)
        row = np.array([[best, compute / 6 / best]])
        assert found.loss.value == pytest.approx(float(OF_SIZE(row)[0]), rel=1e-3)
    assert find_optimum(fit, 1e30, cost).extrapolated


def test_operations_of_a_token_are_read_off_the_runs() -> None:
    sizes, tokens = SIZES.T
    cost = Cost.of(sizes, tokens, 7.0 * sizes**0.9 * tokens)
    assert (cost.scale, cost.power) == (pytest.approx(7.0), pytest.approx(0.9))
    one = Cost.of(sizes[:1], tokens[:1], 6.0 * sizes[:1] * tokens[:1])
    assert (one.scale, one.power) == (pytest.approx(6.0), 1.0)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_a_multiplier_is_found_again(factor: float) -> None:
    x = np.repeat(COMPUTE, 2)[:, None]
    baseline = fit_law(x, make_losses(OF_COMPUTE, x, noise=0.003, seed=8))
    compute = COMPUTE[2:7]
    losses = make_losses(OF_COMPUTE, factor * compute[:, None], noise=0.003, seed=9)
    found = compute_multiplier(baseline, compute, losses)
    assert found.interval.low < factor < found.interval.high
    assert found.interval.value == pytest.approx(factor, rel=0.25)
    assert found.interval.error < 0.25 * factor
    assert found.unreached == 0
    assert not found.extrapolated


def test_what_no_compute_reaches_is_infinite() -> None:
    baseline = fit_law(COMPUTE[:, None], OF_COMPUTE(COMPUTE[:, None]), draws=60)
    found = compute_multiplier(baseline, COMPUTE[:3], np.array([1.0, 0.9, 0.8]))
    assert np.isinf(found.interval.value)
    assert found.unreached > 0.9
    assert found.extrapolated
    assert describe({"value": [found.interval.value, 2.0]}) == {"value": [None, 2.0]}


@pytest.mark.filterwarnings("error")
def test_few_and_scattered_runs_give_a_wide_interval_and_no_warning() -> None:
    """Some draws are so flat that the least of computes would do, some are never low enough."""
    x = COMPUTE[:4, None]
    baseline = fit_law(x, make_losses(OF_COMPUTE, x, noise=0.3, seed=11), draws=400)
    found = compute_multiplier(baseline, COMPUTE[3:5], OF_COMPUTE(COMPUTE[3:5, None]))
    assert 0 < found.unreached < 1
    assert not any(np.isnan([found.interval.value, found.interval.low, found.interval.high]))
    assert found.interval.low < 1 < found.interval.high


def test_efficient_runs_are_those_that_no_cheaper_one_beats() -> None:
    rng = np.random.default_rng(10)
    compute, loss = rng.uniform(1, 100, 40), rng.uniform(1, 2, 40)
    expected = [
        i
        for i in range(40)
        if not any(compute[j] <= compute[i] and loss[j] < loss[i] for j in range(40))
    ]
    assert sorted(select_efficient(compute, loss)) == expected
    assert list(select_efficient(compute, loss)) == sorted(expected, key=lambda i: compute[i])
    assert len(select_efficient(compute, loss, tolerance=0.2)) > len(expected)
    assert len(select_efficient(compute, loss, tolerance=0.99)) == 40


# What cannot be fitted -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "x, losses, message",
    [
        (COMPUTE[:3, None], np.ones(3), "3 runs are too few for a scaling law of 3 parameters"),
        (SIZES[:5], np.ones(5), "5 runs are too few for a scaling law of 5 parameters"),
        (np.full((6, 1), 1e12), np.ones(6), "1 different values of compute"),
        (SIZES[:10:1] * [0, 1] + [1e5, 0], np.ones(10), "1 different values of parameters"),
        (SIZES * [1, 0] + [0, 1e6], np.ones(25), "1 different values of tokens"),
        (-COMPUTE[:, None], np.ones(9), "sizes and budgets that are positive"),
        (COMPUTE[:, None], np.zeros(9), "losses that are positive"),
        (COMPUTE[:, None], np.full(9, np.nan), "losses that are positive"),
    ],
)
def test_runs_that_tell_no_law_are_refused(x: np.ndarray, losses: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        fit_law(x, losses)
    assert "\n" not in str(caught.value)


def test_values_that_hardly_differ_are_one() -> None:
    assert count_distinct(np.array([100.0, 100.5, 200.0, 99.8])) == 2
    assert count_distinct(np.array([])) == 0


def test_losses_that_do_not_fall_give_a_law_that_is_flat() -> None:
    rng = np.random.default_rng(11)
    losses = 2.0 * np.exp(0.01 * rng.normal(size=9))
    fit = fit_law(COMPUTE[:, None], losses, draws=60)
    np.testing.assert_allclose(fit.law(COMPUTE[:, None]), 2.0, rtol=0.03)
