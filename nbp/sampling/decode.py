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

from nbp.layout import Phase
from nbp.models.decoder import Decoder, make_decoder
from nbp.models.generator import Generator
from nbp.nn.decoding import Cache, choose_lengths
from nbp.sampling.filters import PLAIN, Filter
from nbp.shapes import Array, Bool, Float, Int


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: logits = (1 + t) * conditional - t * null.

    t = `scale`, or with `ramp` scale * (index of the pass), as the official code intended
    (REFERENCE 3.3). 0 switches guidance off.
    """

    scale: float = 0.0
    ramp: bool = False

    def weight(self, index: Array | int) -> Array | float:
        return self.scale * index if self.ramp else self.scale


UNGUIDED = Guidance()


def generate(
    model: Generator | Decoder,
    key: Array,
    sample_ids: Int[Array, "b"],
    *,
    prompt: Int[Array, "b p"] | None = None,
    null: Bool[Array, "b"] | None = None,
    known: Int[Array, "b size"] | None = None,
    given: int = 0,
    filtering: Filter = PLAIN,
    guidance: Guidance = UNGUIDED,
) -> Int[Array, "b size"]:
    """Draws clips; pure, to be jitted with everything but the arrays static.

    Sample i depends on (key, sample_ids[i]) and its own condition alone, not on its batch.

    Args:
      model: a `Decoder`, or a generator of which one is made: a copy of the layers.
      key: root random key. sample_ids: a number per clip; equal numbers draw equal noise.
      prompt: raw prompt ids; null: samples to draw without their condition.
      known: codes in generation order, of which the first `given` are kept as they are.
      given: whole blocks (see `SequencePlan.schedule`, which raises ValueError otherwise).

    Returns: codes 0..codes-1 in generation order. Ids outside the video range (possible only where
    the head covers them) are fed back unchanged and clipped at the end, as the official code does.
    """
    drawn = generate_ids(
        model,
        key,
        sample_ids,
        prompt=prompt,
        null=null,
        known=known,
        given=given,
        filtering=filtering,
        guidance=guidance,
    )
    vocabulary = (model.model if isinstance(model, Decoder) else model).vocabulary
    return jnp.clip(drawn - vocabulary.code_offset, 0, vocabulary.codes - 1)


def generate_ids(
    model: Generator | Decoder,
    key: Array,
    sample_ids: Int[Array, "b"],
    *,
    prompt: Int[Array, "b p"] | None = None,
    null: Bool[Array, "b"] | None = None,
    known: Int[Array, "b size"] | None = None,
    given: int = 0,
    filtering: Filter = PLAIN,
    guidance: Guidance = UNGUIDED,
) -> Int[Array, "b size"]:
    """As `generate`, but the vocabulary ids as they were drawn and fed back."""
    decoder = model if isinstance(model, Decoder) else make_decoder(model)
    plan, vocabulary = decoder.model.plan, decoder.model.vocabulary
    schedule = plan.schedule(given)
    batch = sample_ids.shape[0]
    if known is None:
        known = jnp.zeros((batch, plan.grid.size), jnp.int32)
    ids = jnp.where(jnp.arange(plan.grid.size) < given, known + vocabulary.code_offset, 0)
    guided = guidance.scale != 0.0 and plan.prompt_length > 0
    run = _Run(
        decoder=decoder,
        keys=jax.vmap(functools.partial(jax.random.fold_in, key))(sample_ids),
        prompt=_double(prompt) if guided else prompt,
        null=jnp.arange(2 * batch) >= batch if guided else null,
        filtering=filtering,
        guidance=guidance if guided else UNGUIDED,
    )
    lengths = choose_lengths(plan.length)
    phases = cut_phases(schedule.phases, lengths)
    room = lengths[bisect.bisect_left(lengths, schedule.prefill)]
    cache = decoder.make_cache(batch * (2 if guided else 1), room)
    limits = jnp.asarray(plan.k_end[: schedule.prefill])
    ids, cache = run.run_pass(
        ids, cache, 0, fed=schedule.prefill, drawn=schedule.first_width, k_end=limits, index=0
    )
    index = 1
    for phase, room in phases:
        if room > cache.length:
            cache = cache.grow(room)
        ids, cache = run.scan_phase(ids, cache, phase, index)
        index += phase.count
    return ids


def cut_phases(phases: Sequence[Phase], lengths: Sequence[int]) -> list[tuple[Phase, int]]:
    """Phases cut where a cache grows from one of `lengths` to the next, and the length of each."""
    cut = []
    for phase in phases:
        ends = [phase.start + (i + 1) * phase.width for i in range(phase.count)]
        rooms = [lengths[bisect.bisect_left(lengths, end)] for end in ends]
        for room, group in itertools.groupby(range(phase.count), key=rooms.__getitem__):
            passes = list(group)
            start = phase.start + passes[0] * phase.width
            cut.append((dataclasses.replace(phase, start=start, count=len(passes)), room))
    return cut


@dataclass(frozen=True)
class _Run:
    """What stays the same over the passes of one generation."""

    decoder: Decoder
    keys: Array
    prompt: Array | None
    null: Array | None
    filtering: Filter
    guidance: Guidance

    def scan_phase(self, ids: Array, cache: Cache, phase: Phase, index: int) -> tuple[Any, Cache]:
        def step(carry: tuple[Array, Cache], i: Array) -> tuple[tuple[Array, Cache], None]:
            ids, cache = carry
            start = phase.start + i * phase.width
            limit = jnp.full((phase.width,), start + phase.width)
            return self.run_pass(
                ids,
                cache,
                start,
                fed=phase.width,
                drawn=phase.width,
                k_end=limit,
                index=index + i,
            ), None

        (ids, cache), _ = jax.lax.scan(step, (ids, cache), jnp.arange(phase.count))
        return ids, cache

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
    ) -> tuple[Array, Cache]:
        """Feeds the queries `[start, start + fed)` and draws the tokens of the last `drawn`."""
        model, plan = self.decoder.model, self.decoder.model.plan
        rows = _double(ids) if self.guidance.scale else ids
        x = model.embed(model.input_table(rows, self.prompt), start, fed, null=self.null)
        hidden = model.key_mask(self.prompt, self.null)
        x, cache = self.decoder.extend(x, cache, start=start, k_end=k_end, key_mask=hidden)
        logits = self.guide(self.decoder.predict(x[:, fed - drawn :]), index)
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(self.keys, index)
        new = self.filtering.draw(keys, logits) + model.scored.start
        token = start + fed - drawn - plan.prompt_length + plan.first
        return jax.lax.dynamic_update_slice(ids, new.astype(ids.dtype), (0, token)), cache

    def guide(self, logits: Float[Array, "b n v"], index: Array | int) -> Float[Array, "b2 n v"]:
        if not self.guidance.scale:
            return logits
        conditional, unconditional = jnp.split(logits, 2)
        t = self.guidance.weight(index)
        return (1 + t) * conditional - t * unconditional


def _double(x: Array | None) -> Array | None:
    """Conditional rows, then the same rows for the null branch."""
    return None if x is None else jnp.concatenate([x, x])
