# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""From conditions to clips: a generator, a tokenizer, their parameters and the way of drawing."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbp.models.generator import GeneratorNetwork
from nbp.models.tokenizer import TokenizerNetwork
from nbp.sampling.decode import UNGUIDED, Guidance, generate
from nbp.sampling.filters import PLAIN, Filter
from nbp.shapes import Array, Clips, Int, PyTree


@dataclass(frozen=True)
class Samples:
    """`videos` uint8 [n t h w c] in 0..255 and `tokens` int32 [n T H W], codes of the grid."""

    videos: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True, eq=False)  # compared and hashed by identity: it holds arrays
class Sampler:
    """Draws clips in batches of at most `batch`; compiles once per batch and given frames.

    Clip i of a request depends on (seed, i) and its own condition, not on the batch size.
    `generator_params` may be stacked, as training has them, or `GeneratorNetwork.unstack`ed, which
    needs half the memory. place: puts the rows of a batch where the parameters are.
    """

    generator: GeneratorNetwork
    generator_params: PyTree
    tokenizer: TokenizerNetwork
    tokenizer_params: PyTree
    filtering: Filter = PLAIN
    guidance: Guidance = UNGUIDED
    batch: int = 32
    place: Callable[[Any], Any] = np.asarray

    def sample(
        self,
        count: int,
        *,
        seed: int,
        labels: Sequence[int] | None = None,
        clips: Clips | None = None,
        codes: Int[np.ndarray, "b T H W"] | None = None,
        given_frames: int = 0,
        params: PyTree = None,
        numbers: Int[np.ndarray, "b"] | None = None,
    ) -> Samples:
        """Draws `count` clips.

        Args:
          count: number of clips, at least 1.
          seed: root of the randomness.
          labels: class id per clip, for a model with label prompts; None draws them without a
            condition (the trained null prompt).
          clips: uint8 [n t h w c]; their first `given_frames` latent frames are kept.
          codes: the codes of such clips, in their place.
          given_frames: latent frames that are not generated.
          params: generator parameters to use instead of the sampler's own.
          numbers: i of each clip, by default 0, 1, ...: clips of a larger request one by one.

        Raises ValueError where the given frames are no whole blocks or are needed and missing, or
        labels, clips or codes are not one per sample.
        """
        plan = self.generator.plan
        given = plan.tokens_of_frames(given_frames)
        plan.schedule(given)  # says what is wrong before anything is compiled
        if given and clips is None and codes is None:
            raise ValueError(f"{given_frames} given latent frames, but no clips to take them from")
        given_rows = (("labels", labels), ("clips", clips), ("codes", codes), ("numbers", numbers))
        for name, values in given_rows:
            if values is not None and len(values) != count:
                raise ValueError(f"{len(values)} {name} for {count} samples: give one for each")
        grids = np.zeros((count, *plan.grid.shape), np.int32) if codes is None else codes
        videos, tokens = [], []
        size = min(self.batch, count)
        for start in range(0, count, size):
            ids = np.arange(start, start + size)
            rows = np.minimum(ids, count - 1)  # the last batch is filled up, then cut
            known = self.place(np.asarray(grids[rows], np.int32))
            if clips is not None:
                known = self._encode(self.tokenizer_params, self.place(clips[rows]))
            known = self.generator.arrange(known)
            label_rows = None
            if labels is not None:
                label_rows = self.place(np.asarray(labels, np.int32)[rows])
            ids = self.place(ids if numbers is None else numbers[rows])
            drawn = self.draw_program(given)(
                params or self.generator_params, jax.random.key(seed), ids, label_rows, known
            )
            grid = self.generator.restore_grid(drawn)
            keep = min(size, count - start)
            videos.append(np.asarray(self._decode(self.tokenizer_params, grid))[:keep])
            tokens.append(np.asarray(grid, np.int32)[:keep])
        return Samples(np.concatenate(videos), np.concatenate(tokens))

    def unstacked(self) -> "Sampler":
        """The same for sampling alone, in half the memory; this one's parameters are gone."""
        params = self.generator.unstack(self.generator_params)
        return dataclasses.replace(self, generator_params=params)

    @functools.cached_property
    def _encode(self) -> Any:
        return jax.jit(self.tokenizer.encode)

    @functools.cached_property
    def _decode(self) -> Any:
        return jax.jit(self.tokenizer.decode)

    @functools.cache  # noqa: B019 - lives as long as the compiled programs
    def draw_program(self, given: int) -> Any:
        """The compiled drawing: (parameters, key, ids, labels or None, known codes) -> codes."""

        def draw(
            params: PyTree, key: Array, ids: Array, labels: Array | None, known: Array
        ) -> Int[Array, "b size"]:
            prompted = self.generator.plan.prompt_length > 0
            null = jnp.ones(ids.shape, bool) if prompted and labels is None else None
            prompt = None
            if prompted:
                rows = jnp.zeros_like(ids) if labels is None else labels
                prompt = self.generator.prompt({"label": rows})
            model, layers = self.generator.bind_for_decoding(params)
            return generate(
                model,
                key,
                ids,
                prompt=prompt,
                null=null,
                known=known,
                given=given,
                filtering=self.filtering,
                guidance=self.guidance if labels is not None else UNGUIDED,
                layers=layers,
            )

        return jax.jit(draw)
