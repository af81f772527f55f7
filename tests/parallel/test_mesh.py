# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0

from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from nbp.errors import ConfigError
from nbp.parallel.mesh import (
    check_batch,
    describe_placement,
    make_mesh,
    make_state_shardings,
    measure_bytes,
    place_batch,
    place_state,
)
from nbp.training.optimizer import OptimizerSpec, make_optimizer
from nbp.training.state import make_state
from nbp.trees import flatten_paths


def test_the_default_mesh_takes_every_device():
    mesh = make_mesh()
    assert dict(mesh.shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert dict(make_mesh(fsdp=2, tensor=2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert make_mesh(data=3).size == 3


def test_a_slice_whose_axes_have_to_be_cut(monkeypatch):
    """As 8x8 chips for 32 x 2 devices: JAX refuses unless it may split an axis of the slice."""

    monkeypatch.setattr(jax, "make_mesh", Mock(side_effect=NotImplementedError))
    mesh = make_mesh(data=1, fsdp=4, tensor=2)
    assert dict(mesh.shape) == {"data": 1, "fsdp": 4, "tensor": 2}
    assert len({device.id for device in mesh.devices.flat}) == 8


@pytest.mark.parametrize(
    "sizes,message",
    [
        ({"fsdp": 3}, "= 3 does not divide the 8 devices"),
        ({"data": 16}, "needs 16 devices, 8 are here"),
        ({"data": 0}, "sizes of 1 or more"),
    ],
)
def test_impossible_meshes_are_refused(sizes, message):
    with pytest.raises(ConfigError, match=message):
        make_mesh(**sizes)


def test_a_batch_is_split_and_a_state_lies_in_pieces():
    mesh = make_mesh(data=4, fsdp=2)
    rows = np.arange(32, dtype=np.float32).reshape(16, 2)
    placed = place_batch({"video": rows, "index": np.arange(16, dtype=np.int64)}, mesh)
    np.testing.assert_array_equal(placed["video"], rows)
    assert {shard.data.shape for shard in placed["video"].addressable_shards} == {(2, 2)}
    assert placed["index"].dtype == np.int32
    state = place_state({"w": rows, "b": rows[0], "none": {}}, mesh)
    assert {shard.data.shape for shard in state["w"].addressable_shards} == {(8, 2)}  # fsdp alone
    assert len(state["w"].addressable_shards) == 8
    assert state["b"].sharding.is_fully_replicated
    np.testing.assert_array_equal(state["w"], rows)


def test_an_indivisible_batch_is_refused_with_a_remedy():
    check_batch(12, make_mesh(data=4))
    message = "batch of 12 clips.*8 devices.*multiple of 8.*mesh.data"
    with pytest.raises(ConfigError, match=message):
        check_batch(12, make_mesh())
    with pytest.raises(ConfigError, match=message):
        place_batch({"video": np.zeros((12, 1))}, make_mesh())
    with pytest.raises(ConfigError, match="batch of 12 images"):
        place_batch({"video": np.zeros((16, 1)), "image": np.zeros((12, 1))}, make_mesh())


def test_conftest_gives_eight_devices():
    assert jax.device_count() == 8


AXES = {"block/kernel": ("layers", "embed", "mlp"), "block/bias": ("layers", "mlp")}


def make_toy_state(kernel=(3, 16, 8)):
    spec = OptimizerSpec(1e-3, steps=10, ema=0.9, warmup=0, weight_decay=0.0)
    params = {
        "block": {"kernel": jnp.ones(kernel), "bias": jnp.ones((3, 8))},
        "other": {"kernel": jnp.ones((3, 24)), "bias": jnp.ones(24)},
    }
    extra = {"critic": jnp.ones((32, 7))}
    return make_state(params, make_optimizer(spec, params), with_ema=True, extra=extra)


def test_average_and_optimizer_lie_where_their_parameter_lies():
    mesh = make_mesh(fsdp=4, tensor=2)
    state = make_toy_state()
    shardings = flatten_paths(make_state_shardings(mesh, state, AXES))
    specs = {path: sharding.spec for path, sharding in shardings.items()}
    for prefix in ("params", "ema", "opt_state/1/mu", "opt_state/1/nu"):
        assert specs[f"{prefix}/block/kernel"] == PartitionSpec(None, "fsdp", "tensor")
        assert specs[f"{prefix}/block/bias"] == PartitionSpec(None, "tensor")
        assert specs[f"{prefix}/other/kernel"] == PartitionSpec(None, "fsdp")  # unnamed: largest
        assert specs[f"{prefix}/other/bias"] == PartitionSpec(None)
    assert specs["extra/critic"] == PartitionSpec("fsdp", None)
    assert specs["step"] == specs["opt_state/1/count"] == PartitionSpec()
    placed = place_state(state, mesh, AXES)
    kernel = placed.opt_state[1].mu["block"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(3, 4, 4)}
    assert measure_bytes(placed.params["block"]) == 4 * (3 * 4 * 4 + 3 * 4)


def test_an_indivisible_parameter_is_named():
    with pytest.raises(ConfigError, match=r"params/block/kernel: axis 'embed' of size 12.*fsdp 8"):
        make_state_shardings(make_mesh(fsdp=8), make_toy_state((3, 12, 8)), AXES)


def test_the_log_says_what_the_mesh_means():
    mesh = make_mesh(data=2, fsdp=4)
    lines = describe_placement(
        mesh, place_state(make_toy_state(), mesh, AXES), global_batch=64, accumulate=2
    )
    assert lines[0] == (
        "mesh data 2 x fsdp 4 x tensor 1: batch over data x fsdp, embed over fsdp, "
        "largest over fsdp"
    )
    assert lines[1].startswith("a batch of 64 clips is 4 a device in 2 micro-batches; MiB a device")
    assert "parameters 0.0, average 0.0, optimizer 0.0" in lines[1]
    alone = make_mesh(devices=jax.devices()[:1])
    (first, _) = describe_placement(alone, place_state(make_toy_state(), alone), global_batch=8)
    assert first.endswith("nothing is split")
