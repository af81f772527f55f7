# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Generation as one compiled program: the first pass, then scans over the plan's passes."""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from nbp.layout import Phase, Schedule
from nbp.models.generator import Generator
from nbp.models.inference import InferenceModel, generator_of, inference_model_of
from nbp.nn.attention.kv_cache import Cache, choose_lengths
from nbp.sampling.filtering import draw_tokens, guidance_weight
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
    sampling: SamplingConfig = PLAIN,
) -> Int[Array, "b size"]:
    """Draws clips; pure, to be jitted with everything but the arrays static.

    Sample i depends on (key, sample_ids[i]) and its own condition alone, not on its batch.

    Args:
      model: an `InferenceModel`, or a generator of which one is made: a copy of the layers.
      key: root random key. sample_ids: a number per clip; equal numbers draw equal noise.
      prompt: raw prompt ids; null: samples to draw without their condition.
      known: codes in generation order, of which the first `given` are kept as they are.
      given: whole blocks (see `SequencePlan.schedule`, which raises ValueError otherwise).

    Returns: codes 0..codes-1 in generation order. Ids outside the video range (possible only where
    the head covers them) are fed back unchanged and clipped at the end, as the official code does.
    """
    options: dict[str, Any] = {"prompt": prompt, "null": null, "known": known, "given": given}
    options["sampling"] = sampling
    return generate_checked(model, key, sample_ids, **options)[0]


def generate_checked(
    model: Generator | InferenceModel, key: Array, sample_ids: Int[Array, "b"], **options: Any
) -> tuple[Int[Array, "b size"], Bool[Array, "b"]]:
    """As `generate`, and which clips were drawn from finite logits in all passes.

    The others are no samples. Nothing is looked at twice for this: drawing tells.
    """
    ids, finite = _generate(model, key, sample_ids, **options)
    return clip_codes(generator_of(model), ids), finite


def generate_ids(
    model: Generator | InferenceModel,
    key: Array,
    sample_ids: Int[Array, "b"],
    *,
    prompt: Int[Array, "b p"] | None = None,
    null: Bool[Array, "b"] | None = None,
    known: Int[Array, "b size"] | None = None,
    given: int = 0,
    sampling: SamplingConfig = PLAIN,
) -> Int[Array, "b size"]:
    """As `generate`, but the vocabulary ids as they were drawn and fed back."""
    options: dict[str, Any] = {"prompt": prompt, "null": null, "known": known, "given": given}
    options["sampling"] = sampling
    return _generate(model, key, sample_ids, **options)[0]


def _generate(
    model: Generator | InferenceModel,
    key: Array,
    sample_ids: Array,
    *,
    prompt: Array | None = None,
    null: Array | None = None,
    known: Array | None = None,
    given: int = 0,
    sampling: SamplingConfig = PLAIN,
) -> tuple[Int[Array, "b size"], Bool[Array, "b"]]:
    run = make_generation(
        model,
        key,
        sample_ids,
        prompt=prompt,
        null=null,
        given=given,
        sampling=sampling,
    )
    if known is None:
        known = jnp.zeros((sample_ids.shape[0], run.model.plan.grid.size), jnp.int32)
    ids, _, finite = run.draw(known, run.make_cache())
    return ids, finite


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
    sampling: SamplingConfig,
) -> "Generation":
    """One generation of the arguments of `generate`, before its first pass."""
    decoder = inference_model_of(model)
    plan, batch = decoder.model.plan, sample_ids.shape[0]
    guided = sampling.guidance != 0.0 and plan.prompt_length > 0
    return Generation(
        decoder=decoder,
        schedule=plan.schedule(given),
        keys=jax.vmap(functools.partial(jax.random.fold_in, key))(sample_ids),
        prompt=_double(prompt) if guided else prompt,
        null=jnp.arange(2 * batch) >= batch if guided else null,
        sampling=sampling if guided else sampling.unguided,
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
        self, known: Int[Array, "b size"], cache: Cache, *, held: int = 0
    ) -> tuple[Int[Array, "b size"], Cache, Bool[Array, "b"]]:
        """Runs all passes: vocabulary ids, the cache, and which clips had finite logits throughout.

        known: codes, of which the schedule's given ones are kept. held: leading positions whose
        keys and values the cache has already (`SequencePlan.settled`); they are not fed again.
        """
        plan, schedule = self.model.plan, self.schedule
        offset = self.model.vocabulary.code_offset
        ids = jnp.where(jnp.arange(plan.grid.size) < schedule.given, known + offset, 0)
        ids, cache, finite = self.run_pass(
            ids,
            cache,
            held,
            fed=schedule.prefill - held,
            drawn=schedule.first_width,
            k_end=jnp.asarray(plan.k_end[held : schedule.prefill]),
            index=0,
        )
        index = 1
        for phase, room in cut_phases(schedule.phases, self.lengths):
            if room > cache.length:
                cache = cache.grow(room)
            ids, cache, now = self.scan_phase(ids, cache, phase, index)
            finite &= now
            index += phase.count
        return ids, cache, finite

    def scan_phase(
        self, ids: Array, cache: Cache, phase: Phase, index: int
    ) -> tuple[Array, Cache, Array]:
        def step(carry: tuple[Array, Cache, Array], i: Array) -> tuple[Any, None]:
            ids, cache, before = carry
            start = phase.start + i * phase.width
            limit = jnp.full((phase.width,), start + phase.width)
            ids, cache, finite = self.run_pass(
                ids,
                cache,
                start,
                fed=phase.width,
                drawn=phase.width,
                k_end=limit,
                index=index + i,
            )
            return (ids, cache, before & finite), None

        carry = (ids, cache, jnp.ones(len(self.keys), bool))
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
    ) -> tuple[Array, Cache, Array]:
        """Feeds the queries `[start, start + fed)` and draws the tokens of the last `drawn`.

        Also which clips had a distribution for all of them; the others get the first token.
        """
        model, plan = self.model, self.model.plan
        rows = _double(ids) if self.sampling.guidance else ids
        x = model.embed(model.input_table(rows, self.prompt), start, fed, null=self.null)
        hidden = model.key_mask(self.prompt, self.null)
        x, cache = self.decoder.forward_cached(x, cache, start=start, k_end=k_end, key_mask=hidden)
        logits = self.guide(self.decoder.predict(x[:, fed - drawn :]), index)
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(self.keys, index)
        passes = self.schedule.passes
        drawn_tokens = draw_tokens(self.sampling, keys, logits, index=index, passes=passes)
        finite = (drawn_tokens >= 0).all(1)
        new = jnp.maximum(drawn_tokens, 0) + model.output_ids.start
        token = start + fed - drawn - plan.prompt_length + plan.first
        ids = jax.lax.dynamic_update_slice(ids, new.astype(ids.dtype), (0, token))
        return ids, cache, finite

    def guide(self, logits: Float[Array, "b n v"], index: Array | int) -> Float[Array, "b2 n v"]:
        if not self.sampling.guidance:
            return logits
        conditional, unconditional = jnp.split(logits, 2)
        t = guidance_weight(self.sampling, index, self.schedule.passes)
        return (1 + t) * conditional - t * unconditional


def _double(x: Array | None) -> Array | None:
    """Conditional rows, then the same rows for the null branch."""
    return None if x is None else jnp.concatenate([x, x])
