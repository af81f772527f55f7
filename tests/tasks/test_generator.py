# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The generator objective learns, leaves the tokenizer alone, and drops conditions as told."""

import dataclasses
import math

import chex
import jax
import numpy as np
import pytest

from nbp.layout import LatentGrid, Opening
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.conv3d import taps_conv
from nbp.tasks.generator import GeneratorTask
from nbp.training.optimizer import OptimizerSpec
from tests.models.toy import draw_params, make_network, reference_logits

TOKENIZER = TokenizerNetwork(
    TokenizerSpec(widths=(4, 4), units=(0, 0), strides=((2, 2, 2),), levels=(4, 3), groups=2),
    taps_conv,
)
NETWORK = make_network(
    LatentGrid(2, 2, 2),
    (1, 2, 1),
    Opening("hybrid"),
    prompt=1,
    codes=12,
    layers=1,
    dropout=0.1,
)
TASK = GeneratorTask(
    NETWORK,
    TOKENIZER,
    OptimizerSpec(learning_rate=1e-2, steps=100, warmup=0, weight_decay=0.0),
    frozen={"tokenizer": draw_params(TOKENIZER)},
)
ALWAYS_NULL = dataclasses.replace(TASK, null_probability=1.0)
VIDEO = np.random.default_rng(0).integers(0, 256, (4, 3, 4, 4, 3), np.uint8)
BATCH = {"video": VIDEO, "label": np.array([0, 1, 2, 3], np.int32)}
OTHER_LABELS = BATCH | {"label": np.array([4, 4, 0, 1], np.int32)}


@pytest.fixture(scope="module")
def start():
    return jax.jit(TASK.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def step():
    return jax.jit(TASK.step)


def same(one, other) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_a_few_steps_lower_the_loss_and_leave_the_tokenizer(start, step):
    frozen = jax.tree.map(np.array, TASK.frozen)
    state, first = step(start, TASK.frozen, BATCH, jax.random.key(0))
    metrics = first
    for i in range(1, 40):
        state, metrics = step(state, TASK.frozen, BATCH, jax.random.key(i))
    assert float(first["loss"]) == pytest.approx(math.log(12), abs=0.5)
    assert float(metrics["loss"]) < 0.5 * float(first["loss"])
    assert float(metrics["accuracy"]) > float(first["accuracy"])
    assert same(frozen, TASK.frozen)
    # Nothing of the tokenizer is in what the optimizer updates.
    shapes = jax.tree.map(lambda leaf: leaf.shape, state.params)
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, draw_params(NETWORK))
    assert int(state.step) == 40


def test_steps_repeat_by_key(start, step):
    one, metrics = step(start, TASK.frozen, BATCH, jax.random.key(0))
    again, same_metrics = step(start, TASK.frozen, BATCH, jax.random.key(0))
    assert same((one, metrics), (again, same_metrics))
    other, _ = step(start, TASK.frozen, BATCH, jax.random.key(1))
    assert not same(one, other), "dropout draws from the key of the step"


def test_labels_matter_unless_every_condition_is_dropped(start, step):
    labelled, _ = step(start, TASK.frozen, BATCH, jax.random.key(0))
    relabelled, _ = step(start, TASK.frozen, OTHER_LABELS, jax.random.key(0))
    assert not same(labelled, relabelled)
    assert same(labelled.params["null_prompt"], start.params["null_prompt"])
    null_step = jax.jit(ALWAYS_NULL.step)
    null, metrics = null_step(start, TASK.frozen, BATCH, jax.random.key(0))
    assert same((null, metrics), null_step(start, TASK.frozen, OTHER_LABELS, jax.random.key(0)))
    assert not same(null.params["null_prompt"], start.params["null_prompt"])


def test_codes_of_the_batch_replace_the_tokenizer(start, step):
    """The same update from clips and from their codes, as a cache stores them, without it.

    Two programs, of which the compiler need not round the sums alike.
    """
    codes = np.asarray(jax.jit(TOKENIZER.encode)(TASK.frozen["tokenizer"], VIDEO), np.uint16)
    batch = {"codes": codes, "label": BATCH["label"]}
    on_codes, metrics = step(start, {}, batch, jax.random.key(0))
    on_clips, expected = step(start, TASK.frozen, BATCH, jax.random.key(0))
    chex.assert_trees_all_close(on_codes.params, on_clips.params, atol=1e-6)
    assert float(metrics["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-6)


def test_evaluate_measures_the_plain_model():
    params = draw_params(NETWORK, seed=3)
    metrics, grids = jax.jit(TASK.evaluate)(params, TASK.frozen, BATCH)
    assert grids.shape == (4, 2, 2, 2)
    encoded = jax.jit(TOKENIZER.encode)(TASK.frozen["tokenizer"], VIDEO)
    np.testing.assert_array_equal(grids, encoded)
    # Generation order of (1, 2, 1) blocks: columns of each latent frame.
    codes = np.asarray(grids).swapaxes(2, 3).reshape(4, 8)
    ids = codes + NETWORK.vocabulary.code_offset
    logits = reference_logits(NETWORK, params, ids, BATCH["label"][:, None])
    share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    right = np.take_along_axis(share, codes[..., None], -1)
    loss = -np.log(right).mean()
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-4)
    assert float(metrics["bits_per_token"]) == pytest.approx(loss / math.log(2), rel=1e-4)
    rank = (share > right).sum(-1)
    assert float(metrics["accuracy"]) == pytest.approx((rank == 0).mean())
    assert float(metrics["accuracy_top5"]) == pytest.approx((rank < 5).mean())
