# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Probabilities after top-k and top-p without sorting the vocabulary.

Where a draft is held against its distribution, a draw is not enough (`nbp.sampling.drawing`): the
whole distribution is needed, and so the logit at which the filters cut. It is found by counting and
summing at a few places.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nbp.sampling.brackets import Rows, enclose, make_rows, narrow
from nbp.shapes import Array, Float

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
    """softmax(logits) after top-k, then top-p: the definition of `nbp.sampling.filters`.

    All of a row are NaN where its logits are no distribution: with NaN or inf, or only -inf.
    """
    b, n, v = logits.shape
    flat = logits.reshape(b * n, v)
    rows = make_rows(flat)
    if 0 < top_k < v:
        finite = jnp.isfinite(rows.top)  # others have no k-th largest to be looked for
        bracket = narrow(rows, enclose(flat, rows, top_k), top_k, finite, guess=None)
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
