# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Cached decoding against a loop that runs the whole float64 network for every pass."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.layout import LatentGrid, Opening, Phase
from nbp.models.generator import GeneratorNetwork
from nbp.models.inference import bind_inference_model, pack_params
from nbp.sampling.filtering import guidance_weight
from nbp.sampling.generate import cut_phases, generate
from nbp.sampling.settings import PLAIN, SamplingConfig
from tests.models.toy import LABELS, draw_params, make_network, reference_logits

GRID = LatentGrid(3, 2, 2)
GREEDY = SamplingConfig(temperature=0.0)
BATCH = 2


def make_run(network: GeneratorNetwork, *, sampling: SamplingConfig = GREEDY, **options: Any):
    """`generate` with static `options`, compiled once: (params, ids, seed, traced arguments)."""

    @jax.jit
    def draw(params, key, ids, arrays):
        return generate(network.bind(params), key, ids, sampling=sampling, **arrays, **options)

    def run(params, *, ids=(0, 1), seed=0, **arrays) -> np.ndarray:
        arrays = {name: a for name, a in arrays.items() if a is not None}
        return np.asarray(draw(params, jax.random.key(seed), np.asarray(ids, np.int32), arrays))

    return run


def decode_by_hand(
    network, params, *, prompt, known, given=0, sampling=PLAIN, null=False
) -> np.ndarray:
    """Greedy vocabulary ids: every pass forgets everything and runs the full sequence again."""
    plan, vocabulary = network.plan, network.vocabulary
    size, total = plan.block_size, plan.grid.size
    held = plan.opening.blocks * size if plan.opening.kind == "hybrid" else 0
    ids = np.zeros((BATCH, total), int)
    ids[:, :given] = known[:, :given] + vocabulary.code_offset
    offset = 0 if network.recipe.output_ids(vocabulary).start == 0 else vocabulary.code_offset
    done = given
    for index in range(total):
        width = 1 if done < held else size
        logits = reference_logits(network, params, ids, prompt, null=null)
        if sampling.guidance:
            t = sampling.guidance * (index if sampling.guidance_schedule == "ramp" else 1)
            unconditional = reference_logits(network, params, ids, prompt, null=True)
            logits = (1 + t) * logits - t * unconditional
        new = slice(done - plan.first, done - plan.first + width)
        ids[:, done : done + width] = logits[:, new].argmax(-1) + offset
        done += width
        if done == total:
            break
    return ids


def draw_conditions(network, *, seed: int = 0) -> tuple[np.ndarray | None, np.ndarray]:
    rng = np.random.default_rng(seed)
    plan = network.plan
    prompt = rng.integers(0, LABELS, (BATCH, plan.prompt_length), np.int32)
    known = rng.integers(0, network.vocabulary.codes, (BATCH, plan.grid.size), np.int32)
    return (prompt if plan.prompt_length else None), known


def to_codes(network, ids: np.ndarray) -> np.ndarray:
    codes = ids - network.vocabulary.code_offset
    return np.clip(codes, 0, network.vocabulary.codes - 1)


CASES = [
    ((1, 1, 1), Opening("bov"), "modern", 0, 0),
    ((1, 1, 2), Opening("hybrid", 2), "paper", 2, 2),
    ((1, 2, 2), Opening("bov"), "paper", 1, 4),
    ((3, 1, 1), Opening("hybrid"), "modern", 2, 0),
    ((1, 2, 1), Opening("prefix"), "modern", 1, 6),
    ((3, 2, 2), Opening("bov"), "paper", 1, 0),
]


@pytest.mark.parametrize("block, opening, recipe, prompt_length, given", CASES)
def test_greedy_decoding_is_the_full_pass_repeated(block, opening, recipe, prompt_length, given):
    network = make_network(GRID, block, opening, recipe=recipe, prompt=prompt_length)
    params = draw_params(network, seed=1)
    prompt, known = draw_conditions(network)
    expected = decode_by_hand(network, params, prompt=prompt, known=known, given=given)
    drawn = make_run(network, given=given)(params, prompt=prompt, known=known)
    np.testing.assert_array_equal(drawn, to_codes(network, expected))
    np.testing.assert_array_equal(drawn[:, :given], known[:, :given])
    if recipe == "modern":  # no id but codes exists: then it is teacher forcing of its own output
        logits = reference_logits(network, params, drawn + network.vocabulary.code_offset, prompt)
        start = given - network.plan.first
        np.testing.assert_array_equal(logits[:, start:].argmax(-1), drawn[:, given:])


def test_ids_outside_the_video_range_are_fed_back_and_clipped_at_the_end():
    network = make_network(GRID, (1, 1, 2), Opening("hybrid"), recipe="paper", prompt=1)
    params = draw_params(network, seed=2)
    offset = network.vocabulary.code_offset
    head = params["head"]["kernel"]  # ids of specials and prompts as loud as a code
    params["head"]["kernel"] = head.at[:, :offset].multiply(1.5)
    prompt, known = draw_conditions(network)
    expected = decode_by_hand(network, params, prompt=prompt, known=known)
    outside = expected < offset
    assert 0.2 < outside.mean() < 0.9
    assert outside[:, :-2].any(), "one that is read again"
    drawn = make_run(network)(params, prompt=prompt)
    np.testing.assert_array_equal(drawn, to_codes(network, expected))
    assert (drawn[outside] == 0).all()


def test_impossible_starts_are_refused():
    network = make_network(GRID, (1, 2, 2), Opening("prefix"))
    params = draw_params(network)
    for given in (0, 2, 12):
        with pytest.raises(ValueError, match=f"{given} given tokens.*can start after 4, 8"):
            make_run(network, given=given)(params)


@pytest.fixture(scope="module")
def prompted():
    network = make_network(GRID, (1, 1, 2), Opening("hybrid"), prompt=2)
    return network, draw_params(network, seed=3), *draw_conditions(network, seed=3)


@pytest.mark.parametrize("scale, schedule", [(1.5, "constant"), (0.75, "ramp")])
def test_guidance_blends_two_full_passes(prompted, scale, schedule):
    sampling = SamplingConfig(temperature=0.0, guidance=scale, guidance_schedule=schedule)
    network, params, prompt, known = prompted
    expected = decode_by_hand(network, params, prompt=prompt, known=known, sampling=sampling)
    drawn = make_run(network, sampling=sampling)(params, prompt=prompt)
    np.testing.assert_array_equal(drawn, to_codes(network, expected))
    plain = decode_by_hand(network, params, prompt=prompt, known=known)
    assert np.any(expected != plain), "a case in which guidance matters"


def test_null_samples_ignore_their_prompt(prompted):
    network, params, prompt, known = prompted
    conditional = decode_by_hand(network, params, prompt=prompt, known=known)
    null = decode_by_hand(network, params, prompt=prompt, known=known, null=True)
    assert np.any(null[1] != conditional[1])
    drawn = make_run(network)(params, prompt=prompt, null=np.array([False, True]))
    np.testing.assert_array_equal(drawn, to_codes(network, np.stack([conditional[0], null[1]])))


def test_padding_stays_hidden_from_every_pass():
    network = make_network(GRID, (1, 2, 2), Opening("hybrid"), prompt=3, padding=2)
    params = draw_params(network, seed=6)
    prompt = np.array([[1, 2, 2], [4, 0, 3]], np.int32)
    expected = decode_by_hand(network, params, prompt=prompt, known=np.zeros((2, 12), int))
    drawn = make_run(network)(params, prompt=prompt)
    np.testing.assert_array_equal(drawn, to_codes(network, expected))


def test_guidance_weights():
    constant = SamplingConfig(guidance=0.5)
    assert [guidance_weight(constant, i, 8) for i in (0, 1, 7)] == [0.5, 0.5, 0.5]
    ramp = SamplingConfig(guidance=0.5, guidance_schedule="ramp")
    assert [guidance_weight(ramp, i, 8) for i in (0, 1, 7)] == [0.0, 0.5, 3.5]


@pytest.mark.parametrize("block", [(1, 1, 1), (1, 1, 2)])
def test_clips_follow_the_distribution_of_the_model(block):
    network = make_network(LatentGrid(1, 1, 2), block, Opening("bov"), codes=4, layers=1)
    params = draw_params(network, seed=4)
    pairs = np.array([(i, j) for i in range(4) for j in range(4)])
    logits = reference_logits(network, params, pairs + network.vocabulary.code_offset) / 1.5
    share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = share[range(16), 0, pairs[:, 0]] * share[range(16), 1, pairs[:, 1]]
    count = 20_000
    run = make_run(network, sampling=SamplingConfig(temperature=1.5))
    drawn = run(params, ids=range(count))
    found = np.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=16)
    statistic = ((found - count * expected) ** 2 / (count * expected)).sum()
    assert statistic < 15 + 5 * np.sqrt(2 * 15)


def test_a_clip_does_not_depend_on_its_batch(prompted):
    network, params, _, _ = prompted
    prompt = np.array([[0, 1], [2, 3], [4, 0]], np.int32)
    known = np.random.default_rng(5).integers(0, 11, (3, GRID.size), np.int32)

    run = make_run(network, sampling=PLAIN, given=4)

    def draw(rows, *, ids, seed=0):
        return run(params, ids=ids, seed=seed, prompt=prompt[rows], known=known[rows])

    together = draw([0, 1, 2], ids=[7, 3, 9])
    np.testing.assert_array_equal(draw([1], ids=[3])[0], together[1])
    np.testing.assert_array_equal(draw([2, 0, 0], ids=[9, 7, 5])[:2], together[[2, 0]])
    twins = draw([1, 1, 1], ids=[3, 3, 8])
    np.testing.assert_array_equal(twins[0], together[1])
    np.testing.assert_array_equal(twins[0], twins[1])
    assert np.any(twins[2] != twins[0])
    assert np.any(draw([0, 1, 2], ids=[7, 3, 9], seed=1) != together)


def test_phases_are_cut_where_the_cache_grows():
    phases = (Phase(4, 1, 3), Phase(8, 4, 6))
    cut = cut_phases(phases, (6, 16, 32))
    assert cut == [
        (Phase(4, 1, 2), 6),
        (Phase(6, 1, 1), 16),
        (Phase(8, 4, 2), 16),
        (Phase(16, 4, 4), 32),
    ]


def test_a_cache_that_grows_draws_the_same(monkeypatch):
    network = make_network(GRID, (1, 1, 2), Opening("hybrid"))
    params = draw_params(network, seed=4)
    whole = make_run(network, sampling=PLAIN)(params)
    lengths = []

    def choose(length: int) -> tuple[int, ...]:
        lengths.append(length)
        return (2, 5, length)

    monkeypatch.setattr("nbp.sampling.generate.choose_lengths", choose)
    np.testing.assert_array_equal(make_run(network, sampling=PLAIN)(params), whole)
    assert set(lengths) == {network.plan.length}


def test_a_pass_copies_neither_weights_nor_cache():
    network = make_network(LatentGrid(6, 4, 4), (1, 1, 4), Opening("bov"), codes=16, width=32)
    laid = pack_params(network, jax.tree.map(jnp.asarray, draw_params(network)))

    def draw(laid, key):
        return generate(bind_inference_model(network, laid), key, jnp.arange(1))

    compiled = jax.jit(draw).lower(laid, jax.random.key(0)).compile()
    text = compiled.as_text() or ""
    assert "dynamic-update-slice" in text
    shapes = re.findall(r"= \w+\[([\d,]+)\]\S* (?:copy|transpose)\(", text)
    sizes = {math.prod(map(int, shape.split(","))) for shape in shapes}
    # Of the four positions of a pass, at most: the inner width of an MLP. The smallest matrix is
    # [32, 32], and the keys of a layer are larger.
    assert max(sizes) <= 4 * network.spec.width * network.plan.block_size < 32 * 32
