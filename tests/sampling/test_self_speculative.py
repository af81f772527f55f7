# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Blocks draft, tokens check: clips are those of the token plan, in fewer passes."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import pytest

from nbp.layout import Box, LatentGrid, Opening, SequencePlan
from nbp.models.generator import GeneratorNetwork
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.conv3d import taps_conv
from nbp.parallel.mesh import make_mesh
from nbp.sampling import self_speculative
from nbp.sampling.sampler import Sampler
from nbp.sampling.self_speculative import SelfSpeculative, check_plans, draft_and_check
from nbp.sampling.settings import PLAIN, SamplingConfig
from tests.models.toy import LABELS, draw_params, make_network
from tests.sampling.test_speculative import (
    CODES,
    COUNT,
    GRID,
    LONG,
    enumerate_clips,
    measure_misfit,
)

TOKEN = (1, 1, 1)


def make_pair(
    grid: LatentGrid, block: Box, opening: Opening, **options: Any
) -> tuple[GeneratorNetwork, SequencePlan]:
    """A network of token blocks and the plan of blocks that draft, of one set of parameters."""
    drafting = make_network(grid, block, opening, **options)
    tokens = SequencePlan(grid, TOKEN, opening, drafting.plan.prompt_length)
    return dataclasses.replace(drafting, plan=tokens), drafting.plan


def make_run(network: GeneratorNetwork, drafts: SequencePlan, **options: Any):
    """`draft_and_check` with static `options`, compiled once: (params, number of clips, arrays)."""

    @jax.jit
    def draw(params, key, ids, arrays):
        return draft_and_check(network.bind(params), key, ids, drafts=drafts, **arrays, **options)

    def run(params, ids, *, seed=0, **arrays):
        drawn = draw(params, jax.random.key(seed), np.asarray(ids, np.int32), arrays)
        return np.asarray(drawn.codes), np.asarray(drawn.passes)

    return run


def draw_and_compare(
    block: Box,
    opening: Opening,
    *,
    prompted: bool = False,
    given: tuple[int, ...] = (),
    sampling: SamplingConfig = PLAIN,
) -> dict[str, float]:
    """Misfit of the drawn clips to those of the token plan and to those of the plan that drafts."""
    network, drafts = make_pair(LONG, block, opening, codes=CODES, layers=1, prompt=int(prompted))
    params = draw_params(network, seed=4)
    params["head"]["kernel"] *= 0.6
    prompt = np.full((COUNT, 1), 2, np.int32) if prompted else None
    arrays: dict[str, Any] = {} if prompt is None else {"prompt": prompt}
    if given:
        arrays["known"] = np.zeros((COUNT, LONG.size), np.int32)
        arrays["known"][:, : len(given)] = given
    run = make_run(network, drafts, given=len(given), sampling=sampling)
    drawn, passes = run(params, range(COUNT), **arrays)
    blocks = (LONG.size - max(len(given), drafts.first_joint)) // drafts.block_size
    opened = LONG.size - len(given) - blocks * drafts.block_size
    assert passes.min() >= opened + 2 * blocks
    assert passes.max() <= opened + (1 + drafts.block_size) * blocks + 2
    options: dict[str, Any] = {"prompt": prompt, "given": given, "sampling": sampling}
    plans = {"tokens": network.plan, "drafts": drafts}
    if sampling != PLAIN:  # what one plan cannot draw the other may
        del plans["drafts"]
    return {
        name: measure_misfit(
            drawn, enumerate_clips(dataclasses.replace(network, plan=plan), params, **options)
        )
        for name, plan in plans.items()
    }


ROW = {"block": (1, 1, 2), "opening": Opening("bov")}
CASES: dict[str, dict[str, Any]] = {
    "row": ROW,
    "prefix, top_k": ROW
    | {"opening": Opening("prefix"), "given": (2, 0), "sampling": SamplingConfig(1.3, top_k=2)},
    "hybrid, guided, top_p": ROW
    | {
        "opening": Opening("hybrid", 1),
        "prompted": True,
        "sampling": SamplingConfig(top_p=0.8, guidance=0.7),
    },
}


@pytest.mark.parametrize("case", CASES)
def test_clips_follow_the_distribution_of_the_token_plan(case):
    misfit = draw_and_compare(**CASES[case])
    assert misfit["tokens"] < 5
    assert misfit.get("drafts", math.inf) > 20, "the two plans draw different clips"


def test_drafts_that_are_all_kept_are_clips_of_the_blocks(monkeypatch):
    keep = lambda uniform, target, law, tokens: law.sum(-1) > 0  # noqa: E731
    monkeypatch.setattr(self_speculative, "accept", keep)
    misfit = draw_and_compare(**CASES["row"])
    assert misfit["drafts"] < 5
    assert misfit["tokens"] > 20


def test_a_wrong_rest_is_noticed(monkeypatch):
    monkeypatch.setattr(self_speculative, "residual", lambda target, law: target)
    assert draw_and_compare(**CASES["row"])["tokens"] > 20


def test_without_chance_it_is_the_full_forward_pass():
    given, opening = 4, Opening("hybrid", 1)
    network, drafts = make_pair(GRID, (1, 1, 2), opening, prompt=2)
    params = draw_params(network, seed=1)
    rng = np.random.default_rng(0)
    known = rng.integers(0, 11, (3, GRID.size), np.int32)
    prompt = rng.integers(0, LABELS, (3, 2), np.int32)
    run = make_run(network, drafts, given=given, sampling=SamplingConfig(temperature=0.0))
    codes, passes = run(params, range(3), known=known, prompt=prompt)
    logits = jax.jit(lambda params: network.bind(params)(codes, prompt))(params)
    np.testing.assert_array_equal(codes[:, given:], np.asarray(logits).argmax(-1)[:, given:])
    np.testing.assert_array_equal(codes[:, :given], known[:, :given])
    blocks = (GRID.size - given) // 2
    assert 2 + 2 * blocks <= passes.min() <= passes.max() <= 2 + 3 * blocks


def test_an_easy_model_takes_two_passes_for_each_block():
    """A model without attention: each token follows from its place alone, in both plans."""
    grid, opening = LatentGrid(3, 1, 4), Opening("bov")
    network, drafts = make_pair(grid, (1, 1, 4), opening, prompt=1, layers=1)
    params = draw_params(network)
    params["transformer"]["layers"]["proj"]["kernel"] *= 0
    params["tokens"] *= 0
    run = make_run(network, drafts, sampling=SamplingConfig(top_k=3))
    _, passes = run(params, range(50), prompt=np.zeros((50, 1), np.int32))
    np.testing.assert_array_equal(passes, 8)  # the prompt is read once by each plan


TOKENIZER = TokenizerNetwork(
    TokenizerSpec(widths=(4, 4), units=(0, 0), strides=((2, 2, 2),), levels=(4, 3), groups=2),
    taps_conv,
)


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    network, drafts = make_pair(
        LatentGrid(3, 2, 2), (1, 1, 2), Opening("hybrid"), prompt=1, codes=12, layers=1
    )
    sampling = SamplingConfig(
        guidance=0.5, guidance_schedule="linear", temperature_end=0.5, batch=4
    )
    return Sampler(
        network,
        draw_params(network),
        TOKENIZER,
        draw_params(TOKENIZER),
        sampling=sampling,
        decoding=SelfSpeculative(drafts),
    )


def test_a_clip_does_not_depend_on_its_batch_or_the_mesh(sampler):
    labels = [0, 4, 2, 1]
    together = sampler.sample(4, seed=5, labels=labels)
    numbers = np.array([7, 1, 2, 8])  # two of the same clips, with others beside them
    others = sampler.sample(4, seed=5, labels=labels, numbers=numbers)
    np.testing.assert_array_equal(others.tokens[1:3], together.tokens[1:3])
    assert np.any(others.tokens[0] != together.tokens[0])
    np.testing.assert_array_equal(others.passes[1:3], together.passes[1:3])
    assert len(np.unique(together.tokens.reshape(4, -1), axis=0)) == 4
    assert np.any(sampler.sample(4, seed=6, labels=labels).tokens != together.tokens)
    mesh = make_mesh(data=4, tensor=2, devices=jax.devices()[:8])
    copy = jax.tree.map(lambda leaf: leaf + 0, sampler.generator_params)
    split = dataclasses.replace(sampler, generator_params=copy, mesh=mesh).laid_out()
    drawn = split.sample(4, seed=5, labels=labels)
    np.testing.assert_array_equal(drawn.tokens, together.tokens)
    np.testing.assert_array_equal(drawn.passes, together.passes)


def test_plans_that_do_not_go_together_are_refused():
    tokens = SequencePlan(GRID, TOKEN, Opening("bov"))
    rows = SequencePlan(GRID, (1, 1, 2), Opening("bov"))
    check_plans(tokens, rows)
    with pytest.raises(ValueError, match="blocks of row check nothing"):
        check_plans(rows, tokens)
    with pytest.raises(ValueError, match="token blocks are drafts of nothing"):
        check_plans(tokens, tokens)
    columns = SequencePlan(GRID, (1, 2, 1), Opening("bov"))
    with pytest.raises(ValueError, match="box blocks of 1x2x1 have their tokens in another order"):
        check_plans(tokens, columns)
    network = make_network(GRID, TOKEN, Opening("bov"))
    with pytest.raises(ValueError, match="refinements 2: self-speculative"):
        draft_and_check(
            network.bind(draw_params(network)),
            jax.random.key(0),
            np.arange(2),
            drafts=rows,
            sampling=SamplingConfig(refinements=2),
        )
