# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Draws after top-k and top-p without sorting the vocabulary, for all tokens of a block at once.

A vocabulary of 64,000 codes costs more to sort than a pass through the network. Nothing of it is
needed in order: a token is drawn from a set that holds all that the filters keep, then it is asked
whether they keep *it*, which depends on what stands before it alone. If they do not, they keep
nothing behind it either, and the next token is drawn from those before it. The accepted token has
the filtered distribution exactly (rejection sampling), and two or three draws end it. There
is an end in any case: a draw that is not kept leaves fewer tokens than it was drawn from, and of
their weight a share that is uniform in 0..1, until the first token alone is left, which is always
kept. Of v tokens fewer than ln v + 1 draws are expected, and more than `MOST_DRAWS` have a
probability below 1e-200; the first token is taken then. Rows that are not finite never draw again.

Before a token stand greater logits and, among equal ones, lower indices, as in
`nbp.sampling.filters`, which has the definition with a sort.

* Top-k: a `Bracket` encloses the k-th largest logit. A guess from a sample and a few counts narrow
  it so far that it decides nearly every draw; where it does not, it is closed.
* Top-p: the weight before a token is compared with p times the weight of what top-k keeps, which is
  known within bounds from the bracket; it is closed where a draw falls between them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nbp.sampling.brackets import (
    Bracket,
    Rows,
    enclose,
    make_rows,
    narrow,
    pick,
    spread,
    sum_columns,
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
      top_k, top_p: see `nbp.sampling.filters.Filter`.

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
        closed = narrow(rows, state.bracket, k, unknown, guess=None)
        weight = sum_columns(rows, rows.logits >= spread(closed.low)).sum(-1)
        return decide(closed, weight)[0], closed, weight

    kept, bracket, weight = jax.lax.cond(
        unknown.any(), close, lambda: (kept, state.bracket, state.weight)
    )
    return state._replace(accepted=state.accepted | kept, bracket=bracket, weight=weight)


def _like(mask: Bool[Array, "r"], x: Array) -> Array:
    return mask.reshape(-1, *(1,) * (x.ndim - 1))
