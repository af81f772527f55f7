# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from nbp.errors import ConfigError
from nbp.training.sharding import (
    check_batch,
    make_mesh,
    make_partition_spec,
    place_batch,
    place_state,
)


def test_the_default_mesh_takes_every_device():
    mesh = make_mesh()
    assert dict(mesh.shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert dict(make_mesh(fsdp=2, tensor=2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert make_mesh(data=3).size == 3


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


def test_partition_specs_follow_the_table():
    assert make_partition_spec(("batch", None)) == PartitionSpec(("data", "fsdp"), None)
    assert make_partition_spec(("layers", "embed")) == PartitionSpec(None, None)
    assert make_partition_spec(("x",), {"x": ("tensor",)}) == PartitionSpec(("tensor",))
    with pytest.raises(ConfigError, match="'colour' has no rule"):
        make_partition_spec(("colour",))
    with pytest.raises(ConfigError, match="use a mesh axis twice"):
        make_partition_spec(("batch", "batch"))


def test_a_batch_is_split_and_a_state_copied():
    mesh = make_mesh(data=4, fsdp=2)
    rows = np.arange(32, dtype=np.float32).reshape(16, 2)
    placed = place_batch({"video": rows, "index": np.arange(16, dtype=np.int64)}, mesh)
    np.testing.assert_array_equal(placed["video"], rows)
    assert {shard.data.shape for shard in placed["video"].addressable_shards} == {(2, 2)}
    assert placed["index"].dtype == np.int32
    state = place_state({"w": rows, "none": {}}, mesh)
    assert state["w"].sharding.is_fully_replicated
    assert len(state["w"].addressable_shards) == 8


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
