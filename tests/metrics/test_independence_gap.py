# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The gap against the total correlation of a distribution that can be written down."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from nbp.layout import LatentGrid, Opening, SequencePlan
from nbp.metrics.independence_gap import compare_token_bits, independence_gap, read_plan


def test_it_is_the_total_correlation_of_a_block():
    """Three tokens of two codes; exact models: the conditionals, and the marginals of blocks."""
    rng = np.random.default_rng(0)
    joint = rng.dirichlet(np.ones(8)).reshape(2, 2, 2)
    marginals = [joint.sum(tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    tokens, blocks = np.zeros(3), np.zeros(3)
    for clip in itertools.product(range(2), repeat=3):
        for i in range(3):
            before = joint[clip[:i]].sum()
            conditional = joint[clip[: i + 1]].sum() / before
            tokens[i] -= joint[clip] * math.log2(conditional)
            blocks[i] -= joint[clip] * math.log2(marginals[i][clip[i]])
    entropies = sum(-(m * np.log2(m)).sum() for m in marginals)
    correlation = entropies + (joint * np.log2(joint)).sum()
    assert correlation > 0.01
    plan = SequencePlan(LatentGrid(1, 1, 3), (1, 1, 3), Opening("bov"))
    gap = independence_gap(plan, blocks.reshape(1, 1, 3), tokens.reshape(1, 1, 3))
    assert gap.bits == pytest.approx(correlation / 3)
    assert gap.per_frame == pytest.approx([correlation / 3])
    assert gap.per_place[0] == pytest.approx(0), "the first token has nothing before it"
    assert gap.per_place.mean() == pytest.approx(gap.bits)


def test_frames_places_and_what_does_not_count():
    plan = SequencePlan(LatentGrid(3, 2, 2), (1, 2, 1), Opening("hybrid", 2))
    tokens = np.zeros((3, 2, 2))
    blocks = np.arange(12.0).reshape(3, 2, 2)
    gap = independence_gap(plan, blocks, tokens)
    assert np.isnan(gap.per_frame[0]), "the first frame is drawn token by token"
    assert gap.per_frame[1:].tolist() == [5.5, 9.5]
    assert gap.per_place.tolist() == [6.5, 8.5]  # columns: places above and below
    assert gap.bits == 7.5
    assert str(gap) == (
        "7.5000 bits per token (frames -, 5.500, 9.500; places of a block 6.500, 8.500)"
    )
    given = SequencePlan(LatentGrid(3, 2, 2), (1, 2, 2), Opening("prefix"))
    holes = np.where(np.arange(12).reshape(3, 2, 2) < 4, np.nan, blocks)
    assert independence_gap(given, holes, tokens).bits == 7.5


def test_two_evaluations():
    """Whichever comes first, through JSON; not of two that both draw blocks."""
    grid = LatentGrid(2, 2, 2)
    rows = SequencePlan(grid, (1, 1, 2), Opening("prefix"), 1, "strided")
    single = SequencePlan(grid, (1, 1, 1), Opening("hybrid", 1), 1)
    bits = np.arange(8.0).reshape(2, 2, 2)

    def record(plan: SequencePlan, bits: np.ndarray) -> dict:
        kept = bits.astype(object)
        kept[~np.isfinite(bits)] = None
        return json.loads(json.dumps({"plan": dataclasses.asdict(plan), "bits": kept.tolist()}))

    given = np.where(bits < 2, np.nan, bits)
    for pair in ((rows, given), (single, bits / 2)), ((single, bits / 2), (rows, given)):
        gap = compare_token_bits(*(record(*one) for one in pair))
        assert gap is not None
        assert gap.bits == pytest.approx(np.arange(2, 8).mean() / 2)
    assert compare_token_bits(record(rows, bits), record(rows, bits)) is None
    assert compare_token_bits(record(single, bits), record(single, bits)) is None
    assert read_plan(record(rows, bits)["plan"]) == rows


def test_nothing_to_compare():
    plan = SequencePlan(LatentGrid(1, 2, 2), (1, 1, 1), Opening("bov"))
    with pytest.raises(ValueError, match="no token is drawn in a block"):
        independence_gap(plan, np.zeros((1, 2, 2)), np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match="the plan has"):
        independence_gap(plan, np.zeros((1, 2, 3)), np.zeros((1, 2, 3)))
