# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Kept and redrawn drafts, and what relaxing may move, on vocabularies that can be enumerated."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.nn.fsq import Fsq
from nbp.sampling.speculative import NearCodes, accept, draw_weighted, residual

LEVELS = (4, 3, 2)  # 24 codes
ROWS = 40


def draw_distributions(count: int, codes: int, *, seed: int, sharpness: float = 2.0) -> np.ndarray:
    logits = sharpness * np.random.default_rng(seed).normal(size=(1, count, codes))
    weights = np.exp(logits)
    weights[weights < 0.3] = 0  # as filters leave it
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def measure_distances(levels: tuple[int, ...]) -> np.ndarray:
    """Levels between each two codes, from the vectors that the decoder sees."""
    vectors = np.asarray(Fsq(levels).lookup(jnp.arange(np.prod(levels))))
    steps = vectors * (np.array(levels) // 2)
    return np.abs(steps[:, None] - steps[None, :]).sum(-1).round().astype(int)


def outcome_of(target: np.ndarray, law: np.ndarray) -> np.ndarray:
    """The distribution of the token, by summing over drafts: no draws. Arrays [1 n v]."""
    n, v = law.shape[1:]
    kept = np.zeros((n, v))
    grid = (np.arange(2_000, dtype=np.float32) + 0.5) / 2_000
    for code in range(v):
        tokens = np.full((1, len(grid) * n), code)
        targets, laws = (np.repeat(x, len(grid), axis=1) for x in (target, law))
        decisions = np.asarray(accept(np.tile(grid, n)[None], targets, laws, tokens))
        kept[:, code] = decisions.reshape(n, len(grid)).mean(1)
    found = law[0] * kept
    rest = np.asarray(residual(jnp.asarray(target), jnp.asarray(law)))[0]
    return found + (1 - found.sum(-1, keepdims=True)) * rest / rest.sum(-1, keepdims=True)


def test_the_token_has_the_target_distribution():
    target, law = (draw_distributions(6, 9, seed=seed) for seed in (0, 1))
    np.testing.assert_allclose(outcome_of(target, law), target[0], atol=2e-3)


def test_without_a_draft_it_is_drawn_from_the_target():
    target = draw_distributions(3, 9, seed=0)
    none = np.zeros_like(target)
    tokens = target.argmax(-1)
    assert not accept(jnp.zeros((1, 3)), target, none, tokens).any()
    np.testing.assert_array_equal(residual(target, none), target)
    assert accept(jnp.full((1, 3), 0.999), target, target, tokens).all()
    np.testing.assert_array_equal(residual(target, target), target)


@pytest.mark.parametrize("codes", [3, 128, 300])
def test_weighted_draws_are_the_inverse_of_the_cumulated_weights(codes):
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 3, (2, 4, codes)).astype(np.float32)
    weights[..., 1] = 1
    uniform = np.linspace(0, 1, 3_000, endpoint=False, dtype=np.float32)
    draw = jax.jit(draw_weighted)
    draws = np.stack([draw(np.full((2, 4), u), weights) for u in uniform[::100]])
    many = np.asarray(
        draw(np.tile(uniform, (8, 1)), np.repeat(weights.reshape(8, 1, codes), 3_000, axis=1))
    ).reshape(2, 4, -1)
    np.testing.assert_array_equal(many[..., ::100], draws.transpose(1, 2, 0))
    for i, j in itertools.product(range(2), range(4)):
        found = np.bincount(many[i, j], minlength=codes) / 3_000
        expected = weights[i, j] / weights[i, j].sum()
        np.testing.assert_allclose(found, expected, atol=1.1 / 3_000)


@pytest.mark.parametrize("levels", [LEVELS, (8, 5), (2, 2, 2, 2)])
@pytest.mark.parametrize("radius", [1, 2, 3, 9])
def test_sums_over_near_codes(levels, radius):
    near = NearCodes(levels, radius)
    mass = np.random.default_rng(0).random((3, near.codes)).astype(np.float32)
    close = measure_distances(levels) <= radius
    np.testing.assert_allclose(jax.jit(near.sum_near)(mass), mass @ close, rtol=1e-5)


def test_the_papers_codes_have_12_nearest():
    near = NearCodes((8, 8, 8, 5, 5, 5), 1)
    counts = np.asarray(near.sum_near(jnp.ones(near.codes)))
    assert counts.max() == 13
    assert counts.min() == 7, "a corner has a neighbour for each channel"


@pytest.mark.parametrize("delta, radius", [(0.0, 1), (0.05, 2), (0.05, 1), (0.3, 2), (1.0, 1)])
def test_relaxing_moves_at_most_delta_and_only_between_near_codes(delta, radius):
    near = NearCodes(LEVELS, radius)
    target, law = (draw_distributions(ROWS, near.codes, seed=seed) for seed in (2, 3))
    relaxed = np.asarray(jax.jit(lambda p, q: near.relax(p, q, delta))(target, law))[0]
    np.testing.assert_allclose(relaxed.sum(-1), 1, atol=1e-5)
    assert relaxed.min() >= 0
    distance = np.abs(relaxed - target[0]).sum(-1) / 2
    assert distance.max() <= delta + 1e-6
    kept_exact = np.minimum(target, law)[0].sum(-1)
    kept = np.minimum(relaxed, law[0]).sum(-1)
    # More is kept, and every bit more costs as much distance.
    np.testing.assert_allclose(kept - kept_exact, distance, atol=1e-5)
    if delta == 0.05:
        assert (distance > 0.049).mean() > 0.5, "the budget is used"
    # Hall's condition for a transport between near codes: what a set of codes gained, those near
    # it lost. Single codes, and all sets of the few that gained most.
    close = measure_distances(LEVELS) <= radius
    for change in relaxed - target[0]:
        gain, loss = np.maximum(change, 0), np.maximum(-change, 0)
        largest = np.argsort(-gain)[:6]
        for size in range(1, 7):
            for chosen in itertools.combinations(largest, size):
                reach = close[list(chosen)].any(0)
                assert gain[list(chosen)].sum() <= loss[reach].sum() + 1e-6


@pytest.mark.parametrize("delta", [0.1, 0.4])
def test_the_outcome_of_relaxed_acceptance_is_within_delta(delta):
    near = NearCodes(LEVELS, 1)
    target, law = (draw_distributions(8, near.codes, seed=seed) for seed in (4, 5))
    relaxed = np.asarray(jax.jit(lambda p, q: near.relax(p, q, delta))(target, law))
    outcome = outcome_of(relaxed, law)
    distance = np.abs(outcome - target[0]).sum(-1) / 2
    assert distance.max() <= delta + 2e-3
    assert distance.max() > 0.8 * delta, "a bound that is reached"
    always = np.abs(law - target)[0].sum(-1) / 2  # of keeping every draft
    assert always.max() > delta + 0.1


def test_no_draft_and_equal_distributions_are_left_alone():
    near = NearCodes(LEVELS, 1)
    target = draw_distributions(3, near.codes, seed=0)
    for law in (np.zeros_like(target), target):
        np.testing.assert_allclose(near.relax(target, law, 0.5), target, atol=1e-7)


def test_gradual_masses_do_not_break_it():
    """Masses of 1e-30 next to masses of 1: no division overflows."""
    near = NearCodes(LEVELS, 1)
    rng = np.random.default_rng(0)
    target, law = 10.0 ** -rng.uniform(0, 40, (2, 1, ROWS, near.codes))
    target, law = ((x / x.sum(-1, keepdims=True)).astype(np.float32) for x in (target, law))
    relaxed = np.asarray(jax.jit(lambda t, q: near.relax(t, q, 0.2))(target, law))
    assert np.isfinite(relaxed).all()
    np.testing.assert_allclose(relaxed.sum(-1), 1, atol=1e-5)
    assert (np.abs(relaxed - target).sum(-1) / 2).max() <= 0.2 + 1e-6


def test_impossible_neighbourhoods_are_refused():
    with pytest.raises(ValueError, match="radius 0: must be at least 1"):
        NearCodes(LEVELS, 0)
    with pytest.raises(ValueError, match=r"levels \(4, 1\)"):
        NearCodes((4, 1), 1)
