# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Attention with a limit per query: the dense oracle and the backends that must agree with it.

Every mask of next-block prediction is a prefix per query (see `nbp.layout`), so one vector
`k_end` feeds each backend. All backends share the signature `AttentionBackend`.
"""

import functools
import math
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from nbp.shapes import Array, Bool, Float, Int

PIECE = 160  # queries that `prefix_attention` handles at a time


@runtime_checkable
class AttentionBackend(Protocol):
    """`(q, k, v, k_end, key_mask) -> out`; see `dense_attention` for shapes and meaning."""

    def __call__(
        self,
        q: Float[Array, "b n k d"],
        k: Float[Array, "b m k d"],
        v: Float[Array, "b m k d"],
        k_end: Int[Array, "n"],
        key_mask: Bool[Array, "b m"] | None = None,
    ) -> Float[Array, "b n k d"]: ...


def dense_attention(
    q: Float[Array, "b n k d"],
    k: Float[Array, "b m k d"],
    v: Float[Array, "b m k d"],
    k_end: Int[Array, "n"],
    key_mask: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n k d"]:
    """The oracle: softmax(q k^T / sqrt(d)) v over the keys `[0, k_end[q])` of each query.

    Args:
      q, k, v: queries of n positions, keys and values of m positions, `k` heads of width `d`.
      k_end: attention limit of each query, 1..m; the same for the whole batch.
      key_mask: False hides a key of a sample from every query (padding of a text prompt). Each
        query must keep at least one visible key.

    Returns: one row per query in q's dtype; scores and softmax are float32.
    """
    scores = jnp.einsum("bnkd,bmkd->bknm", q, k, preferred_element_type=jnp.float32)
    scores = scores / jnp.sqrt(jnp.float32(q.shape[-1]))
    scores = jnp.where(_visible(k_end, k.shape[1], key_mask), scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1)
    out = jnp.einsum("bknm,bmkd->bnkd", weights, v, preferred_element_type=jnp.float32)
    return out.astype(q.dtype)


def xla_attention(
    q: Float[Array, "b n k d"],
    k: Float[Array, "b m k d"],
    v: Float[Array, "b m k d"],
    k_end: Int[Array, "n"],
    key_mask: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n k d"]:
    """`jax.nn.dot_product_attention` on its XLA path; arguments as in `dense_attention`."""
    mask = _visible(k_end, k.shape[1], key_mask)
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")


def prefix_attention(
    q: Float[Array, "b n k d"],
    k: Float[Array, "b m k d"],
    v: Float[Array, "b m k d"],
    k_end: Int[Array, "n"],
    key_mask: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n k d"]:
    """The fastest without a kernel of its own: a piece of the queries after the other.

    Where `k_end` is known when the program is compiled (a numpy array, as in training), a piece
    reads only the keys that one of its queries attends: about half the work for a causal mask. No
    [n, m] array is kept for the backward pass, which computes the scores of a piece again from the
    logarithms of the softmax's denominators (FlashAttention, arXiv 2205.14135). Else this is
    `xla_attention`. Arguments as in `dense_attention`.
    """
    if not isinstance(k_end, np.ndarray):
        return xla_attention(q, k, v, k_end, key_mask)
    return _attend_pieces(q, k, v, key_mask, tuple(int(limit) for limit in k_end))


def cached_attention(
    q: Float[Array, "b k d n"],
    keys: Array,
    keys_scale: Float[Array, "b k m"] | None,
    values: Array,
    values_scale: Float[Array, "b k m"] | None,
    *,
    k_end: Int[Array, "n"],
    key_mask: Bool[Array, "b m"] | None = None,
    sinks: tuple[int, Float[Array, "b k d n"]] | None = None,
) -> Float[Array, "b k d n"]:
    """`dense_attention` on a cache, whose axes lie as the two matmuls of a pass read them.

    Any other order would be rearranged in every pass: the whole cache, for a block of queries.

    Args:
      keys, values: [b k m d] and [b k d m], of any type; cast to that of the queries.
      keys_scale, values_scale: by which the numbers of a position are multiplied, or None.
      sinks: a number of first keys, and the queries that look at them in place of `q`.
    """
    looks = q if sinks is None else jnp.concatenate([q, sinks[1]], axis=-1)
    columns = looks * (1 / math.sqrt(q.shape[2]))
    scores = jnp.matmul(keys.astype(q.dtype), columns, preferred_element_type=jnp.float32)
    if sinks is not None:  # all keys are read once, whichever queries look at them
        others, own = jnp.split(scores, 2, axis=-1)
        scores = jnp.where(jnp.arange(keys.shape[2])[:, None] < sinks[0], own, others)
    if keys_scale is not None:
        scores = scores * keys_scale[..., None]
    visible = jnp.arange(keys.shape[2])[:, None] < k_end
    if key_mask is not None:
        visible = visible & key_mask[:, None, :, None]
    scores = jnp.where(visible, scores, -jnp.inf)
    weights = jnp.exp(scores - scores.max(2, keepdims=True))
    total = weights.sum(2, keepdims=True)
    if values_scale is not None:
        weights = weights * values_scale[..., None]
    weights = weights.astype(q.dtype)
    mixed = jnp.matmul(values.astype(q.dtype), weights, preferred_element_type=jnp.float32)
    return (mixed / total).astype(q.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend_pieces(
    q: Array, k: Array, v: Array, key_mask: Array | None, k_end: tuple[int, ...]
) -> Array:
    return _attend_pieces_forward(q, k, v, key_mask, k_end)[0]


def _attend_pieces_forward(
    q: Array, k: Array, v: Array, key_mask: Array | None, k_end: tuple[int, ...]
) -> tuple[Array, tuple[Array | None, ...]]:
    outs, log_totals = [], []
    for rows, keys, limits in _cut_queries(k_end):
        scores = _score_piece(q[:, rows], k[:, keys], key_mask, limits)
        top = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        outs.append(_mix(weights.astype(v.dtype), v[:, keys]) / jnp.moveaxis(total, 1, 2))
        log_totals.append(top + jnp.log(total))
    out = checkpoint_name(jnp.concatenate(outs, axis=1).astype(q.dtype), "attention")
    log_total = checkpoint_name(jnp.concatenate(log_totals, axis=2), "attention")
    return out, (q, k, v, key_mask, out, log_total)


def _attend_pieces_backward(
    k_end: tuple[int, ...], kept: tuple[Array | None, ...], d_out: Array
) -> tuple[Array | None, ...]:
    q, k, v, key_mask, out, log_total = kept
    assert q is not None
    assert k is not None
    assert v is not None
    assert log_total is not None
    row_sums = jnp.einsum("bnkd,bnkd->bkn", d_out, out, preferred_element_type=jnp.float32)
    scale = 1 / math.sqrt(q.shape[-1])
    d_q, d_k, d_v = [], jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    for rows, keys, limits in _cut_queries(k_end):
        q_piece, d_piece = q[:, rows], d_out[:, rows]
        scores = _score_piece(q_piece, k[:, keys], key_mask, limits)
        weights = jnp.exp(scores - log_total[:, :, rows])
        d_weights = jnp.einsum(
            "bnkd,bmkd->bknm", d_piece, v[:, keys], preferred_element_type=jnp.float32
        )
        d_scores = weights * (d_weights - row_sums[:, :, rows, None]) * scale
        d_scores = d_scores.astype(q.dtype)
        d_q.append(_mix(d_scores, k[:, keys]))
        swapped = jnp.swapaxes(d_scores, 2, 3)
        d_k = d_k.at[:, keys].add(_mix(swapped, q_piece))
        d_v = d_v.at[:, keys].add(_mix(jnp.swapaxes(weights.astype(v.dtype), 2, 3), d_piece))
    d_q = jnp.concatenate(d_q, axis=1)
    return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype), None


_attend_pieces.defvjp(_attend_pieces_forward, _attend_pieces_backward)


def _cut_queries(k_end: tuple[int, ...]) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Equal pieces, the last a little shorter: queries, keys that one of them sees, limits."""
    n = len(k_end)
    size = -(-n // -(-n // PIECE))
    for start in range(0, n, size):
        limits = np.array(k_end[start : start + size])
        yield slice(start, start + len(limits)), slice(0, int(limits.max())), limits


def _score_piece(q: Array, k: Array, key_mask: Array | None, limits: np.ndarray) -> Array:
    """Masked scores, float32 [b k n m]."""
    keys = k.shape[1]
    scores = jnp.einsum("bnkd,bmkd->bknm", q, k, preferred_element_type=jnp.float32)
    mask = None if key_mask is None else key_mask[:, :keys]
    visible = _visible(jnp.asarray(limits), keys, mask)
    return jnp.where(visible, scores * (1 / math.sqrt(q.shape[-1])), -jnp.inf)


def _mix(weights: Array, values: Array) -> Array:
    """Sums of values [b m k d] by weights [b k n m], float32 [b n k d]."""
    return jnp.einsum("bknm,bmkd->bnkd", weights, values, preferred_element_type=jnp.float32)


def _visible(
    k_end: Int[Array, "n"], keys: int, key_mask: Bool[Array, "b m"] | None
) -> Bool[Array, "_ 1 n m"]:
    visible = (jnp.arange(keys)[None, :] < k_end[:, None])[None, None]
    return visible if key_mask is None else visible & key_mask[:, None, None, :]
