# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Every mesh of eight devices computes what one device computes: values and gradients, float32."""

from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from nbp.layout import LatentGrid, Opening
from nbp.models.tokenizer import OFFICIAL_SPEC, TokenizerNetwork, TokenizerSpec
from nbp.nn.attention.reference import prefix_attention
from nbp.nn.conv3d import mixed_conv
from nbp.parallel.mesh import make_mesh, make_state_shardings, place_batch, place_state
from nbp.tasks.generator import GeneratorTask
from nbp.tasks.tokenizer import Objective, TokenizerTask, start_state
from nbp.training.optimizer import OptimizerSpec
from nbp.trees import flatten_paths
from tests.models.toy import draw_params, make_network

MESHES: dict[str, Any] = {
    "data": {"data": 8},
    "fsdp": {"fsdp": 8},
    "tensor": {"data": 2, "tensor": 4},
    "all three": {"data": 2, "fsdp": 2, "tensor": 2},
}
NETWORK = make_network(
    LatentGrid(2, 2, 2),
    (1, 2, 1),
    Opening("hybrid"),
    prompt=1,
    codes=24,
    heads=4,
    attention=prefix_attention,
    dropout=0.1,
)
TASK = GeneratorTask(
    NETWORK,
    TokenizerNetwork(OFFICIAL_SPEC, mixed_conv),  # not used: the batches hold codes
    OptimizerSpec(1e-2, steps=10, warmup=0, weight_decay=0.0),
    frozen={},
    null_probability=0.3,
    loss_tokens=8,
)
RNG = np.random.default_rng(0)
BATCH = {
    "codes": RNG.integers(0, 24, (8, 2, 2, 2), np.int32),
    "label": np.arange(8, dtype=np.int32) % 5,
}


def take_step(task, params, batch, mesh):
    """The state after one update, and its metrics."""
    with jax.set_mesh(mesh):
        start = start_state(params, task.optimizer)
        axes = getattr(task, "axes", None)
        shardings = make_state_shardings(mesh, start, axes)
        step = jax.jit(task.step, out_shardings=(shardings, None))
        placed = place_state(start, mesh, axes)
        return step(placed, {}, place_batch(batch, mesh), jax.random.key(3))


def compare(found, expected, *, rtol=2e-5, atol=2e-8):
    """Metrics, and the first moment of Adam: the gradient of the whole batch times a constant."""
    for key, value in expected[1].items():
        assert float(found[1][key]) == pytest.approx(float(value), rel=1e-5, abs=1e-7), key
    moments = [flatten_paths(state.opt_state[1].mu) for state, _ in (found, expected)]
    for path, leaf in moments[1].items():
        np.testing.assert_allclose(moments[0][path], leaf, rtol=rtol, atol=atol, err_msg=path)


@pytest.fixture(scope="module")
def alone():
    mesh = make_mesh(devices=jax.devices()[:1])
    return take_step(TASK, draw_params(NETWORK, seed=1), BATCH, mesh)


@pytest.mark.parametrize(
    "name",  # all three together have what each has alone
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "all three")) for name in MESHES],
)
def test_an_update_of_the_generator_is_that_of_one_device(name, alone):
    found = take_step(TASK, draw_params(NETWORK, seed=1), BATCH, make_mesh(**MESHES[name]))
    compare(found, alone)


def test_an_update_of_the_tokenizer_is_that_of_one_device():
    network = TokenizerNetwork(
        TokenizerSpec(widths=(8, 8), units=(0, 0), strides=((2, 2, 2),), levels=(4, 6), groups=2),
        mixed_conv,
    )
    task = TokenizerTask(
        network, OptimizerSpec(1e-2, steps=10, warmup=0, weight_decay=0.0), Objective("l2")
    )
    batch = {"video": RNG.integers(0, 256, (8, 3, 4, 4, 3), np.uint8)}
    params = draw_params(network, seed=1)
    alone = take_step(task, params, batch, make_mesh(devices=jax.devices()[:1]))
    found = take_step(task, params, batch, make_mesh(data=2, fsdp=4))
    kernel = found[0].params["encoder"][0]["kernel"]
    assert kernel.sharding.spec == PartitionSpec(None, None, None, None, "fsdp")
    compare(found, alone, rtol=1e-4, atol=1e-7)
