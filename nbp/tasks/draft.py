# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Training of the draft channel: which tokens of a block are shown as drafts, and what is scored.

Of the clips of an update some are plain: every draft is hidden, which is the objective of a model
without the channel. In the others each block that is drawn at once has a number of hidden tokens of
its own (masked prediction, MaskGIT: arXiv 2202.04200), and the revealed ones are shown in the slots
that predict them. All hidden tokens are scored alike, those of plain clips and the others.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, assert_never

import jax
import jax.numpy as jnp

from nbp import losses
from nbp.layout import SequencePlan
from nbp.models.generator import Generator, require_vocabulary
from nbp.models.heads import average
from nbp.parallel.cross_entropy import TokenScores, weighted_cross_entropy
from nbp.ranges import Range
from nbp.shapes import Array, Bool, Float, Int


@dataclass(frozen=True)
class DraftObjective:
    """How a generator with `generator.draft` learns to read drafts (`generator.draft_training`).

    share: of the clips of an update, those that show drafts, at least one and not all. The others
      are trained as without them: fewer show more of that objective, and draft less well.
    schedule: of the B tokens of a block so many are hidden: ceil(B * cos(pi / 2 * u)), u uniform
      (cosine: mostly many, as in the first passes of a refinement), or each number alike (uniform).
    """

    share: Annotated[float, Range(0.0, above=True, high=1.0, below=True)] = 0.5
    schedule: Literal["cosine", "uniform"] = "cosine"


class Drafts(NamedTuple):
    """Drafts of a batch of clips.

    ids: of each token in generation order, its code, or the number of codes where it is hidden.
    hidden: of each scored token. plain: clips in which all are.
    """

    ids: Int[Array, "b size"]
    hidden: Bool[Array, "b n"]
    plain: Bool[Array, "b"]


def make_drafts(
    objective: DraftObjective,
    plan: SequencePlan,
    codes: Int[Array, "b size"],
    *,
    hidden: int,
    key: Array,
) -> Drafts:
    """Draws what is revealed. `hidden`: the draft id of a hidden token, the number of codes.

    Raises ValueError for a single clip, which cannot be plain and show drafts.
    """
    clips = codes.shape[0]
    if clips < 2:
        raise ValueError("1 clip at a time: drafts need micro-batches of 2 clips or more")
    row_key, count_key, place_key = jax.random.split(key, 3)
    drafted = min(max(round(objective.share * clips), 1), clips - 1)
    spread = (jnp.arange(1, clips + 1) * drafted) // clips > (jnp.arange(clips) * drafted) // clips
    plain = ~jnp.roll(spread, jax.random.randint(row_key, (), 0, clips))
    blocks = (plan.grid.size - plan.first_joint) // plan.block_size
    counts = draw_counts(objective, plan.block_size, (clips, blocks), key=count_key)
    inside = hide_places(counts, plan.block_size, key=place_key) | plain[:, None, None]
    before = jnp.ones((clips, plan.first_joint), bool)
    all_hidden = jnp.concatenate([before, inside.reshape(clips, -1)], axis=1)
    ids = jnp.where(all_hidden, hidden, codes)
    return Drafts(ids, all_hidden[:, plan.first :], plain)


def draw_counts(
    objective: DraftObjective, size: int, shape: tuple[int, ...], *, key: Array
) -> Int[Array, "*s"]:
    """Numbers of hidden tokens, 1 to `size`, of blocks of `size` tokens."""
    u = jax.random.uniform(key, shape)
    match objective.schedule:
        case "cosine":
            share = jnp.cos(jnp.pi / 2 * u)
        case "uniform":
            share = 1.0 - u
        case _ as never:
            assert_never(never)
    return jnp.clip(jnp.ceil(size * share), 1, size).astype(jnp.int32)


def hide_places(counts: Int[Array, "*s"], size: int, *, key: Array) -> Bool[Array, "*s size"]:
    """So many random places of each block, all sets of them alike."""
    noise = jax.random.uniform(key, (*counts.shape, size))
    rank = jnp.argsort(jnp.argsort(noise, axis=-1), axis=-1)
    return rank < counts[..., None]


def score_drafts(
    model: Generator,
    codes: Int[Array, "b size"],
    prompt: Int[Array, "b p"] | None,
    drafts: Drafts,
    *,
    read: Int[Array, "b size"],
    null: Array | None,
    key: Array,
    tokens: int,
    weights: Float[Array, "b n"] | None = None,
) -> tuple[Array, dict[str, Array]]:
    """The loss, a mean over all hidden tokens in nats, and its companions.

    weights: of each scored token; None: all count alike.
    read: codes that the model reads in the place of the true ones, which it predicts.
    bits_per_token and the accuracies are of the plain clips, draft_bits_per_token is of the hidden
    tokens of the others.
    """
    states = model.hidden_states(read, prompt, null=null, drafts=drafts.ids, key=key)
    kernel, targets = require_vocabulary(model).kernel[...], model.targets(codes)
    scored = drafts.hidden.astype(jnp.float32)
    if weights is not None:
        scored = scored * weights
    found = weighted_cross_entropy(states, kernel, targets, scored, tokens=tokens)
    plain = jnp.where(drafts.plain[:, None], scored, 0.0)
    return found.loss, {
        **describe(found, plain),
        "draft_bits_per_token": average(found.nats, scored - plain) / losses.NATS_PER_BIT,
    }


def describe(found: TokenScores, weights: Float[Array, "b n"]) -> dict[str, Array]:
    """Bits per token and accuracies, weighted."""
    return {
        "bits_per_token": average(found.nats, weights) / losses.NATS_PER_BIT,
        "accuracy": average(found.hit, weights),
        "accuracy_top5": average(found.hit_top5, weights),
    }


def score_one_by_one(
    model: Generator,
    codes: Int[Array, "b size"],
    prompt: Int[Array, "b p"] | None,
    *,
    tokens: int,
    key: Array,
) -> Float[Array, ""]:
    """An estimate of the bits per token when each token of a block knows all those before it.

    The tokens of a block come in random order, as many passes as it has tokens. The mean over the
    hidden ones of a random number of them, each number alike, has this expectation (any-order
    likelihood, arXiv 2110.02037): what is left of `bits_per_token` is the cost of drawing at once.
    """
    plan = model.plan
    count_key, place_key = jax.random.split(key)
    blocks = (plan.grid.size - plan.first_joint) // plan.block_size
    shape = (codes.shape[0], blocks)
    counts = draw_counts(DraftObjective(schedule="uniform"), plan.block_size, shape, key=count_key)
    inside = hide_places(counts, plan.block_size, key=place_key)
    # A block counts as often as it has tokens, whatever number of them is hidden.
    weights = jnp.where(inside, plan.block_size / counts[..., None], 0.0)
    before = jnp.ones((codes.shape[0], plan.first_joint))
    weights = jnp.concatenate([before, weights.reshape(codes.shape[0], -1)], axis=1)
    ids = jnp.where(weights > 0, model.vocabulary.codes, codes)
    states = model.hidden_states(codes, prompt, drafts=ids)
    kernel, scored = require_vocabulary(model).kernel[...], weights[:, plan.first :]
    found = weighted_cross_entropy(states, kernel, model.targets(codes), scored, tokens=tokens)
    return found.loss / losses.NATS_PER_BIT
