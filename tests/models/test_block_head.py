# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Heads of digits: exact likelihoods by enumeration, draws that follow them, who knows whom."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nbp.layout import LatentGrid, Opening
from nbp.models.heads import DigitHead, HeadSpec, JointHeadSettings, place_offsets
from nbp.models.joint_head import JointHead, make_waves
from nbp.nn.digits import Digits
from nbp.nn.fsq import Fsq
from nbp.nn.lfq import Lfq
from nbp.parallel.mesh import make_mesh
from nbp.sampling.filtering import keep_top_k, keep_top_p
from nbp.sampling.generate import generate
from nbp.sampling.settings import SamplingConfig
from nbp.sampling.speculative import decode_ahead
from tests.models.toy import draw_params, make_network, reference_transformer
from tests.parallel.test_sharded_training import BATCH, TASK, compare, take_step

LEVELS = (3, 2)  # 6 codes
JOINT = HeadSpec(LEVELS, JointHeadSettings(layers=2, width=8, heads=2))
DIGITS = HeadSpec(LEVELS)
PAIR = LatentGrid(1, 1, 2)  # a clip that is a block of two places
PAIRS = np.array(list(itertools.product(range(6), repeat=2)), np.int32)


def make(grid, block, opening, *, head=JOINT, **options):
    network = make_network(grid, block, opening, head=head, codes=6, layers=1, **options)
    return network, draw_params(network)


@pytest.mark.parametrize("quantizer", [Fsq((4, 3, 5)), Lfq(32)])
def test_digits_are_those_of_the_quantizer(quantizer):
    """Vectors rise with the digit in each channel, so their ranks are the digits."""
    levels = quantizer.levels if isinstance(quantizer, Fsq) else (2,) * quantizer.channels
    digits, codes = Digits(levels), np.arange(quantizer.codes)
    assert digits.codes == quantizer.codes
    vectors = np.asarray(quantizer.lookup(codes, {}))
    ranks = [np.unique(column, return_inverse=True)[1] for column in vectors.T]
    found = digits.split(codes)
    np.testing.assert_array_equal(found, np.stack(ranks, -1))
    np.testing.assert_array_equal(digits.join(found), codes)


def reference_nats(network, params, hidden, codes):
    """Float64 numpy, a block, a place, a digit at a time."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["head"])
    plan, hidden = network.plan, np.asarray(hidden, np.float64)
    erf = np.vectorize(math.erf, otypes=[float])
    first = np.cumsum([0, *LEVELS[:-1]])
    digits = np.stack([codes % LEVELS[0], codes // LEVELS[0]], -1)
    alone = plan.opening.blocks * plan.block_size if plan.opening.kind == "hybrid" else 0
    starts = [*range(alone), *range(alone, plan.target_count, plan.block_size)]
    nats = np.zeros(codes.shape)
    for start in starts:
        n = 1 if start < alone else plan.block_size
        block = range(start, start + n)
        places = [np.unravel_index(plan.order[plan.first + i], plan.grid.shape) for i in block]
        offsets = np.array(places) - np.min(places, axis=0)
        x = hidden[:, block] @ p["enter"]["kernel"] + p["enter"]["bias"]
        for j, (t, h, w) in enumerate(offsets):
            angles = [place * speed for place in (t, h, w) for speed in (1, 0.3, 0.1, 0.03)]
            x[:, j] += [*map(math.cos, angles), *map(math.sin, angles)] @ p["places"]
            x[:, j] += p["begin"] if j == 0 else 0
            for i in range(2 if j else 0):
                x[:, j] += p["previous"][first[i] + digits[:, start + j - 1, i]]
        states = reference_transformer(p["transformer"], x, np.arange(1, n + 1), 2)
        for j in range(n):
            base = states[:, j] @ p["mix"]["kernel"] + p["mix"]["bias"]
            for i, level in enumerate(LEVELS):
                inner = base + p["slots"][i]
                for k in range(i):
                    inner = inner + p["earlier"][first[k] + digits[:, start + j, k], i]
                inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
                columns = slice(first[i], first[i] + level)
                logits = inner @ p["out"]["kernel"][:, columns] + p["out"]["bias"][columns]
                logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
                nats[:, start + j] -= logs[np.arange(len(logs)), digits[:, start + j, i]]
    return nats


CASES = [
    (LatentGrid(1, 2, 2), (1, 1, 2), Opening("hybrid", 1), "box"),
    (LatentGrid(2, 2, 2), (1, 2, 2), Opening("prefix"), "box"),
    (LatentGrid(1, 4, 2), (1, 2, 2), Opening("bov"), "halton"),
]


@pytest.mark.parametrize("grid, block, opening, partition", CASES)
def test_nats_are_those_of_a_numpy_head_and_greedy_draws_follow_them(
    grid, block, opening, partition
):
    """Teacher forcing against numpy, whole and in pieces; drawing with a cache against both."""
    network, params = make(grid, block, opening, partition=partition, prompt=1)
    plan, prompt = network.plan, np.array([[1], [4], [0]], np.int32)
    codes = np.random.default_rng(0).integers(0, 6, (3, grid.size), np.int32)
    greedy = SamplingConfig(temperature=0.0)

    @jax.jit
    def run(params):
        model = network.bind(params)
        hidden = model.hidden_states(codes, prompt)
        targets = model.targets(codes)
        nats = [model.head.nats(hidden, targets, plan=plan, tokens=tokens) for tokens in (999, 4)]
        drawn = generate(
            model,
            jax.random.key(0),
            np.arange(3),
            prompt=prompt,
            known=codes,
            given=plan.first,
            sampling=greedy,
        )
        states = model.hidden_states(drawn, prompt)
        assert isinstance(model.head, JointHead)
        logits = model.head.digit_logits(states, model.targets(drawn), plan=plan)
        return hidden, nats, drawn, logits

    hidden, nats, drawn, logits = run(params)
    expected = reference_nats(network, params, hidden, codes[:, plan.first :])
    np.testing.assert_allclose(nats[0], expected, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(nats[1], nats[0], rtol=1e-5, atol=1e-6)
    digits = Digits(LEVELS).split(drawn[:, plan.first :])
    np.testing.assert_array_equal(np.asarray(logits).argmax(-1), digits)


def enumerate_guided(network, params, sampling):
    """Probability of each pair of codes under guidance, temperature and filters of each digit."""
    labels = np.zeros((36, 1), np.int32)

    @jax.jit
    def run(params):
        model, rows = network.bind(params), []
        for null in (np.zeros(36, bool), np.ones(36, bool)):
            hidden = model.hidden_states(PAIRS, labels, null=null)
            if isinstance(model.head, JointHead):
                rows.append(model.head.digit_logits(hidden, PAIRS, plan=network.plan))
            else:
                assert isinstance(model.head, DigitHead)
                rows.append(model.head.predict(hidden))
        logits = (1 + sampling.guidance) * rows[0] - sampling.guidance * rows[1]
        logits = jnp.where(jnp.isfinite(rows[0]), logits, -jnp.inf) / sampling.temperature
        return keep_top_p(keep_top_k(logits, sampling.top_k), sampling.top_p)

    logits = np.asarray(run(params), np.float64)
    share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    digits = np.asarray(Digits(LEVELS).split(PAIRS))
    return np.take_along_axis(share, digits[..., None], -1).prod((1, 2, 3))


PLAIN = SamplingConfig()
FILTERED = SamplingConfig(temperature=1.5, top_p=0.8, top_k=2, guidance=0.7)


@pytest.mark.parametrize(
    "head, sampling",
    [(JOINT, PLAIN), (JOINT, FILTERED), (DIGITS, FILTERED)],
    ids=["joint", "joint-filtered", "digits-filtered"],
)
def test_draws_have_the_enumerated_distribution(head, sampling):
    """All 36 clips of a block: their probabilities sum to 1, and draws occur as often."""
    network, params = make(PAIR, (1, 1, 2), Opening("bov"), head=head, prompt=1)
    expected = enumerate_guided(network, params, sampling)
    assert expected.sum() == pytest.approx(1.0, abs=1e-5)
    count = 6000
    ids, labels = np.arange(count), np.zeros((count, 1), np.int32)

    @jax.jit
    def draw(params):
        model = network.bind(params)
        key = jax.random.key(7)
        codes = generate(model, key, ids, prompt=labels, sampling=sampling)
        again = generate(model, key, ids[5:6], prompt=labels[:1], sampling=sampling)
        hidden = model.hidden_states(np.zeros((4000, 2), np.int32), labels[:4000])
        return codes, again, model.head.sample(hidden, key, plan=network.plan, tokens=64)

    codes, again, sampled = draw(params)
    np.testing.assert_array_equal(again[0], codes[5])  # whatever the batch
    found = np.bincount(np.asarray(codes) @ [6, 1], minlength=36)
    assert not found[expected < 1e-9].any()
    assert compare_frequencies(found, expected) > 1e-4
    if sampling == PLAIN:
        others = np.bincount(np.asarray(sampled) @ [6, 1], minlength=36)
        assert compare_frequencies(others, expected) > 1e-4
        between = np.outer(expected.reshape(6, 6).sum(1), expected.reshape(6, 6).sum(0)).ravel()
        assert compare_frequencies(found, between) < 1e-9, "the two tokens know of each other"


def compare_frequencies(found: np.ndarray, probabilities: np.ndarray) -> float:
    """p of a chi-squared test; outcomes that are expected less than five times count as one."""
    expected = probabilities / probabilities.sum() * found.sum()
    rare = expected < 5
    expected = np.append(expected[~rare], expected[rare].sum() + 1e-9)
    found = np.append(found[~rare], found[rare].sum())
    if expected[-1] < 1:
        expected, found = expected[:-1], found[:-1]
    statistic = ((found - expected) ** 2 / expected).sum()
    return float(stats.chi2.sf(statistic, len(found) - 1))


def test_a_digit_knows_exactly_those_before_it():
    """By finite differences: each digit of each token of the clip is changed in turn."""
    network, params = make(LatentGrid(1, 3, 2), (1, 1, 2), Opening("hybrid", 1))
    digits, d = Digits(LEVELS), len(LEVELS)
    base = np.random.default_rng(3).integers(0, 6, 6).astype(np.int32)
    changed = [(token, i) for token in range(6) for i in range(d)]
    clips = np.tile(base, (len(changed) + 1, 1))
    for row, (token, i) in enumerate(changed, 1):
        parts = np.array(digits.split(base[token]))
        parts[i] = (parts[i] + 1) % LEVELS[i]
        clips[row, token] = digits.join(parts)

    @jax.jit
    def run(params):
        model = network.bind(params)
        hidden = model.hidden_states(clips)
        assert isinstance(model.head, JointHead)
        return model.head.digit_logits(hidden, clips, plan=network.plan)

    logits = np.where(digits.exists, run(params), 0.0).reshape(len(clips), 6 * d, -1)
    moved = np.abs(logits[1:] - logits[0]).max(-1)
    later = np.arange(6 * d) > np.arange(6 * d)[:, None]
    assert moved[~later].max() < 1e-6
    assert moved[later].min() > 1e-5


def test_kept_codes_are_read_by_those_behind_them():
    """All pairs: the first is kept, the second is the most likely one behind it; and reversed."""
    network, params = make(PAIR, (1, 1, 2), Opening("bov"))
    greedy = SamplingConfig(temperature=0.0)

    def draw(params, kept):
        model = network.bind(params)
        drawn = generate(
            model, jax.random.key(0), np.arange(36), known=PAIRS, kept=kept, sampling=greedy
        )
        hidden = model.hidden_states(drawn)
        assert isinstance(model.head, JointHead)
        return drawn, model.head.digit_logits(hidden, drawn, plan=network.plan)

    run = jax.jit(draw)
    for place in (0, 1):
        kept = np.tile(np.arange(2) == place, (36, 1))
        drawn, logits = run(params, kept)
        np.testing.assert_array_equal(drawn[:, place], PAIRS[:, place])
        best = np.asarray(Digits(LEVELS).join(np.asarray(logits).argmax(-1)))
        np.testing.assert_array_equal(drawn[:, 1 - place], best[:, 1 - place])


def test_a_mesh_computes_what_one_device_computes():
    head = HeadSpec((4, 3, 2), JointHeadSettings(layers=1, width=8, heads=2))
    network = dataclasses.replace(TASK.network, head=head)
    task = dataclasses.replace(TASK, network=network)
    params = draw_params(network, seed=1)
    expected = take_step(task, params, BATCH, make_mesh(devices=jax.devices()[:1]))
    assert set(expected[1]) == {
        "loss", "bits_per_token", "accuracy", "grad_norm", "learning_rate"
    }  # fmt: skip
    found = take_step(task, params, BATCH, make_mesh(data=2, fsdp=2, tensor=2))
    compare(found, expected)


def test_half_precision_and_recomputation_change_little():
    options = {"dtype": jnp.bfloat16, "remat": "full"}
    head = HeadSpec(LEVELS, JointHeadSettings(layers=1, width=8, heads=2))
    network, params = make(*CASES[0][:3], head=head)
    coarse, _ = make(*CASES[0][:3], head=head, **options)
    codes = np.random.default_rng(0).integers(0, 6, (8, 4), np.int32)

    @jax.jit
    def run(params):
        def loss(params, network):
            model = network.bind(params)
            hidden = model.hidden_states(codes)
            return model.head.score(hidden, codes, plan=network.plan, tokens=9)[0]

        return [jax.value_and_grad(loss)(params, each) for each in (network, coarse)]

    (fine, grads), (rough, rough_grads) = run(params)
    assert rough == pytest.approx(float(fine), rel=0.05)
    for a, b in zip(*map(jax.tree.leaves, (grads, rough_grads)), strict=True):
        scale = np.abs(a).max()
        assert scale > 0
        assert np.abs(a - b).max() < 0.2 * scale + 1e-3


def test_operations_and_parameters_count_the_head():
    plain = make_network(*CASES[0][:3], codes=6, layers=1)
    network, params = make(*CASES[0][:3])
    head = params["head"]
    kernels = [leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(head)
               if path[-1].key == "kernel"]  # fmt: skip
    # Two tokens alone and a block of two, which sees 1 and 2 places.
    attention = 4 * 8 * 2 * (1 + 1 + 1 + 2)
    forward = 2 * sum(kernels) * 4 + attention
    whole = 2 * 16 * 6 * 4
    assert network.flops_per_clip - plain.flops_per_clip == pytest.approx(3 * (forward - whole))
    independent, small = make(*CASES[0][:3], head=DIGITS)
    assert small["head"]["kernel"].shape == (16, 5)
    assert plain.flops_per_clip - independent.flops_per_clip == 3 * 2 * 16 * (6 - 5) * 4


def test_one_head_serves_any_grid():
    """Parameters of a small grid on a wider one, whose places it has not seen, against numpy."""
    _, params = make(LatentGrid(1, 2, 2), (1, 1, 2), Opening("bov"))
    wide, others = make(LatentGrid(1, 2, 6), (1, 1, 6), Opening("bov"))
    shapes = [jax.tree.map(np.shape, each["head"]) for each in (params, others)]
    assert shapes[0] == shapes[1]
    codes = np.random.default_rng(0).integers(0, 6, (2, 12), np.int32)
    model = wide.bind({**others, "head": params["head"]})
    states = model.hidden_states(codes)
    nats = model.head.nats(states, codes, plan=wide.plan, tokens=64)
    expected = reference_nats(wide, params, states, codes)
    np.testing.assert_allclose(nats, expected, rtol=2e-4, atol=2e-4)
    offsets = np.stack(np.meshgrid(np.arange(4), np.arange(24), np.arange(24), indexing="ij"), -1)
    waves = np.asarray(make_waves(jnp.asarray(offsets.reshape(-1, 3))))
    apart = np.linalg.norm(waves[:200, None] - waves[None], axis=-1)
    assert np.sort(apart, axis=1)[:, 1].min() > 0.1, "no two places look alike"


def test_offsets_of_places():
    network, _ = make(LatentGrid(2, 2, 2), (1, 1, 2), Opening("hybrid", 1))
    found = place_offsets(network.plan)
    assert found.tolist() == [[0, 0, 0]] * 2 + [[0, 0, 0], [0, 0, 1]] * 3


def test_what_needs_whole_codes_is_refused():
    network, params = make(PAIR, (1, 1, 2), Opening("bov"))
    model, key = network.bind(params), jax.random.key(0)
    with pytest.raises(ValueError, match="only a model with generator.head=vocabulary"):
        decode_ahead(model, key, np.arange(2), window=2)
    with pytest.raises(ValueError, match="only a model with generator.head=vocabulary"):
        model(PAIRS)
    with pytest.raises(ValueError, match="no draft channel"):
        generate(model, key, np.arange(2), sampling=SamplingConfig(refinements=2))
