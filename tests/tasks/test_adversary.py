# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The adversary: when it learns and is listened to, that it learns, and averages over kinds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.models.discriminator import DiscriminatorNetwork, DiscriminatorSpec
from nbp.nn.conv3d import lax_conv
from nbp.tasks.adversary import Adversary, AdversarySettings, average_kinds
from nbp.training.optimizer import OptimizerSpec
from tests.tasks.test_generator import same

ADVERSARY = Adversary(
    DiscriminatorNetwork(DiscriminatorSpec((8, 16)), lax_conv),
    OptimizerSpec(
        learning_rate=3e-3,
        steps=100,
        schedule="constant",
        b1=0.5,
        b2=0.9,
        warmup=0,
        weight_decay=0.0,
    ),
    AdversarySettings(weight=0.1, regularizer="lecam", regularizer_weight=0.01),
)


def adjust(**changes: int) -> Adversary:
    """The adversary with other settings."""
    settings = dataclasses.replace(ADVERSARY.settings, **changes)
    return dataclasses.replace(ADVERSARY, settings=settings)


@pytest.mark.parametrize(
    "start,warmup,shares,learns",
    [
        (0, 0, (1, 1, 1), (1, 1, 1)),
        (3, 0, (0, 0, 0, 1, 1), (0, 0, 0, 1, 1)),
        (3, 2, (0, 0, 0, 0.5, 1, 1), (0, 1, 1, 1, 1, 1)),
        (0, 4, (0.25, 0.5, 0.75, 1, 1), (1, 1, 1, 1, 1)),
    ],
)
def test_the_discriminator_starts_before_it_is_listened_to(start, warmup, shares, learns):
    adversary = adjust(start=start, warmup=warmup)
    steps = jnp.arange(len(shares))
    np.testing.assert_allclose(jax.vmap(adversary.share)(steps), shares)
    np.testing.assert_array_equal(jax.vmap(adversary.learns)(steps), np.array(learns, bool))


@pytest.fixture(scope="module")
def game():
    """Plays on sharp clips and blurred copies of them, new ones in each update."""

    @jax.jit
    def play(extra, key, step):
        sharp = jax.random.uniform(key, (4, 3, 8, 8, 3))
        blurred = sum(jnp.roll(sharp, shift, axis) for shift in (0, 1) for axis in (2, 3)) / 4
        found = ADVERSARY.play(extra, {"video": sharp}, {"video": blurred}, step=step)
        extra, norm = ADVERSARY.update(extra, found["gradients"], found["means"], step=step)
        return extra, found, norm

    return play


@pytest.mark.slow
def test_the_discriminator_learns_to_tell_blurred_from_sharp(game):
    extra = jax.jit(ADVERSARY.init)(jax.random.key(0))
    history, found = [], {}
    for step in range(100):
        extra, found, norm = game(extra, jax.random.key(step), np.int32(step))
        history.append((float(found["discriminator_accuracy"]), float(found["discriminator_loss"])))
        assert np.isfinite(float(norm))
    (first, first_loss), (last, last_loss) = (
        np.mean(part, 0) for part in (history[:5], history[-10:])
    )
    assert first < 0.65
    assert last > 0.85
    assert last_loss < 0.5 * first_loss
    # What it calls sharp is above 0 on average, and so are the averages of LeCam.
    assert extra["lecam"]["real"] > 0 > extra["lecam"]["fake"]
    # The generator is told to move the logits of its outputs up.
    assert found["loss"] == pytest.approx(-float(found["means"]["fake"]), rel=1e-5)
    assert np.any(found["pixels"]["video"])


def test_before_it_learns_nothing_happens():
    waiting = adjust(start=5, warmup=2)
    extra = jax.jit(waiting.init)(jax.random.key(0))
    clips = {"image": jnp.ones((2, 1, 8, 8, 3))}

    @jax.jit
    def play(extra, step):
        found = waiting.play(extra, clips, clips, step=step)
        return found, *waiting.update(extra, found["gradients"], found["means"], step=step)

    found, after, norm = play(extra, np.int32(2))
    assert same(extra, after)
    assert found["discriminator_accuracy"] == 0.5
    assert (norm, found["loss"], found["discriminator_loss"]) == (0, 0, 0)
    assert not np.any(found["pixels"]["image"])
    _, after, norm = play(extra, np.int32(3))
    assert not same(extra["discriminator"], after["discriminator"])
    assert norm > 0


def test_kinds_are_averaged_by_number():
    first = {"video": np.full((3, 2), 1.0, np.float32), "image": np.full((1, 5), 2.0, np.float32)}
    second = {"video": np.full((3, 2), 0.5, np.float32), "image": np.full((1, 5), 0.0, np.float32)}
    found = average_kinds(lambda a, b: jnp.mean(a - b), first, second)
    np.testing.assert_allclose(found, (3 * 0.5 + 2.0) / 4)
