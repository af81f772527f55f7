# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Attention with a limit per query: the dense oracle and the backends that must agree with it.

Every mask of next-block prediction is a prefix per query (see `nbp.layout`), so one vector
`k_end` feeds each backend. All backends share the signature `AttentionBackend`.
"""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from nbp.shapes import Array, Bool, Float, Int


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


def _visible(
    k_end: Int[Array, "n"], keys: int, key_mask: Bool[Array, "b m"] | None
) -> Bool[Array, "_ 1 n m"]:
    visible = (jnp.arange(keys)[None, :] < k_end[:, None])[None, None]
    return visible if key_mask is None else visible & key_mask[:, None, None, :]
