# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Pre-norm transformer over one residual stream: stacked layers in training, a cache in decoding.

The network is the official one (REFERENCE 1.1; official code `nbp/modules/gpt.py`): LayerNorm with
eps 1e-5, attention and exact-GELU MLP with biases. What a recipe may choose (norm, MLP, attention
backend, initialisation) comes in as `Parts`; nothing here asks which recipe it serves.

On a mesh (see `nbp.parallel.sharding`) the parameters of a layer are made whole inside the scan
over layers, in the compute type, and again in the backward pass: no device ever holds two whole
layers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, assert_never

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from nbp.nn.attention.reference import AttentionBackend
from nbp.nn.rotary import Rotation
from nbp.parallel.sharding import Axes, constrain, gather
from nbp.shapes import Array, Bool, Float, Int, PyTree

Attend = Callable[[Array, Array, Array], Array]  # (q, k, v) -> mixed values, [b n k d] each
Look = Callable[[Array], PyTree]  # what is kept of an output
Remat = Literal["none", "dots", "full", "offload"]

STREAM: Axes = ("batch", None, None)  # of the residual stream


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
        self.up = make_linear(width, 4 * width, init.linear, dtype, ("embed", "mlp"), rngs=rngs)
        self.down = make_linear(4 * width, width, init.residual, dtype, ("mlp", "embed"), rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        inner = constrain(self.up(x), ("batch", None, "mlp"))
        return self.down(gelu(inner))


def make_layer_norm(width: int, dtype: Any, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm with weight and bias, eps 1e-5; statistics in float32 whatever `dtype`."""
    whole = {"axes": (None,)}
    return nnx.LayerNorm(
        width,
        epsilon=1e-5,
        dtype=dtype,
        use_fast_variance=False,
        scale_metadata=whole,
        bias_metadata=whole,
        rngs=rngs,
    )


@jax.custom_vjp
def gelu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """GELU with the exact error function; its backward pass keeps nothing but `x`.

    By itself JAX would keep four more arrays of this size for every layer. It would also take the
    complement of the error function, which has divisions and an exponential; the official code
    (torch) takes the function itself, as here. They differ where x is so negative that GELU is 0.
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_share(wide)).astype(x.dtype)


def _normal_share(x: Array) -> Array:
    """Phi(x): the share of a normal distribution below x."""
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    return gelu(x), x


def _gelu_backward(x: Array, gradient: Array) -> tuple[Array]:
    """The derivative: Phi(x) + x phi(x), the normal distribution and its density."""
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) / math.sqrt(2 * math.pi)
    return ((gradient * (_normal_share(wide) + wide * density)).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


class Projection(nnx.Module):
    """Query, key and value in one matmul: kernel [d, 3, d], the last axis being heads."""

    def __init__(self, spec: "TransformerSpec", std: float, *, rngs: nnx.Rngs) -> None:
        self.spec = spec
        kernel = nnx.initializers.normal(std)(rngs.params(), (spec.width, 3, spec.width))
        self.kernel = nnx.Param(kernel, axes=("embed", None, "heads"))
        self.bias = nnx.Param(jnp.zeros((3, spec.width), jnp.float32), axes=(None, "heads"))

    def __call__(self, x: Float[Array, "b n d"]) -> list[Float[Array, "b n k e"]]:
        kernel, bias = (p[...].astype(self.spec.dtype) for p in (self.kernel, self.bias))
        mixed = jnp.einsum("bnd,dce->bnce", x, kernel) + bias
        heads = (*x.shape[:2], self.spec.heads, self.spec.head_width)
        parts = (mixed[:, :, i].reshape(heads) for i in range(3))
        return [constrain(part, ("batch", None, "heads", None)) for part in parts]


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
    remat: what the backward pass of a layer computes again instead of keeping; see `make_policy`.
    """

    layers: int
    heads: int
    width: int
    dropout: float = 0.0
    dtype: Any = jnp.float32
    remat: Remat = "none"

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
        self.qkv = Projection(spec, init.linear, rngs=rngs)
        self.proj = make_linear(
            width, width, init.residual, spec.dtype, ("heads", "embed"), rngs=rngs
        )
        self.norm2 = parts.norm(width, spec.dtype, rngs=rngs)
        self.mlp = parts.mlp(width, init, spec.dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b n d"], attend: Attend, key: Array | None = None
    ) -> Float[Array, "b n d"]:
        """`attend` mixes values over positions; `key` switches dropout on."""
        key1, key2 = (None, None) if key is None else jax.random.split(key)
        q, k, v = self.qkv(self.norm1(x))
        with jax.named_scope("attention"):
            mixed = attend(q, k, v).reshape(x.shape)
        x = constrain(x + drop(self.proj(mixed), self.spec.dropout, key1), STREAM)
        return constrain(x + drop(self.mlp(self.norm2(x)), self.spec.dropout, key2), STREAM)


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
        for _, param in nnx.iter_graph(self.layers):
            if isinstance(param, nnx.Param):
                param.set_metadata(axes=("layers", *param.axes))
        self.norm = parts.norm(spec.width, spec.dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        k_end: Int[Array, "n"],
        *,
        key_mask: Bool[Array, "b n"] | None = None,
        rotation: Rotation | None = None,
        key: Array | None = None,
    ) -> Float[Array, "b n d"]:
        """Full-sequence pass (training): a scan over the stacked layers. `key`: dropout on.

        rotation: of queries and keys, by their positions.
        """
        x, _ = self._pass(x, k_end, lambda x: None, key_mask=key_mask, rotation=rotation, key=key)
        return self.norm(x)

    def block_outputs(
        self, x: Float[Array, "b n d"], k_end: Int[Array, "n"], look: Look, **options: Any
    ) -> PyTree:
        """What `look` makes of the output of each block of that pass, stacked [layers ...]."""
        return self._pass(x, k_end, look, **options)[1]

    def _pass(
        self,
        x: Array,
        k_end: Array,
        look: Look,
        *,
        key_mask: Array | None = None,
        rotation: Rotation | None = None,
        key: Array | None = None,
    ) -> tuple[Array, PyTree]:
        graph, stacked = nnx.split(self.layers)
        keys = None if key is None else jax.random.split(key, self.spec.layers)

        def attend(q: Array, k: Array, v: Array) -> Array:
            if rotation is not None:
                q, k = rotation.turn(q, k)
            return self.attention(q, k, v, k_end, key_mask)

        def step(x: Array, layer: tuple[Any, Array | None]) -> tuple[Array, PyTree]:
            state, layer_key = layer
            block = self._gather_layer(nnx.merge(graph, state))
            x = block(checkpoint_name(x, "layer_input"), attend, layer_key)
            return x, look(x)

        # In a scan nothing outside could be merged with what is computed again.
        step = jax.checkpoint(step, policy=make_policy(self.spec.remat), prevent_cse=False)
        return jax.lax.scan(step, constrain(x, STREAM), (stacked, keys))

    def _gather_layer(self, layer: Block) -> Block:
        """A layer off the stack, its parameters whole on every device."""
        graph, state = nnx.split(layer)

        def make_whole(param: nnx.Variable) -> nnx.Variable:
            return param.replace(gather(param[...], param.axes[1:], self.spec.dtype))

        return nnx.merge(graph, jax.tree.map(make_whole, state, is_leaf=_is_variable))


def make_policy(remat: Remat) -> Callable[..., Any]:
    """What the backward pass of a layer finds stored; the rest it computes again.

    none: everything but parameters made whole or cast, which are cheaper made again than kept.
    dots: results of matmuls with parameters, and of attention where it can do with them
    (`prefix_attention`); norms and GELU are computed again.
    full: the input of the layer. offload: the same, in the host's memory.
    """
    policies = jax.checkpoint_policies
    match remat:
        case "none":
            return _keep_unless_remade
        case "dots":
            dots = policies.dots_with_no_batch_dims_saveable
            return policies.save_from_both_policies(
                dots, policies.save_only_these_names("attention")
            )
        case "full":
            return policies.nothing_saveable
        case "offload":
            return policies.save_and_offload_only_these_names(
                names_which_can_be_saved=[],
                names_which_can_be_offloaded=["layer_input"],
                offload_src="device",
                offload_dst="pinned_host",
            )
        case _:
            assert_never(remat)


def _is_variable(x: Any) -> bool:
    return isinstance(x, nnx.Variable)


def _keep_unless_remade(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name not in ("sharding_constraint", "convert_element_type")


def make_linear(
    inputs: int,
    outputs: int,
    std: float,
    dtype: Any,
    axes: Axes,
    *,
    bias: bool = True,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """Linear layer, normal(std) weights, zero bias, float32 parameters, computing in `dtype`.

    `axes` names the kernel's axes. A bias of the width of the residual stream is not split.
    """
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        kernel_init=nnx.initializers.normal(std),
        kernel_metadata={"axes": axes},
        bias_metadata={"axes": (None if axes[1] == "embed" else axes[1],)},
        dtype=dtype,
        rngs=rngs,
    )


def drop(x: Array, rate: float, key: Array | None) -> Array:
    """Inverted dropout; the identity without a key or at rate 0."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))
