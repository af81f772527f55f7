# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""How clips are drawn: one dataclass from the configuration and the flags to the drawing itself."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Literal

from nbp.layout import Box
from nbp.ranges import CacheType, Count, Natural, NonNegative, Range, Share, WeightType

COLDEST, HOTTEST = 1e-3, 1e3  # temperatures
STRONGEST = 1e3  # guidance

RampShape = Literal["constant", "linear", "cosine"]
CommitKind = Literal["entropy", "confidence", "order"]
GuidanceSchedule = Literal["constant", "ramp", "linear", "cosine"]


@dataclass(frozen=True)
class SamplingConfig:
    """The section `sampling` of a configuration; the flags of `nbp.sample` replace its fields.

    temperature: divides the logits, in [0.001, 1000]: so float32 holds what comes out. 0, which no
      configuration or flag can say, takes the largest logit instead of drawing.
    temperature_end: temperature of the last pass, reached from that of the first along
      `temperature_schedule`; 0 keeps the temperature.
    top_k: keep the logits not below the k-th largest (ties survive); 0 switches it off.
    top_p: of what is left, in falling order, keep each token before which at most this probability
      has accumulated (the first always stays); 1 switches it off.
    guidance: scale of classifier-free guidance, logits = (1 + t) * conditional - t * null; 0
      switches it off. Beyond 1,000 either way nothing but the largest difference would be left.
    guidance_schedule: t is the scale (constant); grows from 0 to it (linear, cosine); or is scale *
      index of the pass (ramp), as the official code intended (REFERENCE 3.3).
    guidance_start, guidance_end: shares of the passes, 0..1; t is 0 in the passes outside, which
      are those with index / passes below the start or not below the end.
    block: one of those that the model was trained with (`generator.block`, `generator.blocks`);
      empty is the first.
    refinements: passes over each block that is drawn at once, at most; more than 1 needs a model
      with the draft channel (docs/blocks.md). A block ends when all of its tokens are accepted.
    commit: which draws a pass accepts (`nbp.sampling.refinement`): those of lowest entropy, those
      that were most likely, or places in a fixed dispersed order.
    entropy_bound: nats that the entropies of draws accepted at once may sum to (commit entropy).
    confidence_noise: scale of the noise on log-probabilities (commit confidence).
    opener: workdir of another generator of the same tokenizer, conditions and grid, which draws the
      first `opener_frames` latent frames that are not given, pass by pass; this one draws the rest.
      Empty: none.
    weights, cache: what decoding keeps them in: the type that the network computes in, or coarser.
    batch: clips drawn at a time. fps: frames per second of the files.
    """

    temperature: Annotated[float, Range(COLDEST, high=HOTTEST)] = 1.0
    temperature_end: Annotated[float, Range(0.0, high=HOTTEST)] = 0.0
    temperature_schedule: RampShape = "linear"
    top_k: Natural = 0
    top_p: Annotated[float, Range(0.0, above=True, high=1.0)] = 1.0
    guidance: Annotated[float, Range(0.0, high=STRONGEST)] = 0.0
    guidance_schedule: GuidanceSchedule = "constant"
    guidance_start: Share = 0.0
    guidance_end: Annotated[float, Range(0.0, above=True, high=1.0)] = 1.0
    block: str | Box = ""
    refinements: Count = 1
    commit: CommitKind = "entropy"
    entropy_bound: NonNegative = 0.1
    confidence_noise: NonNegative = 1.0
    opener: str = ""
    opener_frames: Count = 1
    weights: WeightType = "compute"
    cache: CacheType = "compute"
    batch: Count = 32
    fps: Annotated[float, Range(0.1, high=1000.0)] = 8.0

    def __post_init__(self) -> None:
        for name in ("temperature", "temperature_end"):
            value = getattr(self, name)
            if value != 0 and not COLDEST <= value <= HOTTEST:
                raise ValueError(f"{name} {value}: must be from {COLDEST} to {HOTTEST:g}")
        if self.greedy and self.temperature_end:
            raise ValueError(f"temperature_end {self.temperature_end}: temperature 0 has no end")
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k}: must be 0 (off) or the number of codes to keep")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}: must be above 0 and at most 1 (off)")
        if not (math.isfinite(self.guidance) and abs(self.guidance) <= STRONGEST):
            raise ValueError(f"guidance {self.guidance}: must be a number up to {STRONGEST:g}")
        if self.refinements < 1:
            raise ValueError(f"refinements {self.refinements}: a block takes 1 pass or more")
        if self.opener_frames < 1:
            raise ValueError(f"opener_frames {self.opener_frames}: an opener draws 1 or more")
        if not (0 <= self.entropy_bound < math.inf and 0 <= self.confidence_noise < math.inf):
            raise ValueError(
                f"entropy_bound {self.entropy_bound}, confidence_noise {self.confidence_noise}: "
                "must be numbers from 0"
            )
        if not 0 <= self.guidance_start < self.guidance_end <= 1:
            raise ValueError(
                f"guidance from {self.guidance_start} to {self.guidance_end} of the passes: "
                "both are shares, 0 <= start < end <= 1"
            )

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn: the largest logit is taken."""
        return self.temperature == 0

    @property
    def scheduled(self) -> bool:
        """Whether the temperature changes from pass to pass."""
        return self.temperature_end not in (0, self.temperature)

    @property
    def unguided(self) -> "SamplingConfig":
        """The same without guidance."""
        return dataclasses.replace(self, guidance=0.0)


PLAIN = SamplingConfig()  # the model's own distribution
