# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Clips whose label changes: what was before the change is read, and predicted by no one."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from nbp.layout import LatentGrid, Opening
from nbp.models.heads import HeadSpec, JointHeadSettings
from nbp.tasks.draft import DraftObjective
from nbp.tasks.generator import GeneratorTask
from tests.models.toy import draw_params, make_network
from tests.tasks.test_generator import BATCH, TASK, TOKENIZER

HEADS: dict[str, HeadSpec | None] = {
    "vocabulary": None,
    "digits": HeadSpec((4, 3)),
    "joint": HeadSpec((4, 3), JointHeadSettings(layers=1, width=8, heads=2)),
}
# Clips of 3 frames have latent frames that begin at frames 0 and 1.
CHANGED = BATCH | {"label_from": np.array([0, 1, 0, 1], np.int32)}
KEY = jax.random.key(0)


def make_task(head: HeadSpec | None = None, **options: Any) -> GeneratorTask:
    network = make_network(
        LatentGrid(2, 2, 2), (1, 2, 1), Opening("bov"), prompt=1, codes=12, head=head, **options
    )
    return dataclasses.replace(TASK, network=network)


@pytest.mark.parametrize("head", HEADS)
def test_the_loss_is_the_mean_over_what_the_label_describes(head):
    task = make_task(HEADS[head])
    network, params = task.network, draw_params(task.network, seed=1)
    loss, metrics = jax.jit(task.loss)(params, task.frozen, CHANGED, KEY)

    codes = network.to_sequence(jax.jit(TOKENIZER.encode)(task.frozen["tokenizer"], BATCH["video"]))
    model = network.bind(params)
    states = model.hidden_states(codes, BATCH["label"][:, None])
    nats = np.asarray(model.head.nats(states, model.targets(codes), plan=network.plan, tokens=64))
    assert nats.shape == (4, 8)
    kept = [nats[0], nats[1, 4:], nats[2], nats[3, 4:]]
    mean = float(np.concatenate(kept).mean())
    assert float(loss) == pytest.approx(mean, rel=1e-5)
    assert float(metrics["bits_per_token"]) == pytest.approx(mean / np.log(2), rel=1e-5)
    assert mean != pytest.approx(float(nats.mean()), rel=1e-3)


@pytest.mark.parametrize("head", HEADS)
def test_clips_of_one_label_are_learned_as_ever(head):
    task = make_task(HEADS[head])
    params = draw_params(task.network, seed=1)
    one_label = BATCH | {"label_from": np.zeros(4, np.int32)}
    loss, metrics = jax.jit(task.loss)(params, task.frozen, one_label, KEY)
    plain, expected = jax.jit(task.loss)(params, task.frozen, BATCH, KEY)
    assert float(loss) == pytest.approx(float(plain), rel=1e-6)
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(float(value), rel=1e-6), name


def test_frames_before_the_change_are_read():
    """Their codes move the loss of those behind it."""
    task = make_task()
    params = draw_params(task.network, seed=1)
    video = np.array(BATCH["video"])
    video[:, 0] = 255 - video[:, 0]
    since = {"label_from": np.ones(4, np.int32)}
    losses = [
        float(task.loss(params, task.frozen, BATCH | since | {"video": each}, KEY)[0])
        for each in (BATCH["video"], video)
    ]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_drafts_count_no_token_of_another_label():
    task = make_task(draft=True)
    task = dataclasses.replace(task, draft=DraftObjective())
    params = draw_params(task.network, seed=1)
    weights = np.asarray(task.weigh_tokens(CHANGED))
    np.testing.assert_array_equal(weights, [[1] * 8, [0] * 4 + [1] * 4] * 2)
    loss, metrics = task.loss(params, task.frozen, CHANGED, KEY)
    plain, _ = task.loss(params, task.frozen, BATCH, KEY)
    assert np.isfinite(float(loss))
    assert float(loss) != pytest.approx(float(plain), rel=1e-4)
    assert all(np.isfinite(float(value)) for value in metrics.values())


def test_a_clip_without_any_token_of_its_label_teaches_nothing():
    task = make_task()
    state = task.init(KEY)
    nothing = BATCH | {"label_from": np.full(4, 2, np.int32)}
    gradients = jax.grad(lambda params: task.loss(params, task.frozen, nothing, KEY)[0])(
        state.params
    )
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients))


def test_without_a_condition_every_token_counts():
    task = dataclasses.replace(
        TASK, network=make_network(LatentGrid(2, 2, 2), (1, 2, 1), Opening("bov"), codes=12)
    )
    assert task.weigh_tokens(CHANGED) is None
    assert TASK.weigh_tokens(BATCH) is None
