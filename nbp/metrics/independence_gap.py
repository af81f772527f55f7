# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The independence gap: what drawing the tokens of a block independently costs, in bits per token.

A model of token blocks gives each token the past and the tokens of its block before it; a model of
larger blocks the past alone. At equal training the difference of their bits per token is the mean
total correlation that the tokens of a block have left: what no model can have that draws them
independently, and what refinement or a joint head could win back.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from nbp.layout import SequencePlan
from nbp.shapes import Float


@dataclass(frozen=True)
class IndependenceGap:
    """Bits per token of a model of blocks minus those of a model of token blocks.

    bits: the mean over tokens that are drawn in blocks. per_frame: over those of each latent frame,
    NaN where there are none. per_place: over those of each place inside a block.
    """

    bits: float
    per_frame: Float[np.ndarray, "T"]
    per_place: Float[np.ndarray, "B"]

    def to_json(self) -> dict[str, Any]:
        """The same as lists, with None for what there is not."""
        frames = [float(x) if np.isfinite(x) else None for x in self.per_frame]
        return {"bits": self.bits, "per_frame": frames, "per_place": self.per_place.tolist()}


def independence_gap(
    plan: SequencePlan, blocks: Float[np.ndarray, "T H W"], tokens: Float[np.ndarray, "T H W"]
) -> IndependenceGap:
    """The gap of two models from the bits of each place of the grid, means over the same clips.

    Args:
      plan: of the model of blocks. Tokens that it draws one by one, or is given, do not count.
      blocks, tokens: bits of the model of blocks, and of the model of token blocks.

    Raises:
      ValueError: grids of other sizes, or no token is drawn in a block.
    """
    if blocks.shape != plan.grid.shape or tokens.shape != plan.grid.shape:
        raise ValueError(f"grids {blocks.shape}, {tokens.shape}: the plan has {plan.grid.shape}")
    first = max(plan.narrow, plan.first)
    if first >= plan.grid.size or plan.block_size == 1:
        raise ValueError("no token is drawn in a block with others, so there is no gap")
    gap = (blocks - tokens).reshape(-1)
    drawn = plan.order[first:]
    frame = drawn // plan.grid.frame
    counts = np.bincount(frame, minlength=plan.grid.t)
    with np.errstate(invalid="ignore"):
        per_frame = np.bincount(frame, gap[drawn], minlength=plan.grid.t) / counts
    per_place = gap[drawn].reshape(-1, plan.block_size).mean(0)
    return IndependenceGap(float(gap[drawn].mean()), per_frame, per_place)
