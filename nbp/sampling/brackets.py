# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of logits in columns, and the k-th largest of a row between two bounds, without sorting."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nbp.shapes import Array, Bool, Float, Int

COLUMNS = 128  # sums run over `depth`, at the speed of memory
SAMPLE = 256  # logits of a row that the first guess of the k-th largest is made from
_SUBNORMAL = 0x007FFFFF  # bits of the largest
COUNTS = 2  # passes over the logits that narrow the bracket before the first draw


class Rows(NamedTuple):
    """Logits of r positions, padded with -inf, and their weights exp(logit - largest of the row).

    Index i of the vocabulary is at (i // COLUMNS, i % COLUMNS).
    """

    logits: Float[Array, "r depth columns"]
    weights: Float[Array, "r depth columns"]
    top: Float[Array, "r"]


class Bracket(NamedTuple):
    """The k-th largest logit of a row lies in [low, high).

    `at_low` logits, at least k, are not below `low`, and `at_high`, fewer than k, not below `high`.
    It is closed when the logits not below `low` are the k largest and the ties of the k-th.
    """

    low: Float[Array, "r"]
    high: Float[Array, "r"]
    at_low: Int[Array, "r"]
    at_high: Int[Array, "r"]

    def closed(self, k: int) -> Bool[Array, "r"]:
        return (self.at_low == k) | (_to_key(self.low) + 1 >= _to_key(self.high))


def make_rows(logits: Float[Array, "r v"]) -> Rows:
    """Puts a vocabulary of any size into columns."""
    r, v = logits.shape
    depth = -(-v // COLUMNS)
    padded = jnp.pad(logits, ((0, 0), (0, depth * COLUMNS - v)), constant_values=-math.inf)
    columns = padded.reshape(r, depth, COLUMNS)
    top = columns.max((1, 2))
    return Rows(columns, jnp.exp(columns - spread(top)), top)


def sum_columns(rows: Rows, chosen: Bool[Array, "r d c"]) -> Float[Array, "r c"]:
    """Weight of the chosen logits, by columns."""
    return jnp.where(chosen, rows.weights, 0.0).sum(1)


def pick(
    rows: Rows,
    allowed: Bool[Array, "r d c"],
    columns: Float[Array, "r c"],
    uniform: Float[Array, "r"],
) -> tuple[Int[Array, "r"], Float[Array, "r"]]:
    """The allowed token at `uniform` of the cumulated weight, 0..1, and its logit.

    `columns`: the allowed weight by columns.
    """
    target = uniform * columns.sum(-1)
    column = _find(columns, target)
    rest = target - _take(jnp.cumsum(columns, -1) - columns, column)

    def cut(x: Array) -> Array:
        return jnp.take_along_axis(x, column[:, None, None], axis=2)[:, :, 0]

    depth = _find(jnp.where(cut(allowed), cut(rows.weights), 0.0), rest)
    return depth * COLUMNS + column, _take(cut(rows.logits), depth)


def enclose(logits: Float[Array, "r v"], rows: Rows, k: int) -> Bracket:
    """A narrow bracket of the k-th largest of v logits; a closed one where k is v."""
    r, v = logits.shape
    infinite = jnp.full(r, math.inf, jnp.float32)
    widest = Bracket(-infinite, infinite, jnp.full(r, v), jnp.zeros(r, jnp.int32))
    if k == v:
        return widest
    sample = jnp.sort(logits[:, :: max(1, v // SAMPLE)], axis=-1)
    size = sample.shape[-1]
    # Ranks 2.5 standard deviations around the sample's quantile; a wrong guess costs a pass.
    share = 1 - k / v
    spread = 2.5 * math.sqrt(size * share * (1 - share))
    first = min(size - 1, max(0, math.floor(size * share - spread)))
    last = min(size - 1, max(0, math.ceil(size * share + spread)))
    guess = (sample[:, first], sample[:, last])
    return tighten_bracket(rows, widest, k, jnp.ones(r, bool), guess=guess, passes=COUNTS)


def tighten_bracket(
    rows: Rows,
    bracket: Bracket,
    k: int,
    wanted: Bool[Array, "r"],
    *,
    guess: tuple[Array, Array] | None,
    passes: int | None = None,
) -> Bracket:
    """Counts until the wanted brackets are closed, or `passes` times. `guess`: where to begin.

    Each pass counts at two places, which interpolation expects on either side of the k-th largest;
    every third is a bisection over the floating-point numbers, so that no logits take long.
    """

    def unfinished(state: tuple) -> Array:
        bracket, _, done = state
        return (wanted & ~bracket.closed(k)).any() & (done < (1_000 if passes is None else passes))

    def step(state: tuple) -> tuple:
        old, (lower, upper), done = state
        counts = _count_two(rows.logits, lower, upper)
        new = _shrink(_shrink(old, lower, counts[0], k), upper, counts[1], k)
        still = wanted & ~old.closed(k)
        new = Bracket(*(jnp.where(still, b, a) for a, b in zip(old, new, strict=True)))
        return new, _interpolate(new, k, halve=(done % 3) == 2), done + 1

    if guess is None:
        guess = _interpolate(bracket, k, halve=False)
    return jax.lax.while_loop(unfinished, step, (bracket, guess, 0))[0]


def _count_two(logits: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
    """How many logits of a row are not below each of two values; both in one sum."""
    both = (logits >= spread(lower)).astype(jnp.int32)
    both += (logits >= spread(upper)).astype(jnp.int32) << 16
    both = both.sum(1)
    return (both & 0xFFFF).sum(-1), (both >> 16).sum(-1)


def _shrink(bracket: Bracket, at: Array, count: Array, k: int) -> Bracket:
    """The bracket after `count` logits were found to be not below `at`."""
    low, high, at_low, at_high = bracket
    up = (count >= k) & (at > low)
    down = (count < k) & (at < high)
    return Bracket(
        jnp.where(up, at, low),
        jnp.where(down, at, high),
        jnp.where(up, count, at_low),
        jnp.where(down, count, at_high),
    )


def _interpolate(bracket: Bracket, k: int, *, halve: Array | bool) -> tuple[Array, Array]:
    """Two values inside the bracket, of which one is likely below the k-th largest, one above."""
    low, high = bracket.low, bracket.high
    inside = jnp.maximum(bracket.at_low - bracket.at_high, 1).astype(jnp.float32)
    share = (bracket.at_low - k + 0.5) / inside
    width = high - low
    # Of `inside` values at random places, one standard deviation of the count up to `share`.
    margin = jnp.sqrt(jnp.maximum(share * (1 - share), 0.0) / inside)
    first, last = _to_key(low) + 1, _to_key(high) - 1
    middle = _from_key((first >> 1) + (last >> 1) + (first & last & 1))
    use_middle = ~jnp.isfinite(width) | halve

    def place(at: Array) -> Array:
        at = jnp.where(use_middle, middle, low + width * at)
        return jnp.clip(at, _from_key(first), _from_key(jnp.maximum(first, last)))

    return place(share - margin), place(share + margin)


def _to_key(x: Float[Array, "r"]) -> Int[Array, "r"]:
    """Integers in the order of the floating-point numbers, neighbours next to each other.

    Those below the least normal number are zero, as comparisons on some devices have it.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    size = jnp.maximum((bits & 0x7FFFFFFF) - _SUBNORMAL, 0)
    return jnp.where(bits < 0, -size, size)


def _from_key(key: Int[Array, "r"]) -> Float[Array, "r"]:
    size = jnp.abs(key)
    size = jax.lax.bitcast_convert_type(jnp.where(size > 0, size + _SUBNORMAL, 0), jnp.float32)
    return jnp.where(key < 0, -size, size)


def _find(weights: Float[Array, "r m"], target: Float[Array, "r"]) -> Int[Array, "r"]:
    """The first whose cumulated weight exceeds the target; never one of weight 0.

    Rounding may leave the target beyond the end: then the last of any weight.
    """
    possible = weights > 0
    reached = possible & (jnp.cumsum(weights, -1) > target[:, None])
    last = weights.shape[-1] - 1 - jnp.argmax(possible[:, ::-1], -1)
    return jnp.where(reached.any(-1), jnp.argmax(reached, -1), last)


def _take(x: Array, index: Int[Array, "r"]) -> Array:
    return jnp.take_along_axis(x, index[:, None], axis=1)[:, 0]


def spread(x: Array) -> Array:
    return x[:, None, None]
