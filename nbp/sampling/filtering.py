# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Guidance and temperature that change from pass to pass.

Pass `index` of `passes` may be traced: the passes of a generation are scanned in one program.
"""

import math
from dataclasses import dataclass
from typing import Literal, assert_never

import jax
import jax.numpy as jnp

from nbp.sampling.top_p import draw_filtered, filter_probabilities
from nbp.shapes import Array, Bool, Float, Int

RampShape = Literal["constant", "linear", "cosine"]
GuidanceSchedule = Literal["constant", "ramp", "linear", "cosine"]


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


STRONGEST = 1e3  # guidance


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: logits = (1 + t) * conditional - t * null. 0 switches it off.

    scale: finite; beyond 1,000 either way nothing but the largest difference would be left.
    schedule: t is the `scale` (constant); grows from 0 to it (linear, cosine); or is scale * index
      of the pass (ramp), as the official code intended (REFERENCE 3.3).
    start, end: shares of the passes, 0..1; t is 0 in the passes outside, which are those with
      index / passes below `start` or not below `end`.
    """

    scale: float = 0.0
    schedule: GuidanceSchedule = "constant"
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and abs(self.scale) <= STRONGEST):
            raise ValueError(f"guidance {self.scale}: must be a number up to {STRONGEST:g}")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(
                f"guidance from {self.start} to {self.end} of the passes: "
                "both are shares, 0 <= start < end <= 1"
            )

    def weight(self, index: Array | int, passes: int) -> Array | float:
        """t in pass `index`, 0..passes-1."""
        match self.schedule:
            case "constant":
                weight = self.scale
            case "ramp":
                weight = self.scale * index
            case "linear" | "cosine":
                weight = Ramp(0.0, self.scale, self.schedule).at(index, passes)
            case _ as never:
                assert_never(never)
        if (self.start, self.end) == (0.0, 1.0):
            return weight
        share = index / passes
        return jnp.where((share >= self.start) & (share < self.end), weight, 0.0)


UNGUIDED = Guidance()

COLDEST, HOTTEST = 1e-3, 1e3  # temperatures


@dataclass(frozen=True)
class LogitsFilter:
    """How logits become a distribution to draw from.

    temperature: divides the logits, in [0.001, 1000]: so float32 holds what comes out.
    top_k: keep the logits not below the k-th largest (ties survive); 0 switches it off.
    top_p: of what is left, in falling order, keep each token before which at most this probability
      has accumulated (the first always stays); 1 switches it off.
    greedy: take the largest logit instead of drawing.
    temperature_end: temperature of the last pass, which is reached from that of the first along
      `temperature_schedule`; None keeps the temperature.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    greedy: bool = False
    temperature_end: float | None = None
    temperature_schedule: RampShape = "linear"

    def __post_init__(self) -> None:
        for name in ("temperature", "temperature_end"):
            value = getattr(self, name)
            if value is not None and not COLDEST <= value <= HOTTEST:
                raise ValueError(f"{name} {value}: must be from {COLDEST} to {HOTTEST:g}")
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k}: must be 0 (off) or the number of codes to keep")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}: must be above 0 and at most 1 (off)")

    @property
    def scheduled(self) -> bool:
        """Whether the temperature changes from pass to pass."""
        return self.temperature_end is not None and self.temperature_end != self.temperature

    def draw(
        self,
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
        if self.greedy:
            largest, finite = _find_largest(logits)
            return jnp.where(finite, largest, -1).astype(jnp.int32)
        logits = self._scale(logits, index, passes)
        return draw_filtered(keys, logits, top_k=self.top_k, top_p=self.top_p)

    def probabilities(
        self,
        logits: Float[Array, "b n v"],
        *,
        index: Array | int = 0,
        passes: int = 1,
    ) -> Float[Array, "b n v"]:
        """The distribution that `draw` draws from; all NaN where there is none.

        `index` may be one for each position, [b n].
        """
        if self.greedy:
            largest, finite = _find_largest(logits)
            hot = jax.nn.one_hot(largest, logits.shape[-1])
            return jnp.where(finite[..., None], hot, math.nan)
        if self.scheduled and not isinstance(index, int):
            index = index[..., None]
        logits = self._scale(logits, index, passes)
        return filter_probabilities(logits, top_k=self.top_k, top_p=self.top_p)

    def _scale(self, logits: Array, index: Array | int, passes: int) -> Array:
        if self.scheduled:
            assert self.temperature_end is not None
            ramp = Ramp(self.temperature, self.temperature_end, self.temperature_schedule)
            return logits / ramp.at(index, passes)
        return logits if self.temperature == 1.0 else logits / self.temperature


def _find_largest(logits: Float[Array, "b n v"]) -> tuple[Int[Array, "b n"], Bool[Array, "b n"]]:
    """Index of the largest logit, or of a NaN; and whether it is a finite number."""
    largest = jnp.argmax(logits, axis=-1)
    value = jnp.take_along_axis(logits, largest[..., None], axis=-1)[..., 0]
    return largest, jnp.isfinite(value)


PLAIN = LogitsFilter()  # the model's own distribution


def keep_top_k(logits: Float[Array, "*b v"], k: int) -> Float[Array, "*b v"]:
    """Sets logits below the k-th largest to -inf; all ties with the k-th survive; 0 keeps all."""
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
