# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Guidance and temperature that change from pass to pass.

Pass `index` of `passes` may be traced: the passes of a generation are scanned in one program.
"""

import math
from dataclasses import dataclass
from typing import Literal, assert_never

import jax.numpy as jnp

from nbp.shapes import Array

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
