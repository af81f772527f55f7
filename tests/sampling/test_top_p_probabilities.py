# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Probabilities by thresholds against the definition with a sort."""

import functools

import jax
import numpy as np
import pytest

from nbp.sampling.filtering import draw_tokens, keep_top_k, keep_top_p, token_probabilities
from nbp.sampling.settings import SamplingConfig
from nbp.sampling.top_p import filter_probabilities

V = 300


def make_logits() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(2, 6, V))
    huge = normal.copy()
    huge[..., 7] = 80
    return {
        "normal": normal,
        "sharp": 8 * normal,
        "ties": np.round(normal),
        "all equal": np.zeros((1, 2, V)),
        "around zero": np.where(normal > 0, 1e-41, -1e-41),
        "one takes all": huge,
        "impossible": np.where(normal < 0, -np.inf, normal),
        "ladder": np.broadcast_to(-np.arange(V) / 3.0, (1, 2, V)).copy(),
    }


@functools.cache
def find_all(top_k: int, top_p: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Expected and found probabilities of all cases, by one program."""

    @jax.jit
    def both(logits):
        expected = jax.nn.softmax(keep_top_p(keep_top_k(logits, top_k), top_p))
        return expected, filter_probabilities(logits, top_k=top_k, top_p=top_p)

    cases = {name: case.astype(np.float32) for name, case in make_logits().items()}
    rest = [case.reshape(-1, 2, V) for case in cases.values()]
    sizes = np.cumsum([len(case) for case in rest])[:-1]
    expected, found = (np.split(np.asarray(x), sizes) for x in both(np.concatenate(rest)))
    return dict(zip(cases, expected, strict=True)), dict(zip(cases, found, strict=True))


@pytest.mark.parametrize("case", make_logits())
@pytest.mark.parametrize("top_k, top_p", [(0, 0.777), (40, 1.0), (40, 0.503), (3, 0.904), (0, 1.0)])
def test_probabilities_are_those_of_the_definition(case, top_k, top_p):
    expected, found = (each[case] for each in find_all(top_k, top_p))
    # Rounding of cumulated weights may put the cut one token later or earlier.
    moved = np.abs(found - expected).sum(-1) / 2
    cut = (found > 0) != (expected > 0)
    assert cut.sum(-1).max() <= 1
    assert moved[~cut.any(-1)].max(initial=0) < 1e-5
    assert cut.any(-1).mean() <= 0.2, "rare"
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)


def test_of_ties_the_lower_index_stays():
    logits = np.zeros((1, 1, 8), np.float32)
    found = np.asarray(filter_probabilities(logits, top_k=0, top_p=0.3))
    # 0, 1/8 and 2/8 stand before the first three.
    np.testing.assert_allclose(found[0, 0], [1 / 3] * 3 + [0] * 5)


def test_filters_give_the_probabilities_of_their_draws():
    logits = np.random.default_rng(1).normal(size=(1, 3, V)).astype(np.float32) * 3
    sampling = SamplingConfig(temperature=0.7, top_k=9, top_p=0.9)
    find = jax.jit(functools.partial(token_probabilities, sampling))
    expected = np.asarray(find(logits))[0]
    keys = jax.random.split(jax.random.key(0), 1_000)
    draw = jax.jit(functools.partial(draw_tokens, sampling))
    draws = draw(keys, np.repeat(logits, 1_000, axis=0))
    for token in range(3):
        found = np.bincount(np.asarray(draws)[:, token], minlength=V) / 1_000
        assert np.abs(found - expected[token]).sum() / 2 < 0.08
        assert (found[expected[token] == 0] == 0).all()
    greedy = np.asarray(token_probabilities(SamplingConfig(temperature=0.0), logits))
    np.testing.assert_array_equal(greedy[0].argmax(-1), logits[0].argmax(-1))
    assert greedy.sum() == 3
