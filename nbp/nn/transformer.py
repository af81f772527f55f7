# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Pre-norm transformer over one residual stream: stacked layers for training, a cache for decoding.

The network is the official one (REFERENCE 1.1; official code `nbp/modules/gpt.py`): LayerNorm with
eps 1e-5, attention and exact-GELU MLP with biases. What a recipe may choose (norm, MLP, attention
backend, initialisation) comes in as `Parts`; nothing here asks which recipe it serves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from nbp.nn.attention import AttentionBackend
from nbp.shapes import Array, Bool, Float, Int

Attend = Callable[[Array, Array, Array], Array]  # (q, k, v) -> mixed values, [b n k d] each


@dataclass(frozen=True)
class Initialisation:
    """Standard deviations of the normal initialisers.

    linear: weights of all linear layers. embedding: token table. position: position tables (0 gives
    zeros). residual: weights of the two layers that write to the residual stream.
    """

    linear: float
    embedding: float
    position: float
    residual: float


class Mlp(nnx.Module):
    """Linear C -> 4C, exact (erf) GELU, Linear 4C -> C, with biases."""

    def __init__(self, width: int, init: Initialisation, dtype: Any, *, rngs: nnx.Rngs) -> None:
        self.up = make_linear(width, 4 * width, init.linear, dtype, rngs=rngs)
        self.down = make_linear(4 * width, width, init.residual, dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        return self.down(jax.nn.gelu(self.up(x), approximate=False))


def make_layer_norm(width: int, dtype: Any, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm with weight and bias, eps 1e-5; statistics in float32 whatever `dtype`."""
    return nnx.LayerNorm(width, epsilon=1e-5, dtype=dtype, use_fast_variance=False, rngs=rngs)


@dataclass(frozen=True)
class Parts:
    """The exchangeable pieces of the network; chosen once, in `build.py`."""

    attention: AttentionBackend
    init: Initialisation
    norm: Callable[..., Any] = make_layer_norm
    mlp: Callable[..., Any] = Mlp


@dataclass(frozen=True)
class TransformerSpec:
    """Sizes: `layers` stacked blocks of `heads` heads over a residual stream of `width`.

    dropout: share of residual branches' outputs zeroed in training, 0..1.
    dtype: compute type; parameters are float32.
    """

    layers: int
    heads: int
    width: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")

    @property
    def head_width(self) -> int:
        return self.width // self.heads


class Block(nnx.Module):
    """One layer: x + proj(attention(norm(x))), then x + mlp(norm(x))."""

    def __init__(self, spec: TransformerSpec, parts: Parts, *, rngs: nnx.Rngs) -> None:
        width, init = spec.width, parts.init
        self.spec = spec
        self.norm1 = parts.norm(width, spec.dtype, rngs=rngs)
        # Query, key, value side by side: one matmul. Heads are contiguous slices of each third.
        self.qkv = make_linear(width, 3 * width, init.linear, spec.dtype, rngs=rngs)
        self.proj = make_linear(width, width, init.residual, spec.dtype, rngs=rngs)
        self.norm2 = parts.norm(width, spec.dtype, rngs=rngs)
        self.mlp = parts.mlp(width, init, spec.dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b n d"], attend: Attend, key: Array | None = None
    ) -> Float[Array, "b n d"]:
        """`attend` mixes values over positions; `key` switches dropout on."""
        heads = (*x.shape[:-1], self.spec.heads, self.spec.head_width)
        key1, key2 = (None, None) if key is None else jax.random.split(key)
        q, k, v = (a.reshape(heads) for a in jnp.split(self.qkv(self.norm1(x)), 3, axis=-1))
        mixed = self.proj(attend(q, k, v).reshape(x.shape))
        x = x + drop(mixed, self.spec.dropout, key1)
        return x + drop(self.mlp(self.norm2(x)), self.spec.dropout, key2)


class Cache(nnx.Pytree):
    """Keys and values of all positions, preallocated: one pair of [b L k d] arrays per layer."""

    def __init__(self, keys: list[Array], values: list[Array]) -> None:
        self.keys = nnx.data(keys)
        self.values = nnx.data(values)


class Transformer(nnx.Module):
    """`spec.layers` blocks with parameters stacked on a leading axis, then a final norm."""

    def __init__(self, spec: TransformerSpec, parts: Parts, *, rngs: nnx.Rngs) -> None:
        @nnx.split_rngs(splits=spec.layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make_layers(rngs: nnx.Rngs) -> Block:
            return Block(spec, parts, rngs=rngs)

        self.spec = spec
        self.attention = parts.attention
        self.layers = make_layers(rngs)
        self.norm = parts.norm(spec.width, spec.dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        k_end: Int[Array, "n"],
        *,
        key_mask: Bool[Array, "b n"] | None = None,
        key: Array | None = None,
    ) -> Float[Array, "b n d"]:
        """Full-sequence pass (training): a scan over the stacked layers. `key`: dropout on."""
        graph, stacked = nnx.split(self.layers)
        keys = None if key is None else jax.random.split(key, self.spec.layers)

        def attend(q: Array, k: Array, v: Array) -> Array:
            return self.attention(q, k, v, k_end, key_mask)

        def step(x: Array, layer: tuple[Any, Array | None]) -> tuple[Array, None]:
            state, layer_key = layer
            return nnx.merge(graph, state)(x, attend, layer_key), None

        x, _ = jax.lax.scan(step, x, (stacked, keys))
        return self.norm(x)

    def unstack(self) -> list[Block]:
        """The layers one by one. Decoding slices the stack once, not in every pass."""
        graph, stacked = nnx.split(self.layers)
        return [
            nnx.merge(graph, jax.tree.map(lambda p, i=i: p[i], stacked))
            for i in range(self.spec.layers)
        ]

    def make_cache(self, batch: int, length: int) -> Cache:
        """An empty cache for `batch` samples of up to `length` positions, in the compute type."""
        shape = (batch, length, self.spec.heads, self.spec.head_width)
        zeros = [jnp.zeros(shape, self.spec.dtype) for _ in range(2 * self.spec.layers)]
        return Cache(zeros[: self.spec.layers], zeros[self.spec.layers :])

    def extend(
        self,
        x: Float[Array, "b n d"],
        cache: Cache,
        layers: list[Block],
        *,
        start: Array | int,
        k_end: Int[Array, "n"],
        key_mask: Bool[Array, "b m"] | None = None,
    ) -> tuple[Float[Array, "b n d"], Cache]:
        """Runs positions `[start, start + n)`, writes them into the cache and attends within it.

        `layers` is `unstack()`, taken once outside the loop over passes.
        """
        keys, values = [], []
        for i, layer in enumerate(layers):

            def attend(q: Array, k: Array, v: Array, i: int = i) -> Array:
                at = (0, start, 0, 0)
                keys.append(jax.lax.dynamic_update_slice(cache.keys[i], k, at))
                values.append(jax.lax.dynamic_update_slice(cache.values[i], v, at))
                return self.attention(q, keys[i], values[i], k_end, key_mask)

            x = layer(x, attend)
        return self.norm(x), Cache(keys, values)


def make_linear(
    inputs: int, outputs: int, std: float, dtype: Any, *, bias: bool = True, rngs: nnx.Rngs
) -> nnx.Linear:
    """Linear layer, normal(std) weights, zero bias, float32 parameters, computing in `dtype`."""
    init = nnx.initializers.normal(std)
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=init, dtype=dtype, rngs=rngs)


def drop(x: Array, rate: float, key: Array | None) -> Array:
    """Inverted dropout; the identity without a key or at rate 0."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))
