# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Both sides of the adversarial game learn from their own losses alone, on any mesh."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nbp import losses
from nbp.models.discriminator import DiscriminatorNetwork, DiscriminatorSpec
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.conv3d import lax_conv
from nbp.parallel.mesh import make_mesh, place_batch, place_state
from nbp.tasks.adversary import Adversary, AdversarySettings
from nbp.tasks.tokenizer import (
    Objective,
    TokenizerTask,
    last_kernel,
)
from nbp.training.optimizer import OptimizerSpec, update_ema
from nbp.training.state import TrainState
from tests.tasks.test_generator import same
from tests.tasks.toy import KEY, SPEC, TASK, check_close, draw_pixels

# Against an adversary ----------------------------------------------------------------------------

SMALL = TokenizerNetwork(
    TokenizerSpec(widths=(4,), units=(0,), strides=(), levels=(4, 4, 4), groups=2), lax_conv
)
DISCRIMINATOR = DiscriminatorNetwork(DiscriminatorSpec((4,)), lax_conv)
DISCRIMINATOR_SPEC = OptimizerSpec(
    learning_rate=1e-2, steps=100, b1=0.5, b2=0.9, clip_norm=0.0, warmup=0, weight_decay=0.0
)
# The discriminator learns from step 1 on, the tokenizer listens from step 3 on, fully from 4 on.
ADVERSARY = Adversary(
    DISCRIMINATOR,
    DISCRIMINATOR_SPEC,
    AdversarySettings(weight=0.3, start=3, warmup=2, regularizer="lecam", regularizer_weight=0.1),
)
GAME = TokenizerTask(
    SMALL,
    dataclasses.replace(SPEC, clip_norm=0.0, ema=0.5),
    Objective("l1", perceptual="structure", reconstruction_weight=2.0, perceptual_weight=0.5),
    ADVERSARY,
)
WAITING, LEARNING, LISTENING = 0, 2, 3  # steps


@dataclasses.dataclass
class Played:
    step: Callable[..., Any]
    states: list[TrainState]
    metrics: list[dict[str, float]]
    traces: list[int]


BATCH = {"video": draw_pixels(3, 3, 8, 8), "image": draw_pixels(1, 1, 8, 8)}


@pytest.fixture(scope="module")
def played():
    """Six updates: the state before each of them, and what each reported."""
    traces = []

    @jax.jit
    def step(state, batch, key):
        traces.append(1)
        return GAME.step(state, GAME.frozen, batch, key)

    states, metrics = [jax.jit(GAME.init)(KEY)], []
    for _ in range(6):
        state, measured = step(states[-1], BATCH, KEY)
        states.append(state)
        metrics.append({name: float(value) for name, value in measured.items()})
    return Played(step, states, metrics, traces)


def test_one_program_before_and_after_the_start(played):
    assert len(played.traces) == 1
    weights = [measured["adversarial_weight"] for measured in played.metrics]
    assert weights[:3] == [0, 0, 0]
    assert min(weights[3:]) > 0
    accuracies = [measured["discriminator_accuracy"] for measured in played.metrics]
    assert accuracies[WAITING] == 0.5
    assert played.metrics[WAITING]["discriminator_grad_norm"] == 0
    assert same(played.states[0].extra, played.states[1].extra)
    for before, after in zip(played.states[1:], played.states[2:], strict=False):
        assert not same(before.extra["discriminator"], after.extra["discriminator"])
        assert not same(before.extra["lecam"], after.extra["lecam"])


def test_each_side_changes_only_its_own_parameters(played):
    """Bit for bit: what one side has become does not matter to the other, but through outputs."""
    other = played.states[6].extra["discriminator"]
    state = played.states[LEARNING]
    swapped = dataclasses.replace(state, extra={**state.extra, "discriminator": other})
    usual, _ = played.step(state, BATCH, KEY)
    changed, _ = played.step(swapped, BATCH, KEY)
    assert same(usual.params, changed.params), "not listening yet"
    assert same(usual.opt_state, changed.opt_state)
    assert not same(usual.extra["discriminator"], changed.extra["discriminator"])

    state = played.states[LISTENING]
    swapped = dataclasses.replace(state, extra={**state.extra, "discriminator": other})
    usual, _ = played.step(state, BATCH, KEY)
    changed, _ = played.step(swapped, BATCH, KEY)
    assert not same(usual.params, changed.params), "listening"
    # The same clips and outputs, but another optimizer of the tokenizer.
    tired = dataclasses.replace(state, opt_state=jax.tree.map(jnp.zeros_like, state.opt_state))
    changed, _ = played.step(tired, BATCH, KEY)
    assert not same(usual.params, changed.params)
    assert same(usual.extra, changed.extra)


def gradients_of(before, after, b1):
    """What an Adam without clipping was given, from its moving averages."""
    old, new = (optax.tree.get(state, "mu") for state in (before, after))
    return jax.tree.map(lambda o, n: (n - b1 * o) / (1 - b1), old, new)


@pytest.fixture(scope="module")
def reference(played):
    """The gradients of every term for all parameters of both sides, one by one."""
    state = played.states[LISTENING]
    real = {kind: rows.astype(np.float32) / 255 for kind, rows in BATCH.items()}

    def run(params, discriminator):
        outputs = {k: SMALL.bind(params).reconstruct(x).output for k, x in real.items()}
        judge = DISCRIMINATOR.bind(discriminator)
        return outputs, {k: judge(x) for k, x in real.items()}, {k: judge(outputs[k]) for k in real}

    def mean(function, *parts):  # three clips, one image
        return 0.75 * function(*(p["video"] for p in parts)) + 0.25 * function(
            *(p["image"] for p in parts)
        )

    def terms(params, discriminator):
        outputs, on_real, on_fake = run(params, discriminator)
        lecam = state.extra["lecam"]
        return {
            "reconstruction": mean(lambda a, b: jnp.abs(a - b).mean(), outputs, real),
            "perceptual": mean(losses.structure, outputs, real),
            "adversarial": -mean(jnp.mean, on_fake),
            "discriminator_loss": mean(
                lambda r, f: (jnp.maximum(0, 1 - r).mean() + jnp.maximum(0, 1 + f).mean()) / 2,
                on_real,
                on_fake,
            ),
            "lecam": mean(lambda r, f: losses.lecam(r, f, lecam), on_real, on_fake),
            "discriminator_accuracy": mean(
                lambda r, f: 0.5 * jnp.mean(r > 0) + 0.5 * jnp.mean(f < 0), on_real, on_fake
            ),
        }

    pair = (state.params, state.extra["discriminator"])
    values = jax.jit(terms)(*pair)
    return values, jax.jit(jax.jacrev(terms, argnums=(0, 1)))(*pair)


def test_both_updates_follow_their_own_losses(played, reference):
    values, slopes = reference
    state, metrics = played.states[LISTENING], played.metrics[LISTENING]
    after = played.states[LISTENING + 1]
    compared = jax.tree.map(
        lambda r, p: 2.0 * r + 0.5 * p, slopes["reconstruction"][0], slopes["perceptual"][0]
    )
    adversarial = slopes["adversarial"][0]
    # 0.3, halfway through the warm-up, times the ratio of lengths at the last layer.
    lengths = [np.linalg.norm(np.ravel(last_kernel(tree))) for tree in (compared, adversarial)]
    weight = 0.3 * 0.5 * lengths[0] / lengths[1]
    assert metrics["adversarial_weight"] == pytest.approx(weight, rel=1e-3)
    expected = jax.tree.map(lambda c, a: c + weight * a, compared, adversarial)
    check_close(gradients_of(state.opt_state, after.opt_state, 0.9), expected, 1e-3)
    assert metrics["grad_norm"] == pytest.approx(float(optax.tree.norm(expected)), rel=1e-3)

    expected = jax.tree.map(
        lambda d, r: d + 0.1 * r, slopes["discriminator_loss"][1], slopes["lecam"][1]
    )
    found = gradients_of(state.extra["opt_state"], after.extra["opt_state"], 0.5)
    check_close(found, expected, 1e-3)
    norm = float(optax.tree.norm(expected))
    assert metrics["discriminator_grad_norm"] == pytest.approx(norm, rel=1e-3)

    for name in values.keys() - {"lecam"}:
        assert metrics[name] == pytest.approx(float(values[name]), rel=1e-4, abs=1e-6), name
    total = 2.0 * values["reconstruction"] + 0.5 * values["perceptual"]
    total += weight * values["adversarial"]
    assert metrics["loss"] == pytest.approx(float(total), rel=1e-3)


def test_a_softened_adversary_weighs_half(played):
    state = played.states[LISTENING]
    softened = GAME.soften(state, 0.5)
    assert GAME.soften(softened, 0.5).extra["scale"] == 0.25
    after, metrics = played.step(softened, BATCH, KEY)
    usual = played.metrics[LISTENING]
    assert metrics["adversarial_weight"] == pytest.approx(usual["adversarial_weight"] / 2)
    assert after.extra["scale"] == 0.5
    expected = played.states[LISTENING + 1]
    assert same(after.extra["discriminator"], expected.extra["discriminator"])
    assert not same(after.params, expected.params)
    plain = jax.eval_shape(TASK.init, KEY)
    assert TASK.soften(plain, 0.5) is plain


def test_the_average_follows_the_tokenizer_alone(played):
    before, after = played.states[LISTENING : LISTENING + 2]
    expected = update_ema(before.ema, after.params, decay=0.5, step=before.step)
    check_close(after.ema, expected, 1e-5)
    assert jax.tree.structure(after.ema) == jax.tree.structure(after.params)


def test_the_adaptive_weight_takes_no_second_backward_pass():
    """The update has hardly more to compute with it than without, even before it is compiled."""
    state, batch = jax.eval_shape(GAME.init, KEY), {"video": draw_pixels(2, 3, 8, 8)}

    def count(adaptive: bool) -> float:
        adversary = Adversary(
            DISCRIMINATOR,
            DISCRIMINATOR_SPEC,
            dataclasses.replace(ADVERSARY.settings, adaptive=adaptive),
        )
        step = dataclasses.replace(GAME, objective=TASK.objective, adversary=adversary).step
        costs = jax.jit(step).lower(state, {}, batch, KEY).cost_analysis()
        assert costs is not None
        return costs["flops"]

    without = count(False)
    assert without < count(True) < 1.1 * without


# Micro-batches, devices and narrow types ----------------------------------------------------------

IMAGES = {"image": draw_pixels(16, 1, 8, 8)}
LINEAR_ADVERSARY = Adversary(
    DISCRIMINATOR,
    DISCRIMINATOR_SPEC,
    AdversarySettings(
        weight=0.3,
        objective="non_saturating",
        adaptive=False,
        regularizer="r1",
        regularizer_weight=0.1,
    ),
)
LINEAR = dataclasses.replace(GAME, objective=Objective("charbonnier"), adversary=LINEAR_ADVERSARY)


@pytest.fixture(scope="module")
def linear():
    """One update from the whole batch on one device."""
    start = jax.jit(LINEAR.init)(KEY)
    after, metrics = jax.jit(LINEAR.step)(start, {}, IMAGES, KEY)
    return start, after, metrics


def test_micro_batches_on_several_devices_give_the_same_update(linear):
    start, expected, metrics = linear
    halves = dataclasses.replace(LINEAR.optimizer, accumulate=2)
    task = dataclasses.replace(LINEAR, optimizer=halves)
    mesh = make_mesh()
    assert mesh.size == 8
    with jax.set_mesh(mesh):
        found, measured = jax.jit(task.step)(
            place_state(start, mesh), {}, place_batch(IMAGES, mesh), KEY
        )
    for one, other in (
        (found.opt_state, expected.opt_state),
        (found.extra["opt_state"], expected.extra["opt_state"]),
        (found.extra["lecam"], expected.extra["lecam"]),
        (measured, metrics),
    ):
        check_close(one, other, 1e-3)


def test_bfloat16_leaves_losses_and_parameters_wide(linear):
    start, _, expected = linear
    network = dataclasses.replace(SMALL, spec=dataclasses.replace(SMALL.spec, dtype="bfloat16"))
    narrow = DiscriminatorNetwork(DiscriminatorSpec((4,), dtype=jnp.bfloat16), lax_conv)
    adversary = dataclasses.replace(LINEAR_ADVERSARY, network=narrow)
    task = dataclasses.replace(LINEAR, network=network, adversary=adversary)
    after, metrics = jax.jit(task.step)(start, {}, IMAGES, KEY)
    assert {value.dtype for value in metrics.values()} == {jnp.dtype("float32")}
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, start)
    for name in ("loss", "reconstruction", "adversarial", "discriminator_loss"):
        assert float(metrics[name]) == pytest.approx(float(expected[name]), rel=0.03)
        assert float(metrics[name]) != float(expected[name])
