# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Attention on GPUs: a block-causal kernel of our own, written in Pallas, lowered through Triton.

FlashAttention (arXiv 2205.14135, 2307.08691) with a limit per query. JAX's own kernels know causal
masks alone. Queries and keys are cut into tiles; a program of the grid owns a tile of one of them
and walks over those tiles of the other that it shares a visible pair with: what is wholly hidden is
not read, what is wholly visible is not masked, and scores exist as one tile at a time.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from nbp.nn.attention.pallas_kernels import Call, d_kv_kernel, d_q_kernel, forward_kernel
from nbp.parallel.sharding import split_call
from nbp.shapes import Array, Bool, Float, Int

HEADS = ("batch", None, "heads", None)


@dataclass(frozen=True)
class PallasAttention:
    """An `AttentionBackend` for GPUs; arguments as in `nbp.nn.attention.reference.dense_attention`.

    interpret: whether JAX computes what the kernel says step by step, on any device (for tests).
    tiles, backward_tiles: queries and keys of a tile, powers of 2, at least 16 on a GPU; halved in
      float32, whose tiles would not fit into the shared memory.
    """

    interpret: bool = False
    tiles: tuple[int, int] = (128, 64)
    backward_tiles: tuple[int, int] = (64, 64)

    def __call__(
        self,
        q: Float[Array, "b n k d"],
        k: Float[Array, "b m k d"],
        v: Float[Array, "b m k d"],
        k_end: Int[Array, "n"],
        key_mask: Bool[Array, "b m"] | None = None,
    ) -> Float[Array, "b n k d"]:
        static = isinstance(k_end, np.ndarray)
        pairs = int(k_end.sum()) if static else q.shape[1] * k.shape[1]

        def attend(*arrays: Array) -> Array:
            return _attend(*arrays, self, pairs)

        limits = jnp.asarray(k_end, jnp.int32)
        shown = None if key_mask is None else key_mask.astype(jnp.int32)
        axes = (HEADS, HEADS, HEADS, ("batch", None), (None,))
        return split_call(attend, (q, k, v, shown, limits), axes, out_axes=HEADS)

    def cut(self, dtype: Any, *, backward: bool = False) -> tuple[int, int]:
        """Queries and keys of a tile."""
        rows, columns = self.backward_tiles if backward else self.tiles
        wide = jnp.dtype(dtype).itemsize > 2 and not self.interpret
        return (rows // 2, columns // 2) if wide else (rows, columns)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(
    q: Array,
    k: Array,
    v: Array,
    shown: Array | None,
    k_end: Array,
    backend: PallasAttention,
    pairs: int,
) -> Array:
    return _forward(q, k, v, shown, k_end, backend, pairs)[0]


def _forward(
    q: Array,
    k: Array,
    v: Array,
    shown: Array | None,
    k_end: Array,
    backend: PallasAttention,
    pairs: int,
) -> tuple[Array, tuple[Array | None, ...]]:
    rows, columns = backend.cut(q.dtype)
    call = Call(q, k, rows, columns, backend.interpret, pairs)
    out, log_total = call.run(
        partial(forward_kernel, call),
        over="queries",
        products=2,
        ins=(call.row_tiles(q), call.whole(k), call.whole(v)),
        limits=k_end,
        shown=shown,
        outs=(call.row_tiles(q), call.row_numbers()),
        table=_reach(k_end, rows, columns),
    )
    out = checkpoint_name(out, "attention")
    log_total = checkpoint_name(log_total, "attention")
    return out, (q, k, v, shown, k_end, out, log_total)


def _backward(
    backend: PallasAttention, pairs: int, kept: tuple[Array | None, ...], d_out: Array
) -> tuple[Array | None, ...]:
    q, k, v, shown, k_end, out, log_total = kept
    assert q is not None
    assert k is not None
    assert k_end is not None
    rows, columns = backend.cut(q.dtype, backward=True)
    call = Call(q, k, rows, columns, backend.interpret, pairs)
    row_sums = jnp.einsum("bnkd,bnkd->bkn", d_out, out, preferred_element_type=jnp.float32)
    (d_q,) = call.run(
        partial(d_q_kernel, call),
        over="queries",
        products=3,
        ins=(
            *(call.row_tiles(q), call.whole(k), call.whole(v)),
            *(call.row_tiles(d_out), call.row_numbers(log_total), call.row_numbers(row_sums)),
        ),
        limits=k_end,
        shown=shown,
        outs=(call.row_tiles(q),),
        table=_reach(k_end, rows, columns),
    )
    d_k, d_v = call.run(
        partial(d_kv_kernel, call),
        over="keys",
        products=4,
        ins=(
            *(call.whole(q), call.column_tiles(k), call.column_tiles(v)),
            *(call.whole(d_out), call.all_numbers(log_total), call.all_numbers(row_sums)),
        ),
        limits=k_end,
        shown=shown,
        outs=(call.column_tiles(k), call.column_tiles(k)),
        table=_audience(k_end, rows, columns, k.shape[1]),
    )
    return d_q, d_k, d_v, None, None


_attend.defvjp(_forward, _backward)


def _extremes(k_end: Array, rows: int) -> tuple[Array, Array]:
    """Least and largest limit of each tile of queries."""
    tiles = jnp.pad(k_end, (0, -len(k_end) % rows), mode="edge").reshape(-1, rows)
    return tiles.min(1), tiles.max(1)


def _reach(k_end: Array, rows: int, columns: int) -> Array:
    """For each tile of queries: key tiles that all of it sees, and that any of it sees; [2t]."""
    least, largest = _extremes(k_end, rows)
    return jnp.stack([least // columns, -(-largest // columns)], 1).reshape(-1)


def _audience(k_end: Array, rows: int, columns: int, keys: int) -> Array:
    """For each tile of keys: the first tile of queries that sees some of it, and the first from
    which on all see all of it; [2t]. Where limits fall again, tiles between them are masked."""
    least, largest = _extremes(k_end, rows)
    starts = jnp.arange(0, keys, columns)[:, None]
    ends = jnp.minimum(starts + columns, keys)
    first = jnp.sum(jnp.cumsum(largest > starts, 1) == 0, 1)
    partly = least[None, :] < ends
    clear = jnp.max(jnp.where(partly, jnp.arange(len(least)) + 1, 0), 1)
    return jnp.stack([first, jnp.maximum(first, clear)], 1).reshape(-1)
