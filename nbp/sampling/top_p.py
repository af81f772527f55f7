# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Top-k and top-p without sorting the vocabulary: draws, and the probabilities themselves."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nbp.sampling.brackets import (
    Bracket,
    Rows,
    enclose,
    make_rows,
    pick,
    spread,
    sum_columns,
    tighten_bracket,
)
from nbp.shapes import Array, Bool, Float, Int

MOST_DRAWS = 256  # in one call; see above


class Draws(NamedTuple):
    """A token of each row, and by columns the weight that stands before it."""

    index: Int[Array, "r"]
    logit: Float[Array, "r"]
    before: Float[Array, "r columns"]


class _State(NamedTuple):
    draws: Draws
    accepted: Bool[Array, "r"]
    trial: Array
    bracket: Bracket
    weight: Float[Array, "r"]  # of the logits not below the bracket's low end


def draw_filtered(
    keys: Array, logits: Float[Array, "b n v"], *, top_k: int, top_p: float
) -> Int[Array, "b n"]:
    """One independent draw per position from softmax(logits) after top-k, then top-p.

    Args:
      keys: a random key per sample; its draws depend on its own key and logits alone.
      logits: float32; one with -inf is never drawn.
      top_k, top_p: see `nbp.sampling.settings.SamplingConfig`.

    Returns: -1 where there is no distribution: with NaN or inf among the logits, or only -inf.
    """
    b, n, v = logits.shape
    k = top_k if 0 < top_k < v else v
    everything = k == v and top_p >= 1
    rows = make_rows(logits.reshape(b * n, v))
    bracket = enclose(logits.reshape(b * n, v), rows, k)
    columns = sum_columns(rows, rows.logits >= spread(bracket.low))

    def draw(trial: Array | int, columns: Array, last: Draws | None) -> Draws:
        folded = jax.vmap(lambda key: jax.random.fold_in(key, trial))(keys)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (n,)))(folded)
        allowed = rows.logits >= spread(bracket.low) if last is None else stands_before(rows, last)
        index, logit = pick(rows, allowed, columns, uniform.reshape(b * n))
        new = Draws(index, logit, columns)
        if everything:
            return new
        return new._replace(before=sum_columns(rows, stands_before(rows, new)))

    def step(state: _State) -> _State:
        new = draw(state.trial, state.draws.before, state.draws)
        settled = state.accepted
        draws = jax.tree.map(
            lambda old, fresh: jnp.where(_like(settled, old), old, fresh), state.draws, new
        )
        return _settle(rows, state._replace(draws=draws, trial=state.trial + 1), k, top_p)

    first = draw(0, columns, None)
    finite = jnp.isfinite(rows.top)  # the largest is NaN where any logit is
    if everything:
        return jnp.where(finite, first.index, -1).reshape(b, n)
    state = _State(
        first,
        ~finite,  # nothing to wait for
        jnp.ones((), jnp.int32),
        bracket,
        columns.sum(-1),
    )
    state = _settle(rows, state, k, top_p)
    state = jax.lax.while_loop(
        lambda state: ~state.accepted.all() & (state.trial < MOST_DRAWS), step, state
    )
    flat = logits.reshape(b * n, v)
    index = jax.lax.cond(
        state.accepted.all(),
        lambda: state.draws.index,
        lambda: jnp.where(state.accepted, state.draws.index, jnp.argmax(flat, -1)),
    )
    return jnp.where(finite, index, -1).reshape(b, n)


def stands_before(rows: Rows, draws: Draws) -> Bool[Array, "r d c"]:
    """Where a logit comes before the drawn one."""
    _, depth, columns = rows.logits.shape
    position = jnp.arange(depth)[:, None] * columns + jnp.arange(columns)
    logit = spread(draws.logit)
    lower = position < spread(draws.index)
    return (rows.logits > logit) | ((rows.logits == logit) & lower)


def judge(
    rows: Rows, draws: Draws, bracket: Bracket, weight: Float[Array, "r"], k: int, p: float
) -> tuple[Bool[Array, "r"], Bool[Array, "r"]]:
    """Draws that the filters keep for certain, and those that they do not keep for certain.

    With a closed bracket each is one of the two.
    """
    closed = bracket.closed(k)
    kept = (draws.logit >= bracket.high) | (closed & (draws.logit >= bracket.low))
    left = draws.logit < bracket.low
    if p >= 1:
        return kept, left
    # At most `at_low - k` of the counted logits are not kept, each lighter than one at `high`.
    heaviest = jnp.exp(jnp.minimum(bracket.high - rows.top, 0.0))
    spare = jnp.where(closed, 0, bracket.at_low - k) * heaviest
    before = draws.before.sum(-1)
    return kept & (before <= p * jnp.maximum(weight - spare, 0.0)), left | (before > p * weight)


def _settle(rows: Rows, state: _State, k: int, p: float) -> _State:
    """Accepts what is kept; brackets are closed where a draw needs it."""

    def decide(bracket: Bracket, weight: Array) -> tuple[Array, Array]:
        return judge(rows, state.draws, bracket, weight, k, p)

    kept, left = decide(state.bracket, state.weight)
    unknown = ~jnp.stack([kept, left, state.accepted]).any(0)

    def close() -> tuple[Array, Bracket, Array]:
        closed = tighten_bracket(rows, state.bracket, k, unknown, guess=None)
        weight = sum_columns(rows, rows.logits >= spread(closed.low)).sum(-1)
        return decide(closed, weight)[0], closed, weight

    kept, bracket, weight = jax.lax.cond(
        unknown.any(), close, lambda: (kept, state.bracket, state.weight)
    )
    return state._replace(accepted=state.accepted | kept, bracket=bracket, weight=weight)


def _like(mask: Bool[Array, "r"], x: Array) -> Array:
    return mask.reshape(-1, *(1,) * (x.ndim - 1))


FIRST_STEPS = 10  # that only weigh
MOST_STEPS = 200  # halving the span of 32-bit numbers takes fewer


class Edge(NamedTuple):
    """The least logit that top-p keeps lies in [low, high), or [low, high] once both are logits.

    `at_low`: weight of the logits not below `low`, more than the target. `at_high`: of those that
    lie beyond the upper end, at most the target.
    """

    low: Float[Array, "r"]
    high: Float[Array, "r"]
    at_low: Float[Array, "r"]
    at_high: Float[Array, "r"]


def filter_probabilities(
    logits: Float[Array, "b n v"], *, top_k: int, top_p: float
) -> Float[Array, "b n v"]:
    """softmax(logits) after top-k, then top-p: the definition of `nbp.sampling.filtering`.

    All of a row are NaN where its logits are no distribution: with NaN or inf, or only -inf.
    """
    b, n, v = logits.shape
    flat = logits.reshape(b * n, v)
    rows = make_rows(flat)
    if 0 < top_k < v:
        finite = jnp.isfinite(rows.top)  # others have no k-th largest to be looked for
        bracket = tighten_bracket(rows, enclose(flat, rows, top_k), top_k, finite, guess=None)
        kept = rows.logits >= bracket.low[:, None, None]
        rows = rows._replace(weights=jnp.where(kept, rows.weights, 0.0))
    weights = keep_nucleus(rows, top_p) if top_p < 1 else rows.weights
    weights = weights.reshape(b, n, -1)[..., :v]
    return weights / weights.sum(-1, keepdims=True)


def keep_nucleus(rows: Rows, p: float) -> Float[Array, "r d c"]:
    """The weights, those outside the nucleus zero; among ties the lower index goes first."""
    target = p * _sum(rows.weights)
    edge = _find_edge(rows, target, p)[:, None, None]
    above, tied = rows.logits > edge, (rows.logits == edge) & (rows.weights > 0)
    before = _sum(jnp.where(above, rows.weights, 0.0))
    weight = jnp.where(tied, rows.weights, 0.0).max((1, 2))
    room = 1 + jnp.floor((target - before) / weight)
    crowded = tied.sum((1, 2)) > room

    def keep_first() -> Array:
        flat = tied.reshape(tied.shape[0], -1)
        return (flat & (jnp.cumsum(flat, axis=1) <= room[:, None])).reshape(tied.shape)

    tied = jax.lax.cond(crowded.any(), keep_first, lambda: tied)
    return jnp.where(above | tied, rows.weights, 0.0)


def _find_edge(rows: Rows, target: Float[Array, "r"], p: float) -> Float[Array, "r"]:
    """The largest logit such that those not below it weigh more than `target`, which is less than
    all weigh: the least that top-p keeps."""
    v = rows.logits.shape[1] * rows.logits.shape[2]
    # What stands below this weighs less than a share of 1 - p, of which the largest alone weighs 1.
    least = rows.top - math.log(v / (1 - p)) - 0.1
    edge = Edge(least, rows.top + 1.0, _sum(rows.weights), jnp.zeros_like(target))

    def narrow_once(i: Array, edge: Edge) -> Edge:
        return _narrow(rows, edge, target, _choose(edge, target, i), snap=False)

    edge = jax.lax.fori_loop(0, FIRST_STEPS, narrow_once, edge)
    up = jnp.where(rows.logits >= edge.low[:, None, None], rows.logits, jnp.inf).min((1, 2))
    down = jnp.where(rows.logits < edge.high[:, None, None], rows.logits, -jnp.inf).max((1, 2))
    edge = edge._replace(low=up, high=down)

    def unfinished(state: tuple[Edge, Array]) -> Array:
        edge, steps = state
        return (edge.low < edge.high).any() & (steps < MOST_STEPS)

    def step(state: tuple[Edge, Array]) -> tuple[Edge, Array]:
        edge, steps = state
        place = _choose(edge, target, steps)
        place = jnp.where((place > edge.low) & (place < edge.high), place, edge.high)
        return _narrow(rows, edge, target, place, snap=True), steps + 1

    return jax.lax.while_loop(unfinished, step, (edge, jnp.zeros((), jnp.int32)))[0].low


def _choose(edge: Edge, target: Array, step: Array) -> Float[Array, "r"]:
    """A place between the ends: by interpolation and in the middle in turn."""
    share = (edge.at_low - target) / jnp.maximum(edge.at_low - edge.at_high, 1e-30)
    return edge.low + (edge.high - edge.low) * jnp.where(step % 2 == 0, share, 0.5)


def _narrow(rows: Rows, edge: Edge, target: Array, place: Array, *, snap: bool) -> Edge:
    """The edge after those not below `place` were weighed.

    `snap` moves the ends to logits of the row, so that they meet after some steps. It costs two
    more passes over the logits.
    """
    inside = rows.logits >= place[:, None, None]
    weight = _sum(jnp.where(inside, rows.weights, 0.0))
    more = weight > target
    up, down = place, place
    if snap:
        up = jnp.where(inside, rows.logits, jnp.inf).min((1, 2))
        down = jnp.where(inside, -jnp.inf, rows.logits).max((1, 2))
    return Edge(
        jnp.where(more, up, edge.low),
        jnp.where(more, edge.high, down),
        jnp.where(more, weight, edge.at_low),
        jnp.where(more, edge.at_high, weight),
    )


def _sum(weights: Float[Array, "r d c"]) -> Float[Array, "r"]:
    return weights.sum(1).sum(-1)
