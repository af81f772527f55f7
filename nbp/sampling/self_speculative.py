# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Self-speculative decoding: blocks draft, token blocks check, and both are the same weights.

A run that was trained with several blocks (`generator.blocks`), token among them, knows a clip's
distribution token by token and can also draw a whole block in one pass. Here a pass of the block's
plan draws a draft of each token of a block, of which the distribution q is known. A pass of the
token plan over the same block then gives each of them its distribution p, given the drafts before
it. The longest run of drafts that are kept, each with probability min(1, p / q), is final, and so
is the first that was not, which is drawn anew from max(0, p - q); another pass checks what is
behind it. So clips have the distribution of the token plan (`nbp.sampling.speculative`, whose
drafts come from the pass before; draft models for text: arXiv 2211.17192).

Clips of a batch wait for each other at the end of each block.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nbp.layout import Phase, SequencePlan
from nbp.models.generator import Generator
from nbp.models.inference import InferenceModel, inference_model_of
from nbp.nn.attention.kv_cache import Cache
from nbp.sampling.filtering import token_probabilities
from nbp.sampling.generate import Generation, clip_codes, cut_phases, make_generation
from nbp.sampling.settings import PLAIN, SamplingConfig
from nbp.sampling.speculative import GenerationOutput, accept, draw_weighted, residual
from nbp.shapes import Array, Bool, Float, Int

DRAFT, CHECK = 0xD4AF, 0xC4EC  # streams of random keys


@dataclass(frozen=True)
class SelfSpeculative:
    """Self-speculative decoding: the same distribution as `Autoregressive` of the token plan.

    drafts: the plan of the blocks that draft. The model that draws is that of the token plan.
    """

    drafts: SequencePlan

    def __call__(
        self,
        model: Generator | InferenceModel,
        key: Array,
        sample_ids: Int[Array, "b"],
        **options: Any,
    ) -> GenerationOutput:
        """Raises ValueError where the two plans do not go together (`check_plans`)."""
        return draft_and_check(model, key, sample_ids, drafts=self.drafts, **options)


def check_plans(tokens: SequencePlan, drafts: SequencePlan) -> None:
    """ValueError where blocks of `drafts` cannot be checked token by token in the plan `tokens`."""
    if tokens.block_size != 1:
        raise ValueError(f"blocks of {tokens.name} check nothing: the model must draw token blocks")
    if drafts.block_size == 1:
        raise ValueError("token blocks are drafts of nothing: draft in rows or frames")
    if (drafts.order != tokens.order).any():
        raise ValueError(
            f"{drafts.partition} blocks of {drafts.name} have their tokens in another order than "
            "token blocks: draft in rows or frames"
        )


class State(NamedTuple):
    """Clips between two blocks. tokens, blocks: the caches of the two plans."""

    ids: Int[Array, "b size"]
    tokens: Cache
    blocks: Cache
    finite: Bool[Array, "b"]
    passes: Int[Array, "b"]


class Checked(NamedTuple):
    """A block between two checks.

    law: what its tokens were drawn from. done: tokens of the clip that are final. checks: so far.
    """

    ids: Int[Array, "b size"]
    cache: Cache
    law: Float[Array, "b n v"]
    done: Int[Array, "b"]
    checks: Int[Array, ""]
    finite: Bool[Array, "b"]
    passes: Int[Array, "b"]


def draft_and_check(
    model: Generator | InferenceModel,
    key: Array,
    sample_ids: Int[Array, "b"],
    *,
    drafts: SequencePlan,
    prompt: Int[Array, "b p"] | None = None,
    null: Bool[Array, "b"] | None = None,
    known: Int[Array, "b size"] | None = None,
    given: int = 0,
    sampling: SamplingConfig = PLAIN,
) -> GenerationOutput:
    """Draws clips of the model's plan, which is one of token blocks; pure, as `generate`.

    A block takes a pass for its drafts and as many more as it has runs of kept drafts: two where
    all are kept, one more than it has tokens at most. Tokens that the plan `drafts` draws one by
    one are drawn so. What is read before the first drafts is a pass of each plan more.

    Raises ValueError as `check_plans` does, and for `sampling.refinements` above 1.
    """
    decoder = inference_model_of(model)
    plan = decoder.model.plan
    check_plans(plan, drafts)
    if sampling.refinements > 1:
        raise ValueError(
            f"refinements {sampling.refinements}: self-speculative decoding drafts in one pass"
        )
    tokens = make_generation(
        decoder, key, sample_ids, prompt=prompt, null=null, given=given, sampling=sampling
    )
    clips = sample_ids.shape[0]
    if known is None:
        known = jnp.zeros((clips, plan.grid.size), jnp.int32)
    begin = max(given, drafts.first_joint)
    state = draw_opening(tokens, known, begin)
    if begin < plan.grid.size:
        blocks = dataclasses.replace(
            tokens, decoder=decoder._replace(model=decoder.model.with_plan(drafts))
        )
        state = _Pair(tokens, blocks, begin).draw(state)
    return GenerationOutput.of(clip_codes(decoder.model, state.ids), state.passes, state.finite)


def draw_opening(run: Generation, known: Int[Array, "b size"], begin: int) -> State:
    """Clips up to the token `begin`, drawn one by one, and an empty cache for the blocks."""
    given, clips = run.schedule.given, len(run.keys)
    cache, blocks = run.make_cache(), run.make_cache()
    if begin > given:
        schedule = run.model.plan.schedule(given, begin)
        drawn = dataclasses.replace(run, schedule=schedule).draw(known, cache)
        return State(drawn.ids, drawn.cache, blocks, drawn.finite, drawn.passes)
    stays = jnp.arange(known.shape[1]) < given
    ids = jnp.where(stays, known + run.model.vocabulary.code_offset, 0)
    return State(ids, cache, blocks, jnp.ones(clips, bool), jnp.zeros(clips, jnp.int32))


@dataclass(frozen=True)
class _Pair:
    """The two plans of one generation, whose first `begin` tokens are known."""

    tokens: Generation
    blocks: Generation
    begin: int

    @property
    def size(self) -> int:
        """Tokens of a block."""
        return self.blocks.model.plan.block_size

    def draw(self, state: State) -> State:
        """All blocks behind the first `begin` tokens; the first of them may be half known."""
        size, total = self.size, self.tokens.model.plan.grid.size
        first = self.begin // size
        phase = Phase(self.query(self.tokens, first * size), size, total // size - first)
        before = self.query(self.blocks, first * size)
        groups = cut_phases((phase,), self.tokens.lengths)
        state = self.grow(state, groups[0][1])
        if self.begin == self.tokens.schedule.given:
            cache, more = self.read(self.tokens, state.ids, state.tokens, phase.start)
            state = state._replace(tokens=cache, passes=state.passes + more)
        cache, more = self.read(self.blocks, state.ids, state.blocks, before)
        state = state._replace(blocks=cache, passes=state.passes + more)
        for group, room in groups:
            start = first + (group.start - phase.start) // size
            state = self.scan_blocks(self.grow(state, room), range(start, start + group.count))
        return state

    def scan_blocks(self, state: State, numbers: range) -> State:
        def step(state: State, block: Array) -> tuple[State, None]:
            return self.draw_block(state, block), None

        return jax.lax.scan(step, state, jnp.arange(numbers.start, numbers.stop))[0]

    def draw_block(self, state: State, block: Array) -> State:
        """Drafts and checks the tokens of one block until all clips have them."""
        n, start = self.size, block * self.size
        done = jnp.full(len(self.tokens.keys), jnp.maximum(start, self.begin))
        drawn, law, cache = self.draft(state.ids, state.blocks, block)
        before = jax.lax.dynamic_slice_in_dim(state.ids, start, n, 1)
        drawn = jnp.where(start + jnp.arange(n) < done[:, None], before, drawn)
        ids = jax.lax.dynamic_update_slice(state.ids, drawn.astype(state.ids.dtype), (0, start))
        begun = Checked(ids, state.tokens, law, done, jnp.int32(0), state.finite, state.passes + 1)
        found = jax.lax.while_loop(
            lambda now: (now.done < start + n).any(), lambda now: self.check(now, block), begun
        )
        return State(found.ids, found.cache, cache, found.finite, found.passes)

    def draft(
        self, ids: Array, cache: Cache, block: Array
    ) -> tuple[Int[Array, "b n"], Float[Array, "b n v"], Cache]:
        """Vocabulary ids of the tokens of a block, what they were drawn from, and the cache."""
        law, cache = self.look(self.blocks, ids, cache, block)
        keys = self.fold(DRAFT, block, 0)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (self.size,)))(keys)
        return draw_weighted(uniform, law) + self.tokens.model.output_ids.start, law, cache

    def check(self, now: Checked, block: Array) -> Checked:
        """One pass of the token plan over a block. Clips that have all of it stay as they are.

        Drafts behind the first that is drawn anew are kept or drawn anew as well, so that they have
        the distribution of this pass, which is nearer to the next one's (arXiv 2510.24211).
        """
        n, start = self.size, block * self.size
        first_id = self.tokens.model.output_ids.start
        target, cache = self.look(self.tokens, now.ids, now.cache, block)
        final = start + jnp.arange(n) < now.done[:, None]
        # All of a row is NaN where it has no distribution. What is final was drawn before.
        finite = now.finite & (final | jnp.isfinite(target[..., 0])).all(1)
        keys = self.fold(CHECK, block, now.checks)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (2, n)))(keys)
        drawn = jax.lax.dynamic_slice_in_dim(now.ids, start, n, 1)
        kept = final | accept(uniform[:, 0], target, now.law, drawn - first_id)
        new = draw_weighted(uniform[:, 1], residual(target, now.law)) + first_id
        ids = jax.lax.dynamic_update_slice(
            now.ids, jnp.where(kept, drawn, new).astype(now.ids.dtype), (0, start)
        )
        leading = jnp.cumprod(kept, axis=1).sum(1)
        done = start + jnp.minimum(leading + 1, n)
        passes = now.passes + (now.done < start + n)
        return Checked(ids, cache, target, done, now.checks + 1, finite, passes)

    def look(
        self, run: Generation, ids: Array, cache: Cache, block: Array
    ) -> tuple[Float[Array, "b n v"], Cache]:
        """The distributions of a block's tokens in one of the plans, and its cache.

        Schedules of guidance and temperature count tokens in both.
        """
        n, start = self.size, self.query(run, block * self.size)
        limits = start + n if run is self.blocks else start + 1 + jnp.arange(n)
        index = jnp.maximum(block * n + jnp.arange(n) - run.schedule.given, 0)
        logits, cache = run.look(
            ids, cache, start, fed=n, drawn=n, k_end=jnp.broadcast_to(limits, (n,)), index=index
        )
        passes = run.schedule.planned
        return token_probabilities(run.sampling, logits, index=index, passes=passes), cache

    def read(self, run: Generation, ids: Array, cache: Cache, end: int) -> tuple[Cache, int]:
        """The cache with all queries before `end`, and the passes that this took."""
        if not end:
            return cache, 0
        limits = jnp.asarray(run.model.plan.k_end[:end])
        _, cache = run.look(ids, cache, 0, fed=end, drawn=0, k_end=limits, index=0)
        return cache, 1

    def query(self, run: Generation, token: Any) -> Any:
        """The query that predicts a token in one of the plans."""
        return run.model.plan.prompt_length - run.model.plan.first + token

    def fold(self, stream: int, block: Array, number: Array | int) -> Array:
        """A random key for each clip."""

        keys = self.tokens.keys
        for value in (stream, block, number):
            keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, value)
        return keys

    def grow(self, state: State, room: int) -> State:
        """The same with caches for `room` positions."""

        def fit(cache: Cache) -> Cache:
            return cache.grow(room) if room > cache.length else cache

        return state._replace(tokens=fit(state.tokens), blocks=fit(state.blocks))
