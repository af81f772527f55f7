# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The cache of keys and values: allocated once, written in place, in the compute type or 8 bits."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nbp.nn.transformer import TransformerSpec
from nbp.ranges import CacheType
from nbp.shapes import Array, Float

LARGEST = 127.0  # of the 8-bit integers; -128 is not used


class CacheEntry(NamedTuple):
    """Keys [b k L d] or values [b k d L] of one layer; int8 with a scale per head and position."""

    data: Array
    scale: Float[Array, "b k n"] | None = None


class Cache(NamedTuple):
    """Keys and values of each layer, allocated for a number of positions, written in place."""

    keys: list[CacheEntry]
    values: list[CacheEntry]

    @property
    def length(self) -> int:
        return self.keys[0].data.shape[2]

    def grow(self, length: int) -> "Cache":
        """The same with room for `length` positions: a copy, layer by layer."""
        more = length - self.length
        return Cache(
            [_pad(stored, more, axis=2) for stored in self.keys],
            [_pad(stored, more, axis=3) for stored in self.values],
        )


def quantize(x: Array, *, axis: int) -> tuple[Array, Array]:
    """Nearest 8-bit integers, and the scale that they have along an axis, which it lacks.

    The largest magnitude becomes 127, so that the error is at most 1/254 of it.
    """
    x = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1.0) / LARGEST
    return jnp.round(x / scale).astype(jnp.int8), jnp.squeeze(scale, axis)


def write(
    stored: CacheEntry, new: Float[Array, "b k r c"], start: Array | int, *, axis: int
) -> CacheEntry:
    """Puts positions `[start, ...)` into a cache, whose positions lie along `axis`, 2 or 3."""
    place: list[Array | int] = [0, 0, 0, 0]
    place[axis] = start
    if stored.scale is None:
        new = new.astype(stored.data.dtype)
        return CacheEntry(jax.lax.dynamic_update_slice(stored.data, new, place))
    integers, scale = quantize(new, axis=5 - axis)
    return CacheEntry(
        jax.lax.dynamic_update_slice(stored.data, integers, place),
        jax.lax.dynamic_update_slice(stored.scale, scale, (0, 0, start)),
    )


def _pad(stored: CacheEntry, more: int, *, axis: int) -> CacheEntry:
    pads = [(0, 0)] * 4
    pads[axis] = (0, more)
    scale = None if stored.scale is None else jnp.pad(stored.scale, [(0, 0), (0, 0), (0, more)])
    return CacheEntry(jnp.pad(stored.data, pads), scale)


def choose_lengths(length: int) -> tuple[int, ...]:
    """Lengths of a cache that grows to `length` positions: a half, three quarters, all.

    Attention over an allocated cache costs as much where it is empty. Each growth copies it once,
    which is less than a pass, and adds a loop to the program. Multiples of 128 suit all devices.
    """
    parts = (128 * math.ceil(length * part / 128) for part in (0.5, 0.75))
    return tuple(sorted({size for size in parts if size < length} | {length}))


def make_cache(
    spec: TransformerSpec, batch: int, length: int, *, stored: CacheType = "compute"
) -> Cache:
    """An empty cache for `batch` samples of up to `length` positions. int8 adds scales."""
    dtype = spec.dtype if stored == "compute" else jnp.dtype(stored)

    def make(*shape: int) -> CacheEntry:
        size = (batch, spec.heads, length)
        scale = jnp.zeros(size, jnp.float32) if dtype == jnp.int8 else None
        return CacheEntry(jnp.zeros((batch, spec.heads, *shape), dtype), scale)

    layers, width = range(spec.layers), spec.head_width
    return Cache([make(length, width) for _ in layers], [make(width, length) for _ in layers])
