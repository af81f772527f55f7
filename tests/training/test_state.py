# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import optax

from nbp.training.state import compare_leaves, count_parameters, make_state
from nbp.trees import flatten_paths, nest_paths, unnest_paths

PARAMS = {"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, "b": jnp.ones(4)}


def test_flatten_paths_names_every_leaf():
    assert sorted(flatten_paths(PARAMS)) == ["a/bias", "a/kernel", "b"]
    assert count_parameters(PARAMS) == 13


def test_nested_paths_round_trip_through_optimizer_state():
    state = make_state(PARAMS, optax.chain(optax.clip(1.0), optax.adam(1e-3)), with_ema=True)
    nested = nest_paths(state)
    assert isinstance(nested, dict)
    assert set(nested) == {"step", "params", "ema", "opt_state"}  # empty `extra` has no leaves
    back = unnest_paths(nested, state)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(back), strict=True):
        assert one is other


def test_a_bare_leaf_round_trips():
    assert unnest_paths(nest_paths(np.float32(3)), np.float32(0)) == 3


def test_the_average_starts_as_a_copy():
    state = make_state(PARAMS, optax.sgd(1.0), with_ema=True)
    assert state.step.dtype == jnp.int32
    np.testing.assert_array_equal(state.ema["a"]["kernel"], PARAMS["a"]["kernel"])
    assert state.ema["a"]["kernel"] is not PARAMS["a"]["kernel"]
    assert make_state(PARAMS, optax.sgd(1.0)).ema == {}


def test_compare_leaves_names_each_difference():
    saved = {"same": np.zeros(2), "shape": np.zeros(2), "dtype": np.zeros(2, np.float32), "old": 1}
    wanted = {"same": np.zeros(2), "shape": np.zeros(3), "dtype": np.zeros(2, np.int32)}
    wanted["new"] = np.zeros(1)
    assert compare_leaves("model", saved, wanted) == [
        "missing in the checkpoint: model/new",
        "only in the checkpoint: model/old",
        "different: model/shape is float64[2] in the checkpoint, float64[3] here",
        "different: model/dtype is float32[2] in the checkpoint, int32[2] here",
    ]
