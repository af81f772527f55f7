# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""From conditions to clips: a generator, a tokenizer, their parameters and the way of drawing."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nbp.errors import NonFiniteError
from nbp.layout import Box, SequencePlan, latents_of_frames
from nbp.models.generator import GeneratorNetwork
from nbp.models.inference import InferenceModel, bind_inference_model, pack_params, put_on_mesh
from nbp.models.tokenizer import TokenizerNetwork
from nbp.parallel.sharding import RULES, count_parts
from nbp.sampling.settings import PLAIN, SamplingConfig
from nbp.sampling.speculative import AUTOREGRESSIVE, Decoding, GenerationOutput
from nbp.shapes import Array, Bool, Clips, Int, PyTree
from nbp.trees import check_parameters

SEEDS = 2**32


def make_key(seed: int) -> Array:
    """The root random key of a seed; ValueError for one of which JAX would use the remainder."""
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed {seed}: must be from 0 to {SEEDS - 1}")
    return jax.random.key(seed)


@dataclass(frozen=True)
class Samples:
    """`videos` uint8 [n t h w c] in 0..255 and `tokens` int32 [n T H W], codes of the grid.

    Of a sampler of floats `videos` is float32 in [0, 1].
    passes: int32 [n], passes that each clip took, opener_passes: those of the opener among them.
    """

    videos: np.ndarray
    tokens: np.ndarray
    passes: np.ndarray
    opener_passes: np.ndarray

    def cut(self, clip: Box, stride: int) -> "Samples":
        """The first frames and their latent frames, of `stride` frames each but the first.

        clip: (frames, height, width) of what is kept of the pixels, from the upper left corner.
        """
        (frames, height, width), latent = clip, latents_of_frames(clip[0], stride)
        videos, tokens = self.videos[:, :frames, :height, :width], self.tokens[:, :latent]
        return dataclasses.replace(self, videos=videos, tokens=tokens)


@dataclass(frozen=True)
class Batch:
    """Clips `first`, `first + 1`, ... of a request, `keep` of them; the other rows fill it up.

    ids: number of each row's clip. labels: its class, if any. known: codes [b size] in generation
    order, of which the given frames are kept, and those of `kept`.
    """

    first: int
    keep: int
    ids: Int[Array, "b"]
    labels: Int[Array, "b"] | None
    known: Int[Array, "b size"]
    kept: Bool[Array, "b size"] | None = None


@dataclass(frozen=True, eq=False)
class Opener:
    """Another generator of the same codes, which draws the first frames (CoDe, arXiv 2411.17787).

    params: as those of a `Sampler`.
    """

    generator: GeneratorNetwork
    params: PyTree


@dataclass(frozen=True)
class Begun:
    """A batch whose first `given` tokens are known, and the key that the rest is drawn with.

    passes: int32 [b] that an opener took for them, 0 without one.
    """

    batch: Batch
    key: Array
    given: int
    passes: Int[np.ndarray, "b"]


OPENED = 0x09E4  # the stream of random keys of what follows an opener's frames


@dataclass(frozen=True, eq=False)  # compared and hashed by identity: it holds arrays
class Sampler:
    """Draws clips in batches of at most `sampling.batch`; compiles once per batch and given frames.

    Clip i of a request depends on (seed, i) and its own condition, not on the batch size.
    `generator_params` are as in training, or laid out for decoding (`Sampler.laid_out`), which
    needs half the memory. With a mesh a batch is split over `data` and `fsdp`, and the work on a
    clip over `tensor`; without one `place` puts the rows of a batch where the parameters are.
    floats: clips are not rounded to bytes. opener: draws the first frames (`begin`).
    """

    generator: GeneratorNetwork
    generator_params: PyTree
    tokenizer: TokenizerNetwork
    tokenizer_params: PyTree
    sampling: SamplingConfig = PLAIN
    decoding: Decoding = AUTOREGRESSIVE
    mesh: Mesh | None = None
    place: Callable[[Any], Any] = np.asarray
    floats: bool = False
    opener: Opener | None = None

    def sample(
        self,
        count: int,
        *,
        seed: int,
        labels: Sequence[int] | None = None,
        clips: Clips | None = None,
        codes: Int[np.ndarray, "b T H W"] | None = None,
        given_frames: int = 0,
        kept: Bool[np.ndarray, "b T H W"] | None = None,
        params: PyTree = None,
        numbers: Int[np.ndarray, "b"] | None = None,
        tell: Callable[[int], object] | None = None,
    ) -> Samples:
        """Draws `count` clips.

        Args:
          count: number of clips, at least 1.
          seed: root of the randomness, 0 to 2**32 - 1.
          labels: class id per clip, for a model with label prompts; None draws them without a
            condition (the trained null prompt).
          clips: uint8 [n t h w c]; their first `given_frames` latent frames are kept.
          codes: the codes of such clips, in their place.
          given_frames: latent frames that are not generated.
          kept: further cells of the clips that are not generated, anywhere (see `generate`).
          params: generator parameters to use instead of the sampler's own.
          numbers: i of each clip, by default 0, 1, ...: clips of a larger request one by one.
          tell: called with the number of clips of each batch that is drawn.

        Raises ValueError where the seed is none, the given frames are no whole blocks or are needed
        and missing, or labels, clips or codes are not one per sample; NonFiniteError where a pass
        gave logits that are no numbers.
        """
        given = self.generator.plan.tokens_of_frames(given_frames)
        parts: list[tuple[np.ndarray, ...]] = []
        for batch in self.cut_batches(
            count,
            labels=labels,
            clips=clips,
            codes=codes,
            given_frames=given_frames,
            kept=kept,
            numbers=numbers,
        ):
            begun = self.begin(batch, make_key(seed), given)
            more = () if batch.kept is None else (batch.kept,)
            program = self.draw_program(begun.given)
            drawn = self.run(program, begun.key, begun.batch, *more, params=params)
            self.check(drawn.finite, batch, params=params)
            grid = self.generator.to_grid(drawn.codes)
            videos = np.asarray(self.decode(self.tokenizer_params, grid))
            passes = begun.passes + np.asarray(drawn.passes, np.int32)
            rows = (videos, np.asarray(grid, np.int32), passes, begun.passes)
            parts.append(tuple(values[: batch.keep] for values in rows))
            if tell is not None:
                tell(batch.keep)
        return Samples(*map(np.concatenate, zip(*parts, strict=True)))

    def begin(self, batch: Batch, key: Array, given: int) -> Begun:
        """What the generator goes on with: the batch with the opener's frames, where there is one.

        These are the first frames of the clips that a sampler of the opener alone draws. Raises
        ValueError where the frames are no whole blocks of both, nothing is left to draw, or cells
        are kept elsewhere; NonFiniteError where a pass gave logits that are no numbers.
        """
        opener = self._opener
        if opener is None:
            return Begun(batch, key, given, np.zeros(len(batch.ids), np.int32))
        if batch.kept is not None:
            raise ValueError("an opener draws whole frames: no cells can be kept behind them")
        frames = given // self.generator.plan.grid.frame
        until = find_opened(self.generator.plan, opener.generator.plan, frames, self.sampling)
        known = opener.generator.to_sequence(self.generator.to_grid(batch.known))
        program = opener.draw_program(given, until)
        drawn = opener.run(program, key, dataclasses.replace(batch, known=known))
        opener.check(drawn.finite, batch)
        codes = self.generator.to_sequence(opener.generator.to_grid(drawn.codes))
        opened = dataclasses.replace(batch, known=codes)
        passes = np.asarray(drawn.passes, np.int32)
        return Begun(opened, jax.random.fold_in(key, OPENED), until, passes)

    @functools.cached_property
    def _opener(self) -> "Sampler | None":
        """The sampler of the opener, which draws as this one does, but pass by pass."""
        if self.opener is None:
            return None
        sampling = self.sampling
        if not self.opener.generator.draft:
            sampling = dataclasses.replace(sampling, refinements=1)
        return dataclasses.replace(
            self,
            generator=self.opener.generator,
            generator_params=self.opener.params,
            sampling=sampling,
            decoding=AUTOREGRESSIVE,
            opener=None,
        )

    def cut_batches(
        self,
        count: int,
        *,
        labels: Sequence[int] | None,
        clips: Clips | None,
        codes: Int[np.ndarray, "b T H W"] | None,
        given_frames: int,
        kept: Bool[np.ndarray, "b T H W"] | None = None,
        numbers: Int[np.ndarray, "b"] | None = None,
    ) -> Iterator[Batch]:
        """A request in batches of one size; arguments and errors of `sample`."""
        plan = self.generator.plan
        plan.schedule(plan.tokens_of_frames(given_frames))  # before anything is compiled
        if clips is None and codes is None and (given_frames or kept is not None):
            what = f"{given_frames} given latent frames" if kept is None else "kept cells"
            raise ValueError(f"{what}, but no clips to take them from")
        given_rows = (("labels", labels), ("clips", clips), ("codes", codes), ("numbers", numbers))
        given_rows += (("kept", kept),)
        for name, values in given_rows:
            if values is not None and len(values) != count:
                raise ValueError(f"{len(values)} {name} for {count} samples: give one for each")
        grids = np.zeros((count, *plan.grid.shape), np.int32) if codes is None else codes
        size = self._round_up(min(self.sampling.batch, count))
        for start in range(0, count, size):
            ids = np.arange(start, start + size)
            rows = np.minimum(ids, count - 1)  # the last batch is filled up, then cut
            known = self.put(np.asarray(grids[rows], np.int32))
            if clips is not None:
                known = self.encode(self.tokenizer_params, self.put(clips[rows]))
            known = self.generator.to_sequence(known)
            label_rows = None
            if labels is not None:
                label_rows = self.put(np.asarray(labels, np.int32)[rows])
            ids = self.put(ids if numbers is None else numbers[rows])
            stays = None
            if kept is not None:
                stays = self.put(self.generator.to_sequence(np.asarray(kept[rows], np.int32)) > 0)
            yield Batch(start, min(size, count - start), ids, label_rows, known, stays)

    def run(
        self, program: Any, key: Array, batch: Batch, *more: Any, params: PyTree | None = None
    ) -> Any:
        """Calls a program (parameters, key, ids, labels, known codes, ...) on the devices."""
        with jax.set_mesh(self.mesh) if self.mesh else contextlib.nullcontext():
            rows = (batch.ids, batch.labels, batch.known)
            return program(params or self.generator_params, key, *rows, *more)

    def check(self, finite: Array, batch: Batch, *, params: PyTree | None = None) -> None:
        """NonFiniteError where a clip of the batch was drawn from logits that are not finite."""
        bad = np.flatnonzero(~np.asarray(finite)[: batch.keep])
        if not bad.size:
            return
        check_parameters({**self.params, "generator": params or self.generator_params})
        raise NonFiniteError(
            f"clip {batch.first + bad[0]} has logits that are NaN or infinite, though all "
            "parameters are finite: lower --guidance, raise --temperature, or compute in float32"
        )

    @property
    def params(self) -> dict[str, PyTree]:
        """All parameters, by what a message calls them."""
        found = {"generator": self.generator_params, "tokenizer": self.tokenizer_params}
        return found if self.opener is None else {**found, "opener": self.opener.params}

    def in_batches(self, batch: int) -> "Sampler":
        """The same with batches of at most `batch` clips."""
        sampling = dataclasses.replace(self.sampling, batch=batch)
        return dataclasses.replace(self, sampling=sampling)

    def laid_out(self) -> "Sampler":
        """The same for sampling alone, in half the memory; this one's parameters are gone."""
        params = pack_params(
            self.generator, self.generator_params, weights=self.sampling.weights, mesh=self.mesh
        )
        tokenizer = self.tokenizer_params
        whole = jax.tree.map(lambda p: (None,) * p.ndim, tokenizer)
        tokenizer = put_on_mesh(tokenizer, whole, self.mesh)
        opener = self.opener
        if opener is not None:
            weights = self.sampling.weights
            packed = pack_params(opener.generator, opener.params, weights=weights, mesh=self.mesh)
            opener = Opener(opener.generator, packed)
        return dataclasses.replace(
            self, generator_params=params, tokenizer_params=tokenizer, opener=opener
        )

    def bind(self, params: PyTree) -> InferenceModel:
        """The generator for `nbp.sampling.generate`, within a program."""
        weights, cache = self.sampling.weights, self.sampling.cache
        return bind_inference_model(self.generator, params, weights=weights, stored=cache)

    def _round_up(self, batch: int) -> int:
        """The next size that the devices divide."""
        parts = 1 if self.mesh is None else count_parts(RULES["batch"], self.mesh.shape)
        return -(-batch // parts) * parts

    def put(self, rows: Array) -> Array:
        """Rows of a batch where they are worked on."""
        if self.mesh is None:
            return self.place(rows)
        return put_on_mesh(rows, ("batch", *(None,) * (rows.ndim - 1)), self.mesh)

    @functools.cached_property
    def encode(self) -> Any:
        """The compiled tokenizer: (its parameters, clips of bytes) -> codes [b T H W]."""
        return jax.jit(self.tokenizer.encode)

    @functools.cached_property
    def decode(self) -> Any:
        """The compiled tokenizer: (its parameters, codes [b T H W]) -> clips."""
        return jax.jit(self.tokenizer.decode_floats if self.floats else self.tokenizer.decode)

    def draw_program(self, given: int, until: int | None = None) -> Any:
        """The compiled drawing of (parameters, key, ids, labels or None, known codes, kept).

        Gives a `GenerationOutput`. until: tokens after which drawing stops, see `generate`.
        """
        return self.keep_program(("drawn", given, until), lambda: self._make_program(given, until))

    def keep_program(self, key: Any, make: Callable[[], Any]) -> Any:
        """The compiled program of this key, made once; it goes when the sampler goes."""
        if key not in self._programs:
            self._programs[key] = make()
        return self._programs[key]

    @functools.cached_property
    def _programs(self) -> dict[Any, Any]:
        return {}

    def _make_program(self, given: int, until: int | None) -> Any:
        def draw(
            params: PyTree,
            key: Array,
            ids: Array,
            labels: Array | None,
            known: Array,
            kept: Array | None = None,
        ) -> GenerationOutput:
            prompt, null = self.condition(ids, labels)
            more: dict[str, Any] = {} if kept is None else {"kept": kept}
            more |= {} if until is None else {"until": until}
            return self.decoding(
                self.bind(params),
                key,
                ids,
                prompt=prompt,
                null=null,
                known=known,
                given=given,
                sampling=self.sampling_for(labels),
                **more,
            )

        return jax.jit(draw)

    def condition(
        self, ids: Int[Array, "b"], labels: Int[Array, "b"] | None
    ) -> tuple[Int[Array, "b p"] | None, Bool[Array, "b"] | None]:
        """Prompts of the clips, and which of them the null condition replaces: all of no label."""
        if not self.generator.plan.prompt_length:
            return None, None
        if labels is None:
            prompt = self.generator.prompt({"label": jnp.zeros_like(ids)})
            return prompt, jnp.ones(ids.shape, bool)
        return self.generator.prompt({"label": labels}), None

    def sampling_for(self, labels: Int[Array, "b"] | None) -> SamplingConfig:
        """Clips without a label have no condition to be guided by."""
        return self.sampling.unguided if labels is None else self.sampling


def find_opened(
    plan: SequencePlan, opener: SequencePlan, frames: int, sampling: SamplingConfig
) -> int:
    """Tokens that are known once an opener has drawn its frames behind the first `frames`.

    Raises ValueError where they are no whole blocks of both plans, or no frame is left to draw.
    """
    end = frames + sampling.opener_frames
    if end >= plan.grid.t:
        behind = f" behind {frames} given ones" if frames else ""
        raise ValueError(
            f"opener_frames {sampling.opener_frames}{behind}: a clip of {plan.grid.t} latent "
            "frames leaves none for this model"
        )
    given, until = frames * plan.grid.frame, plan.tokens_of_frames(end)
    opener.schedule(given, until)
    plan.schedule(until)
    return until
