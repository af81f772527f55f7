# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Attention on NVIDIA GPUs through cuDNN's fused kernels, as `jax.nn` offers them."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from nbp.errors import ConfigError
from nbp.parallel.sharding import split_call
from nbp.shapes import Array, Bool, Float, Int

HEADS = ("batch", None, "heads", None)


@dataclass(frozen=True)
class CudnnAttention:
    """An `AttentionBackend` for float16 and bfloat16; arguments as in `dense_attention`.

    cuDNN knows causal masks and lengths of samples, but no limit per query: the mask is a whole
    array, added to the scores in the kernel, and no tile is skipped. Its gradient wants an even
    number of queries and keys, so one of each may be added.

    implementation: "xla" computes the same call without cuDNN, on any device (for tests).
    """

    implementation: Literal["cudnn", "xla"] = "cudnn"

    def __call__(
        self,
        q: Float[Array, "b n k d"],
        k: Float[Array, "b m k d"],
        v: Float[Array, "b m k d"],
        k_end: Int[Array, "n"],
        key_mask: Bool[Array, "b m"] | None = None,
    ) -> Float[Array, "b n k d"]:
        n = q.shape[1]
        q, k, v = (_make_even(x) for x in (q, k, v))
        limits = jnp.pad(jnp.asarray(k_end), (0, q.shape[1] - n), mode="edge")
        if key_mask is not None:
            key_mask = _make_even(key_mask)

        def attend(q: Array, k: Array, v: Array, key_mask: Array | None, limits: Array) -> Array:
            mask = (jnp.arange(k.shape[1])[None, :] < limits[:, None])[None, None]
            mask = mask if key_mask is None else mask & key_mask[:, None, None, :]
            return self._compute(q, k, v, mask)

        axes = (HEADS, HEADS, HEADS, ("batch", None), (None,))
        return split_call(attend, (q, k, v, key_mask, limits), axes, out_axes=HEADS)[:, :n]

    def _compute(self, q: Array, k: Array, v: Array, mask: Array) -> Array:
        compute = jax.nn.dot_product_attention
        try:
            return compute(q, k, v, mask=mask, implementation=self.implementation)
        except RuntimeError as error:
            if "cuDNN" not in str(error):
                raise
            raise ConfigError(
                f"generator.attention=cudnn: {error} Use auto, or install JAX with its CUDA "
                f'libraries: pip install "jax[cuda13]=={jax.__version__}"'
            ) from error


def _make_even(x: Array) -> Array:
    return jnp.pad(x, [(0, x.shape[1] % 2 if axis == 1 else 0) for axis in range(x.ndim)])
