# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The independence gap: what drawing the tokens of a block independently costs, in bits per token.

A model of token blocks gives each token the past and the tokens of its block before it; a model of
larger blocks the past alone. At equal training the difference of their bits per token is the mean
total correlation that the tokens of a block have left: what no model can have that draws them
independently, and what refinement or a joint head could win back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbp.layout import LatentGrid, Opening, SequencePlan
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

    def __str__(self) -> str:
        frames, places = (
            ", ".join(f"{x:.3f}" if np.isfinite(x) else "-" for x in part)
            for part in (self.per_frame, self.per_place)
        )
        return f"{self.bits:.4f} bits per token (frames {frames}; places of a block {places})"


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
    first = plan.first_joint
    if first >= plan.grid.size:
        raise ValueError("no token is drawn in a block with others, so there is no gap")
    gap = (blocks - tokens).reshape(-1)
    drawn = plan.order[first:]
    frame = drawn // plan.grid.frame
    counts = np.bincount(frame, minlength=plan.grid.t)
    with np.errstate(invalid="ignore"):
        per_frame = np.bincount(frame, gap[drawn], minlength=plan.grid.t) / counts
    per_place = gap[drawn].reshape(-1, plan.block_size).mean(0)
    return IndependenceGap(float(gap[drawn].mean()), per_frame, per_place)


def compare_token_bits(one: Mapping[str, Any], other: Mapping[str, Any]) -> IndependenceGap | None:
    """The gap of two evaluations, whichever is of token blocks; None where neither or both are.

    Each is what an evaluation notes as `token_bits` (`nbp.evaluation.result.TokenBits`).
    """
    plans = [read_plan(record["plan"]) for record in (one, other)]
    grids = [np.array(record["bits"], float) for record in (one, other)]  # None becomes NaN
    if plans[0].block_size == 1:
        plans, grids = plans[::-1], grids[::-1]
    if plans[0].block_size == 1 or plans[1].block_size > 1 or plans[0].grid != plans[1].grid:
        return None
    return independence_gap(plans[0], *grids)


def read_plan(fields: Mapping[str, Any]) -> SequencePlan:
    """The plan whose fields were written as JSON."""
    return SequencePlan(
        LatentGrid(**fields["grid"]),
        tuple(fields["block"]),
        Opening(**fields["opening"]),
        fields["prompt_length"],
        fields["partition"],
    )
