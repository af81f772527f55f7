# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Filters against the definition written as a slow loop, and draws against their distribution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.sampling.filtering import draw_tokens, keep_top_k, keep_top_p
from nbp.sampling.settings import PLAIN, SamplingConfig

V = 12
INF = float("inf")

ROWS = {
    "random": np.random.default_rng(0).normal(size=V, scale=2),
    "uniform": np.zeros(V),
    "ties at the edge": np.array([3.0, 1, 1, 1, 1, 0, 0, -1, -1, -2, -3, 1]),
    "one dominates": np.array([50.0] + [0.0] * (V - 1)),
    "some impossible": np.array([1.0, -INF, 2, -INF, 0, -INF, -INF, 1, -INF, 3, -INF, -INF]),
    "one possible": np.array([-INF] * 7 + [0.5] + [-INF] * 4),
    "falling": np.log(0.5 ** np.arange(1, V + 1)),  # probabilities 1/2, 1/4, ...
    "large": np.random.default_rng(1).normal(size=V, scale=300),
}
CASES = [(k, p) for k in (0, 1, 3, 5, V, 100) for p in (1.0, 0.9, 0.6, 0.01, 1e-6)]


def kept_by_definition(logits: np.ndarray, k: int, p: float) -> set[int]:
    """REFERENCE 3.1: top-k with all its ties, then the nucleus of what is left."""
    left = list(range(len(logits)))
    if k and k < len(logits):
        threshold = sorted(logits, reverse=True)[k - 1]
        left = [i for i in left if logits[i] >= threshold]
    left = [i for i in left if logits[i] > -INF]
    if p >= 1:
        return set(left)
    shares = {i: np.exp(logits[i] - logits.max()) for i in left}
    total, before, kept = sum(shares.values()), 0.0, set()
    for rank, i in enumerate(sorted(left, key=lambda i: (-logits[i], i))):
        # Sums of float32 round: exactly p is meant to count as "at most p".
        if rank == 0 or before <= p + 1e-6:
            kept.add(i)
        before += shares[i] / total
    return kept


@jax.jit
def filter_all(logits):
    return {(k, p): keep_top_p(keep_top_k(logits, k), p) for k, p in CASES}


@pytest.fixture(scope="module")
def filtered():
    logits = np.stack(list(ROWS.values())).astype(np.float32)
    return {case: np.asarray(out) for case, out in filter_all(logits).items()}


@pytest.mark.parametrize("k, p", CASES)
def test_what_is_kept(filtered, k, p):
    for row, (name, logits) in zip(filtered[k, p], ROWS.items(), strict=True):
        kept = {i for i in range(V) if row[i] > -INF}
        assert kept == kept_by_definition(logits, k, p), name
        for i in kept:
            assert row[i] == np.float32(logits[i])


def test_the_token_that_passes_p_is_kept():
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))
    for p, count in ((0.4, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.96, 4)):
        assert int((np.asarray(keep_top_p(logits, p)) > -INF).sum()) == count


def test_exactly_p_before_a_token_keeps_it():
    logits = np.zeros((1, 4), np.float32)  # shares of 1/4 add up without rounding
    for p, count in ((0.25, 2), (0.5, 3), (0.74, 3), (0.75, 4)):
        assert int((np.asarray(keep_top_p(logits, p)) > -INF).sum()) == count


def test_ties_in_the_nucleus_go_by_index():
    kept = np.asarray(keep_top_p(np.zeros((1, 8), np.float32), 0.3)) > -INF
    assert kept[0].tolist() == [True] * 3 + [False] * 5


def test_random_logits_in_bulk():
    logits = np.random.default_rng(2).normal(size=(3, 40, V), scale=2).astype(np.float32)
    out = np.asarray(jax.jit(lambda x: keep_top_p(keep_top_k(x, 7), 0.8))(logits))
    for row, filtered_row in zip(logits.reshape(-1, V), out.reshape(-1, V), strict=True):
        kept = {i for i in range(V) if filtered_row[i] > -INF}
        assert kept == kept_by_definition(row.astype(np.float64), 7, 0.8)


def draw(sampling: SamplingConfig, logits: np.ndarray, count: int) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), count)
    tiled = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (count, *logits.shape))
    return np.asarray(jax.jit(functools.partial(draw_tokens, sampling))(keys, tiled))


def assert_distribution(draws: np.ndarray, share: np.ndarray) -> None:
    """Pearson's statistic under its mean by 5 standard deviations at most; zeros never drawn."""
    counts = np.bincount(draws, minlength=share.size)
    assert counts[share == 0].sum() == 0
    expected = share[share > 0] * len(draws)
    statistic = ((counts[share > 0] - expected) ** 2 / expected).sum()
    freedom = (share > 0).sum() - 1
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize(
    "sampling",
    [PLAIN, SamplingConfig(temperature=0.5), SamplingConfig(temperature=3.0, top_k=5, top_p=0.8)],
)
def test_draws_follow_the_filtered_distribution(sampling):
    logits = np.random.default_rng(3).normal(size=(2, 8))
    draws = draw(sampling, logits, 20_000)
    for position in range(2):
        scaled = logits[position] / sampling.temperature
        kept = kept_by_definition(scaled, sampling.top_k, sampling.top_p)
        share = np.array([np.exp(x) if i in kept else 0.0 for i, x in enumerate(scaled)])
        assert_distribution(draws[:, position], share / share.sum())
    # Positions of a block are drawn independently of each other.
    table = np.histogram2d(draws[:, 0], draws[:, 1], bins=[np.arange(9) - 0.5] * 2)[0] / len(draws)
    product = table.sum(1)[:, None] * table.sum(0)
    assert np.abs(table - product).max() < 0.01


def test_greedy_takes_the_largest():
    logits = np.random.default_rng(4).normal(size=(3, 5, 7)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 3)
    for sampling in (SamplingConfig(temperature=0.0), SamplingConfig(top_k=1)):
        drawn = jax.jit(functools.partial(draw_tokens, sampling))(keys, logits)
        np.testing.assert_array_equal(drawn, logits.argmax(-1))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"temperature": 1e-4}, "temperature 0.0001: must be from 0.001 to 1000"),
        ({"temperature": 0.0, "temperature_end": 1.0}, "temperature_end 1.0: temperature 0 has"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_k": -1}, "top_k -1: must be 0"),
        ({"top_p": 0.0}, "top_p 0.0: must be above 0"),
        ({"top_p": 1.5}, "top_p 1.5: must be above 0 and at most 1"),
    ],
)
def test_senseless_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**options)
