# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Attention on NVIDIA GPUs of the Hopper and Blackwell generations: tokamax's kernels.

tokamax (github.com/openxla/tokamax) has FlashAttention, forward and backward, in Pallas for Mosaic
GPU. Its masks have a limit per query, and tiles beyond it are skipped. Its public function takes no
such mask, so operation and mask come from private modules, at the version in the extra `cuda`.
"""

import importlib.util
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from nbp.errors import ConfigError
from nbp.parallel.sharding import split_call
from nbp.shapes import Array, Bool, Float, Int

HEADS = ("batch", None, "heads", None)
GENERATIONS = (9, 10)  # compute capabilities sm90 and sm100
TILE = 128  # queries and keys are padded to whole tiles, which every configuration of tokamax takes


@dataclass(frozen=True)
class MosaicAttention:
    """An `AttentionBackend` for float16 and bfloat16; arguments as in `dense_attention`.

    A key that is hidden from a sample would need a whole mask, which skips nothing. Instead the
    visible keys of a sample are moved to the front, and its limits count those alone.

    operation: another of tokamax's attention operations with a gradient of its own (for tests).
    """

    operation: Any = None

    def __call__(
        self,
        q: Float[Array, "b n k d"],
        k: Float[Array, "b m k d"],
        v: Float[Array, "b m k d"],
        k_end: Int[Array, "n"],
        key_mask: Bool[Array, "b m"] | None = None,
    ) -> Float[Array, "b n k d"]:
        operation = self.operation or _make_operation()

        def attend(q: Array, k: Array, v: Array, key_mask: Array | None, limits: Array) -> Array:
            n = q.shape[1]
            limits = limits[None]
            if key_mask is not None:
                k, v, limits = _move_to_front(k, v, key_mask, limits)
            q, k, v = (_pad(x) for x in (q, k, v))
            limits = jnp.pad(limits, ((0, 0), (0, q.shape[1] - n)), mode="edge")
            out: Any = _attend(q, k, v, limits[:, None], operation)
            return out[:, :n]

        limits = jnp.asarray(k_end, jnp.int32)
        axes = (HEADS, HEADS, HEADS, ("batch", None), (None,))
        return split_call(attend, (q, k, v, key_mask, limits), axes, out_axes=HEADS)


def is_installed() -> bool:
    return importlib.util.find_spec("tokamax") is not None


def _make_operation() -> Any:
    from tokamax._src.ops.attention.pallas_mosaic_gpu import PallasMosaicGpuFlashAttention  # pyright: ignore[reportMissingImports]

    return PallasMosaicGpuFlashAttention()


def _heuristics() -> AbstractContextManager[Any]:
    """Sizes of tiles by tokamax's rules; its tables, which have none for such masks, would warn."""
    from tokamax.config import ignore_autotuning_cache  # pyright: ignore[reportMissingImports]

    return ignore_autotuning_cache(True)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q: Array, k: Array, v: Array, limits: Array, operation: Any) -> Array:
    """limits: [1 or b, 1, n]. As tokamax's own gradient, but what it keeps has the name by which
    `memory.remat` keeps it too."""
    return _forward(q, k, v, limits, operation)[0]


def _forward(
    q: Array, k: Array, v: Array, limits: Array, operation: Any
) -> tuple[Array, tuple[Any, ...]]:
    with _heuristics():
        out, softmax = operation(q, k, v, mask=_make_mask(limits), return_residuals=True)
    out = checkpoint_name(out, "attention")
    softmax = tuple(checkpoint_name(x, "attention") for x in softmax)
    return out, (q, k, v, limits, out, softmax)


def _backward(
    operation: Any, kept: tuple[Any, ...], d_out: Array
) -> tuple[Array, Array, Array, None]:
    q, k, v, limits, out, softmax = kept
    settings = dict(operation.bind(q, k, v, mask=_make_mask(limits)).kwargs)
    del settings["return_residuals"]
    try:
        with _heuristics():
            found = operation.vjp(softmax, out, d_out, q, k, v, **settings)
    except ValueError as error:
        if "shared memory" not in str(error):
            raise
        raise ConfigError(
            f"generator.attention=mosaic has no gradient for heads of width {q.shape[-1]} on this "
            "GPU: use more generator.heads, or pallas"
        ) from error
    return *(found[name].astype(x.dtype) for name, x in zip("qkv", (q, k, v), strict=True)), None


_attend.defvjp(_forward, _backward)


def _make_mask(limits: Array) -> Any:
    from tokamax._src.ops.attention.base import Mask  # pyright: ignore[reportMissingImports]

    return Mask(k_end=limits)


def _move_to_front(
    k: Array, v: Array, key_mask: Array, limits: Array
) -> tuple[Array, Array, Array]:
    """Keys and values with the visible ones of a sample first, in their order; limits [b n]."""
    order = jnp.argsort(~key_mask, axis=1, stable=True)
    k, v = (jnp.take_along_axis(x, order[:, :, None, None], 1) for x in (k, v))
    seen = jnp.cumsum(key_mask, 1, dtype=jnp.int32)
    return k, v, jnp.take(seen, limits[0] - 1, axis=1)


def _pad(x: Array) -> Array:
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % TILE), (0, 0), (0, 0)))
