# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Blocks drawn in several passes: enumerated clips, full forward passes, tokens given anywhere."""

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np
import pytest

from nbp.layout import LatentGrid, Opening
from nbp.parallel.mesh import make_mesh
from nbp.sampling.generate import generate, generate_checked
from nbp.sampling.refinement import disperse
from nbp.sampling.settings import PLAIN, SamplingConfig
from nbp.sampling.speculative import AUTOREGRESSIVE, SpeculativeJacobi
from tests.models.toy import LABELS, draw_params, make_network, reference_logits
from tests.sampling.test_speculative import CODES, COUNT, filter_by_hand, measure_misfit

GRID = LatentGrid(3, 2, 2)


def make_run(network, *, sampling=PLAIN, **options: Any):
    """Codes, passes and finiteness, compiled once: (params, ids, traced arrays)."""

    @jax.jit
    def draw(params, key, ids, arrays):
        return generate_checked(
            network.bind(params), key, ids, sampling=sampling, **arrays, **options
        )

    def run(params, ids, *, seed=0, **arrays):
        found = draw(params, jax.random.key(seed), np.asarray(ids, np.int32), arrays)
        codes, finite, passes = map(np.asarray, found)
        assert finite.all()
        return codes, passes

    return run


def choose(probabilities, hidden, sampling, *, order, first, index) -> list[int]:
    """The places that a pass accepts, from the definitions: `probabilities` [n v]."""
    passes, count = sampling.refinements, int(hidden.sum())
    if index == passes - 1:
        return np.flatnonzero(hidden).tolist()
    left = int(np.floor(first * np.cos(np.pi / 2 * (index + 1) / passes) + 1e-4))
    left = min(max(left, passes - 1 - index), first - 1 - index)
    least = min(max(1, count - left), count)
    if sampling.commit == "order":
        return [place for place in order if hidden[place]][:least]
    entropy = -np.sum(probabilities * np.log(np.maximum(probabilities, 1e-30)), -1)
    taken, total = [], 0.0
    for place in sorted(np.flatnonzero(hidden), key=lambda place: entropy[place]):
        if total <= sampling.entropy_bound or len(taken) < least:
            taken.append(int(place))
        total += entropy[place]
    return taken


def enumerate_clips(network, params, sampling, *, prompt=None, kept=None, known=None):
    """Probability of every clip, and the mean of the passes, over the tree of all passes."""
    plan, size = network.plan, network.plan.block_size
    total, hidden_id = plan.grid.size, network.vocabulary.codes
    probability, passes = np.zeros(CODES**total), 0.0
    kept = np.zeros(total, bool) if kept is None else kept
    order = disperse(plan) if plan.first_joint < total else ()

    def visit(state):
        nonlocal passes
        share, clip, shown, token, accepted, index, taken_passes = state
        if token == total:
            probability[int(clip @ CODES ** np.arange(total)[::-1])] += share
            passes += share * taken_passes
            return
        width = 1 if token < plan.narrow else size
        here = slice(token, token + width)
        if accepted is None:
            accepted, index = kept[here].copy(), 0
        drafts = shown.copy()
        if width > 1:
            drafts[here] = np.where(accepted, clip[here], hidden_id)
        ids = clip[None] + network.vocabulary.code_offset
        logits = reference_logits(network, params, ids, prompt, drafts=drafts[None])[0]
        if sampling.guidance:
            null = reference_logits(network, params, ids, prompt, null=True, drafts=drafts[None])
            logits = (1 + sampling.guidance) * logits - sampling.guidance * null[0]
        rows = np.array([filter_by_hand(row, sampling) for row in logits[here]])
        if width == 1:
            chosen = [] if kept[token] else [0]
        else:
            first = width - int(kept[here].sum())
            hidden = ~accepted
            chosen = choose(rows, hidden, sampling, order=order, first=first, index=index)
        for values in itertools.product(range(CODES), repeat=len(chosen)):
            weight = share * np.prod([rows[p, v] for p, v in zip(chosen, values, strict=True)])
            if weight == 0:
                continue
            after, now = clip.copy(), accepted.copy()
            after[[token + place for place in chosen]] = values
            now[chosen] = True
            if now.all() or width == 1:
                visit((weight, after, drafts, token + width, None, 0, taken_passes + 1))
            else:
                visit((weight, after, shown, token, now, index + 1, taken_passes + 1))

    clip = np.zeros(total, int) if known is None else np.where(kept, known, 0)
    visit((1.0, clip, np.full(total, hidden_id), 0, None, 0, 0))
    np.testing.assert_allclose(probability.sum(), 1)
    return probability, passes


ROWS = {"grid": LatentGrid(2, 1, 2), "block": (1, 1, 2), "opening": Opening("bov")}
WIDE = {"grid": LatentGrid(1, 1, 4), "block": (1, 1, 4), "opening": Opening("bov")}
HYBRID = {"grid": LatentGrid(3, 1, 2), "block": (1, 1, 2), "opening": Opening("hybrid", 1)}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "order, two passes": (WIDE, {"refinements": 2, "commit": "order"}),
    "more passes than tokens": (ROWS, {"refinements": 5, "commit": "order"}),
    "entropy, a token a pass": (WIDE, {"refinements": 4, "entropy_bound": 0.0}),
    "entropy, as many as fit": (WIDE, {"refinements": 3, "entropy_bound": 0.9}),
    "entropy, hybrid, top_p": (HYBRID, {"refinements": 2, "entropy_bound": 0.3, "top_p": 0.8}),
    "guided": (ROWS, {"refinements": 2, "commit": "order", "guidance": 0.7, "temperature": 1.2}),
}


@pytest.mark.parametrize("case", CASES)
def test_clips_follow_the_distribution_of_their_passes(case):
    sizes, options = CASES[case]
    sampling = SamplingConfig(**options)
    prompted = sampling.guidance > 0
    network = make_network(**sizes, codes=CODES, layers=1, prompt=int(prompted), draft=True)
    params = draw_params(network, seed=0)  # tokens of a block depend on each other
    prompt = np.full((COUNT, 1), 2, np.int32) if prompted else None
    arrays: dict[str, Any] = {} if prompt is None else {"prompt": prompt}
    drawn, passes = make_run(network, sampling=sampling)(params, range(COUNT), **arrays)
    one = None if prompt is None else prompt[:1]
    expected, mean = enumerate_clips(network, params, sampling, prompt=one)
    assert measure_misfit(drawn, expected) < 5
    assert passes.mean() == pytest.approx(mean, abs=4 * passes.std() / COUNT**0.5 + 1e-9)
    # Drawing each block at once is another distribution, which the test would notice.
    once = dataclasses.replace(sampling, refinements=1)
    at_once, _ = enumerate_clips(network, params, once, prompt=one)
    assert np.abs(at_once - expected).sum() / 2 > 0.05


FULL_CASES = [
    ((1, 1, 2), Opening("prefix"), "paper", 0, 2),
    ((1, 1, 2), Opening("hybrid", 2), "paper", 2, 6),
    ((1, 2, 2), Opening("bov"), "paper", 1, 4),
    ((3, 1, 2), Opening("bov"), "modern", 2, 0),
]


@pytest.mark.parametrize("block, opening, recipe, prompt_length, given", FULL_CASES)
def test_greedy_passes_are_full_forward_passes(block, opening, recipe, prompt_length, given):
    """The cache holds what a network without one computes in each pass, guided and with masks."""
    network = make_network(GRID, block, opening, recipe=recipe, prompt=prompt_length, draft=True)
    params, plan, codes = draw_params(network, seed=1), network.plan, network.vocabulary.codes
    guidance = 0.5 if prompt_length else 0.0
    sampling = SamplingConfig(
        temperature=0.0, refinements=3, commit="order", guidance=guidance, guidance_schedule="ramp"
    )
    rng = np.random.default_rng(0)
    known = rng.integers(0, codes, (2, GRID.size), np.int32)
    kept = rng.random((2, GRID.size)) < 0.3
    prompt = rng.integers(0, LABELS, (2, prompt_length), np.int32) if prompt_length else None
    arrays: dict[str, Any] = {"known": known, "kept": kept}
    arrays |= {} if prompt is None else {"prompt": prompt}
    drawn, passes = make_run(network, sampling=sampling, given=given)(params, range(2), **arrays)

    offset, scored = network.vocabulary.code_offset, network.recipe.output_ids(network.vocabulary)
    order = disperse(plan)
    for clip in range(2):
        stays = kept[clip] | (np.arange(GRID.size) < given)
        ids = np.where(stays, known[clip] + offset, 0)
        shown = np.full(GRID.size, codes)
        one = None if prompt is None else prompt[clip : clip + 1]
        token, index, count = given, 0, 0
        while token < GRID.size:
            width = 1 if token < plan.narrow else plan.block_size
            here = slice(token, token + width)
            accepted = stays[here].copy()
            first = int((~accepted).sum())
            for inner in range(sampling.refinements):
                drafts = shown.copy()
                if width > 1:
                    clipped = np.clip(ids[here] - offset, 0, codes - 1)
                    drafts[here] = np.where(accepted, clipped, codes)
                logits = reference_logits(network, params, ids[None], one, drafts=drafts[None])
                if guidance:
                    t = guidance * index
                    null = reference_logits(
                        network, params, ids[None], one, null=True, drafts=drafts[None]
                    )
                    logits = (1 + t) * logits - t * null
                best = logits[0, token - plan.first : token - plan.first + width].argmax(-1)
                best = best + scored.start
                chosen = [0] if width == 1 and not accepted[0] else []
                if width > 1 and not accepted.all():
                    chosen = choose(
                        None, ~accepted, sampling, order=order, first=first, index=inner
                    )
                count += inner == 0 or not accepted.all()
                ids[[token + place for place in chosen]] = best[chosen]
                accepted[chosen] = True
                if accepted.all():
                    shown = drafts
                    break
            token, index = token + width, index + 1
        np.testing.assert_array_equal(drawn[clip], np.clip(ids - offset, 0, codes - 1))
        assert passes[clip] == count
        np.testing.assert_array_equal(drawn[clip][stays], known[clip][stays])


@pytest.fixture(scope="module")
def prompted():
    network = make_network(GRID, (1, 2, 2), Opening("bov"), prompt=2, draft=True, layers=1)
    return network, draw_params(network, seed=3)


def test_one_pass_is_the_sampler_without_the_channel(prompted):
    network, params = prompted
    prompt = np.array([[0, 1], [2, 3], [4, 0]], np.int32)
    sampling = SamplingConfig(top_p=0.9, guidance=0.5, temperature=1.2)
    plain = make_network(GRID, (1, 2, 2), Opening("bov"), prompt=2, layers=1)
    rest = {name: leaf for name, leaf in params.items() if name != "drafts"}
    zeros = params | {"drafts": np.zeros_like(params["drafts"])}
    expected, passes = make_run(plain, sampling=sampling)(rest, range(3), prompt=prompt)
    once = dataclasses.replace(sampling, refinements=1, commit="order")
    found, counted = make_run(network, sampling=once)(zeros, range(3), prompt=prompt)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(counted, passes)
    assert (counted == plain.plan.passes()).all()


def test_a_clip_does_not_depend_on_its_batch(prompted):
    """Samples stop at their own pass, and what others need later changes nothing of them."""
    network, params = prompted
    numbers = np.array([7, 3, 9, 1, 5, 2, 8, 4])
    prompt = np.stack([numbers % LABELS, numbers // 2 % LABELS], -1).astype(np.int32)
    sampling = SamplingConfig(refinements=4, entropy_bound=1.5, guidance=0.5)
    run = make_run(network, sampling=sampling)
    together, passes = run(params, numbers, prompt=prompt)
    assert len(set(passes.tolist())) > 1, "a case in which they stop apart"
    for i in (int(passes.argmin()), int(passes.argmax())):
        alone, count = run(params, numbers[[i] * 8], prompt=prompt[[i] * 8])
        np.testing.assert_array_equal(alone[0], together[i])
        assert count[0] == passes[i]
    other, _ = run(params, numbers, prompt=prompt, seed=1)
    assert np.any(other != together)


def test_a_bound_is_a_dial_of_passes(prompted):
    network, params = prompted
    prompt = np.zeros((200, 2), np.int32)
    means = []
    for bound in (0.0, 1.5, 1e6):
        sampling = SamplingConfig(refinements=4, entropy_bound=bound)
        _, passes = make_run(network, sampling=sampling)(params, range(200), prompt=prompt)
        means.append(passes.mean())
    assert means[0] == 12, "three blocks of four tokens, one a pass"
    assert means == sorted(means, reverse=True)
    assert means[-1] == 3


def test_given_tokens_are_kept_and_condition_the_rest(prompted):
    network, params = prompted
    prompt = np.zeros((40, 2), np.int32)
    rng = np.random.default_rng(2)
    known = rng.integers(0, 11, (40, GRID.size), np.int32)
    kept = np.zeros((40, GRID.size), bool)
    kept[:, [1, 2, 8, 9, 10, 11]] = True  # two of the first block, all of the last
    run = make_run(network, sampling=SamplingConfig(refinements=2))
    drawn, passes = run(params, range(40), prompt=prompt, known=known, kept=kept)
    np.testing.assert_array_equal(drawn[kept], known[kept])
    assert (passes <= 5).all(), "two blocks of two passes, one to read the given block"
    other = known.copy()
    other[:, 1] = (other[:, 1] + 1) % 11
    again, _ = run(params, range(40), prompt=prompt, known=other, kept=kept)
    assert np.any(again[:, [0, 3]] != drawn[:, [0, 3]]), "of the same block"
    later = known.copy()
    later[:, 8:] = (later[:, 8:] + 1) % 11
    again, _ = run(params, range(40), prompt=prompt, known=later, kept=kept)
    np.testing.assert_array_equal(again[:, :8], drawn[:, :8])


def test_given_tokens_follow_the_conditional_distribution():
    network = make_network(**WIDE, codes=CODES, layers=1, draft=True)
    params = draw_params(network, seed=4)
    sampling = SamplingConfig(refinements=4, commit="order")
    kept = np.array([False, True, False, True])
    known = np.array([0, 2, 0, 1], np.int32)
    expected, _ = enumerate_clips(network, params, sampling, kept=kept, known=known)
    arrays = {"known": np.tile(known, (COUNT, 1)), "kept": np.tile(kept, (COUNT, 1))}
    drawn, passes = make_run(network, sampling=sampling)(params, range(COUNT), **arrays)
    assert measure_misfit(drawn, expected) < 5
    assert (passes == 2).all()


def test_a_mesh_of_eight_devices_draws_the_same():
    network = make_network(GRID, (1, 2, 2), Opening("hybrid"), prompt=1, codes=12, draft=True)
    params = draw_params(network, seed=5)
    sampling = SamplingConfig(refinements=3, entropy_bound=1.0, guidance=0.5)
    prompt = np.arange(8, dtype=np.int32)[:, None] % LABELS
    kept = np.random.default_rng(0).random((8, GRID.size)) < 0.2
    arrays = {"prompt": prompt, "known": np.zeros((8, GRID.size), np.int32), "kept": kept}
    expected, passes = make_run(network, sampling=sampling)(params, range(8), **arrays)
    with jax.set_mesh(make_mesh(data=2, fsdp=2, tensor=2)):
        found, counted = make_run(network, sampling=sampling)(params, range(8), **arrays)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(counted, passes)


def test_what_needs_the_channel_says_so():
    network = make_network(GRID, (1, 1, 2), Opening("bov"))
    model, ids, key = network.bind(draw_params(network)), np.arange(2), jax.random.key(0)
    with pytest.raises(ValueError, match="refinements 2: this model has no draft channel"):
        generate(model, key, ids, sampling=SamplingConfig(refinements=2))
    kept = np.zeros((2, GRID.size), bool)
    with pytest.raises(ValueError, match="given anywhere: this model has no draft channel"):
        AUTOREGRESSIVE(model, key, ids, known=np.zeros((2, GRID.size), np.int32), kept=kept)
    with pytest.raises(ValueError, match="speculative decoding draws each block in one pass"):
        SpeculativeJacobi()(model, key, ids, sampling=SamplingConfig(refinements=2))


def spoil(table, row: int):
    return table.at[row].set(np.nan)


def test_numbers_that_are_none_are_told(prompted):
    network, params = prompted
    sampling = SamplingConfig(refinements=4, entropy_bound=0.0)
    prompt = np.zeros((16, 2), np.int32)
    draw = jax.jit(
        lambda p: generate_checked(
            network.bind(p), jax.random.key(0), np.arange(16), prompt=prompt, sampling=sampling
        )
    )
    codes, finite, _ = map(np.asarray, draw(params))
    assert finite.all()
    often = [np.mean((codes == code).any(axis=1)) for code in range(11)]
    code = int(np.argmin(np.abs(np.array(often) - 0.5)))  # of about every other clip
    codes, finite, _ = map(np.asarray, draw({**params, "drafts": spoil(params["drafts"], code)}))
    # A draft of it that another pass has read; the last one accepted of a block is not.
    read = (codes == code).any(axis=1)
    assert not finite.all()
    assert finite[~read].all()
    assert not read.all()
