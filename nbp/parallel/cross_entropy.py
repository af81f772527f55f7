# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Both ends of a large vocabulary: cross-entropy without its logits, and the table of embeddings.

The logits of a batch, [b, n, 64,000] in float32, are by far the largest array of a training step,
and the loss needs each of them once. `chunked_cross_entropy` makes them for a few positions at a
time. Where a gradient is asked for, it is computed while the logits of a piece are there: one
matmul for the logits, one for the gradient of the hidden states, one for that of the kernel, so
nothing is computed twice.

On a mesh (see `nbp.parallel.sharding`) each device scores its own clips against its own part of the
vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from nbp.parallel.sharding import (
    RULES,
    Axes,
    check_axes,
    constrain,
    count_parts,
    make_partition_spec,
    mesh_sizes,
)
from nbp.shapes import Array, Float, Int

KERNEL: Axes = ("embed", "vocabulary")
GATHERED_BYTES = 2**25  # of the kernel that travel at a time, less than a layer of the transformer


class Scores(NamedTuple):
    """Means over all targets: `loss` in nats, accuracies as shares 0..1 (ties count as hits)."""

    loss: Array
    accuracy: Array
    accuracy_top5: Array


class TokenScores(NamedTuple):
    """`loss` in nats, the weighted mean; of each target its negative log-likelihood and hits."""

    loss: Array
    nats: Float[Array, "b n"]
    hit: Float[Array, "b n"]
    hit_top5: Float[Array, "b n"]


def plain_cross_entropy(
    hidden: Float[Array, "b n d"], kernel: Float[Array, "d v"], targets: Int[Array, "b n"]
) -> Scores:
    """The oracle: all logits at once; arguments as in `chunked_cross_entropy`."""
    logits = _make_logits(hidden, kernel.astype(hidden.dtype))
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    loss = jnp.mean(jax.nn.logsumexp(logits, axis=-1) - picked[..., 0])
    rank = jnp.sum(logits > picked, axis=-1)
    return Scores(loss, jnp.mean(rank < 1), jnp.mean(rank < 5))


def chunked_cross_entropy(
    hidden: Float[Array, "b n d"],
    kernel: Float[Array, "d v"],
    targets: Int[Array, "b n"],
    *,
    tokens: int = 1024,
) -> Scores:
    """Negative log-likelihood of `targets` under softmax(hidden @ kernel), and accuracies.

    Only the loss has a gradient. It equals that of `plain_cross_entropy` up to the order of sums.

    Args:
      hidden: final states in the compute type, which the matmuls use; sums are float32.
      kernel: weights of the head, as they are stored.
      targets: class indices 0..v-1.
      tokens: how many tokens of a device have logits at one time (at least one of each clip).
    """
    if tokens < 1:
        raise ValueError(f"pieces of {tokens} tokens: use 1 or more")
    weights = jnp.ones(targets.shape, jnp.float32)
    sums: tuple[Array, ...] = _sum_scores(hidden, kernel, targets, weights, (tokens, False))
    return Scores(*(total / targets.size for total in sums))


def weighted_cross_entropy(
    hidden: Float[Array, "b n d"],
    kernel: Float[Array, "d v"],
    targets: Int[Array, "b n"],
    weights: Float[Array, "b n"],
    *,
    tokens: int = 1024,
) -> TokenScores:
    """As `chunked_cross_entropy`, with a weight per target and the scores of each target.

    Only the loss has a gradient, and none with respect to the weights; it is 0 where all are.
    """
    if tokens < 1:
        raise ValueError(f"pieces of {tokens} tokens: use 1 or more")
    weights = jax.lax.stop_gradient(weights.astype(jnp.float32))
    sums: tuple[Any, ...] = _sum_scores(hidden, kernel, targets, weights, (tokens, True))
    nats, hit, hit_top5 = (jax.lax.stop_gradient(part) for part in sums[-1])
    return TokenScores(sums[0] / jnp.maximum(weights.sum(), 1e-9), nats, hit, hit_top5)


def draw_classes(
    hidden: Float[Array, "b n d"],
    kernel: Float[Array, "d v"],
    key: Array,
    *,
    tokens: int = 1024,
    first: int = 0,
) -> Int[Array, "b n"]:
    """A class for each position, drawn from softmax(hidden @ kernel) of the classes from `first`.

    Other arguments as in `chunked_cross_entropy`. The compiler divides the work on a mesh.
    """
    whole, (b, n, _) = kernel.astype(hidden.dtype), hidden.shape

    def draw(piece: tuple[Array, Array]) -> Array:
        x, number = piece
        logits = constrain(_make_logits(x, whole), ("batch", None, "vocabulary"))
        logits = jnp.where(jnp.arange(logits.shape[-1]) < first, -jnp.inf, logits)
        return jax.random.categorical(jax.random.fold_in(key, number), logits).astype(jnp.int32)

    nothing = jnp.zeros((b, n))
    pieces = _cut(hidden, nothing, nothing, tokens)[0]
    return _uncut(jax.lax.map(draw, (pieces, jnp.arange(len(pieces)))), n)


def look_up(table: Float[Array, "v d"], ids: Int[Array, "b n"]) -> Float[Array, "b n d"]:
    """Rows of a table whose columns lie in pieces on the devices of `fsdp`.

    Each of them finds its columns for all clips of its group, then the columns of a clip are put
    together where the clip is: the table itself, and its gradient, never travel.
    """
    sizes = mesh_sizes()
    if sizes.get("fsdp", 1) == 1 or ids.shape[0] % count_parts(RULES["batch"], sizes):
        return constrain(table[ids], ("batch", None, None))
    limit = jax.lax.with_sharding_constraint
    rows = limit(table, PartitionSpec(None, "fsdp"))[limit(ids, PartitionSpec("data", None))]
    return constrain(limit(rows, PartitionSpec("data", None, "fsdp")), ("batch", None, None))


# How the targets are scored: tokens of a device at a time, and whether each is told apart.
How = tuple[int, bool]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _sum_scores(
    hidden: Array, kernel: Array, targets: Array, weights: Array, how: How
) -> tuple[Any, ...]:
    """Weighted sums of the negative log-likelihood and of the hits; then those of each target."""
    return _on_devices(_sum_pieces, hidden, kernel, targets, weights, how=how)


def _sum_scores_forward(
    hidden: Array, kernel: Array, targets: Array, weights: Array, how: How
) -> tuple[tuple[Any, ...], tuple[Array, ...]]:
    """The sums, and the gradients of the first of them."""
    return _on_devices(_differentiate_pieces, hidden, kernel, targets, weights, how=how)


def _sum_scores_backward(
    how: How, gradients: tuple[Array, Array], cotangents: tuple[Any, ...]
) -> tuple[Array | None, ...]:
    d_loss = cotangents[0]
    d_hidden, d_kernel = ((d_loss * g).astype(g.dtype) for g in gradients)
    return d_hidden, d_kernel, None, None


_sum_scores.defvjp(_sum_scores_forward, _sum_scores_backward)


def _sum_pieces(
    hidden: Array, kernel: Array, targets: Array, weights: Array, *, how: How, split: "_Split"
) -> tuple[Any, ...]:
    whole = split.gather(kernel.astype(hidden.dtype))
    tokens, each = how

    def step(sums: tuple[Array, ...], piece: tuple[Array, ...]) -> tuple[tuple[Array, ...], Any]:
        x, target, weight = piece
        scores, parts, _ = _score(_make_logits(x, whole), target, weight, split)
        return _add(sums, scores), parts if each else None

    sums, parts = jax.lax.scan(step, _zeros(), _cut(hidden, targets, weights, tokens))
    return _join(split.sum_over_batch(sums), parts, targets.shape[1])


def _differentiate_pieces(
    hidden: Array, kernel: Array, targets: Array, weights: Array, *, how: How, split: "_Split"
) -> tuple[tuple[Any, ...], tuple[Array, Array]]:
    whole = split.gather(kernel.astype(hidden.dtype))
    tokens, each = how

    def step(carry: Any, piece: tuple[Array, ...]) -> tuple[Any, Any]:
        sums, d_kernel = carry
        x, target, weight = piece
        logits = _make_logits(x, whole)
        scores, parts, log_total = _score(logits, target, weight, split)
        share = jnp.exp(logits - log_total[..., None])
        right = jnp.arange(logits.shape[-1]) == (target - split.offset(whole))[..., None]
        d_logits = ((share - right) * weight[..., None]).astype(x.dtype)
        d_x = jnp.einsum("bnv,dv->bnd", d_logits, whole, preferred_element_type=jnp.float32)
        d_kernel += jnp.einsum("bnd,bnv->dv", x, d_logits, preferred_element_type=jnp.float32)
        return (_add(sums, scores), d_kernel), (d_x.astype(x.dtype), parts if each else None)

    carry = (_zeros(), jnp.zeros(whole.shape, jnp.float32))
    pieces = _cut(hidden, targets, weights, tokens)
    (sums, d_kernel), (d_x, parts) = jax.lax.scan(step, carry, pieces)
    d_hidden = split.sum_over_vocabulary(_uncut(d_x, targets.shape[1]))
    d_kernel = split.scatter(d_kernel).astype(kernel.dtype)
    sums = _join(split.sum_over_batch(sums), parts, targets.shape[1])
    return sums, (d_hidden, d_kernel)


def _make_logits(hidden: Array, kernel: Array) -> Array:
    return jnp.einsum("bnd,dv->bnv", hidden, kernel, preferred_element_type=jnp.float32)


def _score(
    logits: Array, target: Array, weight: Array, split: "_Split"
) -> tuple[tuple[Array, ...], tuple[Array, ...], Array]:
    """Weighted sums of loss and hits; these of each; the log of the softmax's denominator."""
    top = split.max_over_vocabulary(logits.max(-1))
    total = split.sum_over_vocabulary(jnp.sum(jnp.exp(logits - top[..., None]), axis=-1))
    log_total = top + jnp.log(total)
    local = target - split.offset(logits)
    here = (local >= 0) & (local < logits.shape[-1])
    index = jnp.clip(local, 0, logits.shape[-1] - 1)[..., None]
    picked = jnp.take_along_axis(logits, index, axis=-1)[..., 0]
    picked = split.sum_over_vocabulary(jnp.where(here, picked, 0.0))
    rank = split.sum_over_vocabulary(jnp.sum(logits > picked[..., None], axis=-1))
    parts = (log_total - picked, rank < 1, rank < 5)
    return tuple(jnp.sum(part * weight) for part in parts), parts, log_total


def _cut(hidden: Array, targets: Array, weights: Array, tokens: int) -> tuple[Array, Array, Array]:
    """Pieces of about `tokens` tokens, stacked in front; weight 0 fills the last one up."""
    b, n = targets.shape
    count = -(-n // max(1, tokens // b))
    size = -(-n // count)

    def cut(x: Array) -> Array:
        fill = ((0, 0), (0, count * size - n), *((0, 0),) * (x.ndim - 2))
        parts = jnp.pad(x, fill).reshape(b, count, size, *x.shape[2:])
        return jnp.moveaxis(parts, 1, 0)

    return cut(hidden), cut(targets), cut(weights)


def _uncut(pieces: Array, n: int) -> Array:
    """The inverse of `_cut` for one array [count b size *s]: [b n *s]."""
    rows = jnp.moveaxis(pieces, 0, 1)
    return rows.reshape(rows.shape[0], -1, *rows.shape[3:])[:, :n]


def _join(sums: tuple[Array, ...], parts: Any, n: int) -> tuple[Any, ...]:
    """The sums, and behind them the scores of each target where they were kept."""
    if parts is None:
        return sums
    return (*sums, tuple(_uncut(part.astype(jnp.float32), n) for part in parts))


def _zeros() -> tuple[Array, ...]:
    return (jnp.zeros((), jnp.float32),) * 3


def _add(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


class _Split(NamedTuple):
    """Mesh axes that split the batch, the stored rows of the kernel, the vocabulary; `()` if none.

    Its methods run on each device by itself and talk to the others.
    """

    batch: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()

    def offset(self, local: Array) -> Array | int:
        """First class of this device; `local`: an array whose last axis is its classes."""
        index = jax.lax.axis_index(self.vocabulary) if self.vocabulary else 0
        return index * local.shape[-1]

    def sum_over_batch(self, x: Any) -> Any:
        return jax.lax.psum(x, self.batch) if self.batch else x

    def sum_over_vocabulary(self, x: Array) -> Array:
        return jax.lax.psum(x, self.vocabulary) if self.vocabulary else x

    def max_over_vocabulary(self, x: Array) -> Array:
        return jax.lax.pmax(x, self.vocabulary) if self.vocabulary else x

    def gather(self, kernel: Array) -> Array:
        """All rows of the kernel, a piece of the columns at a time."""
        if not self.rows:
            return kernel
        rows = kernel.shape[0] * jax.lax.axis_size(self.rows)
        width = _find_piece(kernel.shape[1], rows * kernel.dtype.itemsize)

        def step(j: Array, whole: Array) -> Array:
            piece = jax.lax.dynamic_slice_in_dim(kernel, j * width, width, 1)
            piece = jax.lax.all_gather(piece, self.rows, axis=0, tiled=True)
            return jax.lax.dynamic_update_slice_in_dim(whole, piece, j * width, 1)

        whole = jnp.zeros((rows, kernel.shape[1]), kernel.dtype)
        return jax.lax.fori_loop(0, kernel.shape[1] // width, step, whole)

    def scatter(self, gradient: Array) -> Array:
        """The gradient summed over clips, each device keeping the rows that it stores."""
        rest = tuple(axis for axis in self.batch if axis not in self.rows)
        if self.rows:
            stored = gradient.shape[0] // jax.lax.axis_size(self.rows)
            width = _find_piece(gradient.shape[1], gradient.shape[0] * gradient.dtype.itemsize)

            def step(j: Array, out: Array) -> Array:
                piece = jax.lax.dynamic_slice_in_dim(gradient, j * width, width, 1)
                if set(self.rows) <= set(self.batch):
                    piece = jax.lax.psum_scatter(piece, self.rows, tiled=True)
                else:  # every device has scored all clips
                    piece = jax.lax.dynamic_slice_in_dim(
                        piece, jax.lax.axis_index(self.rows) * stored, stored, 0
                    )
                return jax.lax.dynamic_update_slice_in_dim(out, piece, j * width, 1)

            out = jnp.zeros((stored, gradient.shape[1]), gradient.dtype)
            gradient = jax.lax.fori_loop(0, gradient.shape[1] // width, step, out)
        return jax.lax.psum(gradient, rest) if rest else gradient


def _find_piece(columns: int, column_bytes: int) -> int:
    """The largest divisor of `columns` that keeps a piece within the limit; at least 1."""
    most = max(1, GATHERED_BYTES // column_bytes)
    return max(width for width in range(1, min(most, columns) + 1) if columns % width == 0)


def _on_devices(
    local: Any, hidden: Array, kernel: Array, targets: Array, weights: Array, *, how: How
) -> Any:
    """Runs `local` on every device with its clips and its part of the kernel."""
    sizes = mesh_sizes()
    if not sizes:
        return local(hidden, kernel, targets, weights, how=how, split=_Split())
    check_axes(kernel.shape, KERNEL, sizes, name="head/kernel")

    def used(axis: str) -> tuple[str, ...]:
        return tuple(name for name in RULES[axis] if sizes[name] > 1)

    divides = hidden.shape[0] % count_parts(RULES["batch"], sizes) == 0
    split = _Split(used("batch") if divides else (), used("embed"), used("vocabulary"))
    stored = make_partition_spec(KERNEL)
    batch = PartitionSpec(split.batch or None)
    sums: tuple[Any, ...] = (PartitionSpec(),) * 3
    sums = (*sums, (batch,) * 3) if how[1] else sums
    with_gradients = local is _differentiate_pieces
    run = jax.shard_map(
        functools.partial(local, how=how, split=split),
        in_specs=(batch, stored, batch, batch),
        out_specs=(sums, (batch, stored)) if with_gradients else sums,
        check_vma=False,
    )
    return run(hidden, kernel, targets, weights)
