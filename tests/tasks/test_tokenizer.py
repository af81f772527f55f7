# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The tokenizer objective learns, its measures are what they are called, and both sides of the
adversarial game learn from their own losses alone."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.models.lpips import LpipsNetwork
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.conv3d import lax_conv
from nbp.tasks.tokenizer import (
    Objective,
    TokenizerTask,
)
from nbp.training.optimizer import ParamGroup
from tests.models.toy import random_params
from tests.tasks.test_generator import same
from tests.tasks.toy import KEY, NETWORK, SPEC, TASK, check_close, draw_pixels


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


# Quantizers and perceptual distances --------------------------------------------------------------


@pytest.mark.slow
def test_a_moving_codebook_is_moved_by_its_statistics_alone():
    spec = TokenizerSpec(
        widths=(4,),
        units=(0,),
        strides=(),
        levels=(),
        groups=2,
        quantizer="vq",
        codes=6,
        code_channels=3,
    )
    network = TokenizerNetwork(spec, lax_conv)
    groups = (ParamGroup("(en|de)coder/.*"), ParamGroup("quantizer/.*", learning_rate_scale=0.0))
    optimizer = dataclasses.replace(SPEC, ema=0.9, weight_decay=0.1, groups=groups)
    task = TokenizerTask(network, optimizer, Objective("l2", quantizer_weight=0.5))
    start = jax.jit(task.init)(KEY)
    batch = {"video": draw_pixels(1, 2, 8, 8), "image": draw_pixels(3, 1, 8, 8)}
    after, metrics = jax.jit(task.step)(start, {}, batch, KEY)

    @jax.jit
    def look(params):
        model = network.bind(params)
        return [model.reconstruct(batch[k].astype(np.float32) / 255) for k in ("video", "image")]

    clips, images = look(start.params)
    # One clip of two frames beside three images: 2 of 5 frames, 1 of 4 samples.
    statistics = jax.tree.map(lambda c, i: 0.4 * c + 0.6 * i, clips.statistics, images.statistics)
    moved = spec.make_quantizer().update(start.params["quantizer"], statistics)
    check_close(after.params["quantizer"], moved, 1e-4)
    assert not same(after.params["quantizer"], start.params["quantizer"])
    assert same(after.ema["quantizer"], after.params["quantizer"])
    assert not same(after.ema["encoder"], after.params["encoder"])
    penalty = 0.25 * clips.penalty + 0.75 * images.penalty
    assert metrics["quantizer"] == pytest.approx(float(penalty), rel=1e-4)
    assert metrics["loss"] == pytest.approx(
        float(metrics["reconstruction"] + 0.5 * penalty), rel=1e-4
    )
    assert {"commitment", "dead_codes"} <= metrics.keys()
    codes = np.concatenate([np.ravel(clips.codes), np.ravel(images.codes)])
    assert metrics["code_usage"] == pytest.approx(len(np.unique(codes)) / 6)


def test_lpips_is_differentiated_through_its_features(monkeypatch):
    """In float64 along a random direction; the weights come as frozen arrays."""
    network = LpipsNetwork(((4,), (6,), (8,)))
    monkeypatch.setattr("nbp.tasks.tokenizer.LpipsNetwork", lambda: network)
    with jax.enable_x64(True):
        shapes = jax.eval_shape(network.init, KEY)
        rng = np.random.default_rng(5)
        weights = jax.tree.map(lambda x: x.astype(jnp.float64), random_params(shapes))
        heads = {i: jnp.full(x.shape, 1.0 / x.size) for i, x in weights["heads"].items()}
        frozen = {"lpips": {**weights, "heads": heads}}
        pixels, start, way = (
            {"image": jnp.asarray(rng.random((2, 1, 16, 16, 3)))} for _ in range(3)
        )
        objective = Objective("l2", perceptual="lpips", perceptual_weight=3.0)

        @jax.jit
        def along(amount, frozen):
            output = {"image": start["image"] + amount * way["image"]}
            return objective.compare(output, pixels, frozen)

        step = 1e-6
        (up, _), (down, _) = along(step, frozen), along(-step, frozen)
        total, measures = along(0.0, frozen)
        slope = jax.jit(jax.grad(lambda amount: along(amount, frozen)[0]))(0.0)
        np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-5)
        parts = measures["reconstruction"] + 3.0 * measures["perceptual"]
        np.testing.assert_allclose(total, parts, rtol=1e-6)
        assert measures["perceptual"] > 0
