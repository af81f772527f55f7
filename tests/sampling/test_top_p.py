# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Draws without a sort against the sorted definition, token by token and in distribution."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.sampling import top_p
from nbp.sampling.top_p import (
    Draws,
    draw_filtered,
    enclose,
    judge,
    make_rows,
    stands_before,
    sum_columns,
    tighten_bracket,
)
from tests.sampling.test_filtering import assert_distribution

INF = math.inf
RNG = np.random.default_rng(0)


def make_hard_rows(v: int) -> dict[str, np.ndarray]:
    """Logits of v tokens that mislead guesses, bisections and comparisons."""
    rows = {
        "normal": RNG.normal(size=v, scale=2),
        "equal": np.zeros(v),
        "two values": RNG.integers(0, 2, v),
        "ties everywhere": RNG.integers(-4, 5, v) / 2,
        "signed zeros": np.where(RNG.random(v) < 0.5, 0.0, -0.0),
        "huge range": RNG.normal(size=v) * 10.0 ** RNG.integers(-38, 38, v),
        "tiny": RNG.normal(size=v) * 1e-36,
        "neighbours": np.nextafter(np.float32(1), np.float32(2)) + np.zeros(v),
        "one dominates": np.where(np.arange(v) == v // 3, 60.0, 0.0),
        "half impossible": np.where(RNG.random(v) < 0.5, -INF, RNG.normal(size=v)),
        "three possible": np.where(np.arange(v) % (v // 3) == 1, 1.0, -INF),
        "falls": -np.arange(v, dtype=float) / 7,
        "rises": np.arange(v, dtype=float) / 7,
        "periodic": np.sin(np.arange(v) * math.pi / 2),  # a sample with a stride sees one value
        "heavy tail": RNG.standard_cauchy(v),
    }
    neighbours = rows["neighbours"].astype(np.float32)
    neighbours[::2] = 1.0
    rows["neighbours"] = neighbours
    return {name: row.astype(np.float32) for name, row in rows.items()}


def keep_by_sorting(logits: np.ndarray, k: int, p: float) -> tuple[np.ndarray, np.ndarray]:
    """Kept tokens in float64, and those whose distance to p is within rounding of float32."""
    v = logits.size
    kept = np.ones(v, bool)
    if 0 < k < v:
        kept = logits >= np.sort(logits)[-k]
    kept &= logits > -INF
    weights = np.where(kept, np.exp(logits.astype(np.float64) - logits.max()), 0.0)
    order = np.lexsort((np.arange(v), -logits.astype(np.float64)))
    share = weights[order] / weights.sum()
    before = np.empty(v)
    before[order] = np.cumsum(share) - share
    if p >= 1:
        return kept, np.zeros(v, bool)
    return kept & ((before <= p) | (before == 0)), kept & (np.abs(before - p) < 1e-5)


@functools.partial(jax.jit, static_argnums=(1, 2))
def find_kept(logits: jax.Array, k: int, p: float) -> jax.Array:
    """Asks each token of each row whether it is kept."""
    r, v = logits.shape
    k = k if 0 < k < v else v
    rows = make_rows(logits)
    bracket = tighten_bracket(rows, enclose(logits, rows, k), k, jnp.ones(r, bool), guess=None)
    weight = sum_columns(rows, rows.logits >= bracket.low[:, None, None]).sum(-1)

    def ask(i: jax.Array) -> jax.Array:
        draws = Draws(jnp.full(r, i), logits[:, i], weight[:, None])
        draws = draws._replace(before=sum_columns(rows, stands_before(rows, draws)))
        kept, left = judge(rows, draws, bracket, weight, k, p)
        return jnp.stack([kept & (rows.weights.reshape(r, -1)[:, i] > 0), left])

    return jax.lax.map(ask, jnp.arange(v))  # [v, 2, r]


@pytest.mark.parametrize(
    "v, k, p",
    [
        *((12, 5, 0.9), (300, 0, 1.0), (300, 0, 0.5), (300, 1, 0.9), (300, 299, 1e-6)),
        *((300, 299, 1.0), (1000, 250, 0.5), (1000, 250, 0.9)),
    ],
)
def test_each_token_is_kept_as_the_sort_says(v, k, p):
    rows = make_hard_rows(v)
    found = np.asarray(find_kept(np.stack(list(rows.values())), k, p))
    for i, (name, logits) in enumerate(rows.items()):
        expected, near = keep_by_sorting(logits, k, p)
        # float32 knows no weight below exp(-103); such a token is never drawn.
        expected &= logits - logits.max() > -80
        certain = ~near & ~((logits - logits.max() < -80) & (logits - logits.max() > -110))
        np.testing.assert_array_equal(found[certain, 0, i], expected[certain], err_msg=name)


@pytest.mark.parametrize("k", [1, 2, 77, 299])
def test_the_kth_largest_is_enclosed_then_found(k):
    rows = make_hard_rows(300)
    logits = np.stack(list(rows.values()))

    @jax.jit
    def find(logits):
        columns = make_rows(logits)
        narrowed = enclose(logits, columns, k)
        every = jnp.ones(len(logits), bool)
        return narrowed, tighten_bracket(columns, narrowed, k, every, guess=None)

    narrowed, closed = jax.device_get(find(logits))
    for i, (name, row) in enumerate(rows.items()):
        kth = np.sort(row)[-k]
        for bracket in (narrowed, closed):
            assert bracket.low[i] <= kth < bracket.high[i], name
            assert bracket.at_high[i] == (row >= bracket.high[i]).sum() < k, name
            assert bracket.at_low[i] == (row >= bracket.low[i]).sum() >= k, name
        np.testing.assert_array_equal(row >= closed.low[i], row >= kth, err_msg=name)


@pytest.mark.parametrize("top_k, top_p", [(0, 0.503), (40, 1.0), (40, 0.703)])
def test_draws_have_the_distribution_of_the_sort(top_k, top_p):
    v, count = 150, 2_000
    names = ("normal", "equal", "ties everywhere", "half impossible", "falls")
    rows = [make_hard_rows(v)[name] for name in names]
    logits = jnp.broadcast_to(jnp.asarray(np.stack(rows)), (count, len(rows), v))
    draw = jax.jit(functools.partial(draw_filtered, top_k=top_k, top_p=top_p))
    keys = jax.random.split(jax.random.key(top_k), count)
    draws = np.concatenate(
        [np.asarray(draw(keys[i : i + 500], logits[i : i + 500])) for i in range(0, count, 500)]
    )
    for i, row in enumerate(rows):
        kept, near = keep_by_sorting(row, top_k, top_p)
        share = np.where(kept, np.exp(row.astype(np.float64) - row.max()), 0.0)
        merged = ~near & (share / share.sum() > 4e-3)  # rarer ones count together
        groups = np.where(merged, np.cumsum(merged), 0)
        shares = np.bincount(groups, share / share.sum())
        assert (kept | near)[draws[:, i]].all()
        assert_distribution(groups[draws[:, i]], shares)
    pairs = draws[:, [0, 1]] % 4
    table = np.histogram2d(*pairs.T, bins=4)[0] / count
    product = table.sum(1, keepdims=True) * table.sum(0, keepdims=True)
    assert np.abs(table - product).max() < 5 / math.sqrt(count), "positions are independent"


def test_a_draw_does_not_depend_on_the_rows_beside_it():
    rows = np.stack(list(make_hard_rows(1000).values()))[:, None]
    keys = jax.random.split(jax.random.key(1), len(rows))
    draw = jax.jit(functools.partial(draw_filtered, top_k=250, top_p=0.9))
    together = np.asarray(draw(keys, rows))
    alone = [np.asarray(draw(keys[i : i + 1], rows[i : i + 1]))[0] for i in range(len(rows))]
    np.testing.assert_array_equal(together, alone)


def test_no_program_sorts_the_vocabulary():
    draw = functools.partial(draw_filtered, top_k=16_000, top_p=0.9)
    keys, logits = jax.random.split(jax.random.key(0), 1), jnp.zeros((1, 16, 64_000))
    text = jax.jit(draw).lower(keys, logits).as_text()
    assert "tensor<16x64000xf32>" in text
    sorts = [line for line in text.splitlines() if "sort" in line or "top_k" in line]
    assert not [line for line in sorts if "64000" in line]


NO_DISTRIBUTION = {
    "nan": [0.0, math.nan, 1.0],
    "all nan": [math.nan] * 3,
    "infinite": [0.0, INF, 1.0],
    "two infinite": [INF, INF, 0.0],
    "nothing possible": [-INF] * 3,
    "nan and infinite": [math.nan, INF, -INF],
}


@pytest.mark.parametrize("top_k, top_p", [(0, 1.0), (0, 0.5), (40, 1.0)])
def test_rows_without_a_distribution_are_told_and_hold_up_no_other(top_k, top_p):
    bad = np.zeros((len(NO_DISTRIBUTION), 300), np.float32)
    for row, start in zip(bad, NO_DISTRIBUTION.values(), strict=True):
        row[:] = -INF if start == [-INF] * 3 else 0.0
        row[:3] = start
    good = RNG.normal(size=(2, 300)).astype(np.float32)
    keys = jax.random.split(jax.random.key(3), len(bad) + 2)
    draw = jax.jit(functools.partial(draw_filtered, top_k=top_k, top_p=top_p))
    drawn = np.asarray(draw(keys, np.concatenate([bad, good])[:, None]))[:, 0]
    np.testing.assert_array_equal(drawn[: len(bad)], -1)
    alone = np.asarray(draw(keys, np.concatenate([good] * 4)[:, None]))[:, 0]
    np.testing.assert_array_equal(drawn[len(bad) :], alone[len(bad) :])


def test_the_bound_of_draws_gives_a_token_that_is_kept(monkeypatch):
    """A bound of one draw, which is never enough: the first token follows."""
    monkeypatch.setattr(top_p, "MOST_DRAWS", 1)
    logits = np.zeros((1, 64, 500), np.float32)
    logits[..., 77] = 0.01  # the only one of top-k
    draw = jax.jit(functools.partial(draw_filtered, top_k=1, top_p=0.5))
    drawn = draw(jax.random.split(jax.random.key(0), 1), logits)
    np.testing.assert_array_equal(np.asarray(drawn), 77)
