# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Videos longer than the trained clip: a window slides over the latent frames.

With rotary positions it rolls (`rolling`), block after block in one stream of codes, through one
cache whose oldest entries make room: see `nbp.sampling.rolling`. In all other forms it jumps.

The first window is a clip like any other. Each later one begins with frames that are there already,
`Slide.keep` of them, and the generator draws the rest. What it is shown must look like the start of
a clip of the training set, whose first latent frame stands for one pixel frame and each other one
for `stride` of them:

* `reencode`: the latest (keep - 1) * stride + 1 pixel frames are encoded as the start of a new
  clip: exactly the form that training saw. What the tokenizer loses is lost again in each window.
* `codes`: the latest latent frames as they are. The first of them stands for several pixel frames
  at a place where the model saw single frames only: an approximation.
* `anchor`: the first latent frames of the whole video stay in their place (one block deep: one
  latent frame, unless blocks are deeper), the latest ones follow. Every code has its trained form,
  but there is a gap in time behind the anchor: an approximation too. Positions that depend on
  nothing but prompt and anchor are never computed again: their keys and values stay in the cache.
  All others are: each latent frame has moved, and keys were written at its old place.

Memory does not depend on the length of the video: frames are handed over as they come.

With a story (`nbp.sampling.story`) the condition changes on the way: `Rollout.at` is asked where a
window begins, and a window ends with its scene. An anchor keeps the keys that it was computed with
under the old prompt; the prompt's own rows of the cache are rewritten.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from nbp.errors import ConfigError
from nbp.layout import SequencePlan, frames_of_latents, latents_of_frames
from nbp.models.tokenizer_streaming import decode_step
from nbp.nn.attention.kv_cache import Cache
from nbp.sampling.generate import Generation, clip_codes, make_generation
from nbp.sampling.request import SampleRequest
from nbp.sampling.rolling import RollingWindow, list_sinks, roll
from nbp.sampling.sampler import Batch, Sampler, make_key
from nbp.sampling.story import Story
from nbp.shapes import Array, Bool, Clips, Int, PyTree, UInt8

SlideKind = Literal["reencode", "codes", "anchor", "rolling"]
LATER = 0x51DE  # the stream of random keys of all windows but the first


@dataclass(frozen=True)
class Slide:
    """How the window moves: `keep` latent frames are given to the next one, in the form `kind`.

    sinks: latent frames at the start of the video that stay in a rolling cache.
    """

    keep: int
    kind: SlideKind = "reencode"
    sinks: int = 0


def choose_slide(plan: SequencePlan, *, keep: int | None, kind: SlideKind) -> Slide:
    """A slide that the plan can take; by default half the window, in whole blocks, is kept.

    Raises ValueError where `keep` is none of the numbers that can be kept.
    """
    depth = plan.block[0]
    first = 2 * depth if kind == "anchor" else depth
    allowed = [n for n in range(first, plan.grid.t, depth) if _can_start(plan, n)]
    if not allowed:
        raise ValueError(
            f"a window of {plan.grid.t} latent frames in blocks of depth {depth} cannot slide by "
            f"{kind}: {first} frames would be kept and nothing generated"
        )
    if keep is None:
        keep = min((n for n in allowed if 2 * n >= plan.grid.t), default=allowed[-1])
    if keep not in allowed:
        raise ValueError(
            f"{keep} kept latent frames: a window of {plan.grid.t} in blocks of depth {depth} "
            f"keeps one of {', '.join(map(str, allowed))} by {kind}"
        )
    return Slide(keep, kind)


def choose_rolling(plan: SequencePlan, *, sinks: int | None) -> Slide:
    """A rolling window; by default the first latent frames stay, as many as a block is deep.

    Raises ValueError where the window cannot roll, or not with so many sinks.
    """
    depth = plan.block[0]
    if sinks is None:
        sinks = next((n for n in list_sinks(plan) if n >= depth), 0)
    return Slide(plan.grid.t - depth, "rolling", RollingWindow(plan, sinks).sinks)


def plan_slide(
    asked: SampleRequest, plan: SequencePlan, *, clip: int, rotary: bool
) -> Slide | None:
    """How windows move over the videos asked for; None where a trained clip has all frames.

    clip: its frames. rotary: the model's positions. Raises ConfigError for what cannot be.
    """
    request, frames = asked.long, asked.long.num_frames
    if frames is None or (frames <= clip and asked.story is None):
        if frames is not None and frames < 1:
            raise ConfigError(f"--num_frames {frames}: draw at least 1 frame")
        for flag, value in (
            ("--keep_frames", request.keep_frames),
            ("--slide", request.slide),
            ("--sinks", request.sinks),
            ("--anchor", request.anchor or None),
            ("--features", request.features or None),
        ):
            if value is not None:
                raise ConfigError(
                    f"{flag} is about videos longer than a clip of {clip} frames: "
                    f"give --num_frames {clip + 1} or more, or leave it out"
                )
        return None
    if request.anchor and request.slide in ("reencode", "rolling"):
        raise ConfigError("--anchor keeps codes as they are: leave out --slide, or use codes")
    usual: SlideKind = "rolling" if rotary else "reencode"
    kind = "anchor" if request.anchor else request.slide or usual
    if request.sinks is not None and kind != "rolling":
        raise ConfigError(f"--sinks {request.sinks}: {kind} has none; they are for --slide rolling")
    if kind == "rolling":
        check_rolling(asked, rotary=rotary)
    try:
        if kind == "rolling":
            return choose_rolling(plan, sinks=request.sinks)
        return choose_slide(plan, keep=request.keep_frames, kind=kind)
    except ValueError as error:
        others = ". Use --slide reencode or codes" if kind == "rolling" else ""
        raise ConfigError(f"--num_frames {frames}: {error}{others}") from error


def check_rolling(asked: SampleRequest, *, rotary: bool) -> None:
    """ConfigError where a rolling window cannot serve the request."""
    if not rotary:
        raise ConfigError(
            "--slide rolling: this model has learned positions, which end with the clip: use "
            "reencode or codes, or train one with --config.generator.positions=rotary"
        )
    if asked.long.keep_frames is not None:
        raise ConfigError(
            f"--keep_frames {asked.long.keep_frames}: a rolling window keeps all but the oldest: "
            "leave it out, or add --slide reencode or codes"
        )
    if asked.decoder.decoding != "plain":
        raise ConfigError(
            f"--decoding {asked.decoder.decoding}: a rolling window is drawn pass by pass: leave "
            "it out, or add --slide reencode or codes"
        )


def _can_start(plan: SequencePlan, frames: int) -> bool:
    return plan.tokens_of_frames(frames) >= plan.first


@dataclass(frozen=True)
class Piece:
    """The next frames of the clips `first`, `first + 1`, ... of a request.

    `videos` uint8 [n t h w c], the frames `frame`, ... of each, and `tokens` int32 [n T H W], the
    latent frames `latent`, ... that were drawn with them.
    """

    first: int
    frame: int
    videos: np.ndarray
    latent: int
    tokens: np.ndarray


@dataclass(frozen=True, eq=False)  # holds compiled programs
class Rollout:
    """Draws videos of any length, a window at a time. story: their labels, in place of those asked
    for, and their guidance."""

    sampler: Sampler
    slide: Slide
    story: Story | None = None

    def sample(
        self,
        count: int,
        frames: int,
        *,
        seed: int,
        labels: Sequence[int] | None = None,
        clips: Clips | None = None,
        codes: Int[np.ndarray, "b T H W"] | None = None,
        given_frames: int = 0,
    ) -> Iterator[Piece]:
        """Draws `count` videos of `frames` frames, batch after batch, piece after piece.

        The first window is the clip that `Sampler.sample` draws for the same arguments. Raises
        ValueError as it does.
        """
        for batch in self.sampler.cut_batches(
            count, labels=labels, clips=clips, codes=codes, given_frames=given_frames
        ):
            given = self.plan.tokens_of_frames(given_frames)
            yield from self._emit(batch, frames, seed=seed, given=given)

    def at(self, batch: Batch, latent: int) -> tuple["Rollout", Batch, int]:
        """What draws the blocks from a latent frame on, for whom, and how many frames so."""
        if self.story is None:
            return self, batch, self.plan.grid.t
        now, sampler = self.story.at(latent), self.sampler
        if now.guidance is not None and now.guidance != sampler.sampling.guidance:
            sampling = dataclasses.replace(sampler.sampling, guidance=now.guidance)
            other = dataclasses.replace(sampler, sampling=sampling)
            sampler = sampler.keep_program(("guidance", now.guidance), lambda: other)
        labels = None
        if now.label is not None:
            labels = sampler.put(np.full(batch.ids.shape, now.label, np.int32))
        batch = dataclasses.replace(batch, labels=labels)
        left = self.plan.grid.t if now.end is None else now.end - latent
        return dataclasses.replace(self, sampler=sampler), batch, left

    @property
    def plan(self) -> SequencePlan:
        return self.sampler.generator.plan

    @property
    def stride(self) -> int:
        """Pixel frames of a latent frame."""
        return self.sampler.tokenizer.spec.stride[0]

    def _emit(self, batch: Batch, frames: int, *, seed: int, given: int) -> Iterator[Piece]:
        """The pieces of one batch, the last one cut to `frames`."""
        ways = {"reencode": self._reencode, "rolling": self._roll}
        run = ways.get(self.slide.kind, self._move_codes)
        frame, latent = 0, 0
        begun = self.sampler.begin(batch, make_key(seed), given)
        for videos, tokens in run(begun.batch, begun.key, begun.given):
            videos = videos[: batch.keep, : frames - frame]
            needed = latents_of_frames(frame + videos.shape[1], self.stride) - latent
            tokens = tokens[: batch.keep, :needed]
            yield Piece(batch.first, frame, videos, latent, tokens)
            frame, latent = frame + videos.shape[1], latent + tokens.shape[1]
            if frame == frames:
                return

    def _reencode(
        self, batch: Batch, key: Array, given: int
    ) -> Iterator[tuple[UInt8[np.ndarray, "b t h w c"], Int[np.ndarray, "b T H W"]]]:
        """Windows without end, each begun with the encoded last frames of the one before."""
        sampler, keep = self.sampler, self.slide.keep
        shown = frames_of_latents(keep, self.stride)
        known, old, window, latent = batch.known, 0, 0, 0
        while True:
            part, now, left = self.at(batch, latent)
            now = dataclasses.replace(now, known=known)
            program = part.sampler.draw_program(given)
            drawn = part.sampler.run(program, window_key(key, window), now)
            sampler.check(drawn.finite, batch)
            grid = sampler.generator.to_grid(drawn.codes)
            videos = np.asarray(sampler.decode(sampler.tokenizer_params, grid))
            grid = np.asarray(grid, np.int32)[:, : old + left]
            videos = videos[:, : frames_of_latents(grid.shape[1], self.stride)]
            yield videos[:, shown if old else 0 :], grid[:, old:]
            latent += grid.shape[1] - old
            codes = sampler.encode(sampler.tokenizer_params, videos[:, -shown:])
            known = sampler.generator.to_sequence(self._fill(codes))
            given, old, window = self.plan.tokens_of_frames(keep), keep, window + 1

    def _move_codes(
        self, batch: Batch, key: Array, given: int
    ) -> Iterator[tuple[UInt8[np.ndarray, "b t h w c"], Int[np.ndarray, "b T H W"]]]:
        """Windows without end over one stream of codes, which is decoded as it grows."""
        sampler, keep = self.sampler, self.slide.keep
        held = self.plan.block[0] if self.slide.kind == "anchor" else 0
        decoder = StreamingDecoder(sampler, chunk=self.chunk)
        known, old, window, latent = batch.known, 0, 0, 0
        cache, before = None, False
        while True:
            keys = window_key(key, window)
            if window == 1 and not self._draws_codes_only:
                cache = None  # it was made with what was drawn, before codes were made of it
            part, now, left = self.at(batch, latent)
            now = dataclasses.replace(now, known=known)
            if held:
                guided = bool(part.sampler.sampling_for(now.labels).guidance)
                if guided != before or self.changes(latent):  # other rows, or another prompt
                    cache = None
                program = part.anchored_program(given)
                drawn, cache, finite = part.sampler.run(program, keys, now, cache)
                before = guided
            else:
                found = part.sampler.run(part.sampler.draw_program(given), keys, now)
                drawn, finite = found.codes, found.finite
            sampler.check(finite, batch)
            grid = np.asarray(sampler.generator.to_grid(drawn), np.int32)[:, : old + left]
            latent += grid.shape[1] - old
            yield decoder.decode(grid[:, old:]), grid[:, old:]
            kept = np.concatenate([grid[:, :held], grid[:, grid.shape[1] - keep + held :]], axis=1)
            known = sampler.generator.to_sequence(self._fill(kept))
            given, old, window = self.plan.tokens_of_frames(keep), keep, window + 1

    def _roll(
        self, batch: Batch, key: Array, given: int
    ) -> Iterator[tuple[UInt8[np.ndarray, "b t h w c"], Int[np.ndarray, "b T H W"]]]:
        """A clip, then without end the latent frames behind it, as many as a block is deep.

        With a story a scene that ends within the clip is drawn first, then the clip anew behind it.
        Behind the clip another scene begins with a clip of the sinks and the latest frames, whose
        keys are computed with the new prompt: those of another one tell it wherever they are seen.
        """
        sampler, depth, window = self.sampler, self.plan.block[0], self.plan.grid.t
        shown, sinks = window, self.slide.sinks
        decoder = StreamingDecoder(sampler, chunk=self.chunk)
        codes, done, first = batch.known, 0, given
        while True:
            part, now, left = self.at(batch, done)
            now, program = dataclasses.replace(now, known=codes), part.anchored_program(first)
            keys = window_key(key, done // depth)
            codes, cache, finite = part.sampler.run(program, keys, now, None)
            done = done + left
            if done >= window:
                break
            first = self.plan.tokens_of_frames(done)
        head, begun = np.asarray(sampler.generator.to_grid(codes), np.int32)[:, :sinks], 0
        for latent in itertools.count(window, depth):
            sampler.check(finite, batch)
            grid = np.asarray(sampler.generator.to_grid(codes), np.int32)
            yield decoder.decode(grid[:, -shown:]), grid[:, -shown:]
            part, now, _ = self.at(batch, latent)
            keys, shown = window_key(key, latent // depth), depth
            if self.changes(latent):
                begun = latent + depth - window
                kept = np.concatenate([head, grid[:, sinks + depth :]], axis=1)
                known = sampler.generator.to_sequence(self._fill(kept))
                program = part.anchored_program(self.plan.tokens_of_frames(window - depth))
                now = dataclasses.replace(now, known=known)
                codes, cache, finite = part.sampler.run(program, keys, now, None)
            else:
                now, number = dataclasses.replace(now, known=codes), (latent - begun) // depth
                program = part.rolling_program(given)
                codes, cache, finite = part.sampler.run(program, keys, now, cache, np.int32(number))

    def rolling_program(self, given: int) -> Any:
        """As `anchored_program`, for the next block of the stream: see `_make_roll`."""
        make = functools.partial(self._make_roll, given)
        return self.sampler.keep_program(("rolling", given, self.slide.sinks), make)

    def _make_roll(self, given: int) -> Any:
        """(parameters, key, ids, labels or None, codes of the window, cache, number) -> its next
        codes, cache and which clips had finite logits. The cache is consumed.
        """
        window = RollingWindow(self.plan, self.slide.sinks)

        def draw(
            params: PyTree,
            key: Array,
            ids: Array,
            labels: Array | None,
            codes: Array,
            cache: Cache,
            number: Array,
        ) -> tuple[Int[Array, "b size"], Cache, Bool[Array, "b"]]:
            run = self._start(params, key, ids, labels, given=given)
            offset = run.model.vocabulary.code_offset
            drawn = roll(run, window, number).draw_next(codes + offset, cache)
            return clip_codes(run.model, drawn.ids), drawn.cache, drawn.finite

        return jax.jit(draw, donate_argnums=5)

    def _start(
        self, params: PyTree, key: Array, ids: Array, labels: Array | None, *, given: int
    ) -> Generation:
        """The generation of a batch, within a program."""
        sampler = self.sampler
        prompt, null = sampler.condition(ids, labels)
        return make_generation(
            sampler.bind(params),
            key,
            ids,
            prompt=prompt,
            null=null,
            given=given,
            sampling=sampler.sampling_for(labels),
        )

    @property
    def _draws_codes_only(self) -> bool:
        generator = self.sampler.generator
        scored = generator.recipe.output_ids(generator.vocabulary)
        return scored.start >= generator.vocabulary.code_offset

    @property
    def chunk(self) -> int:
        """Latent frames decoded at a time: whole chunks fill each window."""
        window = self.plan.grid.t
        cuts = () if self.story is None else (start - 1 for start in self.story.starts[1:])
        return math.gcd(window - 1, window - self.slide.keep, *cuts)

    def changes(self, latent: int) -> bool:
        """Whether another scene begins with a latent frame behind the first."""
        return self.story is not None and latent in self.story.starts[1:]

    def _fill(self, codes: Int[Array, "b _ H W"]) -> Int[np.ndarray, "b T H W"]:
        """The first codes of a window, and zeros where codes will be drawn."""
        codes = np.asarray(codes, np.int32)
        missing = self.plan.grid.t - codes.shape[1]
        return np.pad(codes, ((0, 0), (0, missing), (0, 0), (0, 0)))

    def anchored_program(self, given: int) -> Any:
        """(parameters, key, ids, labels or None, known codes, cache or None) -> codes, cache and
        which clips had finite logits.

        With a cache, which is consumed, the positions that its anchor settles are not fed again.
        """
        make = functools.partial(self._make_anchored_program, given)
        return self.sampler.keep_program(("anchored", given), make)

    def _make_anchored_program(self, given: int) -> Any:
        plan = self.plan
        settled = plan.settled(plan.tokens_of_frames(plan.block[0]))

        def draw(
            params: PyTree,
            key: Array,
            ids: Array,
            labels: Array | None,
            known: Array,
            cache: Cache | None,
        ) -> tuple[Int[Array, "b size"], Cache, Bool[Array, "b"]]:
            run = self._start(params, key, ids, labels, given=given)
            held = 0 if cache is None else settled
            start = run.make_cache() if cache is None else cache
            drawn = run.draw(known, start, held=held)
            return clip_codes(run.model, drawn.ids), drawn.cache, drawn.finite

        return jax.jit(draw, donate_argnums=5)


@dataclass
class StreamingDecoder:
    """Pixels of one stream of codes, in pieces of `chunk` latent frames behind the first one."""

    sampler: Sampler
    chunk: int
    _cache: Any = dataclasses.field(default=None, init=False)

    def decode(self, codes: Int[np.ndarray, "b T H W"]) -> UInt8[np.ndarray, "b t h w c"]:
        """All frames of the next latent frames: m * chunk of them, one more at the start."""
        network, params = self.sampler.tokenizer, self.sampler.tokenizer_params
        cuts = list(range(int(self._cache is None), codes.shape[1] + 1, self.chunk))
        cuts = cuts if cuts[0] == 0 else [0, *cuts]
        videos = []
        for start, end in itertools.pairwise(cuts):
            self._cache, frames = decode_step(
                network, params, self._cache, jnp.asarray(codes[:, start:end])
            )
            videos.append(np.asarray(frames))
        return np.concatenate(videos, axis=1)


def window_key(key: Array, window: int) -> Array:
    """The random key of a window; the first has that of a clip of the trained length."""
    return jax.random.fold_in(jax.random.fold_in(key, LATER), window) if window else key
