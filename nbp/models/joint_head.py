# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Joint block head: the tokens of a block one after the other, each digit knows all before it.

The backbone runs once for a block and gives a state for each of its places, all of which see the
same past and each other. A small causal transformer then goes over the places: at place j it reads
the state of j and the digits of the tokens before j. A hidden layer per digit (NADE, arXiv
1605.02226) gives logits of digit i from this and the digits before i of the same code:

    p(block | past) = product over places j, digits i of
        p(digit i of j | digits < i of j, tokens < j of the block, past)

So the likelihood of a block is exact, and drawing it takes one pass of the backbone. Among the
field's heads it is nearest to the block head of BitDance (arXiv 2602.14041), by autoregression in
the place of diffusion; digits in a chain are TokenBridge's (arXiv 2503.16430).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nbp.layout import SequencePlan
from nbp.models.heads import Choose, HeadSpec, average, list_blocks, place_offsets
from nbp.nn.attention.reference import xla_attention
from nbp.nn.digits import Digits, score_digits
from nbp.nn.transformer import (
    Block,
    Parts,
    Transformer,
    TransformerSpec,
    gelu,
    make_linear,
)
from nbp.parallel.sharding import RULES, constrain, count_parts, gather, mesh_sizes
from nbp.shapes import Array, Float, Int

EXPANSION = 4  # width of the hidden layer of digits, in widths of the head
WAVES = np.array([1, 0.3, 0.1, 0.03], np.float32)  # radians a place


class JointHead(nnx.Module):
    """See the module. Its inner layers are those of `nbp.nn.transformer`, without dropout.

    The place of a token in its block (`place_offsets`) is told by a learned layer on waves along
    each axis (`make_waves`), so that blocks of any size, partition and grid share the parameters.
    Blocks of one token are of one place.
    """

    def __init__(
        self,
        backbone: TransformerSpec,
        spec: HeadSpec,
        parts: Parts,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        assert spec.joint is not None
        layers, width, init = spec.joint.layers, spec.joint.width, parts.init
        init = dataclasses.replace(init, residual=init.linear / (2 * layers) ** 0.5)
        self.spec = dataclasses.replace(
            backbone, layers=layers, heads=spec.joint.heads, width=width, dropout=0.0
        )
        self.digits = Digits(spec.levels)
        dtype, hidden, columns = backbone.dtype, EXPANSION * width, self.digits.columns

        def table(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> nnx.Param:
            draw = nnx.initializers.normal(init.embedding)
            return nnx.Param(draw(rngs.params(), shape, jnp.float32), axes=axes)

        self.enter = make_linear(
            backbone.width, width, init.linear, dtype, ("embed", None), rngs=rngs
        )
        self.previous = table((columns, width), (None, "embed"))  # digits of the token before
        self.begin = table((width,), (None,))
        self.places = table((3 * len(WAVES) * 2, width), (None, "embed"))
        inner = dataclasses.replace(parts, attention=xla_attention, init=init)
        self.transformer = Transformer(self.spec, inner, rngs=rngs)
        self.mix = make_linear(width, hidden, init.linear, dtype, ("embed", "mlp"), rngs=rngs)
        # What digit i takes from each value of an earlier digit of its code.
        self.earlier = table((columns, self.digits.count, hidden), (None, None, "mlp"))
        self.slots = table((self.digits.count, hidden), (None, "mlp"))
        self.out = make_linear(hidden, columns, init.linear, dtype, ("mlp", None), rngs=rngs)

    # Training ----------------------------------------------------------------------------------

    def score(
        self,
        hidden: Float[Array, "b n d"],
        targets: Int[Array, "b n"],
        *,
        plan: SequencePlan,
        tokens: int,
        weights: Float[Array, "b n"] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Mean nats of a token. accuracy: tokens of which each digit is the most likely one, given
        the true ones before it."""
        nats, hit = self._score_each(hidden, targets, plan=plan, tokens=tokens)
        hit = jax.lax.stop_gradient(hit)
        return average(nats, weights), {"accuracy": average(hit, weights)}

    def nats(
        self, hidden: Array, targets: Array, *, plan: SequencePlan, tokens: int
    ) -> Float[Array, "b n"]:
        """Of each token given the past and the tokens before it in its block."""
        return self._score_each(hidden, targets, plan=plan, tokens=tokens)[0]

    def _score_each(
        self, hidden: Array, targets: Array, *, plan: SequencePlan, tokens: int
    ) -> tuple[Array, Array]:
        digits = self.digits.split(targets)
        columns = self.digits.one_hot(digits, self.spec.dtype)
        states = self._read_blocks(hidden, columns, plan=plan)

        def score(states: Array, columns: Array, digits: Array) -> tuple[Array, Array]:
            return score_digits(self._logits(states, columns), digits)

        return map_pieces(score, (states, columns, digits), tokens=tokens)

    def digit_logits(
        self, hidden: Float[Array, "b n d"], targets: Int[Array, "b n"], *, plan: SequencePlan
    ) -> Float[Array, "b n D V"]:
        """Teacher forcing: logits of each digit given the true ones before it, in float32."""
        columns = self.digits.one_hot(self.digits.split(targets), self.spec.dtype)
        return self._logits(self._read_blocks(hidden, columns, plan=plan), columns)

    def _read_blocks(self, hidden: Array, columns: Array, *, plan: SequencePlan) -> Array:
        """The state of each place after the tokens before it in its block, [b n w]."""
        x, read = self._enter(hidden, place_offsets(plan)), self._embed(columns)
        states = [
            self._run_blocks(x[:, start:end], read[:, start:end], size=size)
            for start, end, size in list_blocks(plan)
        ]
        return jnp.concatenate(states, axis=1)

    def _run_blocks(
        self, x: Float[Array, "b n w"], read: Float[Array, "b n w"], *, size: int
    ) -> Float[Array, "b n w"]:
        """The transformer over blocks of `size` places; place j reads the token of j - 1."""
        b, n, width = x.shape
        rows = (b * n // size, size, width)
        begin = jnp.broadcast_to(self.begin[...].astype(x.dtype), (rows[0], 1, width))
        before = jnp.concatenate([begin, read.reshape(rows)[:, :-1]], axis=1)
        states = self.transformer(x.reshape(rows) + before, np.arange(1, size + 1))
        return states.reshape(b, n, width)

    def _logits(
        self, states: Float[Array, "b n w"], columns: Float[Array, "b n S"]
    ) -> Float[Array, "b n D V"]:
        """Logits of each digit from those before it, in float32."""
        before = np.arange(self.digits.columns) < self.digits.first_columns[:, None]
        # Digits lead: each matmul is one of their own, on arrays that nothing has to transpose.
        read = jnp.where(before[:, None, None], columns, 0)
        x = self._mix(states) + self.slots[...].astype(states.dtype)[:, None, None]
        x = x + jnp.einsum("dbns,sdm->dbnm", read, self.earlier[...].astype(states.dtype))
        kernel, bias = self._by_digit(states.dtype)
        x = constrain(gelu(x), (None, "batch", None, "mlp"))
        logits = jnp.einsum("dbnm,mdv->dbnv", x, kernel, preferred_element_type=jnp.float32)
        return jnp.moveaxis(logits, 0, 2) + bias

    # Drawing -----------------------------------------------------------------------------------

    def sample(
        self, hidden: Array, key: Array, *, plan: SequencePlan, tokens: int, first: int = 0
    ) -> Int[Array, "b n"]:
        """Draws every block from its own states, all blocks at the same time."""
        x, drawn = self._enter(hidden, place_offsets(plan)), []
        for start, end, size in list_blocks(plan):
            run_key = jax.random.fold_in(key, size)

            def choose(logits: Array, step: Array | None, key: Array = run_key) -> Array:
                assert step is not None
                return jax.random.categorical(jax.random.fold_in(key, step), logits)

            rows = x[:, start:end].reshape(-1, size, x.shape[-1])
            drawn.append(self._draw_rows(rows, choose).reshape(x.shape[0], -1))
        return jnp.concatenate(drawn, axis=1)

    def draw(
        self,
        hidden: Float[Array, "r n d"],
        choose: Choose,
        *,
        offsets: Int[Array, "n 3"],
        known: Array | None = None,
        kept: Array | None = None,
    ) -> Int[Array, "b n"]:
        """Draws a block place by place, digit by digit; see `nbp.models.heads.DigitDrawing`."""
        return self._draw_rows(self._enter(hidden, offsets), choose, known=known, kept=kept)

    def _draw_rows(
        self,
        x: Float[Array, "r n w"],
        choose: Choose,
        *,
        known: Array | None = None,
        kept: Array | None = None,
    ) -> Int[Array, "b n"]:
        r, n, width = x.shape
        layers = self._unstack()
        room = (r, n, self.spec.heads, self.spec.head_width)
        empty = [(jnp.zeros(room, x.dtype), jnp.zeros(room, x.dtype)) for _ in layers]
        begin = jnp.broadcast_to(self.begin[...].astype(x.dtype), (r, width))

        def place(carry: tuple[Array, Any], item: Any) -> tuple[tuple[Array, Any], Array]:
            before, cache = carry
            now, j, given = item
            state, cache = self._step(layers, (now + before)[:, None], cache=cache, j=j)
            drawn = self._draw_digits(state, choose, j=j)
            code = jnp.maximum(drawn, 0)
            if given is not None:
                code = jnp.where(given[1], given[0], code)
            read = self.digits.one_hot(self.digits.split(code), x.dtype)
            return (self._embed(repeat_rows(read, r)), cache), drawn

        given = None
        if known is not None and kept is not None:
            given = (jnp.moveaxis(known, 1, 0), jnp.moveaxis(kept, 1, 0))
        items = (jnp.moveaxis(x, 1, 0), jnp.arange(n), given)
        _, codes = jax.lax.scan(place, (begin, empty), items)
        return jnp.moveaxis(codes, 0, 1)

    def _step(
        self, layers: list[Block], x: Float[Array, "r 1 w"], *, cache: list[Any], j: Array
    ) -> tuple[Float[Array, "r w"], list[Any]]:
        """Place j through the layers, against the places before it."""
        grown: list[Any] = []

        def attend(q: Array, k: Array, v: Array) -> Array:
            keys, values = (
                jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), j, 1)
                for old, new in zip(cache[len(grown)], (k, v), strict=True)
            )
            grown.append((keys, values))
            return xla_attention(q, keys, values, jnp.full((1,), j + 1))

        for block in layers:
            x = block(x, attend)
        return self.transformer.norm(x)[:, 0], grown

    def _draw_digits(
        self, state: Float[Array, "r w"], choose: Choose, *, j: Array
    ) -> Int[Array, "b"]:
        """The code of place j, or -1 where logits were not finite."""
        first, r = self.digits.first_columns, state.shape[0]
        kernel, bias = self._by_digit(state.dtype)
        base = self._mix(state)
        earlier = jnp.moveaxis(self.earlier[...].astype(state.dtype), 1, 0)
        slots = self.slots[...].astype(state.dtype)

        def digit(read: Array, item: Any) -> tuple[Array, Array]:
            i, earlier, slot, kernel, bias = item
            x = gelu(base + slot + read @ earlier)
            logits = jnp.matmul(x, kernel, preferred_element_type=jnp.float32) + bias
            chosen = choose(logits[:, None], j * self.digits.count + i)[:, 0]
            column = jnp.asarray(first)[i] + jnp.maximum(chosen, 0)
            new = jax.nn.one_hot(column, self.digits.columns, dtype=read.dtype)
            return read + repeat_rows(new, r), chosen

        none = jnp.zeros((r, self.digits.columns), state.dtype)
        items = (jnp.arange(len(first)), earlier, slots, jnp.moveaxis(kernel, 1, 0), bias)
        _, chosen = jax.lax.scan(digit, none, items)
        chosen = jnp.moveaxis(chosen, 0, 1)
        return jnp.where((chosen >= 0).all(1), self.digits.join(chosen), -1)

    def _unstack(self) -> list[Block]:
        """The layers one by one, matrices in the compute type."""
        graph, stacked = nnx.split(self.transformer.layers)

        def take(i: int) -> Any:
            def cut(param: nnx.Variable) -> nnx.Variable:
                value = gather(param[...][i], param.axes[1:], self.spec.dtype)
                return param.replace(value.astype(self.spec.dtype) if value.ndim > 1 else value)

            return jax.tree.map(cut, stacked, is_leaf=lambda x: isinstance(x, nnx.Variable))

        return [nnx.merge(graph, take(i)) for i in range(self.spec.layers)]

    # Pieces of both ------------------------------------------------------------------------------

    def _enter(self, hidden: Float[Array, "b n d"], offsets: Any) -> Float[Array, "b n w"]:
        """What a place knows before any token of its block: its state and where it lies."""
        places = make_waves(jnp.asarray(offsets)) @ gather(self.places[...], self.places.axes)
        x = apply_linear(self.enter, hidden) + places.astype(hidden.dtype)
        return constrain(x, ("batch", None, None))

    def _embed(self, columns: Float[Array, "*s S"]) -> Float[Array, "*s w"]:
        """What is read of a token: the sum over its digits."""
        table = gather(self.previous[...], self.previous.axes, columns.dtype)
        return columns @ table.astype(columns.dtype)

    def _mix(self, states: Float[Array, "*s w"]) -> Float[Array, "*s m"]:
        return apply_linear(self.mix, states)

    def _by_digit(self, dtype: Any) -> tuple[Float[Array, "m D V"], Float[Array, "D V"]]:
        """Weights and bias of the logits, digit by digit; -inf where there is no such value."""
        kernel = self.out.kernel[...].astype(dtype)[:, self.digits.table]
        assert self.out.bias is not None
        return kernel, self.digits.by_digit(self.out.bias[...])

    def count_flops(self, plan: SequencePlan) -> float:
        """Operations of a forward pass over a clip, counted as those of the backbone are."""
        stack = nnx.to_pure_dict(nnx.state(self.transformer.layers))
        leaves, _ = jax.tree_util.tree_flatten_with_path(stack)
        weights = sum(math.prod(p.shape) for path, p in leaves if path[-1].key == "kernel")
        weights += sum(layer.kernel.size for layer in (self.enter, self.mix, self.out))
        pairs = sum((end - start) * (size + 1) / 2 for start, end, size in list_blocks(plan))
        attention = 4 * self.spec.width * self.spec.layers * pairs
        return 2.0 * weights * plan.target_count + attention


def make_waves(offsets: Int[Array, "n 3"]) -> Float[Array, "n f"]:
    """Cosines and sines of t, h, w at a few wavelengths, float32: of any places, also new ones."""
    angles = (offsets[..., None] * WAVES).reshape(len(offsets), -1)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def apply_linear(layer: nnx.Linear, x: Float[Array, "*s i"]) -> Float[Array, "*s o"]:
    """A linear layer, made whole where a mesh stores it in pieces, in the type of x."""
    kernel = gather(layer.kernel[...], layer.kernel.axes, x.dtype)
    out = x @ kernel.astype(x.dtype)
    return out if layer.bias is None else out + layer.bias[...].astype(x.dtype)


def repeat_rows(x: Array, rows: int) -> Array:
    """The rows of clips for each condition under which they are drawn."""
    return jnp.tile(x, (rows // x.shape[0], *(1,) * (x.ndim - 1)))


def map_pieces(
    function: Callable[..., tuple[Array, ...]], arrays: tuple[Array, ...], *, tokens: int
) -> tuple[Array, ...]:
    """`function` of arrays [b n *s], for about `tokens` tokens of a device at a time.

    It gives arrays [b n]. The backward pass computes each piece again.
    """
    b, n = arrays[0].shape[:2]
    devices = count_parts(RULES["batch"], sizes) if (sizes := mesh_sizes()) else 1
    count = -(-n // max(1, tokens * devices // b))
    if count == 1:
        return function(*arrays)
    size = -(-n // count)

    def cut(x: Array) -> Array:
        filled = jnp.pad(x, ((0, 0), (0, count * size - n), *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(filled.reshape(b, count, size, *x.shape[2:]), 1, 0)

    pieces = tuple(cut(x) for x in arrays)
    found = jax.lax.map(jax.checkpoint(lambda piece: function(*piece)), pieces)
    return tuple(jnp.moveaxis(part, 0, 1).reshape(b, -1)[:, :n] for part in found)
