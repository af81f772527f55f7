# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Jacobi decoding with fixed noise: for heads of digits, which have no logits of whole codes.

Every draw is a function of logits and of random numbers that belong to its place in the clip. With
these numbers held, a clip is the fixed point of one function: each block is what is drawn after the
tokens before it. So the blocks of several passes of the plan are drawn in one pass after guesses,
and again after what was drawn, until nothing changes (predictive sampling, arXiv 2002.09928). The
first block that is not final becomes final with every pass, because all before it is; the next one
too if the tokens that were read before it are what is drawn there now; and so on.

So a clip is, to rounding, the one that `Autoregressive` draws with the same key. Nothing has to be
known of the distribution of draws, which `nbp.sampling.speculative` compares, to keep more drafts.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nbp.layout import Phase
from nbp.models.generator import Generator
from nbp.models.inference import InferenceModel, inference_model_of
from nbp.sampling.generate import Generation, clip_codes, make_generation
from nbp.sampling.settings import PLAIN, SamplingConfig
from nbp.sampling.speculative import (
    GenerationOutput,
    SpeculativeJacobi,
    begin_ids,
    count_final,
    map_clips,
    put_tokens,
)
from nbp.shapes import Array, Bool, Int


@dataclass(frozen=True)
class FixedNoiseJacobi:
    """The clips of `Autoregressive`, in at most as many passes; any head.

    window: passes of the plan that one pass looks at. 1 draws as the plan does.
    """

    window: int = 4

    def __post_init__(self) -> None:
        SpeculativeJacobi(self.window)

    def __call__(
        self,
        model: Generator | InferenceModel,
        key: Array,
        sample_ids: Int[Array, "b"],
        **options: Any,
    ) -> GenerationOutput:
        return find_fixed_points(model, key, sample_ids, window=self.window, **options)


class State(NamedTuple):
    """Clips between two passes.

    ids: vocabulary ids, final below `done`, drawn once below `drafted`, then guesses. cache: with
    an axis of clips before the others.
    """

    ids: Int[Array, "b size"]
    cache: Any
    drafted: Int[Array, "b"]
    done: Int[Array, "b"]
    passes: Int[Array, "b"]
    finite: Bool[Array, "b"]


def find_fixed_points(
    model: Generator | InferenceModel,
    key: Array,
    sample_ids: Int[Array, "b"],
    *,
    window: int,
    prompt: Int[Array, "b p"] | None = None,
    null: Bool[Array, "b"] | None = None,
    known: Int[Array, "b size"] | None = None,
    given: int = 0,
    sampling: SamplingConfig = PLAIN,
) -> GenerationOutput:
    """Draws clips in at most as many passes as the plan has; pure, as `nbp.sampling.generate`.

    window: passes of the plan that one pass looks at, itself included; at least 1. The others: see
    `nbp.sampling.generate.generate`. Raises ValueError for `sampling.refinements` above 1.
    """
    if sampling.refinements > 1:
        raise ValueError(
            f"refinements {sampling.refinements}: Jacobi decoding draws each block in one pass"
        )
    decoder = inference_model_of(model)
    plan, clips = decoder.model.plan, sample_ids.shape[0]

    def begin(sample_id: Array, prompt: Any, null: Any) -> Generation:
        prompt, null = jax.tree.map(lambda x: x[None], (prompt, null))
        options: dict[str, Any] = {"prompt": prompt, "null": null, "given": given}
        return make_generation(decoder, key, sample_id[None], sampling=sampling, **options)

    run = _Run(begin, (sample_ids, prompt, null), window)
    ids = begin_ids(decoder.model, known, clips, given=given)
    rows = 2 if run.any_clip.sampling.guidance else 1
    cache = jax.vmap(lambda _: decoder.make_cache(rows, plan.length))(jnp.arange(clips))
    done = jnp.full(clips, given, jnp.int32)
    none = jnp.zeros(clips, jnp.int32)
    state, index = State(ids, cache, done, done, none, jnp.ones(clips, bool)), 0
    for phase in plan.phases(given):
        state = run.run_phase(state, phase=phase, index=index)
        index += phase.count
    return GenerationOutput.of(clip_codes(decoder.model, state.ids), state.passes, state.finite)


@dataclass(frozen=True)
class _Run:
    """Passes that look ahead. begin: makes the generation of a single clip of its row of `own`:
    number, prompt, null condition.
    """

    begin: Callable[..., Generation]
    own: tuple[Array, Array | None, Array | None]
    window: int

    @functools.cached_property
    def any_clip(self) -> Generation:
        """What is the same for all clips."""
        return self.begin(*jax.tree.map(lambda x: x[0], self.own))

    def run_phase(self, state: State, *, phase: Phase, index: int) -> State:
        """All passes of equal width; `index` is that of the first among the plan's passes."""
        plan = self.any_clip.model.plan
        state = state._replace(drafted=state.done)  # of another phase's width there are no drafts
        advance = functools.partial(self.advance, phase=phase, index=index)
        if index == 0:  # the queries before the first drawn token come along
            state = advance(state, first=True)
        end = phase.start + phase.width * phase.count - plan.prompt_length + plan.first
        return jax.lax.while_loop(lambda state: (state.done < end).any(), advance, state)

    def advance(self, state: State, *, phase: Phase, index: int, first: bool = False) -> State:
        """One pass of every clip. Those that are done stay as they are."""
        model = self.any_clip.model
        plan, first_id = model.plan, model.output_ids.start
        width, n = phase.width, min(self.window, phase.count) * phase.width
        begin = phase.start - plan.prompt_length + plan.first  # tokens of this phase
        end = begin + width * phase.count
        base = jnp.minimum(state.done, end - n)
        token = base[:, None] + jnp.arange(n)
        final = token < state.done[:, None]
        drafts, guesses = (
            jax.vmap(lambda row, at: row[at])(state.ids, at)
            for at in (token, jnp.asarray(plan.lookalikes)[token])
        )
        drafts = jnp.where(token < state.drafted[:, None], drafts, guesses)
        ids = put_tokens(state.ids, drafts, base)
        fed = phase.start + n if first else n
        passes_before = index + (token[:, ::width] - begin) // width

        def look(own: Any, *arrays: Any) -> tuple[Array, Any]:
            return self.look(self.begin(*own), *arrays, fed=fed, width=width)

        drawn, cache = map_clips(look, self.own, ids, state.cache, base, passes_before)
        finite = state.finite & (final | (drawn >= 0)).all(1)
        new = jnp.where(final, drafts, jnp.maximum(drawn, 0) + first_id)
        complete = count_final(new == drafts, width)
        return State(
            put_tokens(ids, new, base),
            cache,
            base + n,
            base + complete * width,
            state.passes + (state.done < end),
            finite,
        )

    def look(
        self,
        clip: Generation,
        ids: Int[Array, "size"],
        cache: Any,
        base: Array,
        index: Int[Array, "k"],
        *,
        fed: int,
        width: int,
    ) -> tuple[Int[Array, "n"], Any]:
        """Draws the k blocks of a clip from `base` on, each with the numbers of its pass `index`.

        Returns indexes into `Generator.output_ids`, -1 without a distribution, and the cache.
        """
        plan, n = clip.model.plan, len(index) * width
        start = base + plan.prompt_length - plan.first + n - fed
        limits = jax.lax.dynamic_slice_in_dim(jnp.asarray(plan.k_end), start, fed)
        hidden, cache = clip.feed(ids[None], cache, start, fed=fed, drawn=n, k_end=limits)
        blocks = jnp.moveaxis(hidden.reshape(len(hidden), len(index), width, -1), 1, 0)
        tokens = base + jnp.arange(0, n, width)
        return jax.vmap(clip.draw_block)(blocks, tokens, index).reshape(n), cache
