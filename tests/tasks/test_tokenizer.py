# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The tokenizer objective learns, and its measures are what they are called."""

import math

import jax
import numpy as np
import pytest

from nbp import losses
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.conv3d import taps_conv
from nbp.tasks.tokenizer import Objective, TokenizerTask
from nbp.training.optimizer import OptimizerSpec

NETWORK = TokenizerNetwork(
    TokenizerSpec(widths=(4, 8), units=(1, 0), strides=((2, 2, 2),), levels=(4, 4, 4), groups=2),
    taps_conv,
)
SPEC = OptimizerSpec(learning_rate=1e-2, total_steps=100)
TASK = TokenizerTask(NETWORK, SPEC, Objective(losses.l2))


def make_clips() -> np.ndarray:
    """Two flat colours per clip: easy to learn, not constant."""
    colours = np.random.default_rng(0).integers(0, 256, (4, 1, 2, 1, 3), np.uint8)
    return np.broadcast_to(np.repeat(colours, 4, axis=2), (4, 3, 8, 8, 3)).copy()


@pytest.fixture(scope="module")
def trained():
    batch = {"video": make_clips(), "label": np.zeros(4, np.int32)}
    start = jax.jit(TASK.init)(jax.random.key(0))
    step = jax.jit(TASK.step)
    state, history = start, []
    for i in range(30):
        state, metrics = step(state, TASK.frozen, batch, jax.random.key(i))
        history.append({name: float(value) for name, value in metrics.items()})
    return start, state, history, batch


def test_a_few_steps_lower_the_loss(trained):
    start, state, history, _ = trained
    assert history[-1]["loss"] < 0.4 * history[0]["loss"]
    assert history[-1]["psnr"] > history[0]["psnr"] + 3
    assert (int(start.step), int(state.step)) == (0, 30)
    before, after = (jax.tree_util.tree_leaves_with_path(s.params) for s in (start, state))
    for (path, one), (_, other) in zip(before, after, strict=True):
        assert np.any(one != other), jax.tree_util.keystr(path)


def test_measures(trained):
    start, _, history, batch = trained
    found = jax.jit(NETWORK.bind(start.params).reconstruct)(batch["video"].astype(np.float32) / 255)
    pixels = batch["video"].astype(np.float64) / 255
    output, codes = np.asarray(found.output).astype(np.float64), found.codes
    first = history[0]
    assert first["loss"] == pytest.approx(((output - pixels) ** 2).mean(), rel=1e-4)
    mse = ((output.clip(0, 1) - pixels) ** 2).mean()
    assert first["psnr"] == pytest.approx(-10 * math.log10(mse), rel=1e-4)
    share = np.bincount(np.ravel(codes), minlength=64) / codes.size
    assert first["code_usage"] == pytest.approx((share > 0).mean())
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    assert first["code_perplexity"] == pytest.approx(math.exp(entropy), rel=1e-4)
    assert first["grad_norm"] > 0
    assert TASK.frozen == {}
    assert TASK.name == "tokenizer"
