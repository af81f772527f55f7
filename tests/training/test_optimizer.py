# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.errors import ConfigError
from nbp.training.optimizer import (
    OptimizerSpec,
    ParamGroup,
    accumulate_gradients,
    apply_gradients,
    assign_groups,
    average_micro_batches,
    make_optimizer,
    make_schedule,
    update_ema,
)
from nbp.training.state import make_state
from tests.training.toy import ToyStream, ToyTask

PARAMS = {"layer": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])}}
GROUPS = (ParamGroup(".*/kernel"), ParamGroup(".*/bias", decay=False, learning_rate_scale=0.1))


@pytest.mark.parametrize("warmup", [0, 7])
def test_cosine_schedule(warmup):
    spec = OptimizerSpec(0.3, 50, warmup=warmup, final_fraction=0.1, weight_decay=0.0)
    steps = np.arange(60)
    x = np.minimum((steps - warmup) / (50 - warmup), 1.0)
    expected = 0.03 + 0.27 * np.cos(np.pi * x / 2) ** 2  # (1 + cos 2a) / 2 = cos^2 a
    expected[:warmup] = 0.3 * (steps[:warmup] + 1) / max(warmup, 1)
    np.testing.assert_allclose(jax.vmap(make_schedule(spec))(steps), expected, rtol=2e-5)


def test_constant_schedule():
    spec = OptimizerSpec(0.3, 50, warmup=3, schedule="constant", weight_decay=0.0)
    found = [float(make_schedule(spec)(step)) for step in (0, 1, 2, 3, 49, 1000)]
    np.testing.assert_allclose(found, [0.1, 0.2, 0.3, 0.3, 0.3, 0.3], rtol=1e-6)


def adamw_reference(spec, params, gradients):
    """AdamW with clipping in float64 numpy, written from Algorithm 2 of arXiv 1711.05101."""
    params = {name: np.float64(value) for name, value in params.items()}
    m = {name: np.zeros_like(value) for name, value in params.items()}
    v = {name: np.zeros_like(value) for name, value in params.items()}
    for t, gradient in enumerate(gradients, start=1):
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in gradient.values()))
        factor = min(1.0, spec.clip_norm / norm)
        rate = spec.learning_rate * min(t / spec.warmup_steps, 1.0)
        for name, g in gradient.items():
            m[name] = spec.b1 * m[name] + (1 - spec.b1) * g * factor
            v[name] = spec.b2 * v[name] + (1 - spec.b2) * (g * factor) ** 2
            direction = (m[name] / (1 - spec.b1**t)) / (
                np.sqrt(v[name] / (1 - spec.b2**t)) + spec.eps
            )
            decay = spec.weight_decay * params[name] if name == "kernel" else 0.0
            params[name] = params[name] - rate * {"kernel": 1.0, "bias": 0.1}[name] * (
                direction + decay
            )
    return params


def test_updates_equal_a_numpy_adamw():
    spec = OptimizerSpec(
        0.1,
        100,
        warmup=4,
        schedule="constant",
        weight_decay=0.3,
        clip_norm=2.0,
        groups=GROUPS,
    )
    rng = np.random.default_rng(0)
    gradients = [
        {"kernel": rng.normal(size=(1, 2)) * 3, "bias": rng.normal(size=1)} for _ in range(6)
    ]
    optimizer = make_optimizer(spec, PARAMS)
    state = make_state(PARAMS, optimizer)
    for step, gradient in enumerate(gradients):
        tree = {"layer": jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), gradient)}
        state, metrics = apply_gradients(state, tree, optimizer=optimizer, spec=spec)
        norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
        np.testing.assert_allclose(
            metrics["learning_rate"], 0.1 * min((step + 1) / 4, 1), rtol=1e-6
        )
    expected = adamw_reference(spec, PARAMS["layer"], gradients)
    assert int(state.step) == 6
    for name, value in expected.items():
        np.testing.assert_allclose(state.params["layer"][name], value, rtol=1e-4)


@pytest.mark.parametrize("matrix,shape", [("dense", (3, 12, 7)), ("conv", (3, 1, 2, 5, 9))])
def test_muon_moves_matrices_by_their_orthogonal_factor(matrix, shape):
    """Compared with the singular value decomposition of the first gradient."""
    groups = (ParamGroup("kernel", matrix=matrix), ParamGroup("bias", decay=False))
    spec = OptimizerSpec(
        0.01,
        100,
        schedule="constant",
        clip_norm=0.0,
        groups=groups,
        optimizer="muon",
        weight_decay=0.5,
        warmup=0,
    )
    rng = np.random.default_rng(0)
    params = {
        "kernel": jnp.asarray(rng.normal(size=shape), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=9), jnp.float32),
    }
    gradients = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
    optimizer = make_optimizer(spec, params)
    state, _ = apply_gradients(
        make_state(params, optimizer), gradients, optimizer=optimizer, spec=spec
    )

    rows = shape[-2] if matrix == "dense" else int(np.prod(shape[:-1]))
    moved = np.asarray(params["kernel"] - state.params["kernel"]) / 0.01
    moved = (moved - 0.5 * np.asarray(params["kernel"])).reshape(-1, rows, shape[-1])
    raw = np.asarray(gradients["kernel"]).reshape(-1, rows, shape[-1])
    size = 0.2 * max(rows, shape[-1]) ** 0.5
    for update, gradient in zip(moved, raw, strict=True):
        u, _, v = np.linalg.svd(gradient, full_matrices=False)
        values = np.linalg.svd(update, compute_uv=False) / size
        assert values.min() > 0.6  # five Newton-Schulz iterations leave 0.7 to 1.2
        assert values.max() < 1.3
        inner = np.sum(update * (u @ v)) / np.linalg.norm(update) / np.linalg.norm(u @ v)
        assert inner > 0.97
    bias = np.asarray(params["bias"] - state.params["bias"]) / 0.01
    np.testing.assert_array_equal(np.sign(bias), np.sign(gradients["bias"]))
    np.testing.assert_allclose(np.abs(bias), np.abs(bias).mean(), rtol=1e-3)  # Adam's first step


@pytest.mark.parametrize(
    "patterns,message",
    [
        ((".*/kernel",), "in no group: layer/bias"),
        ((".*", ".*/bias"), "in several groups: layer/bias"),
        ((".*", "decoder/.*"), "without parameters: 'decoder/"),
        (("layer",), "in no group: layer/bias, layer/kernel"),
    ],
)
def test_groups_must_cover_the_parameters_once(patterns, message):
    with pytest.raises(ConfigError, match=message):
        assign_groups(tuple(ParamGroup(pattern) for pattern in patterns), PARAMS)


def test_groups_are_assigned_by_path():
    assert assign_groups(GROUPS, PARAMS) == {"layer": {"kernel": 0, "bias": 1}}


def test_ema_equals_a_numpy_recursion():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(30, 3)).astype(np.float32)
    ema, expected = {"a": jnp.asarray(values[0])}, np.float64(values[0])
    for t, value in enumerate(values[1:]):
        ema = update_ema(ema, {"a": jnp.asarray(value)}, decay=0.7, step=jnp.int32(t))
        decay = min(0.7, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * value
    np.testing.assert_allclose(ema["a"], expected, rtol=1e-5)
    assert update_ema({}, {"a": jnp.ones(1)}, decay=0.7, step=jnp.int32(0)) == {}


def quadratic(params, batch, key):
    error = batch["x"] @ params["w"] - batch["y"]
    return jnp.mean(error**2), {"noise": jax.random.uniform(key), "mae": jnp.mean(jnp.abs(error))}


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulated_gradients_equal_the_full_batch(accumulate):
    rng = np.random.default_rng(2)
    batch = {
        "x": rng.normal(size=(8, 3)).astype(np.float32),
        "y": rng.normal(size=8).astype(np.float32),
    }
    params = {"w": jnp.asarray(rng.normal(size=3), jnp.float32)}
    loss, metrics, gradients = accumulate_gradients(
        quadratic, params, batch=batch, key=jax.random.key(0), accumulate=accumulate
    )
    error = batch["x"] @ np.asarray(params["w"]) - batch["y"]
    np.testing.assert_allclose(loss, np.mean(error**2), rtol=1e-5)
    np.testing.assert_allclose(metrics["mae"], np.mean(np.abs(error)), rtol=1e-5)
    np.testing.assert_allclose(gradients["w"], 2 * batch["x"].T @ error / 8, rtol=1e-4)
    noises = [
        jax.random.uniform(jax.random.fold_in(jax.random.key(0), j)) for j in range(accumulate)
    ]
    np.testing.assert_allclose(metrics["noise"], np.mean(noises), rtol=1e-5)


def test_memory_does_not_grow_with_the_number_of_micro_batches():
    params = jnp.ones((64, 512))

    def memory(accumulate: int) -> int:
        def step(x: jax.Array) -> jax.Array:
            def one(rows: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
                return jnp.outer(
                    jnp.tanh(rows["x"] @ params).sum(0), jax.random.normal(key, (512,))
                )

            key = jax.random.key(0)
            return average_micro_batches(one, batch={"x": x}, key=key, accumulate=accumulate)

        rows = jnp.zeros((64 * accumulate, 64))
        analysis = jax.jit(step).lower(rows).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes + analysis.output_size_in_bytes

    tree = 4 * 512 * 512
    few, many = memory(2), memory(16)
    assert few >= tree
    assert many - few < 0.5 * tree, "the rows themselves, not one more tree for each"


def test_accumulation_must_divide_the_batch():
    batch = {"x": np.zeros((6, 3), np.float32), "y": np.zeros(6, np.float32)}
    with pytest.raises(ConfigError, match="4 does not divide the batch of 6"):
        accumulate_gradients(
            quadratic, {"w": jnp.zeros(3)}, batch=batch, key=jax.random.key(0), accumulate=4
        )


def test_a_step_with_accumulation_counts_as_one_update():
    task = ToyTask(accumulate=4)
    state = task.init(jax.random.key(0))
    batch = {name: jnp.asarray(rows) for name, rows in next(ToyStream(0)).items()}
    state, _ = jax.jit(task.step)(state, task.frozen, batch, jax.random.key(1))
    assert int(state.step) == 1
    assert int(state.opt_state[1].count) == 1


@pytest.mark.parametrize(
    "change,message",
    [
        ({"steps": 0}, "steps is 0"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"ema": 1.0}, "ema is 1.0"),
    ],
)
def test_bad_specs_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(OptimizerSpec(0.1, 10, warmup=0, weight_decay=0.0), **change)


def test_joined_matrices_are_orthogonal_together():
    """Query, key and value [d, 3, d] are one matrix [d, 3 d] for Muon, as when stored so."""
    rng = np.random.default_rng(4)
    flat = rng.normal(size=(2, 4, 12)).astype(np.float32)
    found = []
    for shape, group in (
        ((2, 4, 12), ParamGroup("w", matrix="dense")),
        ((2, 4, 3, 4), ParamGroup("w", matrix="joined")),
    ):
        spec = OptimizerSpec(
            1e-2, steps=4, optimizer="muon", groups=(group,), warmup=0, weight_decay=0.0
        )
        params = {"w": jnp.zeros(shape)}
        optimizer = make_optimizer(spec, params)
        gradients = {"w": jnp.asarray(flat.reshape(shape))}
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        found.append(np.asarray(jax.tree.leaves(updates)[0]).reshape(flat.shape))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-8)
    assert np.any(found[0])
