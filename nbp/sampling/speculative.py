# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Speculative Jacobi decoding: fewer passes than the plan has, no draft model, no training.

Every pass feeds the tokens of several of the plan's passes at once, the later ones as drafts that
the pass before has drawn (arXiv 2410.01699). A draft is kept or drawn again such that it has the
distribution which this pass gives (`accept`). The first block that is not final
becomes final with every pass, because all before it is; the next one as well when all drafts of
that block were kept, since its logits were then computed from final tokens; and so on.

A clip is at its own place of the window: nothing waits for the slowest of a batch but the end.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from nbp.layout import Phase
from nbp.models.generator import Generator, require_vocabulary
from nbp.models.inference import InferenceModel, generator_of, inference_model_of
from nbp.sampling.brackets import COLUMNS, Rows, pick, sum_columns
from nbp.sampling.filtering import guidance_weight, token_probabilities
from nbp.sampling.generate import Drawing, clip_codes, generate_checked
from nbp.sampling.settings import PLAIN, SamplingConfig
from nbp.shapes import Array, Bool, Float, Int

Relax = Callable[[Array, Array], Array]  # (target, law of the draft) -> the target to use instead


class GenerationOutput(NamedTuple):
    """Codes in generation order, and the passes that each clip took.

    All codes are -1 of a clip that is no sample: its logits were not finite numbers in all passes.
    """

    codes: Int[Array, "b size"]
    passes: Int[Array, "b"]

    @classmethod
    def of(cls, codes: Array, passes: Array, finite: Bool[Array, "b"]) -> "GenerationOutput":
        """Marks the clips that are not `finite`."""
        return cls(jnp.where(finite[:, None], codes, -1), passes)

    @property
    def finite(self) -> Bool[Array, "b"]:
        """Which clips are samples."""
        return (self.codes >= 0).all(-1)


class State(NamedTuple):
    """Clips between two passes.

    ids: vocabulary ids, final below `done`, then drafts, then guesses.
    cache: as of `InferenceModel.make_cache`, with an axis of clips before the others.
    law: what the tokens from `base` on were drawn from; zeros where there is no draft.
    """

    ids: Int[Array, "b size"]
    cache: Any
    law: Float[Array, "b n v"]
    base: Int[Array, "b"]
    done: Int[Array, "b"]
    passes: Int[Array, "b"]
    finite: Bool[Array, "b"]


def decode_ahead(
    model: Generator | InferenceModel,
    key: Array,
    sample_ids: Int[Array, "b"],
    *,
    window: int,
    coupled: bool = True,
    relax: Relax | None = None,
    prompt: Int[Array, "b p"] | None = None,
    null: Bool[Array, "b"] | None = None,
    known: Int[Array, "b size"] | None = None,
    given: int = 0,
    sampling: SamplingConfig = PLAIN,
) -> GenerationOutput:
    """Draws clips in at most as many passes as the plan has; pure, as `nbp.sampling.generate`.

    Args:
      window: passes of the plan that one pass looks at, itself included; at least 1.
      coupled: keep drafts behind the first that was rejected where their new distribution allows it
        (arXiv 2510.24211); otherwise they are all drawn anew, as in arXiv 2410.01699.
      relax: what a draft is held against instead of its distribution; None is exact.
      The others: see `nbp.sampling.generate.generate`.

    Raises ValueError for `sampling.refinements` above 1.
    """
    if sampling.refinements > 1:
        raise ValueError(
            f"refinements {sampling.refinements}: speculative decoding draws each block in one pass"
        )
    decoder = inference_model_of(model)
    require_vocabulary(decoder.model, "speculative decoding compares logits of whole codes")
    plan = decoder.model.plan
    phases = plan.phases(given)
    batch = sample_ids.shape[0]
    ids = begin_ids(decoder.model, known, batch, given=given)
    guided = sampling.guidance != 0.0 and plan.prompt_length > 0
    run = _Run(
        decoder=decoder,
        count=plan.passes(given),
        keys=jax.vmap(functools.partial(jax.random.fold_in, key))(sample_ids),
        prompt=prompt,
        null=null,
        sampling=sampling if guided else sampling.unguided,
        guided=guided,
        coupled=coupled,
        relax=relax,
    )
    rows = 2 if guided else 1
    cache = jax.vmap(lambda _: decoder.make_cache(rows, plan.length))(jnp.arange(batch))
    counts = (jnp.full(batch, given), jnp.zeros(batch, jnp.int32), jnp.ones(batch, bool))
    index = 0
    for phase in phases:
        ids, cache, counts = run.run_phase(
            ids, cache, counts, phase=phase, window=window, index=index
        )
        index += phase.count
    return GenerationOutput.of(clip_codes(decoder.model, ids), *counts[1:])


@dataclass(frozen=True)
class _Run(Drawing):
    """Passes that look ahead. count: passes of the plan."""

    count: int
    guided: bool
    coupled: bool
    relax: Relax | None

    def run_phase(
        self,
        ids: Array,
        cache: Any,
        counts: tuple[Array, Array, Array],
        *,
        phase: Phase,
        window: int,
        index: int,
    ) -> tuple[Array, Any, tuple[Array, Array, Array]]:
        """All passes of equal width; `index` is that of the first among the plan's passes.

        counts: `done`, `passes` and `finite` of the state. Every pass makes at least a block final,
        whatever the logits are, so that there are at most as many as the plan has.
        """
        width = min(window, phase.count) * phase.width
        law = jnp.zeros((ids.shape[0], width, len(self.model.output_ids)), jnp.float32)
        state = State(ids, cache, law, counts[0], *counts)
        advance = functools.partial(self.advance, phase=phase, index=index)
        if index == 0:  # the queries before the first drawn token come along
            state = advance(state, first=True)
        plan = self.model.plan
        end = phase.start + phase.width * phase.count - plan.prompt_length + plan.first
        state = jax.lax.while_loop(lambda state: (state.done < end).any(), advance, state)
        return state.ids, state.cache, (state.done, state.passes, state.finite)

    def advance(self, state: State, *, phase: Phase, index: int, first: bool = False) -> State:
        """One pass of every clip. Those that are done stay as they are.

        The window of a clip begins at its first token that is not final, and at the end of the
        phase earlier, such that all windows are of one width.
        """
        plan, scored = self.model.plan, self.model.output_ids
        n = state.law.shape[1]
        begin = phase.start - plan.prompt_length + plan.first  # tokens of this phase
        end = begin + phase.width * phase.count
        base = jnp.minimum(state.done, end - n)
        token = base[:, None] + jnp.arange(n)
        final = token < state.done[:, None]
        law = jax.vmap(lambda rows, at: rows.at[at].get(mode="fill", fill_value=0.0))(
            state.law, jnp.arange(n) + (base - state.base)[:, None]
        )
        drafts = jax.vmap(lambda row, at: row[at])(state.ids, token)
        guesses = jax.vmap(lambda row, at: row[at])(state.ids, jnp.asarray(plan.lookalikes)[token])
        drafts = jnp.where(final | (law.sum(-1) > 0), drafts, guesses)
        ids = put_tokens(state.ids, drafts, base)

        start = 0 if first else base + plan.prompt_length - plan.first
        fed = phase.start + n if first else n
        passes_before = index + (token - begin) // phase.width
        logits, cache = self.look(ids, state.cache, start, passes_before, fed=fed)
        plain = token_probabilities(self.sampling, logits, index=passes_before, passes=self.count)
        target = plain if self.relax is None else self.relax(plain, law)
        # All of a row is NaN where it has no distribution. What is final was drawn before.
        finite = state.finite & (final | jnp.isfinite(plain[..., 0])).all(1)

        keys = jax.vmap(jax.random.fold_in)(self.keys, state.passes)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (2, n)))(keys)
        kept = final | accept(uniform[:, 0], target, law, drafts - scored.start)
        complete = count_final(kept, phase.width)
        if not self.coupled:
            behind = jnp.arange(n) >= (complete * phase.width)[:, None]
            kept &= ~behind
            law = jnp.where(behind[..., None], 0.0, law)
            target = jnp.where(behind[..., None], plain, target)
        new = draw_weighted(uniform[:, 1], residual(target, law)) + scored.start
        ids = put_tokens(ids, jnp.where(kept, drafts, new).astype(ids.dtype), base)
        done = base + complete * phase.width
        passes = state.passes + (state.done < end)
        return State(ids, cache, target, base, done, passes, finite)

    def look(
        self, ids: Array, cache: Any, start: Array | int, index: Array, *, fed: int
    ) -> tuple[Float[Array, "b n v"], Any]:
        """Logits of the last queries of `[start, start + fed)`, and the cache that holds these.

        `index` [b n]: which of the plan's passes would draw each; n are scored. `start` differs
        between clips where it is an array.
        """
        scored = index.shape[1]
        model, limits = self.model, jnp.asarray(self.model.plan.k_end)

        def look_at_one(
            ids: Array, prompt: Any, null: Any, cache: Any, index: Array, start: Any
        ) -> tuple[Array, Any]:
            rows = jnp.stack([ids] * (2 if self.guided else 1))
            prompts = None if prompt is None else jnp.stack([prompt] * len(rows))
            nulls = None if null is None else null[None]
            if self.guided:
                nulls = jnp.array([False, True])
            x = model.embed(model.input_table(rows, prompts), start, fed, null=nulls)
            x, cache = self.decoder.forward_cached(
                x,
                cache,
                start=start,
                k_end=jax.lax.dynamic_slice_in_dim(limits, start, fed),
                key_mask=model.key_mask(prompts, nulls),
            )
            logits = self.decoder.predict(x[:, fed - scored :])
            if not self.guided:
                return logits[0], cache
            t = jnp.broadcast_to(guidance_weight(self.sampling, index, self.count), (scored,))[
                :, None
            ]
            return (1 + t) * logits[0] - t * logits[1], cache

        own = (ids, self.prompt, self.null, cache, index)
        if isinstance(start, int):
            return map_clips(functools.partial(look_at_one, start=start), *own)
        return map_clips(look_at_one, *own, start)


def begin_ids(
    model: Generator, known: Int[Array, "b size"] | None, clips: int, *, given: int
) -> Int[Array, "b size"]:
    """Vocabulary ids before the first pass: the given codes, and the first code elsewhere."""
    size, offset = model.plan.grid.size, model.vocabulary.code_offset
    ids = jnp.full((clips, size), offset, jnp.int32)
    if known is None:
        return ids
    return jnp.where(jnp.arange(size) < given, known + offset, ids).astype(jnp.int32)


def map_clips(function: Callable[..., Any], *arrays: Any) -> Any:
    """`function` of the rows of trees of arrays, clip by clip; there is at least one clip."""
    if len(jax.tree.leaves(arrays)[0]) > 1:
        return jax.vmap(function)(*arrays)
    # A slice that begins at one place is written in place; a mapped one becomes a scatter.
    out = function(*jax.tree.map(lambda x: x[0], arrays))
    return jax.tree.map(lambda x: x[None], out)


def count_final(kept: Bool[Array, "b n"], width: int) -> Int[Array, "b"]:
    """How many blocks of a window are final after a pass: those up to the first with a new token.

    The first block was read after final tokens; each other one if all before it were kept.
    """
    whole = kept.reshape(len(kept), -1, width).all(-1)
    return jnp.minimum(jnp.cumprod(whole, axis=1).sum(1) + 1, whole.shape[1])


def put_tokens(ids: Array, tokens: Array, base: Array) -> Array:
    """Writes tokens [b n] into each row from `base` on."""
    return jax.vmap(lambda row, new, at: jax.lax.dynamic_update_slice(row, new, (at,)))(
        ids, tokens, base
    )


LEAST = 1e-20  # a mass below it is none


def accept(
    uniform: Float[Array, "b n"],
    target: Float[Array, "b n v"],
    law: Float[Array, "b n v"],
    tokens: Int[Array, "b n"],
) -> Bool[Array, "b n"]:
    """Which drafts are kept. `uniform` in [0, 1); `target` and `law` sum to 1 over v."""

    def read(probabilities: Array) -> Array:
        return jnp.take_along_axis(probabilities, tokens[..., None], axis=-1)[..., 0]

    drafted = read(law)
    return (drafted > 0) & (uniform * drafted < read(target))


def residual(target: Float[Array, "b n v"], law: Float[Array, "b n v"]) -> Float[Array, "b n v"]:
    """Weights that a token is drawn from when its draft was not kept; they need not sum to 1."""
    rest = jnp.maximum(target - law, 0.0)
    # Equal distributions reject by rounding alone; then any draw from the target will do.
    return jnp.where(rest.sum(-1, keepdims=True) > 0, rest, target)


def draw_weighted(
    uniform: Float[Array, "b n"], weights: Float[Array, "b n v"]
) -> Int[Array, "b n"]:
    """The token at `uniform` of the cumulated weight; never one of weight 0."""
    b, n, v = weights.shape
    depth = -(-v // COLUMNS)
    padded = jnp.pad(weights.reshape(b * n, v), ((0, 0), (0, depth * COLUMNS - v)))
    columns = padded.reshape(b * n, depth, COLUMNS)
    rows = Rows(columns, columns, jnp.ones(b * n, columns.dtype))
    allowed = columns > 0
    index, _ = pick(rows, allowed, sum_columns(rows, allowed), uniform.reshape(b * n))
    return index.reshape(b, n)


@dataclass(frozen=True)
class NearCodes:
    """Neighbourhoods of codes whose digits are levels: those of FSQ, or bits (LFQ).

    levels: values of each digit; digit 0 of a code is the least significant (`nbp.nn.fsq`).
    radius: two codes are near when the differences of their digits sum to at most this. Radius 1
      is one level of one channel: 12 neighbours among the 64,000 codes of six channels.
    """

    levels: tuple[int, ...]
    radius: int

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"levels {self.levels}: near codes need at least one level, each >= 2")
        if self.radius < 1:
            raise ValueError(f"radius {self.radius}: must be at least 1 level")

    @property
    def codes(self) -> int:
        return math.prod(self.levels)

    def sum_near(self, mass: Float[Array, "*b v"]) -> Float[Array, "*b v"]:
        """For each code the mass of the codes near it, itself among them.

        One digit after the other; `rings[r]` holds the sums over all codes at distance r in the
        digits so far. No table of pairs of codes is made.
        """
        rings = [mass] + [jnp.zeros_like(mass)] * self.radius
        basis = 1
        for levels in self.levels:
            digits = np.arange(self.codes) // basis % levels
            spread = list(rings)
            for step in range(1, min(self.radius, levels - 1) + 1):
                for ring in range(self.radius - step + 1):
                    moved = _shift(rings[ring], digits, levels, basis, step)
                    spread[ring + step] = spread[ring + step] + moved
            rings, basis = spread, basis * levels
        return sum(rings[1:], rings[0])

    def relax(
        self, target: Float[Array, "*b v"], law: Float[Array, "*b v"], delta: float
    ) -> Float[Array, "*b v"]:
        """A distribution nearer to `law`: at most `delta` of the target's mass has moved.

        Each piece of it moves from a code of which the law has too little to a code, near that one,
        of which the law has too much. So the total-variation distance between the result and
        `target` is at most `delta`, and exactly the mass that moved. See docs/sampling.md.
        """
        wanted = jnp.maximum(law - target, 0.0)  # codes drafted too often
        spare = jnp.maximum(target - law, 0.0)  # codes drafted too rarely; disjoint from those
        reach = self.sum_near(wanted)
        # A code offers its spare mass to the wanted codes near it in proportion to what they want.
        share = jnp.where(reach > LEAST, spare / jnp.maximum(reach, LEAST), 0.0)
        offered = self.sum_near(share)  # to a wanted code, per unit of what it wants
        taken = wanted / jnp.maximum(offered, 1.0)  # no code takes more than it wants
        gain, loss = taken * offered, share * self.sum_near(taken)
        moved = gain.sum(-1, keepdims=True)
        scale = jnp.minimum(1.0, delta / jnp.maximum(moved, LEAST))
        return jnp.maximum(target + scale * (gain - loss), 0.0)


def _shift(mass: Array, digits: np.ndarray, levels: int, basis: int, step: int) -> Array:
    """Sum of the masses `step` levels below and above in one digit."""
    move = step * basis
    padded = jnp.pad(mass, [(0, 0)] * (mass.ndim - 1) + [(move, move)])
    below = jnp.where(digits >= step, padded[..., : -2 * move], 0.0)
    above = jnp.where(digits < levels - step, padded[..., 2 * move :], 0.0)
    return below + above


@runtime_checkable
class Decoding(Protocol):
    """`(model, key, sample_ids, **options) -> Drawn`; the options are those of `generate`."""

    def __call__(
        self,
        model: Generator | InferenceModel,
        key: Array,
        sample_ids: Int[Array, "b"],
        **options: Any,
    ) -> GenerationOutput: ...


@dataclass(frozen=True)
class Autoregressive:
    """The passes of the plan; several over each block with `sampling.refinements` above 1."""

    def __call__(
        self,
        model: Generator | InferenceModel,
        key: Array,
        sample_ids: Int[Array, "b"],
        **options: Any,
    ) -> GenerationOutput:
        codes, finite, passes = generate_checked(model, key, sample_ids, **options)
        return GenerationOutput.of(codes, passes, finite)


@dataclass(frozen=True)
class SpeculativeJacobi:
    """Speculative Jacobi decoding: the same distribution as `Autoregressive`.

    window: passes of the plan that one pass looks at. 1 draws as the plan does.
    coupled: see `decode_ahead`; False is the published algorithm (arXiv 2410.01699), slower.
    """

    window: int = 4
    coupled: bool = True

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window {self.window}: a pass looks at 1 pass of the plan or more")

    def __call__(
        self,
        model: Generator | InferenceModel,
        key: Array,
        sample_ids: Int[Array, "b"],
        **options: Any,
    ) -> GenerationOutput:
        return decode_ahead(
            model, key, sample_ids, window=self.window, coupled=self.coupled, **options
        )


@dataclass(frozen=True)
class RelaxedJacobi:
    """`SpeculativeJacobi` that also keeps drafts for codes near them (idea: arXiv 2410.03355).

    levels: of the digits of a code (`NearCodes`). radius: how far, in
    levels, mass may move between codes. delta: the largest share of a token's distribution that may
    move, 0..1: its total-variation distance from the exact one, given what was drawn before.
    """

    levels: tuple[int, ...]
    window: int = 4
    radius: int = 1
    delta: float = 0.1

    def __post_init__(self) -> None:
        SpeculativeJacobi(self.window)
        NearCodes(self.levels, self.radius)
        if not 0 <= self.delta <= 1:
            raise ValueError(f"delta {self.delta}: a share of a distribution, 0 (exact) to 1")

    def __call__(
        self,
        model: Generator | InferenceModel,
        key: Array,
        sample_ids: Int[Array, "b"],
        **options: Any,
    ) -> GenerationOutput:
        """Raises ValueError where the levels do not give the model's codes."""
        generator = generator_of(model)
        near, codes = NearCodes(self.levels, self.radius), generator.vocabulary.codes
        if near.codes != codes:
            raise ValueError(
                f"levels {self.levels} give {near.codes} codes, but this model has {codes}"
            )
        first = (
            generator.vocabulary.code_offset - generator.output_ids.start
        )  # special and prompt ids before

        def relax(target: Array, law: Array) -> Array:
            relaxed = near.relax(target[..., first:], law[..., first:], self.delta)
            return jnp.concatenate([target[..., :first], relaxed], axis=-1)

        return decode_ahead(model, key, sample_ids, window=self.window, relax=relax, **options)


AUTOREGRESSIVE = Autoregressive()
