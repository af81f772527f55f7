# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Refinement of a block in several passes: which of its tokens are accepted in each.

A model with the draft channel (`nbp.models.generator`) draws all hidden tokens of a block in every
pass over it. A rule accepts some of these draws; they become drafts, which the next pass reads, and
the last pass accepts all (`refine`). `nbp.sampling.generate` does so for each block in turn.

A rule that looks at distributions alone (`EntropyBound`, `DispersedOrder`) and accepts one token a
pass draws from the model's own distribution of the block in that order. One that looks at the drawn
tokens (`Confidence`) prefers likely ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, assert_never, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from nbp.layout import SequencePlan, radical_inverse
from nbp.sampling.settings import SamplingConfig
from nbp.shapes import Array, Bool, Float, Int


class Proposal(NamedTuple):
    """What a pass has drawn for the n tokens of a block.

    hidden: which of them are not accepted yet. least: how many of these must be accepted now.
    tokens: classes, drawn independently from `probabilities`. keys: a random key per sample, for
    the rule alone.
    """

    hidden: Bool[Array, "b n"]
    least: Int[Array, "b"]
    tokens: Int[Array, "b n"]
    probabilities: Float[Array, "b n v"]
    keys: Array


@runtime_checkable
class CommitRule(Protocol):
    """Chooses the draws that are accepted: at least `least` of the hidden ones of each sample."""

    def __call__(self, proposal: Proposal) -> Bool[Array, "b n"]: ...


@dataclass(frozen=True)
class EntropyBound:
    """Accepts the draws of lowest entropy while those before them sum to at most `bound` nats.

    The draws are independent, so the sum bounds what they miss of their dependence (arXiv
    2505.24857; the rule of DiffusionGemma, whose bound is 0.1). A larger bound takes fewer passes.
    """

    bound: float = 0.1

    def __call__(self, proposal: Proposal) -> Bool[Array, "b n"]:
        entropy = sum_entropy(proposal.probabilities)
        place = rank(entropy, proposal.hidden)
        ascending = jnp.sort(jnp.where(proposal.hidden, _finite(entropy), LAST), axis=-1)
        before = jnp.cumsum(ascending, axis=-1) - ascending
        within = jnp.take_along_axis(before <= self.bound, place, axis=-1)
        return proposal.hidden & (within | (place < proposal.least[:, None]))


@dataclass(frozen=True)
class Confidence:
    """Accepts the draws that were most likely, `least` of them (MaskGIT, arXiv 2202.04200).

    noise: scale of Gumbel noise on their log-probabilities, which keeps clips diverse.
    """

    noise: float = 1.0

    def __call__(self, proposal: Proposal) -> Bool[Array, "b n"]:
        tokens = jnp.maximum(proposal.tokens, 0)[..., None]
        drawn = jnp.take_along_axis(proposal.probabilities, tokens, axis=-1)[..., 0]
        n = drawn.shape[1]
        noise = jax.vmap(lambda key: jax.random.gumbel(key, (n,)))(proposal.keys)
        doubt = -jnp.log(drawn) - self.noise * noise
        return accept_first(doubt, proposal)


@dataclass(frozen=True)
class DispersedOrder:
    """Accepts the places in a fixed order, `least` of them. order: each place once."""

    order: tuple[int, ...]

    def __post_init__(self) -> None:
        if sorted(self.order) != list(range(len(self.order))):
            raise ValueError(f"order {self.order}: give each place of a block once")

    def __call__(self, proposal: Proposal) -> Bool[Array, "b n"]:
        turn = jnp.asarray(np.argsort(self.order), jnp.float32)
        return accept_first(jnp.broadcast_to(turn, proposal.hidden.shape), proposal)


class Refined(NamedTuple):
    """A block between two passes over it.

    tokens: vocabulary ids of the block, where they are accepted. shown: those that the next pass
    reads as drafts. A sample that is complete keeps what its last pass read, so that further passes
    for others write the same into its part of the cache. finite: samples whose logits were finite
    numbers. passes: that each sample took.
    """

    index: Int[Array, ""]
    tokens: Int[Array, "b n"]
    cache: Any
    accepted: Bool[Array, "b n"]
    shown: Bool[Array, "b n"]
    finite: Bool[Array, "b"]
    passes: Int[Array, "b"]


# (tokens, shown, cache) -> logits [b n v], and the cache with the block in it.
Look = Callable[[Array, Array, Any], tuple[Array, Any]]
# (logits, index of the pass) -> tokens [b n], probabilities [b n v], random keys [b].
Propose = Callable[[Array, Array], tuple[Array, Array, Array]]
COMMIT = 0xC0  # the stream of random keys of a commit rule, in a pass


def begin(tokens: Int[Array, "b n"], cache: Any, accepted: Bool[Array, "b n"]) -> Refined:
    """A block before its first pass. accepted: tokens that are given."""
    clips = len(tokens)
    counts = (jnp.ones(clips, bool), jnp.zeros(clips, jnp.int32))
    return Refined(jnp.zeros((), jnp.int32), tokens, cache, accepted, accepted, *counts)


def refine(
    state: Refined,
    look: Look,
    propose: Propose,
    *,
    rule: CommitRule,
    passes: int,
    first_class: int,
) -> Refined:
    """Runs passes over a block until all samples are complete, at most `passes`, at least one.

    A sample's tokens, and its part of the cache, do not depend on how long the others take.
    first_class: the vocabulary id of the head's first output.
    """
    first = (~state.accepted).sum(1)

    def unfinished(state: Refined) -> Array:
        return (state.index == 0) | ~state.accepted.all()

    def advance(state: Refined) -> Refined:
        logits, cache = look(state.tokens, state.shown, state.cache)
        drawn, probabilities, keys = propose(logits, state.index)
        hidden = ~state.accepted
        proposal = Proposal(
            hidden=hidden,
            least=count_least(hidden.sum(1), first, state.index, passes=passes),
            tokens=drawn,
            probabilities=probabilities,
            keys=jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, COMMIT),
        )
        taken = hidden & (rule(proposal) | (state.index >= passes - 1))
        new = (jnp.maximum(drawn, 0) + first_class).astype(state.tokens.dtype)
        accepted = state.accepted | taken
        incomplete = ~accepted.all(1, keepdims=True)
        return Refined(
            index=state.index + 1,
            tokens=jnp.where(taken, new, state.tokens),
            cache=cache,
            accepted=accepted,
            shown=jnp.where(incomplete, accepted, state.shown),
            finite=state.finite & (~hidden | (drawn >= 0)).all(1),
            passes=state.passes + hidden.any(1),
        )

    state = jax.lax.while_loop(unfinished, advance, state)
    # A block that is given as a whole is read once all the same.
    return state._replace(passes=jnp.maximum(state.passes, 1))


def make_rule(sampling: SamplingConfig, plan: SequencePlan) -> CommitRule:
    """The rule that `sampling.commit` names, for the blocks of a plan."""
    match sampling.commit:
        case "entropy":
            return EntropyBound(sampling.entropy_bound)
        case "confidence":
            return Confidence(sampling.confidence_noise)
        case "order":
            return DispersedOrder(disperse(plan))
        case _ as never:
            assert_never(never)


def accept_first(value: Float[Array, "b n"], proposal: Proposal) -> Bool[Array, "b n"]:
    """The `least` hidden places of smallest value."""
    place = rank(value, proposal.hidden)
    return proposal.hidden & (place < proposal.least[:, None])


LAST = 1e30  # above all entropies and doubts, so that hidden places come before the others


def rank(value: Float[Array, "b n"], hidden: Bool[Array, "b n"]) -> Int[Array, "b n"]:
    """The place of each hidden value in ascending order; equal ones by index, NaN last of them."""
    value = jnp.where(hidden, _finite(value), LAST)
    return jnp.argsort(jnp.argsort(value, axis=-1), axis=-1)


def _finite(value: Array) -> Array:
    return jnp.where(jnp.isnan(value), LAST / 2, jnp.minimum(value, LAST / 2))


def sum_entropy(probabilities: Float[Array, "*b v"]) -> Float[Array, "*b"]:
    """Entropy in nats."""
    return jax.scipy.special.entr(probabilities).sum(-1)


def count_least(
    hidden: Int[Array, "b"], first: Int[Array, "b"], index: Array | int, *, passes: int
) -> Int[Array, "b"]:
    """How many of the hidden tokens pass `index` of `passes` must accept.

    first: how many were hidden before the first pass. After pass i the share cos(pi/2 (i+1)/passes)
    of these may be left (MaskGIT), but one at least is accepted in each pass, and one is left for
    each that follows while there are any: with as many passes as tokens it is one a pass.
    """
    share = jnp.cos(jnp.pi / 2 * (index + 1) / passes)
    left = jnp.floor(first * share + 1e-4).astype(hidden.dtype)
    left = jnp.minimum(jnp.maximum(left, passes - 1 - index), first - 1 - index)
    least = jnp.clip(hidden - left, 1, None)
    return jnp.where(index >= passes - 1, hidden, jnp.minimum(least, hidden))


def disperse(plan: SequencePlan) -> tuple[int, ...]:
    """The places of a block in an order in which the first few are far from each other.

    One place after the other is the nearest free one to the next point of the Halton sequence of
    bases 2, 3 and 5 (Halton scheduler: arXiv 2503.17076), over height, width and time.
    """
    first = plan.prompt_length + plan.first_joint - plan.first
    corners = plan.target_coordinates[first : first + plan.block_size]
    extent = corners.max(0) - corners.min(0) + 1
    points = (corners - corners.min(0) + 0.5) / extent
    free = list(range(len(points)))
    order = []
    for i in range(1, len(points) + 1):
        fractions = [radical_inverse(i, base) for base in (5, 2, 3)]
        target = np.array([part / whole for part, whole in fractions])
        distance = np.square(points[free] - target).sum(-1)
        order.append(free.pop(int(np.argmin(distance))))
    return tuple(order)
