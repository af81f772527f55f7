# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Jacobi decoding with fixed noise: the clips of plain decoding, code for code, in fewer passes."""

from typing import Any

import jax
import numpy as np
import pytest

from nbp.layout import LatentGrid, Opening
from nbp.models.heads import HeadSpec, JointHeadSettings
from nbp.sampling.fixed_noise import FixedNoiseJacobi
from nbp.sampling.generate import generate
from nbp.sampling.settings import SamplingConfig
from tests.models.toy import LABELS, draw_params, make_network

GRID = LatentGrid(3, 2, 2)
LEVELS = (3, 2, 2)
JOINT = HeadSpec(LEVELS, JointHeadSettings(layers=1, width=8, heads=2))
DIGITS = HeadSpec(LEVELS)

CASES = [
    ((1, 1, 2), Opening("hybrid", 1), JOINT, 1, 2, "box", 0.5),
    ((1, 1, 2), Opening("hybrid", 2), DIGITS, 1, 0, "box", 0.5),
    ((1, 1, 1), Opening("bov"), JOINT, 0, 0, "box", 0.0),
    ((1, 2, 2), Opening("bov"), JOINT, 1, 4, "box", 0.0),
    ((1, 1, 2), Opening("hybrid", 1), JOINT, 1, 0, "strided", 0.0),
    ((1, 1, 2), Opening("hybrid", 2), None, 2, 2, "box", 0.5),  # logits of whole codes
]


@pytest.mark.parametrize("block, opening, head, prompt, given, partition, guidance", CASES)
def test_clips_are_those_of_plain_decoding(
    block, opening, head, prompt, given, partition, guidance
):
    network = make_network(
        GRID, block, opening, prompt=prompt, codes=12, head=head, partition=partition
    )
    params = draw_params(network, seed=1)
    rng = np.random.default_rng(0)
    sampling = SamplingConfig(
        top_p=0.9, temperature_end=0.6, guidance=guidance, guidance_schedule="ramp"
    )
    arrays: dict[str, Any] = {"known": rng.integers(0, 12, (5, GRID.size), np.int32)}
    if prompt:
        arrays["prompt"] = rng.integers(0, LABELS, (5, prompt), np.int32)
    options = {"given": given, "sampling": sampling}
    model, key = network.bind(params), jax.random.key(3)
    plain = jax.jit(lambda ids: generate(model, key, ids, **arrays, **options))(np.arange(5))
    jacobi = FixedNoiseJacobi(3)
    drawn = jax.jit(lambda ids: jacobi(model, key, ids, **arrays, **options))(np.arange(5))
    np.testing.assert_array_equal(drawn.codes, plain)
    assert len(np.unique(plain, axis=0)) == 5, "no two clips are alike"
    total = network.plan.passes(given)
    assert drawn.passes.max() <= total
    assert drawn.passes.min() >= -(-total // 3)


def test_a_model_that_reads_nothing_takes_a_pass_for_each_window():
    """Tokens that follow from their place alone are drawn right at once, then seen to be right."""
    grid = LatentGrid(3, 1, 4)
    network = make_network(grid, (1, 1, 1), Opening("bov"), layers=1, codes=12, head=JOINT)
    params = draw_params(network)
    params["transformer"]["layers"]["proj"]["kernel"] *= 0
    params["tokens"] *= 0
    model, ids = network.bind(params), np.arange(20)
    plan = FixedNoiseJacobi(1)(model, jax.random.key(0), ids)
    np.testing.assert_array_equal(plan.passes, 12)
    # A token and three guesses, which are drawn: 5 in two passes, more where a guess was right.
    ahead = FixedNoiseJacobi(4)(model, jax.random.key(0), ids)
    assert ahead.passes.max() == 6
    assert ahead.passes.min() >= 3
    np.testing.assert_array_equal(ahead.codes, plan.codes)


def test_a_single_clip_is_the_one_of_a_batch():
    network = make_network(GRID, (1, 1, 2), Opening("hybrid"), prompt=1, codes=12, head=JOINT)
    model, key = network.bind(draw_params(network, seed=4)), jax.random.key(0)
    prompt = np.arange(3, dtype=np.int32)[:, None]
    jacobi = FixedNoiseJacobi(4)
    options = {"sampling": SamplingConfig(guidance=1.0)}
    together = jacobi(model, key, np.arange(3), prompt=prompt, **options)
    alone = jacobi(model, key, np.array([1]), prompt=prompt[1:2], **options)
    np.testing.assert_array_equal(alone.codes[0], together.codes[1])
    assert alone.passes[0] == together.passes[1]


def test_logits_that_are_no_numbers_are_told():
    network = make_network(GRID, (1, 1, 2), Opening("hybrid"), codes=12, head=JOINT)
    params = draw_params(network)
    params["transformer"]["norm"]["scale"] *= np.nan
    drawn = FixedNoiseJacobi(2)(network.bind(params), jax.random.key(0), np.arange(2))
    assert not drawn.finite.any()
    assert (drawn.codes == -1).all()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="window 0"):
        FixedNoiseJacobi(0)
    network = make_network(GRID, (1, 1, 2), Opening("hybrid"), codes=12, head=JOINT)
    model = network.bind(draw_params(network))
    with pytest.raises(ValueError, match="refinements 2"):
        FixedNoiseJacobi()(
            model, jax.random.key(0), np.arange(2), sampling=SamplingConfig(refinements=2)
        )
