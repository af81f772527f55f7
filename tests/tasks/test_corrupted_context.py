# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Codes are replaced as often, where, and by what the settings say; targets never are."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest

from nbp.config import load_config
from nbp.errors import ConfigError
from nbp.layout import LatentGrid, Opening, SequencePlan
from nbp.tasks.corrupted_context import CorruptedContext, CorruptionSettings
from nbp.tasks.generator import CORRUPTION, draw_context, score
from tests import tiny
from tests.models.toy import draw_params, reference_logits
from tests.tasks.test_generator import BATCH, NETWORK, TASK, same

PLAN = SequencePlan(LatentGrid(4, 2, 2), (1, 1, 2), Opening("hybrid"))
LEVELS = (3, 2, 4)
CLIPS = 4000


def corrupt(settings: CorruptionSettings, *, plan=PLAN, given=0, seed=0):
    """True codes and read ones of many clips, [clips, 16] each."""
    codes = np.random.default_rng(1).integers(0, 24, (CLIPS, plan.grid.size)).astype(np.int32)
    context = CorruptedContext(settings, plan, 24, levels=LEVELS, given=given)
    return codes, np.asarray(context(codes, jax.random.key(seed)))


def test_the_share_of_a_clip_is_uniform_up_to_the_largest():
    codes, read = corrupt(CorruptionSettings(0.6))
    # A random code equals the true one in one case of 24.
    assert (codes != read).mean() == pytest.approx(0.3 * 23 / 24, abs=0.01)
    # Of n places with a share uniform in 0..s, the variance of the count is that of a mixture.
    mean, square, n = 0.3, 0.6**2 / 3, 16
    counts = (codes != read).sum(1) * 24 / 23
    assert counts.var() == pytest.approx(n * (mean - square) + n * n * (square - mean**2), rel=0.1)


def test_random_codes_are_all_codes_alike():
    codes, read = corrupt(CorruptionSettings(0.99))
    found = np.bincount(read[codes != read], minlength=24)
    assert len(found) == 24
    assert found.min() > 0.9 * found.mean()
    assert found.max() < 1.1 * found.mean()


def test_near_codes_differ_by_one_level_of_one_digit():
    codes, read = corrupt(CorruptionSettings(0.99, codes="near"))
    digits = [np.stack(np.unravel_index(x, LEVELS[::-1]))[::-1] for x in (codes, read)]
    moved = np.abs(digits[1] - digits[0])
    changed = codes != read
    assert (moved.sum(0)[changed] == 1).all()
    assert changed.mean() == pytest.approx(0.495, abs=0.01), "a replaced code always differs"
    share = moved.mean((1, 2)) / changed.mean()
    np.testing.assert_allclose(share, 1 / 3, atol=0.02)


@pytest.mark.parametrize("given", [0, 4])
def test_growing_shares_and_given_frames(given):
    codes, read = corrupt(CorruptionSettings(0.8, over_time="growing"), given=given)
    share = (codes != read).reshape(CLIPS, 4, 4).mean((0, 2)) * 24 / 23
    expected = 0.4 * np.array([0.25, 0.5, 0.75, 1.0])
    expected[: given // 4] = 0
    np.testing.assert_allclose(share, expected, atol=0.015)
    assert (codes == read)[:, :given].all()


def test_a_given_first_block_is_never_replaced():
    plan = SequencePlan(LatentGrid(4, 2, 2), (1, 2, 2), Opening("prefix"))
    codes, read = corrupt(CorruptionSettings(0.9), plan=plan)
    assert (codes == read)[:, :4].all()
    assert (codes != read)[:, 4:].mean() > 0.3


def test_the_loss_is_that_of_clean_targets_behind_what_was_read():
    params = draw_params(NETWORK, seed=3)
    rng = np.random.default_rng(0)
    codes, read = (rng.integers(0, 12, (4, 8)).astype(np.int32) for _ in range(2))
    prompt = BATCH["label"][:, None]
    run = jax.jit(lambda params: score(NETWORK.bind(params), codes, prompt, read=read))
    loss, _ = run(params)
    logits = reference_logits(NETWORK, params, read + NETWORK.vocabulary.code_offset, prompt)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(logs, codes[..., None], -1).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_a_step_reads_corrupted_codes_and_evaluation_clean_ones():
    settings = CorruptionSettings(0.9)
    task = dataclasses.replace(TASK, corruption=CorruptedContext(settings, NETWORK.plan, 12))
    start = jax.jit(TASK.init)(jax.random.key(0))
    plain, _ = jax.jit(TASK.step)(start, TASK.frozen, BATCH, jax.random.key(0))
    other, _ = jax.jit(task.step)(start, TASK.frozen, BATCH, jax.random.key(0))
    assert not same(plain.params, other.params)
    one, _ = jax.jit(TASK.evaluate)(start.params, TASK.frozen, BATCH)
    two, _ = jax.jit(task.evaluate)(start.params, TASK.frozen, BATCH)
    assert same(one, two)


def test_bits_of_each_place_and_behind_drawn_codes():
    """Against logits of a numpy transformer; the draws have the frequencies of its softmax."""
    params = draw_params(NETWORK, seed=3)
    metrics, grids = jax.jit(TASK.evaluate)(params, TASK.frozen, BATCH)
    codes = np.asarray(grids).swapaxes(2, 3).reshape(4, 8)  # blocks are columns
    ids, prompt = codes + NETWORK.vocabulary.code_offset, BATCH["label"][:, None]
    logits = reference_logits(NETWORK, params, ids, prompt)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    bits = -np.take_along_axis(logs, codes[..., None], -1)[..., 0].mean(0) / math.log(2)
    expected = bits.reshape(2, 2, 2).swapaxes(1, 2)
    np.testing.assert_allclose(metrics["bits_grid"], expected, rtol=1e-4)

    @functools.partial(jax.jit, static_argnames="tokens")
    def draw(params, codes, prompt, key, tokens):
        model = NETWORK.bind(params)
        states = model.hidden_states(codes, prompt)
        return draw_context(model, states, codes, tokens=tokens, key=key)

    repeat = [np.repeat(rows[:1], 20_000, 0) for rows in (codes, prompt)]
    _, drawn = draw(params, *repeat, jax.random.key(5), tokens=4096)
    share = np.stack([np.bincount(column, minlength=12) for column in np.asarray(drawn).T]) / 20_000
    np.testing.assert_allclose(share, np.exp(logs[0]), atol=0.02)

    key = jax.random.key(CORRUPTION)
    _, drawn = draw(params, codes, prompt, key, tokens=TASK.loss_tokens)
    read = np.asarray(drawn) + NETWORK.vocabulary.code_offset
    logits = reference_logits(NETWORK, params, read, prompt)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    behind = -np.take_along_axis(logs, codes[..., None], -1).mean() / math.log(2)
    assert float(metrics["bits_self_drawn"]) == pytest.approx(behind, rel=1e-4)


def test_configurations():
    def load(**keys):
        return load_config(tiny.CONFIG, tiny.OVERRIDES | keys)

    assert load().corruption is None
    config = load(**{"generator.corruption.share": "0.2", "generator.corruption.codes": "near"})
    found = config.corruption
    assert found is not None
    assert found.levels == config.tokenizer.levels
    assert found.count == math.prod(config.tokenizer.levels)
    vq = {"tokenizer.quantizer": "vq", "tokenizer.levels": "()", "tokenizer.codes": "16"}
    vq |= {"tokenizer.code_channels": "4", "generator.corruption.share": "0.2"}
    assert load(**vq).corruption is not None
    with pytest.raises(ConfigError, match=r"generator\.corruption: near codes.*codes=random"):
        load(**vq, **{"generator.corruption.codes": "near"})
    with pytest.raises(ConfigError, match=r"generator\.corruption\.share"):
        load(**{"generator.corruption.share": "1.0"})
