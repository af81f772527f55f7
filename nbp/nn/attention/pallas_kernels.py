# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The kernels of `nbp.nn.attention.pallas`: the forward pass, and the gradients of its arguments.

Scores are powers of 2, in which GPUs compute exponentials. Tiles at the ends of a sequence and of a
head are filled with zeros when they are read.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from nbp.shapes import Array

HIDDEN = -0.7 * float(np.finfo(np.float32).max)  # infinities would meet as inf - inf


class Call:
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
            name=f"block_causal_{kernel.func.__name__}",
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


def forward_kernel(call: Call, *refs: Any) -> None:
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


def d_q_kernel(call: Call, *refs: Any) -> None:
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


def d_kv_kernel(call: Call, *refs: Any) -> None:
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


def _see(call: Call, j: Any, limits: Array, shown_ref: Any) -> Array:
    keys = j * call.columns + jnp.arange(call.columns)
    seen = keys[None, :] < limits[:, None]
    if shown_ref is None:
        return seen
    there = shown_ref.at[pl.ds(j * call.columns, call.columns)]
    return seen & (plgpu.load(there, mask=keys < call.m, other=0) > 0)[None, :]
