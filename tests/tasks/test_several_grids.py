# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""One set of weights that learns clips of several sizes: each update is one of its own grid."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import pytest

from nbp.build import make_generator_task
from nbp.config import load_config
from nbp.parallel.mesh import make_mesh
from nbp.tasks.generator import GeneratorTask
from nbp.trees import flatten_paths
from tests import tiny
from tests.models.toy import draw_params
from tests.parallel.test_sharded_training import compare, take_step

CHANGES = {
    "data.grids": "((3, 16, 24),)",
    "generator.positions": "rotary",
    "generator.opening_blocks": "1",
    "train.generator.optimizer": "adamw",
    "train.generator.learning_rate": "2e-2",
    "train.generator.warmup": "0",
    "train.generator.steps": "200",
    "train.generator.ema": "0",
}
CONFIG = load_config(tiny.CONFIG, {**tiny.OVERRIDES, **CHANGES})
LABELS = [f"class {i}" for i in range(5)]
TASK = make_generator_task(CONFIG, LABELS, {})
STEP = jax.jit(TASK.step)
RNG = np.random.default_rng(0)
CODES = CONFIG.tokenizer.make_quantizer().codes


def make_batch(*grid: int) -> dict[str, Any]:
    codes = RNG.integers(0, CODES, (8, *grid), np.int32)
    return {"codes": codes, "label": np.arange(8, dtype=np.int32) % 5}


BATCHES = {"square": make_batch(3, 4, 4), "wide": make_batch(2, 4, 6)}


def alone(name: str) -> GeneratorTask:
    """A task that knows that grid only, with as many special ids."""
    config = CONFIG.each_grid[list(BATCHES).index(name)]
    ids = dataclasses.replace(config.generator, special_ids=CONFIG.vocabulary(5).special)
    data = dataclasses.replace(config.data, grids=())
    return make_generator_task(dataclasses.replace(config, generator=ids, data=data), LABELS, {})


@pytest.mark.parametrize("name", BATCHES)
def test_a_step_is_one_of_the_grid_of_its_batch(name: str) -> None:
    """Loss, gradients and state are those of a plain run on that grid, and of all parameters."""
    one, batch = alone(name), BATCHES[name]
    shapes = [jax.eval_shape(task.init, jax.random.key(0)) for task in (TASK, one)]
    assert shapes[0] == shapes[1]
    plan = TASK.on_grid(batch).network.plan
    assert (plan.grid.shape, plan) == (batch["codes"].shape[1:], one.network.plan)
    state = dataclasses.replace(
        TASK.init(jax.random.key(0)), params=draw_params(TASK.network, seed=1)
    )
    found, expected = (
        step(state, {}, batch, jax.random.key(3)) for step in (STEP, jax.jit(one.step))
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    touched = flatten_paths(found[0].opt_state)
    moments = {path: leaf for path, leaf in touched.items() if "/mu/" in path}
    assert len(moments) == len(flatten_paths(state.params))
    assert all(np.any(np.asarray(leaf) != 0) for leaf in moments.values())


def test_an_unknown_grid_is_no_batch() -> None:
    with pytest.raises(ValueError, match=r"grid \(2, 4, 4\), of which this task knows no plan"):
        TASK.on_grid(make_batch(2, 4, 4))
    assert alone("wide").on_grid(BATCHES["square"]).network.plan.grid.shape == (2, 4, 6)


def test_both_grids_are_learned() -> None:
    evaluate = jax.jit(lambda *rows: TASK.evaluate(*rows)[0]["bits_per_token"])
    state = TASK.init(jax.random.key(0))
    before = {name: float(evaluate(state.params, {}, rows)) for name, rows in BATCHES.items()}
    rng = np.random.default_rng(1)
    for number in range(160):
        name = list(BATCHES)[rng.integers(2)]
        state, _ = STEP(state, {}, BATCHES[name], jax.random.key(number))
    after = {name: float(evaluate(state.params, {}, rows)) for name, rows in BATCHES.items()}
    for name in BATCHES:
        assert before[name] == pytest.approx(math.log2(CODES), abs=1.0)
        assert after[name] < 0.75 * before[name], (before, after)


def test_a_mesh_computes_what_one_device_computes() -> None:
    params, batch = draw_params(TASK.network, seed=1), BATCHES["wide"]
    expected = take_step(TASK, params, batch, make_mesh(devices=jax.devices()[:1]))
    found = take_step(TASK, params, batch, make_mesh(data=2, fsdp=2, tensor=2))
    compare(found, expected, rtol=1e-4, atol=1e-7)
