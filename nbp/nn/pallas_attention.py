# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Attention on GPUs: a block-causal kernel of our own, written in Pallas, lowered through Triton.

FlashAttention (arXiv 2205.14135, 2307.08691) with a limit per query. JAX's own kernels know causal
masks alone. Queries and keys are cut into tiles; a program of the grid owns a tile of one of them
and walks over those tiles of the other that it shares a visible pair with: what is wholly hidden is
not read, what is wholly visible is not masked, and scores exist as one tile at a time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from nbp.axes import split_call
from nbp.shapes import Array, Bool, Float, Int

HIDDEN = -0.7 * float(np.finfo(np.float32).max)  # infinities would meet as inf - inf
HEADS = ("batch", None, "heads", None)


@dataclass(frozen=True)
class PallasAttention:
    """An `AttentionBackend` for GPUs; arguments as in `nbp.nn.attention.dense_attention`.

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
    call = _Call(q, k, rows, columns, backend.interpret, pairs)
    out, log_total = call.run(
        partial(_forward_kernel, call),
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
    call = _Call(q, k, rows, columns, backend.interpret, pairs)
    row_sums = jnp.einsum("bnkd,bnkd->bkn", d_out, out, preferred_element_type=jnp.float32)
    (d_q,) = call.run(
        partial(_d_q_kernel, call),
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
        partial(_d_kv_kernel, call),
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


# Which tiles meet --------------------------------------------------------------------------------


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


# Calls -------------------------------------------------------------------------------------------


class _Call:
    """Shapes of a call, and how the kernels' arguments are cut. Widths are padded to powers of 2.

    An argument is (array or its shape, block, index of the block of a program): programs are
    numbered by tile, sample and head.
    """

    def __init__(
        self, q: Array, k: Array, rows: int, columns: int, interpret: bool, pairs: int
    ) -> None:
        self.batch, self.n, self.heads, self.width = q.shape
        self.m, self.rows, self.columns = k.shape[1], rows, columns
        self.padded = max(16, pl.next_power_of_2(self.width))
        self.scale = math.log2(math.e) / math.sqrt(self.width)  # of scores as powers of 2
        self.dtype, self.interpret, self.pairs = q.dtype, interpret, pairs

    def row_tiles(self, x: Array) -> tuple[Any, ...]:
        return (x, (None, self.rows, None, self.padded), lambda t, b, h: (b, t, h, 0))

    def column_tiles(self, x: Array) -> tuple[Any, ...]:
        return (x, (None, self.columns, None, self.padded), lambda t, b, h: (b, t, h, 0))

    def whole(self, x: Array) -> tuple[Any, ...]:
        size = self._ceil(x.shape[1])
        return (x, (None, size, None, self.padded), lambda t, b, h: (b, 0, h, 0))

    def row_numbers(self, x: Array | None = None) -> tuple[Any, ...]:
        shape = jax.ShapeDtypeStruct((self.batch, self.heads, self.n), jnp.float32)
        block = (None, None, self.rows)
        return (shape if x is None else x, block, lambda t, b, h: (b, h, t))

    def all_numbers(self, x: Array) -> tuple[Any, ...]:
        return (x, (None, None, self._ceil(self.n)), lambda t, b, h: (b, h, 0))

    def _ceil(self, size: int) -> int:
        """Whole tiles of either kind."""
        return size + -size % math.lcm(self.rows, self.columns)

    def run(
        self,
        kernel: partial[None],
        *,
        over: Literal["queries", "keys"],
        products: int,
        ins: tuple[Any, ...],
        limits: Array,
        shown: Array | None,
        outs: tuple[Any, ...],
        table: Array,
    ) -> Any:
        """`kernel(*ins, limits, shown, table, *outs)` for each tile of queries or keys.

        products: how many numbers the kernel multiplies for a visible pair and a channel.
        """
        by_row = over == "queries"
        tiles = -(-(self.n if by_row else self.m) // (self.rows if by_row else self.columns))
        limits = jnp.pad(limits, (0, self._ceil(self.n) - self.n), mode="edge")
        extra: list[Any] = [
            (limits, (self.rows,), lambda t, b, h: (t,))
            if by_row
            else (limits, limits.shape, lambda t, b, h: (0,)),
            None
            if shown is None
            else (shown, (None, self._ceil(self.m)), lambda t, b, h: (b, 0))
            if by_row
            else (shown, (None, self.columns), lambda t, b, h: (b, t)),
            (table, table.shape, lambda t, b, h: (0,)),
        ]
        arguments = [*ins, *extra]
        shape = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x, *_ in outs]
        return pl.pallas_call(
            kernel,
            grid=(tiles, self.batch, self.heads),
            in_specs=[None if a is None else pl.BlockSpec(a[1], a[2]) for a in arguments],
            out_specs=[pl.BlockSpec(block, index) for _, block, index in outs],
            out_shape=shape,
            compiler_params=plgpu.CompilerParams(
                num_warps=4 if self.padded <= 64 else 8, num_stages=2
            ),
            cost_estimate=self._estimate(products, [*arguments, *outs]),
            interpret=self.interpret,
            name=f"block_causal_{kernel.func.__name__.strip('_')}",
        )(*(None if a is None else a[0] for a in arguments))

    def _estimate(self, products: int, arguments: list[Any]) -> pl.CostEstimate:
        arrays = [a[0] for a in arguments if a is not None]
        pairs = self.batch * self.heads * self.pairs
        return pl.CostEstimate(
            flops=2 * products * pairs * self.width,
            transcendentals=pairs,
            bytes_accessed=sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays),
        )

    def inside(self, positions: Array, size: int) -> Array:
        """True where a tile of [size, width] at these positions holds something."""
        return (positions < size)[:, None] & (jnp.arange(self.padded) < self.width)[None, :]

    def load(self, ref: Any, tile: Any, length: int, size: int) -> Array:
        """Tile number `tile` of [size, width], zeros around it."""
        positions = tile * length + jnp.arange(length)
        return plgpu.load(
            ref.at[pl.ds(tile * length, length), :], mask=self.inside(positions, size), other=0.0
        )

    def score(self, q: Array, k: Array, seen: Array | None) -> Array:
        scores = _dot(q, k.T) * self.scale
        return scores if seen is None else jnp.where(seen, scores, HIDDEN)


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


# Kernels -----------------------------------------------------------------------------------------


def _forward_kernel(call: _Call, *refs: Any) -> None:
    q_ref, k_ref, v_ref, limits_ref, shown_ref, table_ref, out_ref, log_total_ref = refs
    tile = pl.program_id(0)
    own = call.inside(tile * call.rows + jnp.arange(call.rows), call.n)
    q = plgpu.load(q_ref, mask=own, other=0.0)
    limits = limits_ref[...]

    def step(j: Any, carry: Any, *, masked: bool) -> Any:
        mixed, top, total = carry
        k = call.load(k_ref, j, call.columns, call.m)
        v = call.load(v_ref, j, call.columns, call.m)
        seen = _see(call, j, limits, shown_ref) if masked else None
        scores = call.score(q, k, seen)
        new_top = jnp.maximum(top, scores.max(1))
        weights = jnp.exp2(scores - new_top[:, None])
        shrink = jnp.exp2(top - new_top)
        mixed = mixed * shrink[:, None] + _dot(weights.astype(v.dtype), v)
        return mixed, new_top, total * shrink + weights.sum(1)

    carry = (
        jnp.zeros((call.rows, call.padded), jnp.float32),
        jnp.full((call.rows,), HIDDEN, jnp.float32),
        jnp.zeros((call.rows,), jnp.float32),
    )
    mixed, top, total = _walk_keys(step, carry, table_ref, shown_ref)
    plgpu.store(out_ref, (mixed / total[:, None]).astype(call.dtype), mask=own)
    rows = tile * call.rows + jnp.arange(call.rows)
    plgpu.store(log_total_ref, top + jnp.log2(total), mask=rows < call.n)


def _d_q_kernel(call: _Call, *refs: Any) -> None:
    q_ref, k_ref, v_ref, d_out_ref, log_total_ref, row_sums_ref, *rest = refs
    limits_ref, shown_ref, table_ref, d_q_ref = rest
    rows = pl.program_id(0) * call.rows + jnp.arange(call.rows)
    own = call.inside(rows, call.n)
    q = plgpu.load(q_ref, mask=own, other=0.0)
    d_out = plgpu.load(d_out_ref, mask=own, other=0.0)
    log_total = plgpu.load(log_total_ref, mask=rows < call.n, other=0.0)
    row_sums = plgpu.load(row_sums_ref, mask=rows < call.n, other=0.0)
    limits = limits_ref[...]

    def step(j: Any, d_q: Array, *, masked: bool) -> Array:
        k = call.load(k_ref, j, call.columns, call.m)
        v = call.load(v_ref, j, call.columns, call.m)
        seen = _see(call, j, limits, shown_ref) if masked else None
        weights = jnp.exp2(call.score(q, k, seen) - log_total[:, None])
        d_scores = weights * (_dot(d_out, v.T) - row_sums[:, None])
        return d_q + _dot(d_scores.astype(k.dtype), k)

    zeros = jnp.zeros((call.rows, call.padded), jnp.float32)
    d_q = _walk_keys(step, zeros, table_ref, shown_ref) * (1 / math.sqrt(call.width))
    plgpu.store(d_q_ref, d_q.astype(call.dtype), mask=own)


def _d_kv_kernel(call: _Call, *refs: Any) -> None:
    q_ref, k_ref, v_ref, d_out_ref, log_total_ref, row_sums_ref, *rest = refs
    limits_ref, shown_ref, table_ref, d_k_ref, d_v_ref = rest
    tile = pl.program_id(0)
    keys = tile * call.columns + jnp.arange(call.columns)
    own = call.inside(keys, call.m)
    k = plgpu.load(k_ref, mask=own, other=0.0)
    v = plgpu.load(v_ref, mask=own, other=0.0)
    shown = None if shown_ref is None else plgpu.load(shown_ref, mask=keys < call.m, other=0) > 0

    def step(i: Any, carry: Any, *, masked: bool) -> Any:
        d_k, d_v = carry
        there = pl.ds(i * call.rows, call.rows)
        known = i * call.rows + jnp.arange(call.rows) < call.n
        q = call.load(q_ref, i, call.rows, call.n)
        d_out = call.load(d_out_ref, i, call.rows, call.n)
        log_total = plgpu.load(log_total_ref.at[there], mask=known, other=0.0)
        row_sums = plgpu.load(row_sums_ref.at[there], mask=known, other=0.0)
        seen = keys[None, :] < limits_ref[there][:, None] if masked else None
        if shown is not None:
            seen = shown[None, :] if seen is None else seen & shown[None, :]
        weights = jnp.exp2(call.score(q, k, seen) - log_total[:, None])
        d_scores = weights * (_dot(d_out, v.T) - row_sums[:, None])
        d_v += _dot(weights.astype(d_out.dtype).T, d_out)
        d_k += _dot(d_scores.astype(q.dtype).T, q)
        return d_k, d_v

    zeros = jnp.zeros((call.columns, call.padded), jnp.float32)
    first, clear = table_ref[2 * tile], table_ref[2 * tile + 1]
    last = -(-call.n // call.rows)
    carry = jax.lax.fori_loop(first, clear, partial(step, masked=True), (zeros, zeros))
    d_k, d_v = jax.lax.fori_loop(clear, last, partial(step, masked=False), carry)
    d_k = d_k * (1 / math.sqrt(call.width))
    plgpu.store(d_k_ref, d_k.astype(call.dtype), mask=own)
    plgpu.store(d_v_ref, d_v.astype(call.dtype), mask=own)


def _walk_keys(step: Callable[..., Any], carry: Any, table_ref: Any, shown_ref: Any) -> Any:
    """`step` over the tiles of keys of this tile of queries; a key mask may hide any key."""
    tile = pl.program_id(0)
    clear, end = table_ref[2 * tile], table_ref[2 * tile + 1]
    free = partial(step, masked=shown_ref is not None)
    carry = jax.lax.fori_loop(0, clear, free, carry)
    return jax.lax.fori_loop(clear, end, partial(step, masked=True), carry)


def _see(call: _Call, j: Any, limits: Array, shown_ref: Any) -> Array:
    keys = j * call.columns + jnp.arange(call.columns)
    seen = keys[None, :] < limits[:, None]
    if shown_ref is None:
        return seen
    there = shown_ref.at[pl.ds(j * call.columns, call.columns)]
    return seen & (plgpu.load(there, mask=keys < call.m, other=0) > 0)[None, :]
