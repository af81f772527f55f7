# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Attention on TPUs: JAX's splash attention, given the limits of next-block prediction.

Splash attention (`jax.experimental.pallas.ops.tpu.splash_attention`) is a pair of kernels that skip
tiles of the mask in which nothing is visible. It takes any mask that can be cut into tiles; here a
tile is computed from the limits, in the kernel too, so that no [n, m] array exists anywhere.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from nbp.parallel.sharding import split_call
from nbp.shapes import Array, Bool, Float, Int

LANES = 128  # tiles and head widths are multiples of it
TILES = (128, 256, 384, 512)
# What a step of a kernel's grid costs beside its tile, in pairs of query and key: about 0.35 us
# (JAX's documentation of Pallas on TPUs), as long as a v5e computes half a tile of 512 x 512.
STEP = 2**17
HEADS = ("batch", None, "heads", None)


class PrefixMask(splash.Mask):
    """`k_end` as a mask of splash attention: query q sees the keys `[0, k_end[q])` of `keys`.

    The kernels compute tiles themselves: they call `mask_function` on `q_sequence` of their queries
    and the numbers of their keys.
    """

    def __init__(self, k_end: Int[np.ndarray, "n"], keys: int) -> None:
        self.q_sequence = k_end.astype(np.int32)
        self.mask_function = _sees
        self.keys = keys

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.q_sequence), self.keys)

    def __getitem__(self, idx: tuple[slice, slice]) -> np.ndarray:
        rows, columns = idx
        return _sees(self.q_sequence[rows][:, None], np.arange(self.keys)[columns][None, :])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PrefixMask) and hash(self) == hash(other)

    def __hash__(self) -> int:
        return hash((self.q_sequence.tobytes(), self.keys))


def _sees(limit: Any, key: Any) -> Any:
    return key < limit


@dataclass(frozen=True)
class SplashAttention:
    """An `AttentionBackend` for TPUs; arguments as in `nbp.nn.attention.reference.dense_attention`.

    `k_end` must be known when the program is compiled (a numpy array): ValueError otherwise. Heads
    are padded with zeros to a multiple of 128, queries and keys to whole tiles.

    interpret: whether JAX computes what the kernel says step by step, on any device (for tests).
    tile: queries and keys of a tile; 0 chooses by the limits.
    """

    interpret: bool = False
    tile: int = 0

    def __call__(
        self,
        q: Float[Array, "b n k d"],
        k: Float[Array, "b m k d"],
        v: Float[Array, "b m k d"],
        k_end: Int[Array, "n"],
        key_mask: Bool[Array, "b m"] | None = None,
    ) -> Float[Array, "b n k d"]:
        if not isinstance(k_end, np.ndarray):
            raise ValueError("splash attention needs limits that are known when it is compiled")
        reach = int(k_end.max())
        tile = self.tile or choose_tile(k_end)

        def attend(q: Array, k: Array, v: Array, key_mask: Array | None) -> Array:
            return self._attend(q, k, v, key_mask, k_end, tile)

        hidden = None if key_mask is None else key_mask[:, :reach]
        arrays = (q, k[:, :reach], v[:, :reach], hidden)
        axes = (HEADS, HEADS, HEADS, ("batch", None))
        return split_call(attend, arrays, axes, out_axes=HEADS)

    def _attend(
        self,
        q: Array,
        k: Array,
        v: Array,
        key_mask: Array | None,
        k_end: np.ndarray,
        tile: int,
    ) -> Array:
        n, heads, width = q.shape[1:]
        scaled = (q * (1 / math.sqrt(width))).astype(q.dtype)
        q, k, v = (_lay_out(x, tile) for x in (scaled, k, v))
        limits = np.pad(k_end, (0, q.shape[2] - n), mode="edge")
        mask = PrefixMask(limits, k.shape[2])
        kernel = splash.make_splash_mha_single_device(
            splash.MultiHeadMask([mask] * heads),
            block_sizes=_cut(tile),
            residual_checkpoint_name="attention",
            interpret=self.interpret,
        )
        out: Any
        if key_mask is None:
            out = jax.vmap(kernel)(q, k, v)
        else:
            shown = jnp.pad(key_mask, ((0, 0), (0, k.shape[2] - key_mask.shape[1])))
            ones = jnp.ones((q.shape[0], q.shape[2]), jnp.int32)
            segments = splash.SegmentIds(q=ones, kv=shown.astype(jnp.int32))
            out = jax.vmap(kernel)(q, k, v, segments)
        return jnp.swapaxes(out[:, :, :n, :width], 1, 2)


def choose_tile(k_end: Int[np.ndarray, "n"]) -> int:
    """The size of tiles with which a pass over these limits costs least (see `STEP`)."""

    def cost(tile: int) -> tuple[int, int]:
        reach = [k_end[start : start + tile].max() for start in range(0, len(k_end), tile)]
        visited = sum(-(-int(end) // tile) for end in reach)
        return visited * (tile**2 + STEP), -tile

    return min(TILES, key=cost)


def _cut(tile: int) -> splash.BlockSizes:
    return splash.BlockSizes(
        block_q=tile,
        block_kv=tile,
        block_q_dkv=tile,
        block_kv_dkv=tile,
        block_q_dq=tile,
        block_kv_dq=tile,
    )


def _lay_out(x: Array, tile: int) -> Array:
    """[b n k d] -> [b k n d], n and d padded with zeros to whole tiles and lanes."""
    x = jnp.swapaxes(x, 1, 2)
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % tile), (0, -x.shape[3] % LANES)))
