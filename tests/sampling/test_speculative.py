# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Fewer passes, same distribution: enumerated probabilities, greedy clips, counts of passes."""

import itertools
from typing import Any

import jax
import numpy as np
import pytest

from nbp.layout import Box, LatentGrid, Opening
from nbp.models.generator import GeneratorNetwork
from nbp.sampling import speculative
from nbp.sampling.generate import generate
from nbp.sampling.settings import PLAIN, SamplingConfig
from nbp.sampling.speculative import decode_ahead
from tests.models.toy import LABELS, draw_params, make_network, reference_logits

SMALL = LatentGrid(2, 1, 2)  # 4 tokens of 3 codes: 81 clips
LONG = LatentGrid(3, 1, 2)  # 729 clips, for blocks of two tokens
CODES = 3
COUNT = 8_000
GRID = LatentGrid(3, 2, 2)


def make_run(network: GeneratorNetwork, **options: Any):
    """`decode_ahead` with static `options`, compiled once: (params, number of clips, arrays)."""

    @jax.jit
    def draw(params, key, ids, arrays):
        return decode_ahead(network.bind(params), key, ids, **arrays, **options)

    def run(params, ids, *, seed=0, **arrays):
        drawn = draw(params, jax.random.key(seed), np.asarray(ids, np.int32), arrays)
        return np.asarray(drawn.codes), np.asarray(drawn.passes)

    return run


def filter_by_hand(logits: np.ndarray, sampling: SamplingConfig) -> np.ndarray:
    """Probabilities of one token after temperature, top-k and top-p, one code after the other."""
    scaled = logits / sampling.temperature
    order = sorted(range(len(scaled)), key=lambda i: -scaled[i])
    if sampling.top_k:
        order = [i for i in order if scaled[i] >= scaled[order[sampling.top_k - 1]]]
    weights = np.exp(scaled[order] - scaled.max())
    weights /= weights.sum()
    found, before = np.zeros(len(scaled)), 0.0
    for i, weight in zip(order, weights, strict=True):
        if before <= sampling.top_p:
            found[i] = weight
        before += weight
    return found / found.sum()


def enumerate_clips(
    network: GeneratorNetwork,
    params: Any,
    *,
    prompt: np.ndarray | None,
    given: tuple[int, ...],
    sampling: SamplingConfig,
) -> np.ndarray:
    """Probability of every clip, by teacher forcing in float64, in the order of `to_number`."""
    clips = np.array(list(itertools.product(range(CODES), repeat=network.plan.grid.size)))
    ids = clips + network.vocabulary.code_offset
    prompts = None if prompt is None else np.repeat(prompt[:1], len(clips), axis=0)
    logits = reference_logits(network, params, ids, prompts)
    if sampling.guidance:
        null = reference_logits(network, params, ids, prompts, null=True)
        logits = (1 + sampling.guidance) * logits - sampling.guidance * null
    probability = np.ones(len(clips))
    for token in range(network.plan.first, network.plan.grid.size):
        for i, clip in enumerate(clips):
            if token < len(given):
                probability[i] *= clip[token] == given[token]
            else:
                row = logits[i, token - network.plan.first]
                probability[i] *= filter_by_hand(row, sampling)[clip[token]]
    for token in range(min(network.plan.first, len(given))):
        probability *= clips[:, token] == given[token]
    np.testing.assert_allclose(probability.sum(), 1)
    return probability


def measure_misfit(drawn: np.ndarray, expected: np.ndarray) -> float:
    """Chi-squared of clips against their probabilities, in standard deviations above its mean."""
    numbers = drawn @ CODES ** np.arange(drawn.shape[1])[::-1]
    found = np.bincount(numbers, minlength=len(expected))
    assert found[expected == 0].sum() == 0, "a clip that cannot be drawn"
    # Rare clips together: the statistic needs a few of each.
    rare = (expected * len(drawn) < 8) & (expected > 0)
    cells = [(found[i], expected[i]) for i in np.flatnonzero((expected > 0) & ~rare)]
    if expected[rare].sum() * len(drawn) > 8:
        cells.append((found[rare].sum(), expected[rare].sum()))
    counts, shares = np.array(cells).T
    statistic = ((counts - len(drawn) * shares) ** 2 / (len(drawn) * shares)).sum()
    freedom = len(cells) - 1
    return (statistic - freedom) / np.sqrt(2 * freedom)


def draw_and_compare(
    block: Box,
    opening: Opening,
    *,
    grid: LatentGrid = SMALL,
    prompted: bool = False,
    given: tuple[int, ...] = (),
    sampling: SamplingConfig = PLAIN,
    seed: int = 0,
    **options: Any,
) -> tuple[float, float]:
    """Misfit of the drawn clips, and their mean share of the plan's passes."""
    network = make_network(grid, block, opening, codes=CODES, layers=1, prompt=int(prompted))
    params = draw_params(network, seed=4)
    params["head"]["kernel"] *= 0.6
    prompt = np.full((COUNT, 1), 2, np.int32) if prompted else None
    arrays: dict[str, Any] = {} if prompt is None else {"prompt": prompt}
    if given:
        known = np.zeros((COUNT, grid.size), np.int32)
        known[:, : len(given)] = given
        arrays["known"] = known
    run = make_run(network, window=3, given=len(given), sampling=sampling, **options)
    drawn, passes = run(params, range(COUNT), seed=seed, **arrays)
    expected = enumerate_clips(network, params, prompt=prompt, given=given, sampling=sampling)
    assert passes.max() <= network.plan.passes(len(given))
    return measure_misfit(drawn, expected), passes.mean() / network.plan.passes(len(given))


TOKEN = {"block": (1, 1, 1), "opening": Opening("bov")}
ROW = {"block": (1, 1, 2), "opening": Opening("bov"), "grid": LONG}
HYBRID = ROW | {"opening": Opening("hybrid", 2)}
CASES: dict[str, dict[str, Any]] = {
    "token": TOKEN,
    "row, drafts drawn anew": ROW | {"coupled": False},
    "prefix, top_k": TOKEN
    | {"opening": Opening("prefix"), "given": (2,), "sampling": SamplingConfig(1.3, top_k=2)},
    "hybrid, top_p": HYBRID | {"sampling": SamplingConfig(top_p=0.7)},
    "guided": TOKEN | {"prompted": True, "sampling": SamplingConfig(guidance=0.7)},
}


@pytest.mark.parametrize("case", CASES)
def test_clips_follow_the_distribution_of_the_model(case):
    misfit, share = draw_and_compare(**CASES[case])
    assert misfit < 5
    assert share < 1


def test_keeping_every_draft_is_noticed(monkeypatch):
    monkeypatch.setattr(speculative, "accept", lambda uniform, target, law, tokens: law.sum(-1) > 0)
    misfit, _ = draw_and_compare(**ROW)
    assert misfit > 20


def test_a_wrong_rest_is_noticed(monkeypatch):
    monkeypatch.setattr(speculative, "residual", lambda target, law: target)
    misfit, _ = draw_and_compare(**TOKEN)
    assert misfit > 20


GREEDY_CASES = [
    ((1, 1, 1), Opening("bov"), "modern", 0, 0),
    ((1, 1, 2), Opening("prefix"), "paper", 0, 2),
    ((1, 1, 2), Opening("hybrid", 2), "paper", 2, 2),
    ((1, 2, 2), Opening("hybrid"), "modern", 1, 0),
    ((3, 1, 1), Opening("hybrid"), "modern", 2, 0),
    ((1, 2, 1), Opening("prefix"), "modern", 1, 6),
    ((3, 2, 2), Opening("bov"), "paper", 1, 0),
]


@pytest.mark.parametrize(
    "block, opening, recipe, prompt_length, given",
    [
        pytest.param(*case, marks=[pytest.mark.slow] * (i not in (2, 5)))
        for i, case in enumerate(GREEDY_CASES)
    ],
)
def test_without_chance_it_is_plain_decoding(block, opening, recipe, prompt_length, given):
    network = make_network(GRID, block, opening, recipe=recipe, prompt=prompt_length)
    params = draw_params(network, seed=1)
    only: dict[str, Any] = {"top_k": 1} if recipe == "modern" else {"temperature": 0.0}
    # With a ramp one pass sees several weights.
    sampling = SamplingConfig(**only, guidance=0.5, guidance_schedule="ramp")
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"known": rng.integers(0, 11, (3, GRID.size), np.int32)}
    if prompt_length:
        arrays["prompt"] = rng.integers(0, LABELS, (3, prompt_length), np.int32)
    options = {"given": given, "sampling": sampling}
    plain = jax.jit(
        lambda params: generate(
            network.bind(params), jax.random.key(0), np.arange(3), **arrays, **options
        )
    )(params)
    codes, passes = make_run(network, window=3, **options)(params, range(3), **arrays)
    np.testing.assert_array_equal(codes, plain)
    assert passes.max() <= network.plan.passes(given)
    assert passes.min() >= -(-network.plan.passes(given) // 3)


def test_an_easy_model_takes_a_pass_for_each_window():
    """A model without attention: each token follows from its place alone."""
    network = make_network(LatentGrid(3, 1, 4), (1, 1, 1), Opening("bov"), layers=1)
    params = draw_params(network)
    params["transformer"]["layers"]["proj"]["kernel"] *= 0
    params["tokens"] *= 0
    for coupled in (True, False):
        run = make_run(network, window=4, coupled=coupled, sampling=SamplingConfig(top_k=3))
        _, passes = run(params, range(50))
        # One token, with three drafts behind it; then these and one more; and so on: 5 in 2 passes.
        np.testing.assert_array_equal(passes, 6)


def test_a_window_of_one_pass_is_the_plan():
    network = make_network(GRID, (1, 1, 2), Opening("hybrid", 2), layers=1)
    _, passes = make_run(network, window=1)(draw_params(network), range(2))
    np.testing.assert_array_equal(passes, network.plan.passes())


def test_a_clip_does_not_depend_on_its_batch():
    network = make_network(GRID, (1, 1, 2), Opening("hybrid"), prompt=2, layers=1)
    params = draw_params(network, seed=3)
    prompt = np.array([[0, 1], [2, 3], [4, 0]], np.int32)
    known = np.random.default_rng(5).integers(0, 11, (3, GRID.size), np.int32)
    run = make_run(network, window=3, given=4, sampling=SamplingConfig(guidance=0.5))

    def draw(rows, *, ids, seed=0):
        return run(params, ids, seed=seed, prompt=prompt[rows], known=known[rows])

    together, passes = draw([0, 1, 2], ids=[7, 3, 9])
    alone, alone_passes = draw([1], ids=[3])
    np.testing.assert_array_equal(alone[0], together[1])
    assert alone_passes[0] == passes[1]
    swapped, swapped_passes = draw([2, 0, 0], ids=[9, 7, 5])
    np.testing.assert_array_equal(swapped[:2], together[[2, 0]])
    np.testing.assert_array_equal(swapped_passes[:2], passes[[2, 0]])
    np.testing.assert_array_equal(together[:, :4], known[:, :4])
    assert np.any(swapped[2] != together[0]), "another number draws another clip"
    assert np.any(draw([0, 1, 2], ids=[7, 3, 9], seed=1)[0] != together)
