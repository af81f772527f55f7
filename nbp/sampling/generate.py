# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Generation as one compiled program: the first pass, then scans over the plan's passes.

With `sampling.refinements` above 1, and where tokens are given anywhere (`kept`), each block that
is drawn at once is read in a loop of passes over the same positions (`Generation.refine`).
"""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nbp.layout import Phase, Schedule
from nbp.models.generator import Generator
from nbp.models.heads import DigitDrawing
from nbp.models.inference import InferenceModel, generator_of, inference_model_of
from nbp.models.joint_head import JointHead
from nbp.nn.attention.kv_cache import Cache, choose_lengths
from nbp.sampling.filtering import draw_tokens, guidance_weight, token_probabilities
from nbp.sampling.refinement import begin, make_rule, refine
from nbp.sampling.settings import PLAIN, SamplingConfig
from nbp.shapes import Array, Bool, Float, Int


def generate(
    model: Generator | InferenceModel,
    key: Array,
    sample_ids: Int[Array, "b"],
    *,
    prompt: Int[Array, "b p"] | None = None,
    null: Bool[Array, "b"] | None = None,
    known: Int[Array, "b size"] | None = None,
    given: int = 0,
    until: int | None = None,
    kept: Bool[Array, "b size"] | None = None,
    sampling: SamplingConfig = PLAIN,
) -> Int[Array, "b size"]:
    """Draws clips; pure, to be jitted with everything but the arrays static.

    Sample i depends on (key, sample_ids[i]) and its own condition alone, not on its batch.

    Args:
      model: an `InferenceModel`, or a generator of which one is made: a copy of the layers.
      key: root random key. sample_ids: a number per clip; equal numbers draw equal noise.
      prompt: raw prompt ids; null: samples to draw without their condition.
      known: codes in generation order, of which the first `given` are kept as they are.
      given, until: whole blocks (see `SequencePlan.schedule`, which raises ValueError otherwise).
        Tokens from `until` on are not drawn, and mean nothing.
      kept: further codes of `known` that are kept, anywhere: drafts that begin accepted. A token
        knows those of its block and of the blocks before. Needs the draft channel, or a joint
        head, where a token knows those before it.

    Returns: codes 0..codes-1 in generation order. Ids outside the video range (possible only where
    the head covers them) are fed back unchanged and clipped at the end, as the official code does.
    """
    options: dict[str, Any] = {"prompt": prompt, "null": null, "known": known, "given": given}
    options |= {"until": until, "kept": kept, "sampling": sampling}
    return generate_checked(model, key, sample_ids, **options)[0]


def generate_checked(
    model: Generator | InferenceModel, key: Array, sample_ids: Int[Array, "b"], **options: Any
) -> tuple[Int[Array, "b size"], Bool[Array, "b"], Int[Array, "b"]]:
    """As `generate`, and which clips were drawn from finite logits in all passes, of which number.

    The others are no samples. Nothing is looked at twice for this: drawing tells.
    """
    drawn = _generate(model, key, sample_ids, **options)
    return clip_codes(generator_of(model), drawn.ids), drawn.finite, drawn.passes


def generate_ids(
    model: Generator | InferenceModel,
    key: Array,
    sample_ids: Int[Array, "b"],
    *,
    prompt: Int[Array, "b p"] | None = None,
    null: Bool[Array, "b"] | None = None,
    known: Int[Array, "b size"] | None = None,
    given: int = 0,
    kept: Bool[Array, "b size"] | None = None,
    sampling: SamplingConfig = PLAIN,
) -> Int[Array, "b size"]:
    """As `generate`, but the vocabulary ids as they were drawn and fed back."""
    options: dict[str, Any] = {"prompt": prompt, "null": null, "known": known, "given": given}
    options |= {"kept": kept, "sampling": sampling}
    return _generate(model, key, sample_ids, **options).ids


def _generate(
    model: Generator | InferenceModel,
    key: Array,
    sample_ids: Array,
    *,
    prompt: Array | None = None,
    null: Array | None = None,
    known: Array | None = None,
    given: int = 0,
    until: int | None = None,
    kept: Array | None = None,
    sampling: SamplingConfig = PLAIN,
) -> "Drawn":
    run = make_generation(
        model,
        key,
        sample_ids,
        prompt=prompt,
        null=null,
        given=given,
        until=until,
        sampling=sampling,
    )
    if known is None:
        known = jnp.zeros((sample_ids.shape[0], run.model.plan.grid.size), jnp.int32)
    return run.draw(known, run.make_cache(), kept=kept)


def clip_codes(model: Generator, ids: Int[Array, "b size"]) -> Int[Array, "b size"]:
    """Drawn vocabulary ids as codes; those outside the video range become the nearest code."""
    vocabulary = model.vocabulary
    return jnp.clip(ids - vocabulary.code_offset, 0, vocabulary.codes - 1)


def make_generation(
    model: Generator | InferenceModel,
    key: Array,
    sample_ids: Int[Array, "b"],
    *,
    prompt: Int[Array, "b p"] | None,
    null: Bool[Array, "b"] | None,
    given: int,
    until: int | None = None,
    sampling: SamplingConfig,
) -> "Generation":
    """One generation of the arguments of `generate`, before its first pass.

    Raises ValueError where a block would take several passes and the model has no draft channel.
    """
    decoder = inference_model_of(model)
    plan, batch = decoder.model.plan, sample_ids.shape[0]
    guided = sampling.guidance != 0.0 and plan.prompt_length > 0
    if sampling.refinements > 1:
        require_drafts(decoder.model, f"refinements {sampling.refinements}")
    return Generation(
        decoder=decoder,
        schedule=plan.schedule(given, until),
        keys=jax.vmap(functools.partial(jax.random.fold_in, key))(sample_ids),
        prompt=_double(prompt) if guided else prompt,
        null=jnp.arange(2 * batch) >= batch if guided else null,
        sampling=sampling if guided else sampling.unguided,
    )


def require_drafts(model: Generator, wanted: str) -> None:
    """ValueError where the model cannot read drafts, which `wanted` needs."""
    if model.drafts is None:
        raise ValueError(
            f"{wanted}: this model has no draft channel: train it with generator.draft=True"
        )


def cut_phases(phases: Sequence[Phase], lengths: Sequence[int]) -> list[tuple[Phase, int]]:
    """Phases cut where a cache grows from one of `lengths` to the next, and the length of each."""
    cut = []
    for phase in phases:
        ends = [phase.start + (i + 1) * phase.width for i in range(phase.count)]
        rooms = [_find_room(lengths, end) for end in ends]
        for room, group in itertools.groupby(range(phase.count), key=rooms.__getitem__):
            passes = list(group)
            start = phase.start + passes[0] * phase.width
            cut.append((dataclasses.replace(phase, start=start, count=len(passes)), room))
    return cut


def _find_room(lengths: Sequence[int], positions: int) -> int:
    return lengths[bisect.bisect_left(lengths, positions)]


class Drawn(NamedTuple):
    """A generation after its last pass.

    ids: vocabulary ids in generation order. cache: of all that was fed. finite: which clips had
    finite logits throughout. passes: that each clip took.
    """

    ids: Int[Array, "b size"]
    cache: Cache
    finite: Bool[Array, "b"]
    passes: Int[Array, "b"]


@dataclass(frozen=True)
class Drawing:
    """What stays the same over the passes of one generation. keys: one for each sample."""

    decoder: InferenceModel
    keys: Array
    prompt: Array | None
    null: Array | None
    sampling: SamplingConfig

    @property
    def model(self) -> Generator:
        return self.decoder.model


@dataclass(frozen=True)
class Generation(Drawing):
    """The passes of the plan; with guidance, prompts are given for both branches."""

    schedule: Schedule

    def make_cache(self) -> Cache:
        """An empty cache for the first pass, with rows for the null branch where there is one."""
        rows = len(self.keys) * (2 if self.sampling.guidance else 1)
        return self.decoder.make_cache(rows, _find_room(self.lengths, self.schedule.prefill))

    @property
    def lengths(self) -> tuple[int, ...]:
        """To which the cache grows."""
        return choose_lengths(self.model.plan.length)

    def draw(
        self,
        known: Int[Array, "b size"],
        cache: Cache,
        *,
        held: int = 0,
        kept: Bool[Array, "b size"] | None = None,
    ) -> Drawn:
        """Runs all passes.

        known: codes, of which the schedule's given ones are kept, and those of `kept`. held:
        leading positions whose keys and values the cache has already (`SequencePlan.settled`); they
        are not fed again.
        """
        plan, schedule = self.model.plan, self.schedule
        offset = self.model.vocabulary.code_offset
        stays = jnp.arange(plan.grid.size) < schedule.given
        if kept is not None:
            if not isinstance(self.model.head, JointHead):
                require_drafts(self.model, "tokens that are given anywhere")
            stays = stays | kept
        ids = jnp.where(stays, known + offset, 0)
        first = Phase(schedule.prefill - schedule.first_width, schedule.first_width, 1)
        if self.refines(first, kept):
            if first.start > held:
                limits = jnp.asarray(plan.k_end[held : first.start])
                _, cache = self.look(
                    ids, cache, held, fed=first.start - held, drawn=0, k_end=limits, index=0
                )
            ids, cache, finite, passes = self.refine(ids, cache, first.start, index=0, kept=kept)
        else:
            ids, cache, finite = self.run_pass(
                ids,
                cache,
                held,
                fed=schedule.prefill - held,
                drawn=schedule.first_width,
                k_end=jnp.asarray(plan.k_end[held : schedule.prefill]),
                index=0,
                kept=kept,
            )
            passes = jnp.ones(len(self.keys), jnp.int32)
        index = 1
        for phase, room in cut_phases(schedule.phases, self.lengths):
            if room > cache.length:
                cache = cache.grow(room)
            ids, cache, now, more = self.scan_phase(ids, cache, phase, index, kept=kept)
            finite &= now
            passes += more
            index += phase.count
        return Drawn(ids, cache, finite, passes)

    def refines(self, phase: Phase, kept: Array | None) -> bool:
        """Whether the blocks of a phase are read in a loop of passes."""
        plan = self.model.plan
        joint = phase.start - plan.prompt_length + plan.first >= plan.first_joint
        drafted = self.model.drafts is not None  # else its head reads what is kept
        return joint and (self.sampling.refinements > 1 or (kept is not None and drafted))

    def scan_phase(
        self, ids: Array, cache: Cache, phase: Phase, index: int, *, kept: Array | None
    ) -> Drawn:
        refines = self.refines(phase, kept)

        def step(carry: Drawn, i: Array) -> tuple[Drawn, None]:
            ids, cache, before, passes = carry
            start = phase.start + i * phase.width
            if refines:
                drawn = self.refine(ids, cache, start, index=index + i, kept=kept)
                finite, more = before & drawn.finite, passes + drawn.passes
                return Drawn(drawn.ids, drawn.cache, finite, more), None
            limit = jnp.full((phase.width,), start + phase.width)
            ids, cache, finite = self.run_pass(
                ids,
                cache,
                start,
                fed=phase.width,
                drawn=phase.width,
                k_end=limit,
                index=index + i,
                kept=kept,
            )
            return Drawn(ids, cache, before & finite, passes + 1), None

        clips = len(self.keys)
        carry = Drawn(ids, cache, jnp.ones(clips, bool), jnp.zeros(clips, jnp.int32))
        return jax.lax.scan(step, carry, jnp.arange(phase.count))[0]

    def run_pass(
        self,
        ids: Array,
        cache: Cache,
        start: Array | int,
        *,
        fed: int,
        drawn: int,
        k_end: Array,
        index: Array | int,
        kept: Array | None = None,
    ) -> tuple[Array, Cache, Array]:
        """Feeds the queries `[start, start + fed)` and draws the tokens of the last `drawn`.

        Also which clips had a distribution for all of them; the others get the first token.
        """
        plan, first_id = self.model.plan, self.model.output_ids.start
        hidden, cache = self.feed(ids, cache, start, fed=fed, drawn=drawn, k_end=k_end)
        token = start + fed - drawn - plan.prompt_length + plan.first
        known = here = None
        if kept is not None:
            here = jax.lax.dynamic_slice_in_dim(kept, token, drawn, 1)
            known = jax.lax.dynamic_slice_in_dim(ids, token, drawn, 1) - first_id
        drawn_tokens = self.draw_block(hidden, token, index, known=known, kept=here)
        finite = (drawn_tokens >= 0).all(1)
        new = jnp.maximum(drawn_tokens, 0)
        if here is not None and known is not None:
            new = jnp.where(here, known, new)
        new = new + first_id
        ids = jax.lax.dynamic_update_slice(ids, new.astype(ids.dtype), (0, token))
        return ids, cache, finite

    def draw_block(
        self,
        hidden: Float[Array, "b2 n d"],
        token: Array | int,
        index: Array | int,
        *,
        known: Int[Array, "b n"] | None = None,
        kept: Bool[Array, "b n"] | None = None,
    ) -> Int[Array, "b n"]:
        """Draws the block that begins with `token` in pass `index`: see `InferenceModel.draw`.

        A draw depends on its logits and on random numbers of the clip and the pass.
        """
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(self.keys, index)
        passes = self.schedule.planned

        def choose(logits: Array, step: Array | None) -> Array:
            own, guided = keys, self.guide(logits, index)
            if step is not None:
                own = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step)
            if isinstance(self.model.head, DigitDrawing):  # a digit may have fewer values: -inf
                guided = jnp.where(jnp.isneginf(logits[: len(keys)]), -jnp.inf, guided)
            return draw_tokens(self.sampling, own, guided, index=index, passes=passes)

        return self.decoder.draw(hidden, choose, token=token, known=known, kept=kept)

    def look(
        self, ids: Array, cache: Cache, start: Array | int, *, index: Array | int, **options: Any
    ) -> tuple[Float[Array, "b n v"], Cache]:
        """Logits of the last `drawn` of the queries `[start, start + fed)`, and the cache.

        index: of the pass. Other arguments as in `feed`.
        """
        hidden, cache = self.feed(ids, cache, start, **options)
        return self.guide(self.decoder.predict(hidden), index), cache

    def feed(
        self,
        ids: Array,
        cache: Cache,
        start: Array | int,
        *,
        fed: int,
        drawn: int,
        k_end: Array,
        drafts: Int[Array, "b size"] | None = None,
    ) -> tuple[Float[Array, "b2 n d"], Cache]:
        """Final states of the last `drawn` of the queries `[start, start + fed)`, and the cache."""
        model = self.model
        rows = _double(ids) if self.sampling.guidance else ids
        drafts = _double(drafts) if self.sampling.guidance else drafts
        table = model.input_table(rows, self.prompt)
        x = model.embed(table, start, fed, null=self.null, drafts=drafts)
        hidden = model.key_mask(self.prompt, self.null)
        x, cache = self.forward(x, cache, start=start, k_end=k_end, key_mask=hidden)
        return x[:, fed - drawn :], cache

    def forward(
        self,
        x: Float[Array, "b n d"],
        cache: Cache,
        *,
        start: Array | int,
        k_end: Int[Array, "n"],
        key_mask: Bool[Array, "b m"] | None,
    ) -> tuple[Float[Array, "b n d"], Cache]:
        """The layers on the queries `[start, start + n)`, which have these slots of the cache."""
        return self.decoder.forward_cached(x, cache, start=start, k_end=k_end, key_mask=key_mask)

    def refine(
        self,
        ids: Array,
        cache: Cache,
        start: Array | int,
        *,
        index: Array | int,
        kept: Bool[Array, "b size"] | None,
    ) -> Drawn:
        """Draws the block of the queries from `start` on in up to `sampling.refinements` passes.

        index: of the block among the plan's passes, which the schedules count. Every pass writes
        the same positions of the cache.
        """
        model, plan, sampling = self.model, self.model.plan, self.sampling
        n, token = plan.block_size, start - plan.prompt_length + plan.first
        none = jnp.full(ids.shape, model.vocabulary.codes, ids.dtype)
        block = jax.lax.dynamic_slice_in_dim(ids, token, n, 1)
        accepted = jnp.zeros(block.shape, bool)
        if kept is not None:
            accepted = jax.lax.dynamic_slice_in_dim(kept, token, n, 1)

        def look(tokens: Array, shown: Array, cache: Cache) -> tuple[Array, Cache]:
            drafts = jnp.where(shown, clip_codes(model, tokens), model.vocabulary.codes)
            drafts = jax.lax.dynamic_update_slice(none, drafts.astype(none.dtype), (0, token))
            limits = jnp.full((n,), start + n)
            options: dict[str, Any] = {"fed": n, "drawn": n, "index": index, "drafts": drafts}
            return self.look(ids, cache, start, k_end=limits, **options)

        def propose(logits: Array, pass_index: Array) -> tuple[Array, Array, Array]:
            keys = jax.vmap(
                lambda key: jax.random.fold_in(jax.random.fold_in(key, index), pass_index)
            )(self.keys)
            when: dict[str, Any] = {"index": index, "passes": self.schedule.planned}
            drawn = draw_tokens(sampling, keys, logits, **when)
            return drawn, token_probabilities(sampling, logits, **when), keys

        state = refine(
            begin(block, cache, accepted),
            look,
            propose,
            rule=make_rule(sampling, plan),
            passes=sampling.refinements,
            first_class=model.output_ids.start,
        )
        ids = jax.lax.dynamic_update_slice(ids, state.tokens, (0, token))
        return Drawn(ids, state.cache, state.finite, state.passes)

    def guide(self, logits: Float[Array, "b n v"], index: Array | int) -> Float[Array, "b2 n v"]:
        if not self.sampling.guidance:
            return logits
        conditional, unconditional = jnp.split(logits, 2)
        t = guidance_weight(self.sampling, index, self.schedule.planned)
        if jnp.ndim(index):  # of each position
            t = jnp.broadcast_to(t, jnp.shape(index))[..., None]
        return (1 + t) * conditional - t * unconditional


def _double(x: Array | None) -> Array | None:
    """Conditional rows, then the same rows for the null branch."""
    return None if x is None else jnp.concatenate([x, x])
