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
from nbp.layout import Box, latents_of_frames
from nbp.models.generator import GeneratorNetwork
from nbp.models.inference import InferenceModel, bind_inference_model, pack_params, put_on_mesh
from nbp.models.tokenizer import TokenizerNetwork
from nbp.parallel.sharding import RULES, count_parts
from nbp.sampling.finite import check_parameters
from nbp.sampling.settings import PLAIN, SamplingConfig
from nbp.sampling.speculative import AUTOREGRESSIVE, Decoding, GenerationOutput
from nbp.shapes import Array, Bool, Clips, Int, PyTree

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
    passes: int32 [n], passes of the generator that each clip took.
    """

    videos: np.ndarray
    tokens: np.ndarray
    passes: np.ndarray

    def cut(self, clip: Box, stride: int) -> "Samples":
        """The first frames and their latent frames, of `stride` frames each but the first.

        clip: (frames, height, width) of what is kept of the pixels, from the upper left corner.
        """
        (frames, height, width), latent = clip, latents_of_frames(clip[0], stride)
        videos = self.videos[:, :frames, :height, :width]
        return Samples(videos, self.tokens[:, :latent], self.passes)


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


@dataclass(frozen=True, eq=False)  # compared and hashed by identity: it holds arrays
class Sampler:
    """Draws clips in batches of at most `sampling.batch`; compiles once per batch and given frames.

    Clip i of a request depends on (seed, i) and its own condition, not on the batch size.
    `generator_params` are as in training, or laid out for decoding (`Sampler.laid_out`), which
    needs half the memory. With a mesh a batch is split over `data` and `fsdp`, and the work on a
    clip over `tensor`; without one `place` puts the rows of a batch where the parameters are.
    floats: clips are not rounded to bytes.
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

        Raises ValueError where the seed is none, the given frames are no whole blocks or are needed
        and missing, or labels, clips or codes are not one per sample; NonFiniteError where a pass
        gave logits that are no numbers.
        """
        given = self.generator.plan.tokens_of_frames(given_frames)
        videos, tokens, passes = [], [], []
        for batch in self.cut_batches(
            count,
            labels=labels,
            clips=clips,
            codes=codes,
            given_frames=given_frames,
            kept=kept,
            numbers=numbers,
        ):
            more = () if batch.kept is None else (batch.kept,)
            drawn = self.run(self.draw_program(given), make_key(seed), batch, *more, params=params)
            self.check(drawn.finite, batch, params=params)
            grid = self.generator.to_grid(drawn.codes)
            videos.append(np.asarray(self.decode(self.tokenizer_params, grid))[: batch.keep])
            tokens.append(np.asarray(grid, np.int32)[: batch.keep])
            passes.append(np.asarray(drawn.passes, np.int32)[: batch.keep])
        return Samples(*(np.concatenate(parts) for parts in (videos, tokens, passes)))

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
        used = {"generator": params or self.generator_params, "tokenizer": self.tokenizer_params}
        check_parameters(used)
        raise NonFiniteError(
            f"clip {batch.first + bad[0]} has logits that are NaN or infinite, though all "
            "parameters are finite: lower --guidance, raise --temperature, or compute in float32"
        )

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
        return dataclasses.replace(self, generator_params=params, tokenizer_params=tokenizer)

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

    def draw_program(self, given: int) -> Any:
        """The compiled drawing of (parameters, key, ids, labels or None, known codes, kept).

        Gives a `GenerationOutput`.
        """
        return self.keep_program(("drawn", given), lambda: self._make_program(given))

    def keep_program(self, key: Any, make: Callable[[], Any]) -> Any:
        """The compiled program of this key, made once; it goes when the sampler goes."""
        if key not in self._programs:
            self._programs[key] = make()
        return self._programs[key]

    @functools.cached_property
    def _programs(self) -> dict[Any, Any]:
        return {}

    def _make_program(self, given: int) -> Any:
        def draw(
            params: PyTree,
            key: Array,
            ids: Array,
            labels: Array | None,
            known: Array,
            kept: Array | None = None,
        ) -> GenerationOutput:
            prompt, null = self.condition(ids, labels)
            more = {} if kept is None else {"kept": kept}
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
