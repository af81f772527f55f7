# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters in bfloat16: rounding is unbiased, masters keep every update, averages stay exact."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.training.optimizer import OptimizerSpec, ParamGroup, apply_gradients, make_optimizer
from nbp.training.precision import cast_to_storage, round_stochastically
from nbp.training.state import make_state


def test_stochastic_rounding_gives_a_neighbour_and_the_value_on_average():
    # Between 1 and 1 + 2^-7, the next bfloat16, at a quarter of the way.
    value = np.float32(1 + 2**-9)
    found = np.asarray(round_stochastically(jnp.full(40_000, value), jax.random.key(0)), np.float32)
    assert set(found.tolist()) == {1.0, 1 + 2**-7}
    share = (found > 1).mean()
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / found.size)


def test_what_bfloat16_holds_is_not_moved():
    held = np.array([0.0, -0.0, 1.5, -(2.0**100), np.inf, -np.inf, np.nan], np.float32)
    found = np.asarray(round_stochastically(jnp.asarray(held), jax.random.key(1)), np.float32)
    np.testing.assert_array_equal(found, held)
    assert np.signbit(found[1])
    negative = round_stochastically(jnp.full(1000, -1 - 2**-8), jax.random.key(2))
    assert set(np.asarray(negative, np.float32).tolist()) == {-1.0, -1 - 2**-7}


def make_run(storage, steps=400):
    """Many updates, each far below half of the last digit of 1.0 in bfloat16."""
    groups = (ParamGroup("w", storage=storage, decay=False), ParamGroup("b", decay=False))
    spec = OptimizerSpec(
        1e-4,
        steps=steps,
        schedule="constant",
        clip_norm=0.0,
        groups=groups,
        ema=0.5,
        warmup=0,
        weight_decay=0.0,
    )
    params = {"w": jnp.ones(64), "b": jnp.ones(4)}
    optimizer = make_optimizer(spec, params)
    state = make_state(params, optimizer, with_ema=True)
    kinds = {"w": storage, "b": "float32"}
    state = dataclasses.replace(state, params=cast_to_storage(state.params, kinds))

    @jax.jit
    def step(state):
        gradients = jax.tree.map(jnp.ones_like, state.params)
        return apply_gradients(state, gradients, optimizer=optimizer, spec=spec)[0]

    for _ in range(steps):
        state = step(state)
    return state


@pytest.mark.parametrize("storage", ["float32", "master", "stochastic"])
def test_small_updates_arrive(storage):
    # Adam moves by the learning rate while the gradient does not change: 400 * 1e-4 in all.
    state = make_run(storage)
    w = np.asarray(state.params["w"], np.float32)
    assert state.params["w"].dtype == (jnp.float32 if storage == "float32" else jnp.bfloat16)
    assert state.params["b"].dtype == jnp.float32
    # Rounding at random: 400 steps up to 2^-8 apart leave a deviation of at most 0.04 each.
    np.testing.assert_allclose(w.mean(), 0.96, atol=0.02 if storage == "stochastic" else 0.003)
    np.testing.assert_allclose(state.params["b"], 0.96, atol=1e-4)
    assert state.ema["w"].dtype == jnp.float32
    if storage == "master":
        np.testing.assert_allclose(state.opt_state["master"]["w"], 0.96, atol=1e-4)
        np.testing.assert_array_equal(w, np.float32(jnp.bfloat16(0.96)))
        assert len(jax.tree.leaves(state.opt_state["master"])) == 1, "b needs no copy"


def test_plain_bfloat16_would_lose_them():
    x = jnp.bfloat16(1.0)
    assert x - jnp.bfloat16(1e-4) == x


def test_rounding_repeats_with_the_step():
    one, other = make_run("stochastic", 5), make_run("stochastic", 5)
    np.testing.assert_array_equal(one.params["w"], other.params["w"])
