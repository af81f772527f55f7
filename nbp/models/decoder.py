# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A generator whose parameters are laid out for decoding (see `nbp.nn.decoding`).

Training scans over a stack of layers. A pass of decoding would copy each layer off it, so the
layers are taken off once, before the loop over passes, in the order in which a pass reads them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from nbp.models.generator import Generator, GeneratorNetwork
from nbp.nn.decoding import (
    STREAM,
    Cache,
    CacheType,
    DecodingLayer,
    Matrix,
    Stored,
    WeightType,
    find_part,
    lay_out,
    lay_out_part,
    name_axes,
    put_on_mesh,
    run_layer,
    score,
)
from nbp.nn.transformer import Transformer, TransformerSpec
from nbp.parallel.axes import constrain
from nbp.shapes import Array, Bool, Float, Int, PyTree


def lay_out_layers(
    transformer: Transformer, weights: WeightType = "compute"
) -> list[DecodingLayer]:
    """The layers one by one as decoding reads them: a copy, once outside the loop of passes."""
    stacked, layers = nnx.to_pure_dict(nnx.state(transformer.layers)), []
    for i in range(transformer.spec.layers):
        params = jax.tree.map(lambda p, i=i: p[i], stacked)
        parts = {
            part: lay_out_part(part, find_part(part, params), transformer.spec.dtype, weights)
            for part in DecodingLayer._fields
        }
        layers.append(DecodingLayer(**parts))
    return layers


def make_cache(
    spec: TransformerSpec, batch: int, length: int, *, stored: CacheType = "compute"
) -> Cache:
    """An empty cache for `batch` samples of up to `length` positions. int8 adds scales."""
    dtype = spec.dtype if stored == "compute" else jnp.dtype(stored)

    def make(*shape: int) -> Stored:
        size = (batch, spec.heads, length)
        scale = jnp.zeros(size, jnp.float32) if dtype == jnp.int8 else None
        return Stored(jnp.zeros((batch, spec.heads, *shape), dtype), scale)

    layers, width = range(spec.layers), spec.head_width
    return Cache([make(length, width) for _ in layers], [make(width, length) for _ in layers])


def extend(
    transformer: Transformer,
    x: Float[Array, "b n d"],
    cache: Cache,
    layers: list[DecodingLayer],
    *,
    start: Array | int,
    k_end: Int[Array, "n"],
    key_mask: Bool[Array, "b m"] | None = None,
) -> tuple[Float[Array, "b n d"], Cache]:
    """Runs positions `[start, start + n)`, writes them into the cache and attends within it.

    `layers` is `lay_out_layers()`, taken once outside the loop over passes.
    """
    keys, values = [], []
    mask = None if key_mask is None else key_mask[:, : cache.length]
    x = constrain(jnp.moveaxis(x, 2, 0), STREAM)
    for i, layer in enumerate(layers):
        x, new_keys, new_values = run_layer(
            layer,
            x,
            cache.keys[i],
            cache.values[i],
            heads=transformer.spec.heads,
            start=start,
            k_end=k_end,
            key_mask=mask,
        )
        keys.append(new_keys)
        values.append(new_values)
    return transformer.norm(jnp.moveaxis(x, 0, 2)), Cache(keys, values)


class LaidOut(NamedTuple):
    """Parameters of a generator for decoding; `rest` is as in training."""

    rest: PyTree
    layers: list[DecodingLayer]
    head: Matrix


class Decoder(NamedTuple):
    """A generator, its layers and its head. `stored`: type of the cache."""

    model: Generator
    layers: list[DecodingLayer]
    head: Matrix
    stored: CacheType = "compute"

    def make_cache(self, batch: int, length: int) -> Cache:
        """An empty cache for `batch` clips of up to `length` positions."""
        return make_cache(self.model.spec, batch, length, stored=self.stored)

    def extend(
        self,
        x: Float[Array, "b n d"],
        cache: Cache,
        *,
        start: Array | int,
        k_end: Int[Array, "n"],
        key_mask: Bool[Array, "b m"] | None = None,
    ) -> tuple[Float[Array, "b n d"], Cache]:
        """`extend` with these layers."""
        return extend(
            self.model.transformer,
            x,
            cache,
            self.layers,
            start=start,
            k_end=k_end,
            key_mask=key_mask,
        )

    def predict(self, x: Float[Array, "b n d"]) -> Float[Array, "b n v"]:
        """Logits in float32 over `Generator.scored`."""
        return constrain(score(self.head, x), ("batch", None, "vocabulary"))


def make_decoder(
    model: Generator, *, weights: WeightType = "compute", stored: CacheType = "compute"
) -> Decoder:
    """The decoder of a generator; copies of its layers and its head are made, once."""
    head = lay_out(model.head.kernel[...], None, model.spec.dtype, weights)
    return Decoder(model, lay_out_layers(model.transformer, weights), head, stored)


def find_generator(model: Generator | Decoder) -> Generator:
    """The generator itself."""
    return model.model if isinstance(model, Decoder) else model


def find_decoder(model: Generator | Decoder) -> Decoder:
    """The decoder itself, or one that is made of a generator."""
    return model if isinstance(model, Decoder) else make_decoder(model)


def lay_out_params(
    network: GeneratorNetwork,
    params: PyTree,
    *,
    weights: WeightType = "compute",
    mesh: Mesh | None = None,
) -> LaidOut:
    """Lays parameters out for decoding. They are deleted, so that this takes little memory.

    With a mesh each device gets its share of the heads, MLPs and vocabulary, and the rest whole.
    """
    layers, dtype, rest = range(network.spec.layers), network.spec.dtype, dict(params)
    head, stack = rest.pop("head"), dict(rest["transformer"])
    blocks = stack.pop("layers")
    rest["transformer"] = stack

    def make(part: str, values: PyTree) -> PyTree:
        laid = lay_out_part(part, values, dtype, weights)
        return jax.block_until_ready(put_on_mesh(laid, name_axes(part, laid), mesh))

    parts: dict[str, list[PyTree]] = {}
    for part in DecodingLayer._fields:  # only one of them is in memory twice
        values = find_part(part, blocks)
        parts[part] = [make(part, jax.tree.map(lambda p, i=i: p[i], values)) for i in layers]
        _delete(values)
    laid_head = make("head", head)
    _delete(head)
    whole = jax.tree.map(lambda p: (None,) * p.ndim, rest)
    return LaidOut(
        put_on_mesh(rest, whole, mesh),
        [DecodingLayer(**{part: parts[part][i] for part in parts}) for i in layers],
        laid_head,
    )


def bind_decoder(
    network: GeneratorNetwork,
    params: PyTree | LaidOut,
    *,
    weights: WeightType = "compute",
    stored: CacheType = "compute",
) -> Decoder:
    """The decoder of parameters; those of training are laid out within the program."""
    if not isinstance(params, LaidOut):
        return make_decoder(network.bind(params), weights=weights, stored=stored)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    layers = {"layers": shapes["transformer"]["layers"]}
    transformer = {**params.rest["transformer"], **layers}
    model = network.bind({**params.rest, "transformer": transformer, "head": shapes["head"]})
    return Decoder(model, params.layers, params.head, stored)


def _delete(params: PyTree) -> None:
    for leaf in jax.tree.leaves(params):
        if isinstance(leaf, jax.Array):
            leaf.delete()
