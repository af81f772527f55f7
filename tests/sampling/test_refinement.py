# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Rules that accept draws, against numpy; schedules; orders of places."""

import math
from typing import Any

import jax
import numpy as np
import pytest

from nbp.layout import LatentGrid, Opening, SequencePlan
from nbp.sampling.refinement import (
    CommitRule,
    Confidence,
    DispersedOrder,
    EntropyBound,
    Proposal,
    count_least,
    disperse,
    make_rule,
)
from nbp.sampling.settings import SamplingConfig

RNG = np.random.default_rng(0)
CLIPS, PLACES, CODES = 40, 6, 5


def draw_proposal(scale: float = 2.0) -> Proposal:
    logits = RNG.normal(size=(CLIPS, PLACES, CODES)) * scale
    share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    share[0, 0] = np.eye(CODES)[1]  # certain
    share[1] = share[1, :1]  # all alike
    hidden = RNG.random((CLIPS, PLACES)) < 0.7
    hidden[:, 0] = True
    hidden[2, 1:] = False
    least = np.minimum(RNG.integers(1, 4, CLIPS), hidden.sum(1))
    tokens = RNG.integers(0, CODES, (CLIPS, PLACES))
    keys = jax.random.split(jax.random.key(0), CLIPS)
    return Proposal(hidden, least, tokens, share.astype(np.float32), keys)


def accept(rule: CommitRule, proposal: Proposal) -> np.ndarray:
    taken = np.asarray(jax.jit(rule)(proposal))
    assert not (taken & ~proposal.hidden).any()
    assert (taken.sum(1) >= proposal.least).all()
    return taken


@pytest.mark.parametrize("bound", [0.0, 0.1, 1.0, 3.0, 1e6])
def test_entropy_bound(bound):
    proposal = draw_proposal()
    taken = accept(EntropyBound(bound), proposal)
    for clip in range(CLIPS):
        entropy = {
            place: -sum(p * math.log(p) for p in proposal.probabilities[clip, place] if p > 0)
            for place in range(PLACES)
            if proposal.hidden[clip, place]
        }
        expected, total = set(), 0.0
        for place in sorted(entropy, key=lambda place: (round(entropy[place], 5), place)):
            if total <= bound + 1e-6 or len(expected) < proposal.least[clip]:
                expected.add(place)
            total += entropy[place]
        assert set(np.flatnonzero(taken[clip])) == expected
    if bound == 1e6:
        np.testing.assert_array_equal(taken, proposal.hidden)


def test_confidence_without_noise_takes_the_most_likely_draws():
    proposal = draw_proposal()
    taken = accept(Confidence(0.0), proposal)
    for clip in range(CLIPS):
        drawn = {
            place: float(proposal.probabilities[clip, place, proposal.tokens[clip, place]])
            for place in range(PLACES)
            if proposal.hidden[clip, place]
        }
        best = sorted(drawn, key=lambda place: (-drawn[place], place))[: proposal.least[clip]]
        assert set(np.flatnonzero(taken[clip])) == set(best)


def test_noise_of_confidence_draws_without_replacement():
    """Gumbel noise of scale 1: the first place is taken in proportion to its probability."""
    share = np.array([0.6, 0.3, 0.1], np.float32)
    count = 20_000
    probabilities = np.broadcast_to(np.stack([share, 1 - share], -1), (count, 3, 2))
    proposal = Proposal(
        np.ones((count, 3), bool),
        np.ones(count, int),
        np.zeros((count, 3), int),
        probabilities.astype(np.float32),
        jax.random.split(jax.random.key(1), count),
    )
    found = accept(Confidence(1.0), proposal).mean(0)
    np.testing.assert_allclose(found, share, atol=0.015)


def test_a_fixed_order_takes_the_next_hidden_places():
    order = (3, 0, 5, 1, 4, 2)
    proposal = draw_proposal()
    taken = accept(DispersedOrder(order), proposal)
    for clip in range(CLIPS):
        hidden = [place for place in order if proposal.hidden[clip, place]]
        assert set(np.flatnonzero(taken[clip])) == set(hidden[: proposal.least[clip]])
    for wrong in ((0, 0, 1), (1, 2), (0, -1)):
        with pytest.raises(ValueError, match="give each place of a block once"):
            DispersedOrder(wrong)


def test_numbers_that_are_none_do_not_stop_a_rule():
    proposal = draw_proposal()
    share = np.array(proposal.probabilities)
    share[:, 2:4] = np.nan
    for rule in (EntropyBound(0.1), Confidence(1.0)):
        accept(rule, proposal._replace(probabilities=share))


def run_schedule(tokens: int, passes: int) -> list[int]:
    """Tokens that are accepted in each pass where the rule takes as few as it may."""
    left, taken = tokens, []
    for index in range(passes):
        if not left:
            break
        counts = np.array([[left], [tokens]], np.int32)
        least = int(count_least(*counts, index, passes=passes)[0])
        taken.append(least)
        left -= least
    assert left == 0
    return taken


def test_schedules():
    for tokens in range(1, 20):
        assert run_schedule(tokens, 1) == [tokens]
        for passes in range(1, 24):
            taken = run_schedule(tokens, passes)
            assert min(taken) >= 1
            assert len(taken) == min(tokens, passes), "no pass is left over"
        assert run_schedule(tokens, tokens) == [1] * tokens
    # As MaskGIT: cos(pi/2 * (i + 1) / 4) of 64 are left.
    assert run_schedule(64, 4) == [64 - 59, 59 - 45, 45 - 24, 24]


def test_dispersed_orders():
    frames = SequencePlan(LatentGrid(2, 8, 8), (1, 8, 8), Opening("hybrid"))
    order = disperse(frames)
    assert sorted(order) == list(range(64))
    places = np.array([divmod(place, 8) for place in order])
    for count, least in ((4, 2.0), (8, 1.4), (16, 1.0)):
        first = places[:count]
        distance = np.sqrt(np.square(first[:, None] - first[None]).sum(-1))
        assert distance[np.triu_indices(count, 1)].min() >= least
    # Quarters of the frame are filled alike.
    quarters = np.bincount((places[:16] // 4 * [2, 1]).sum(1), minlength=4)
    assert quarters.max() - quarters.min() <= 2
    boxes = SequencePlan(LatentGrid(4, 2, 4), (4, 1, 2), Opening("bov"), prompt_length=2)
    assert sorted(disperse(boxes)) == list(range(8))
    rows = SequencePlan(LatentGrid(2, 2, 8), (1, 1, 8), Opening("prefix"))
    assert disperse(rows)[:3] == (2, 5, 0) or len(set(disperse(rows))) == 8


def test_settings_choose_the_rule():
    plan = SequencePlan(LatentGrid(2, 2, 4), (1, 1, 4), Opening("bov"))

    def make(**options: Any) -> CommitRule:
        return make_rule(SamplingConfig(refinements=2, **options), plan)

    assert make() == EntropyBound(0.1)
    assert make(entropy_bound=2.0) == EntropyBound(2.0)
    assert make(commit="confidence", confidence_noise=0.5) == Confidence(0.5)
    assert make(commit="order") == DispersedOrder(disperse(plan))
    for options, message in (
        ({"refinements": 0}, "refinements 0: a block takes 1 pass or more"),
        ({"entropy_bound": -1.0}, "entropy_bound -1.0"),
        ({"confidence_noise": math.inf}, "confidence_noise inf"),
    ):
        with pytest.raises(ValueError, match=message):
            SamplingConfig(**options)  # type: ignore[arg-type]
