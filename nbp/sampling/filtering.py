# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Filters of logits; guidance and temperature that change from pass to pass.

Pass `index` of `passes` may be traced: the passes of a generation are scanned in one program.
"""

import math
from dataclasses import dataclass
from typing import assert_never

import jax
import jax.numpy as jnp

from nbp.sampling.settings import RampShape, SamplingConfig
from nbp.sampling.top_p import draw_filtered, filter_probabilities
from nbp.shapes import Array, Bool, Float, Int


@dataclass(frozen=True)
class Ramp:
    """A number that goes from `start` in the first pass to `end` in the last.

    linear: in equal steps. cosine: half a cosine wave, slow at both ends. constant: stays at
    `start`.
    """

    start: float
    end: float
    shape: RampShape = "linear"

    def at(self, index: Array | int, passes: int) -> Array | float:
        """Its value in pass `index`, 0..passes-1; a single pass has `start`."""
        share = index / max(1, passes - 1)
        match self.shape:
            case "constant":
                return self.start
            case "linear":
                return self.start + (self.end - self.start) * share
            case "cosine":
                return self.start + (self.end - self.start) * (1 - jnp.cos(jnp.pi * share)) / 2
            case _ as never:
                assert_never(never)


def guidance_weight(sampling: SamplingConfig, index: Array | int, passes: int) -> Array | float:
    """t of classifier-free guidance in pass `index`, 0..passes-1; see `SamplingConfig`."""
    match sampling.guidance_schedule:
        case "constant":
            weight = sampling.guidance
        case "ramp":
            weight = sampling.guidance * index
        case "linear" | "cosine":
            weight = Ramp(0.0, sampling.guidance, sampling.guidance_schedule).at(index, passes)
        case _ as never:
            assert_never(never)
    start, end = sampling.guidance_start, sampling.guidance_end
    if (start, end) == (0.0, 1.0):
        return weight
    share = index / passes
    return jnp.where((share >= start) & (share < end), weight, 0.0)


def draw_tokens(
    sampling: SamplingConfig,
    keys: Array,
    logits: Float[Array, "b n v"],
    *,
    index: Array | int = 0,
    passes: int = 1,
) -> Int[Array, "b n"]:
    """One independent draw per position; `keys` holds one random key per sample.

    index: of the pass, of `passes` in all; it chooses the temperature where that changes.

    Returns: tokens; -1 where the logits are no distribution (NaN, inf, or all -inf).
    """
    if sampling.greedy:
        largest, finite = _find_largest(logits)
        return jnp.where(finite, largest, -1).astype(jnp.int32)
    logits = _scale(sampling, logits, index, passes=passes)
    return draw_filtered(keys, logits, top_k=sampling.top_k, top_p=sampling.top_p)


def token_probabilities(
    sampling: SamplingConfig,
    logits: Float[Array, "b n v"],
    *,
    index: Array | int = 0,
    passes: int = 1,
) -> Float[Array, "b n v"]:
    """The distribution that `draw_tokens` draws from; all NaN where there is none.

    `index` may be one for each position, [b n].
    """
    if sampling.greedy:
        largest, finite = _find_largest(logits)
        hot = jax.nn.one_hot(largest, logits.shape[-1])
        return jnp.where(finite[..., None], hot, math.nan)
    if sampling.scheduled and not isinstance(index, int):
        index = index[..., None]
    logits = _scale(sampling, logits, index, passes=passes)
    return filter_probabilities(logits, top_k=sampling.top_k, top_p=sampling.top_p)


def _scale(sampling: SamplingConfig, logits: Array, index: Array | int, *, passes: int) -> Array:
    if sampling.scheduled:
        ramp = Ramp(sampling.temperature, sampling.temperature_end, sampling.temperature_schedule)
        return logits / ramp.at(index, passes)
    return logits if sampling.temperature == 1.0 else logits / sampling.temperature


def _find_largest(logits: Float[Array, "b n v"]) -> tuple[Int[Array, "b n"], Bool[Array, "b n"]]:
    """Index of the largest logit, or of a NaN; and whether it is a finite number."""
    largest = jnp.argmax(logits, axis=-1)
    value = jnp.take_along_axis(logits, largest[..., None], axis=-1)[..., 0]
    return largest, jnp.isfinite(value)


def keep_top_k(logits: Float[Array, "*b v"], k: int) -> Float[Array, "*b v"]:
    """Sets logits below the k-th largest to -inf; all ties with the k-th survive; 0 keeps all.

    With `keep_top_p` the oracle of `nbp.sampling.top_p`, which draws without a sort.
    """
    if k == 0 or k >= logits.shape[-1]:
        return logits
    kth = jax.lax.top_k(logits, k)[0][..., -1:]
    return jnp.where(logits < kth, -jnp.inf, logits)


def keep_top_p(logits: Float[Array, "*b v"], p: float) -> Float[Array, "*b v"]:
    """Sets logits outside the nucleus to -inf; among exact ties the lower index goes first."""
    if p >= 1:
        return logits
    order = jnp.argsort(-logits, axis=-1, stable=True)
    share = jnp.take_along_axis(jax.nn.softmax(logits, axis=-1), order, axis=-1)
    before = jnp.cumsum(share, axis=-1) - share
    # The first token is kept whatever rounding says of "0 before it".
    keep_sorted = (before <= p).at[..., 0].set(True)
    keep = jnp.take_along_axis(keep_sorted, jnp.argsort(order, axis=-1), axis=-1)
    return jnp.where(keep, logits, -jnp.inf)
