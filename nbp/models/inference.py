# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The layers as decoding runs them: few positions at a time against a cache of all before them.

It is the arithmetic of `nbp.nn.transformer.Block`, laid out for passes of one to a few hundred
positions. Activations are [features, batch, positions] and weights [outputs, inputs], so that a
pass multiplies from the left: XLA's matmul on a CPU is then two to seven times as fast at 16
positions, and accelerators do not mind. Nothing of the weights or the cache is rearranged or copied
in a pass.

Weights lie in the compute type, or as 8-bit integers with a scale for each output. A cache lies in
the compute type, in bfloat16, or as 8-bit integers with a scale for each position and head.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from nbp.models.generator import Generator, GeneratorNetwork, require_vocabulary
from nbp.models.heads import Choose, DigitDrawing, VocabularyHead, place_offsets
from nbp.nn.attention.kv_cache import Cache, CacheEntry, make_cache, quantize, write
from nbp.nn.attention.reference import cached_attention
from nbp.nn.rotary import Rotation, turn_columns
from nbp.nn.transformer import Transformer
from nbp.parallel.sharding import Axes, constrain, gather, make_partition_spec
from nbp.ranges import CacheType, WeightType
from nbp.shapes import Array, Bool, Float, Int, PyTree

STREAM: Axes = (None, "batch", None)  # of the residual stream


class Matrix(NamedTuple):
    """A linear layer: [outputs, inputs] in the compute type, or int8 to be scaled by output."""

    rows: Array
    bias: Float[Array, "o"] | None = None
    scale: Float[Array, "o"] | None = None


class Norm(NamedTuple):
    """LayerNorm, eps 1e-5."""

    scale: Float[Array, "d"]
    bias: Float[Array, "d"]


class DecodingLayer(NamedTuple):
    """One layer of the transformer; `qkv` has the outputs of queries, then keys, then values."""

    norm1: Norm
    qkv: Matrix
    proj: Matrix
    norm2: Norm
    up: Matrix
    down: Matrix


# Logical axes of the rows, for a mesh; see `nbp.parallel.sharding`.
ROWS: dict[str, Axes] = {
    "qkv": ("heads", "embed"),
    "proj": ("embed", "heads"),
    "up": ("mlp", "embed"),
    "down": ("embed", "mlp"),
    "head": ("vocabulary", "embed"),
}


def pack(
    kernel: Float[Array, "i *o"], bias: Float[Array, "*o"] | None, dtype: Any, weights: WeightType
) -> Matrix:
    """A kernel [inputs, outputs...] of training as decoding reads it."""
    rows = jnp.transpose(kernel.reshape(kernel.shape[0], -1))
    flat = None if bias is None else bias.reshape(-1).astype(jnp.float32)
    if weights == "int8":
        integers, scale = quantize(rows, axis=1)
        return Matrix(integers, flat, scale)
    return Matrix(rows.astype(dtype), flat)


def pack_part(part: str, params: Mapping[str, Any], dtype: Any, weights: WeightType) -> Any:
    """A part of `DecodingLayer`, a `Norm` or a `Matrix`, from the parameters of a `Block`."""
    if part in ("norm1", "norm2"):
        return Norm(params["scale"], params["bias"])
    return pack(params["kernel"], params.get("bias"), dtype, weights)


def part_of(part: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where the parameters of a `Block` have it."""
    return params["mlp"][part] if part in ("up", "down") else params[part]


def name_axes(part: str, value: Norm | Matrix) -> PyTree:
    """Logical axes of the arrays of a part. A bias as wide as the stream is not split."""
    if isinstance(value, Norm):
        return Norm((None,), (None,))  # type: ignore[arg-type]
    outputs = ROWS[part][0]
    vector = (None if outputs == "embed" else outputs,)
    bias = None if value.bias is None else vector
    return Matrix(ROWS[part], bias, None if value.scale is None else vector)  # type: ignore[arg-type]


def put_on_mesh(values: PyTree, axes: PyTree, mesh: Mesh | None) -> PyTree:
    """Puts arrays on a mesh: what `tensor` splits in pieces, the rest whole on every device."""
    if mesh is None:
        return values

    def put(value: Array, names: Axes) -> Array:
        spec = make_partition_spec([None if name == "embed" else name for name in names])
        return jax.device_put(value, NamedSharding(mesh, spec))

    return jax.tree.map(put, values, axes)


def run_layer(
    layer: DecodingLayer,
    x: Float[Array, "d b n"],
    keys: CacheEntry,
    values: CacheEntry,
    *,
    heads: int,
    start: Array | int,
    k_end: Int[Array, "n"],
    key_mask: Bool[Array, "b m"] | None,
    rotation: Rotation | None,
) -> tuple[Float[Array, "d b n"], CacheEntry, CacheEntry]:
    """Positions `[start, start + n)` through one layer: what they add to the stream and the cache.

    key_mask: of as many keys as the cache has room for. rotation: keys keep it in the cache.
    """
    width, batch, n = x.shape
    mixed = multiply("qkv", layer.qkv, normalize(layer.norm1, x))
    parts = mixed.reshape(3, heads, width // heads, batch, n)
    q, k, v = constrain(jnp.moveaxis(parts, 3, 1), (None, "batch", "heads", None, None))
    sinks = None
    if rotation is not None:
        if rotation.sinks is not None:
            sinks = rotation.sinks.keys, turn_columns(q, rotation.sinks.query)
        q, k = rotation.turn_columns(q, k)
    keys = write(keys, jnp.swapaxes(k, 2, 3), start, axis=2)
    values = write(values, v, start, axis=3)
    with jax.named_scope("attention"):
        out = cached_attention(q, *keys, *values, k_end=k_end, key_mask=key_mask, sinks=sinks)
    out = jnp.moveaxis(out, 0, 2).reshape(width, batch, n)
    x = constrain(x + multiply("proj", layer.proj, out), STREAM)
    inner = multiply("up", layer.up, normalize(layer.norm2, x))
    inner = jax.nn.gelu(constrain(inner, ("mlp", "batch", None)), approximate=False)
    return constrain(x + multiply("down", layer.down, inner), STREAM), keys, values


def normalize(norm: Norm, x: Float[Array, "d *s"]) -> Float[Array, "d *s"]:
    """LayerNorm over the first axis, statistics in float32."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(0)
    factor = jax.lax.rsqrt(jnp.square(centred).mean(0) + 1e-5)
    column = (-1,) + (1,) * (x.ndim - 1)
    out = centred * factor * norm.scale.reshape(column) + norm.bias.reshape(column)
    return out.astype(x.dtype)


def multiply(part: str, matrix: Matrix, x: Float[Array, "i b n"]) -> Float[Array, "o b n"]:
    """A linear layer on columns; summed and biased in float32."""
    rows = gather(matrix.rows, ROWS[part], x.dtype if matrix.scale is None else None)
    out = jax.lax.dot_general(
        rows.astype(x.dtype), x, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )
    if matrix.scale is not None:
        out = out * matrix.scale[:, None, None]
    return (out if matrix.bias is None else out + matrix.bias[:, None, None]).astype(x.dtype)


def score(head: Matrix, x: Float[Array, "b n d"]) -> Float[Array, "b n v"]:
    """The head: float32, position by position."""
    rows = gather(head.rows, ROWS["head"], x.dtype if head.scale is None else None)
    logits = jnp.einsum("bnd,vd->bnv", x, rows.astype(x.dtype), preferred_element_type=jnp.float32)
    return logits if head.scale is None else logits * head.scale


def pack_layers(transformer: Transformer, weights: WeightType = "compute") -> list[DecodingLayer]:
    """The layers one by one as decoding reads them: a copy, once outside the loop of passes."""
    stacked, layers = nnx.to_pure_dict(nnx.state(transformer.layers)), []
    for i in range(transformer.spec.layers):
        params = jax.tree.map(lambda p, i=i: p[i], stacked)
        parts = {
            part: pack_part(part, part_of(part, params), transformer.spec.dtype, weights)
            for part in DecodingLayer._fields
        }
        layers.append(DecodingLayer(**parts))
    return layers


def forward_cached(
    transformer: Transformer,
    x: Float[Array, "b n d"],
    cache: Cache,
    layers: list[DecodingLayer],
    *,
    start: Array | int,
    k_end: Int[Array, "n"],
    key_mask: Bool[Array, "b m"] | None = None,
    rotation: Rotation | None = None,
) -> tuple[Float[Array, "b n d"], Cache]:
    """Runs positions `[start, start + n)`, writes them into the cache and attends within it.

    `layers` is `pack_layers()`, taken once outside the loop over passes.
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
            rotation=rotation,
        )
        keys.append(new_keys)
        values.append(new_values)
    return transformer.norm(jnp.moveaxis(x, 0, 2)), Cache(keys, values)


class PackedParams(NamedTuple):
    """Parameters of a generator for decoding; `rest` is as in training, as is a head of digits."""

    rest: PyTree
    layers: list[DecodingLayer]
    head: Matrix | None


class InferenceModel(NamedTuple):
    """A generator, its layers and its head. `stored`: type of the cache.

    head: None for one of digits, which is read as in training.
    """

    model: Generator
    layers: list[DecodingLayer]
    head: Matrix | None
    stored: CacheType = "compute"

    def make_cache(self, batch: int, length: int) -> Cache:
        """An empty cache for `batch` clips of up to `length` positions."""
        return make_cache(self.model.spec, batch, length, stored=self.stored)

    def forward_cached(
        self,
        x: Float[Array, "b n d"],
        cache: Cache,
        *,
        start: Array | int,
        k_end: Int[Array, "n"],
        key_mask: Bool[Array, "b m"] | None = None,
    ) -> tuple[Float[Array, "b n d"], Cache]:
        """The function of this name, with these layers and the model's rotation."""
        return forward_cached(
            self.model.transformer,
            x,
            cache,
            self.layers,
            start=start,
            k_end=k_end,
            key_mask=key_mask,
            rotation=self.model.rotation(start, x.shape[1]),
        )

    def predict(self, x: Float[Array, "b n d"]) -> Float[Array, "b n v"]:
        """Logits in float32 over `Generator.output_ids`."""
        if self.head is None:
            require_vocabulary(self.model)
        assert self.head is not None
        return constrain(score(self.head, x), ("batch", None, "vocabulary"))

    def draw(
        self,
        x: Float[Array, "r n d"],
        choose: Choose,
        *,
        token: Array | int,
        known: Int[Array, "b n"] | None = None,
        kept: Bool[Array, "b n"] | None = None,
    ) -> Int[Array, "b n"]:
        """Draws the block that begins with `token`: indexes into `Generator.output_ids`, or -1.

        Other arguments as in `nbp.models.heads.DigitDrawing.draw`.
        """
        head, plan = self.model.head, self.model.plan
        if not isinstance(head, DigitDrawing):
            return choose(self.predict(x), None)
        offsets = jnp.asarray(place_offsets(plan))
        offsets = jax.lax.dynamic_slice_in_dim(offsets, token - plan.first, x.shape[1])
        return head.draw(x, choose, offsets=offsets, known=known, kept=kept)


def make_inference_model(
    model: Generator, *, weights: WeightType = "compute", stored: CacheType = "compute"
) -> InferenceModel:
    """The decoder of a generator; copies of its layers and its head are made, once."""
    head = None
    if isinstance(model.head, VocabularyHead):
        head = pack(model.head.kernel[...], None, model.spec.dtype, weights)
    return InferenceModel(model, pack_layers(model.transformer, weights), head, stored)


def generator_of(model: Generator | InferenceModel) -> Generator:
    """The generator itself."""
    return model.model if isinstance(model, InferenceModel) else model


def inference_model_of(model: Generator | InferenceModel) -> InferenceModel:
    """The decoder itself, or one that is made of a generator."""
    return model if isinstance(model, InferenceModel) else make_inference_model(model)


def pack_params(
    network: GeneratorNetwork,
    params: PyTree,
    *,
    weights: WeightType = "compute",
    mesh: Mesh | None = None,
) -> PackedParams:
    """Lays parameters out for decoding. They are deleted, so that this takes little memory.

    With a mesh each device gets its share of the heads, MLPs and vocabulary, and the rest whole.
    """
    layers, dtype, rest = range(network.spec.layers), network.spec.dtype, dict(params)
    head = rest.pop("head") if network.head is None else None
    stack = dict(rest["transformer"])
    blocks = stack.pop("layers")
    rest["transformer"] = stack

    def make(part: str, values: PyTree) -> PyTree:
        laid = pack_part(part, values, dtype, weights)
        return jax.block_until_ready(put_on_mesh(laid, name_axes(part, laid), mesh))

    parts: dict[str, list[PyTree]] = {}
    for part in DecodingLayer._fields:  # only one of them is in memory twice
        values = part_of(part, blocks)
        parts[part] = [make(part, jax.tree.map(lambda p, i=i: p[i], values)) for i in layers]
        _delete(values)
    laid_head = None if head is None else make("head", head)
    _delete(head)
    whole = jax.tree.map(lambda p: (None,) * p.ndim, rest)
    return PackedParams(
        put_on_mesh(rest, whole, mesh),
        [DecodingLayer(**{part: parts[part][i] for part in parts}) for i in layers],
        laid_head,
    )


def bind_inference_model(
    network: GeneratorNetwork,
    params: PyTree | PackedParams,
    *,
    weights: WeightType = "compute",
    stored: CacheType = "compute",
) -> InferenceModel:
    """The decoder of parameters; those of training are laid out within the program."""
    if not isinstance(params, PackedParams):
        return make_inference_model(network.bind(params), weights=weights, stored=stored)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    layers = {"layers": shapes["transformer"]["layers"]}
    transformer = {**params.rest["transformer"], **layers}
    head = params.rest.get("head", shapes["head"])
    model = network.bind({**params.rest, "transformer": transformer, "head": head})
    return InferenceModel(model, params.layers, params.head, stored)


def _delete(params: PyTree) -> None:
    for leaf in jax.tree.leaves(params):
        if isinstance(leaf, jax.Array):
            leaf.delete()
