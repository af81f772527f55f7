# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Heads: from the final states of a generator to the codes that they predict (docs/blocks.md).

vocabulary: logits of all codes, each token of a block by itself. digits: the same with logits of
digits. joint (`nbp.models.joint_head`): the digits of a block one after the other, each knows those
before it.

A head meets two callers. Training asks for the nats of given codes (`score`, `nats`). Drawing hands
over the states of one block and a function that chooses among logits, so that temperature, filters,
guidance and random keys stay with the sampler (`draw`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nbp.layout import SequencePlan
from nbp.nn.digits import Digits, score_digits
from nbp.parallel.cross_entropy import chunked_cross_entropy, draw_classes, weighted_cross_entropy
from nbp.parallel.sharding import constrain, gather
from nbp.ranges import Count
from nbp.shapes import Array, Bool, Float, Int

HeadKind = Literal["vocabulary", "digits", "joint"]

# (logits [r q v], step) -> the index that is chosen for each of q, [b q]; -1 where the logits are
# no distribution. Steps 0, 1, ... of a block are different draws; None where there is a single one.
# The r rows may be those of b clips under several conditions, of which one choice is made.
Choose = Callable[[Array, Array | None], Array]


@dataclass(frozen=True)
class JointHeadSettings:
    """The section `generator.joint_head`: the transformer over the places of a block.

    width: must be a multiple of the number of its attention heads, `heads`.
    """

    layers: Count = 2
    width: Count = 256
    heads: Count = 4


@dataclass(frozen=True)
class HeadSpec:
    """A head of digits of these levels: a chain over digits and places, or (None) independent."""

    levels: tuple[int, ...]
    joint: JointHeadSettings | None = None


@runtime_checkable
class Head(Protocol):
    """What training and evaluation ask of a head.

    hidden: final states of all scored tokens in generation order. targets: the output of each.
    tokens: of a device whose logits exist at one time.
    """

    def score(
        self,
        hidden: Float[Array, "b n d"],
        targets: Int[Array, "b n"],
        *,
        plan: SequencePlan,
        tokens: int,
        weights: Float[Array, "b n"] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Mean nats of a token, and accuracies; only the first has a gradient.

        weights: of each token, 0 or more; all 0 scores nothing, 0. None: all count alike.
        """
        ...

    def nats(
        self,
        hidden: Float[Array, "b n d"],
        targets: Int[Array, "b n"],
        *,
        plan: SequencePlan,
        tokens: int,
    ) -> Float[Array, "b n"]:
        """Negative log-likelihood of each token: given the past, and what the head lets it know."""
        ...

    def sample(
        self,
        hidden: Float[Array, "b n d"],
        key: Array,
        *,
        plan: SequencePlan,
        tokens: int,
        first: int = 0,
    ) -> Int[Array, "b n"]:
        """Draws every block, each from its own states. Outputs below `first` are never drawn."""
        ...

    def count_flops(self, plan: SequencePlan) -> float:
        """Operations of a forward pass over a clip."""
        ...


@runtime_checkable
class DigitDrawing(Protocol):
    """A head that draws digits: it has no logits of whole codes."""

    def draw(
        self,
        hidden: Float[Array, "r n d"],
        choose: Choose,
        *,
        offsets: Int[Array, "n 3"],
        known: Int[Array, "b n"] | None = None,
        kept: Bool[Array, "b n"] | None = None,
    ) -> Int[Array, "b n"]:
        """Draws the n codes of a block; -1 where logits were not finite.

        offsets: of its places (`place_offsets`). known, kept: codes of which some are given; what
        is returned at their places means nothing.
        """
        ...


class VocabularyHead(nnx.Module):
    """Logits of all ids that it covers: one matrix."""

    def __init__(self, width: int, outputs: int, std: float, *, rngs: nnx.Rngs) -> None:
        kernel = nnx.initializers.normal(std)(rngs.params(), (width, outputs), jnp.float32)
        self.kernel = nnx.Param(kernel, axes=("embed", "vocabulary"))

    def predict(self, hidden: Float[Array, "b n d"]) -> Float[Array, "b n v"]:
        """Logits in float32."""
        kernel = gather(self.kernel[...], self.kernel.axes, hidden.dtype)
        logits = jnp.einsum("bnd,dv->bnv", hidden, kernel.astype(hidden.dtype))
        return constrain(logits, ("batch", None, "vocabulary")).astype(jnp.float32)

    def score(
        self,
        hidden: Array,
        targets: Array,
        *,
        plan: SequencePlan,
        tokens: int,
        weights: Array | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        if weights is not None:
            kernel = self.kernel[...]
            found = weighted_cross_entropy(hidden, kernel, targets, weights, tokens=tokens)
            hits = {"accuracy": found.hit, "accuracy_top5": found.hit_top5}
            return found.loss, {name: average(hit, weights) for name, hit in hits.items()}
        scores = chunked_cross_entropy(hidden, self.kernel[...], targets, tokens=tokens)
        shares = {"accuracy": scores.accuracy, "accuracy_top5": scores.accuracy_top5}
        return scores.loss, shares

    def nats(self, hidden: Array, targets: Array, *, plan: SequencePlan, tokens: int) -> Array:
        ones = jnp.ones(targets.shape)
        return weighted_cross_entropy(hidden, self.kernel[...], targets, ones, tokens=tokens).nats

    def sample(
        self, hidden: Array, key: Array, *, plan: SequencePlan, tokens: int, first: int = 0
    ) -> Array:
        return draw_classes(hidden, self.kernel[...], key, tokens=tokens, first=first)

    def count_flops(self, plan: SequencePlan) -> float:
        """Operations of a forward pass over a clip."""
        return 2.0 * self.kernel.size * plan.target_count


class DigitHead(nnx.Module):
    """Logits of digits from one matrix: the digits of a code are independent given the past.

    Known to be a poor model of codes by itself (TokenBridge, arXiv 2503.16430); small, and a
    measure of what the chain of the joint head is worth.
    """

    def __init__(self, width: int, spec: HeadSpec, std: float, *, rngs: nnx.Rngs) -> None:
        self.digits = Digits(spec.levels)
        shape = (width, self.digits.columns)
        kernel = nnx.initializers.normal(std)(rngs.params(), shape, jnp.float32)
        self.kernel = nnx.Param(kernel, axes=("embed", None))

    def predict(self, hidden: Float[Array, "b n d"]) -> Float[Array, "b n D V"]:
        """Logits of each digit in float32."""
        kernel = gather(self.kernel[...], self.kernel.axes, hidden.dtype).astype(hidden.dtype)
        flat = jnp.einsum("bnd,ds->bns", hidden, kernel, preferred_element_type=jnp.float32)
        return self.digits.by_digit(constrain(flat, ("batch", None, None)))

    def score(
        self,
        hidden: Array,
        targets: Array,
        *,
        plan: SequencePlan,
        tokens: int,
        weights: Array | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        nats, hit = score_digits(self.predict(hidden), self.digits.split(targets))
        hit = jax.lax.stop_gradient(hit)
        return average(nats, weights), {"accuracy": average(hit, weights)}

    def nats(self, hidden: Array, targets: Array, *, plan: SequencePlan, tokens: int) -> Array:
        return score_digits(self.predict(hidden), self.digits.split(targets))[0]

    def sample(
        self, hidden: Array, key: Array, *, plan: SequencePlan, tokens: int, first: int = 0
    ) -> Array:
        digits = jax.random.categorical(key, self.predict(hidden)).astype(jnp.int32)
        return self.digits.join(digits)

    def draw(
        self,
        hidden: Array,
        choose: Choose,
        *,
        offsets: Array,
        known: Array | None = None,
        kept: Array | None = None,
    ) -> Array:
        logits = self.predict(hidden)
        r, n, d, v = logits.shape
        chosen = choose(logits.reshape(r, n * d, v), None)
        chosen = chosen.reshape(-1, n, d)
        return jnp.where((chosen >= 0).all(-1), self.digits.join(chosen), -1)

    def count_flops(self, plan: SequencePlan) -> float:
        """Operations of a forward pass over a clip."""
        return 2.0 * self.kernel.size * plan.target_count


def average(values: Float[Array, "b n"], weights: Float[Array, "b n"] | None) -> Float[Array, ""]:
    """The mean, weighted if there are weights; 0 where they all are."""
    if weights is None:
        return values.mean()
    return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1e-9)


def place_offsets(plan: SequencePlan) -> Int[np.ndarray, "n 3"]:
    """Where each scored token lies in its block: t, h, w from the least of its places."""
    places = plan.target_coordinates[plan.prompt_length :]
    parts = []
    for start, end, size in list_blocks(plan):
        blocks = places[start:end].reshape(-1, size, 3)
        parts.append((blocks - blocks.min(1, keepdims=True)).reshape(-1, 3))
    return np.concatenate(parts)


def list_blocks(plan: SequencePlan) -> list[tuple[int, int, int]]:
    """Scored tokens by the size of their block: (first, behind the last, size).

    Tokens that are drawn one by one are blocks of one.
    """
    alone, count = plan.first_joint - plan.first, plan.target_count
    runs = [(0, alone, 1), (alone, count, plan.block_size)]
    return [run for run in runs if run[0] < run[1]]
