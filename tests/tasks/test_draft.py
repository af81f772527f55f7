# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which drafts are shown in training, and that the scores are those of explicit formulas."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest

from nbp.layout import LatentGrid, Opening, SequencePlan
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.conv3d import taps_conv
from nbp.tasks.draft import (
    DraftObjective,
    Drafts,
    draw_counts,
    hide_places,
    make_drafts,
    score_drafts,
    score_one_by_one,
)
from nbp.tasks.generator import GeneratorTask, score
from nbp.training.optimizer import OptimizerSpec
from tests.models.toy import draw_params, make_network, reference_logits

GRID = LatentGrid(2, 2, 3)
HIDDEN = 12
NETWORK = make_network(
    GRID, (1, 1, 3), Opening("hybrid"), prompt=1, codes=HIDDEN, layers=1, draft=True
)
CODES = np.random.default_rng(0).integers(0, HIDDEN, (6, GRID.size), np.int32)
PROMPT = np.array([[0], [1], [2], [3], [4], [0]], np.int32)


def nats(params, codes, prompt, drafts) -> np.ndarray:
    """Negative log-likelihoods of all scored tokens in float64."""
    ids = codes + NETWORK.vocabulary.code_offset
    logits = reference_logits(NETWORK, params, ids, prompt, drafts=drafts)
    share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return -np.log(np.take_along_axis(share, codes[..., None], -1)[..., 0])


@pytest.mark.parametrize(
    "kind, schedule", [("hybrid", "cosine"), ("prefix", "uniform"), ("bov", "cosine")]
)
def test_what_is_hidden(kind, schedule):
    plan = SequencePlan(GRID, (1, 1, 3), Opening(kind))
    objective = DraftObjective(0.5, schedule)
    draw = jax.jit(lambda key: make_drafts(objective, plan, CODES, hidden=HIDDEN, key=key))
    clips = np.zeros(6, int)
    for seed in range(30):
        drafts = draw(jax.random.key(seed))
        assert drafts.plain.sum() == 3
        clips += np.asarray(drafts.plain)
        np.testing.assert_array_equal(
            drafts.ids, np.where(np.asarray(drafts.ids) == HIDDEN, HIDDEN, CODES)
        )
        hidden = np.asarray(drafts.ids) == HIDDEN
        np.testing.assert_array_equal(hidden[:, plan.first :], drafts.hidden)
        assert hidden[np.asarray(drafts.plain)].all()
        assert hidden[:, : plan.first_joint].all(), "what is drawn one by one, and the given block"
        blocks = hidden[:, plan.first_joint :].reshape(6, -1, 3).sum(-1)
        assert blocks.min() >= 1
    assert clips.min() > 0, "every row is plain at times"
    assert clips.max() < 30


def test_shares_leave_one_clip_of_each_kind():
    plan = SequencePlan(GRID, (1, 1, 3), Opening("bov"))
    for share, clips, plain in ((0.01, 4, 3), (0.99, 4, 1), (0.25, 6, 4), (0.5, 2, 1)):
        objective, codes = DraftObjective(share), CODES[:clips]
        make = functools.partial(make_drafts, objective, plan, codes, hidden=HIDDEN)
        drafts = jax.jit(make)(key=jax.random.key(0))
        assert int(drafts.plain.sum()) == plain
    with pytest.raises(ValueError, match="micro-batches of 2 clips or more"):
        make_drafts(DraftObjective(), plan, CODES[:1], hidden=HIDDEN, key=jax.random.key(0))


def test_numbers_of_hidden_tokens_follow_the_schedule():
    for objective, below in (
        (DraftObjective(schedule="uniform"), lambda k: k / 4),  # P(count <= k)
        (DraftObjective(schedule="cosine"), lambda k: 1 - math.acos(k / 4) * 2 / math.pi),
    ):
        draw = jax.jit(functools.partial(draw_counts, objective, 4, (40_000,)))
        counts = draw(key=jax.random.key(1))
        for k in range(1, 5):
            assert np.mean(np.asarray(counts) <= k) == pytest.approx(below(k), abs=0.01)


def test_all_sets_of_places_are_alike():
    counts = np.full(12_000, 2, np.int32)
    hide = jax.jit(lambda counts, key: hide_places(counts, 4, key=key))
    hidden = np.asarray(hide(counts, jax.random.key(2)))
    assert (hidden.sum(-1) == 2).all()
    _, found = np.unique(hidden @ np.array([1, 2, 4, 8]), return_counts=True)
    assert len(found) == 6
    np.testing.assert_allclose(found, 2000, rtol=0.1)


def test_scores_are_those_of_the_hidden_tokens():
    params = draw_params(NETWORK, seed=3)
    key = jax.random.key(5)
    make = functools.partial(make_drafts, DraftObjective(), NETWORK.plan, CODES, hidden=HIDDEN)
    drafts = jax.jit(make)(key=key)

    def run(params, drafts):
        model = NETWORK.bind(params)
        options = {"read": CODES, "null": None, "key": None, "tokens": 8}
        return score_drafts(model, CODES, PROMPT, Drafts(*drafts), **options)

    loss, metrics = jax.jit(run)(params, drafts)
    each = nats(params, CODES, PROMPT, np.asarray(drafts.ids))
    hidden, plain = np.asarray(drafts.hidden), np.asarray(drafts.plain)
    assert float(loss) == pytest.approx(each[hidden].mean(), rel=1e-4)
    assert float(metrics["bits_per_token"]) == pytest.approx(
        each[plain].mean() / math.log(2), rel=1e-4
    )
    others = hidden & ~plain[:, None]
    assert float(metrics["draft_bits_per_token"]) == pytest.approx(
        each[others].mean() / math.log(2), rel=1e-4
    )
    # A plain clip is scored as a model without the channel scores it.
    _, expected = jax.jit(
        lambda params: score(NETWORK.bind(params), CODES[plain], PROMPT[plain], tokens=8)
    )(params)
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(float(value), rel=1e-5)


def test_bits_one_by_one_are_the_mean_over_all_orders():
    """Against the chain rule, averaged over every order of the three tokens of the last block."""
    prompt = PROMPT[:2]
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    network = make_network(
        LatentGrid(1, 2, 3), (1, 1, 3), Opening("hybrid"), prompt=1, codes=HIDDEN, layers=1,
        draft=True,
    )  # fmt: skip
    params = draw_params(network, seed=4)
    codes = CODES[:2, :6]
    total, each = np.zeros(()), np.zeros((2, 6))
    for order in orders:
        for i, place in enumerate(order):
            drafts = np.full(codes.shape, HIDDEN)
            shown = [3 + earlier for earlier in order[:i]]
            drafts[:, shown] = codes[:, shown]
            ids = codes + network.vocabulary.code_offset
            logits = reference_logits(network, params, ids, prompt, drafts=drafts)
            share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            each = -np.log(np.take_along_axis(share, codes[..., None], -1)[..., 0])
            total = total + each[:, 3 + place].sum() / len(orders)
    alone = each[:, :3].sum()  # the first block comes token by token
    expected = (total + alone) / codes.size / math.log(2)

    @jax.jit
    def estimate(keys):
        model = network.bind(params)
        one = lambda key: score_one_by_one(model, codes, prompt, tokens=8, key=key)  # noqa: E731
        return jax.lax.map(one, keys)

    found = np.asarray(estimate(jax.random.split(jax.random.key(0), 600)))
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - expected) < 4 * error
    assert error < 0.02 * expected


TOKENIZER = TokenizerNetwork(
    TokenizerSpec(widths=(4, 4), units=(0, 0), strides=((2, 2, 2),), levels=(4, 3), groups=2),
    taps_conv,
)
TASK = GeneratorTask(
    NETWORK,
    TOKENIZER,
    OptimizerSpec(learning_rate=1e-2, steps=100, warmup=0, weight_decay=0.0),
    frozen={},
    draft=DraftObjective(),
)


def test_a_step_learns_the_rows_that_were_shown():
    task = dataclasses.replace(TASK, loss_tokens=64)
    batch = {"codes": CODES.reshape(6, *GRID.shape), "label": PROMPT[:, 0]}
    state = jax.jit(task.init)(jax.random.key(0))
    assert not np.any(state.params["drafts"])
    after, metrics = jax.jit(task.step)(state, {}, batch, jax.random.key(1))
    learned = np.flatnonzero(np.any(np.asarray(after.params["drafts"]) != 0, axis=1))
    assert HIDDEN in learned
    assert 3 < len(learned) <= HIDDEN
    for name in ("bits_per_token", "draft_bits_per_token"):
        assert float(metrics[name]) == pytest.approx(math.log2(HIDDEN), abs=0.5)


def test_without_an_objective_a_network_with_the_channel_trains_as_before():
    plain = make_network(GRID, (1, 1, 3), Opening("hybrid"), prompt=1, codes=HIDDEN, layers=1)
    batch = {"codes": CODES.reshape(6, *GRID.shape), "label": PROMPT[:, 0]}
    results = []
    for network in (plain, NETWORK):
        task = dataclasses.replace(TASK, network=network, draft=None)
        state = jax.jit(task.init)(jax.random.key(0))
        state, metrics = jax.jit(task.step)(state, {}, batch, jax.random.key(1))
        results.append((state.params["head"], metrics["loss"]))
    (head, loss), (draft_head, draft_loss) = results
    assert float(loss) == float(draft_loss)
    np.testing.assert_allclose(head["kernel"], draft_head["kernel"], atol=1e-6)


@pytest.mark.slow
def test_drafts_are_learned():
    """Blocks of three equal codes: a shown token tells the other two."""
    network = make_network(
        LatentGrid(2, 2, 3), (1, 1, 3), Opening("bov"), codes=4, layers=1, width=32, draft=True
    )
    task = dataclasses.replace(
        TASK,
        network=network,
        optimizer=OptimizerSpec(learning_rate=2e-2, steps=1000, warmup=5, weight_decay=0.0),
        loss_tokens=1024,
    )
    rng, step = np.random.default_rng(1), jax.jit(task.step)
    state, batch = jax.jit(task.init)(jax.random.key(0)), {}
    for i in range(600):
        rows = rng.integers(0, 4, (16, 2, 2, 1), np.int32).repeat(3, axis=-1)
        batch = {"codes": rows, "label": np.zeros(16, np.int32)}
        state, _ = step(state, {}, batch, jax.random.key(i))
    found, _ = jax.jit(task.evaluate)(state.params, {}, batch)
    # Drawn at once each token costs 2 bits, in turn one of three does: 2/3 of a bit on average.
    assert float(found["bits_per_token"]) == pytest.approx(2.0, abs=0.1)
    assert float(found["draft_bits_per_token"]) < 1.2
