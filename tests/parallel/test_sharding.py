# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Names of axes: what the table makes of them, and what parameters and gradients become."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from nbp.errors import ConfigError
from nbp.parallel.mesh import make_mesh
from nbp.parallel.sharding import (
    RULES,
    check_axes,
    constrain,
    gather,
    gather_all,
    make_partition_spec,
    mesh_sizes,
    name_axes,
    split_call,
)

SIZES = {"data": 2, "fsdp": 4, "tensor": 1}


def test_partition_specs_follow_the_table():
    assert make_partition_spec(("batch", None)) == PartitionSpec(("data", "fsdp"), None)
    assert make_partition_spec(("layers", "embed", "mlp")) == PartitionSpec(None, "fsdp", "tensor")
    assert make_partition_spec(("x",), {"x": ("tensor",)}) == PartitionSpec(("tensor",))
    with pytest.raises(ConfigError, match="'colour' has no rule"):
        make_partition_spec(("colour",))
    with pytest.raises(ConfigError, match="use a mesh axis twice"):
        make_partition_spec(("batch", "embed"))


def test_no_parameter_axis_is_split_twice_by_the_table():
    assert all(len(set(over)) == len(over) for over in RULES.values())


def test_indivisible_axes_are_refused_with_a_remedy():
    check_axes((8, 6), ("embed", "mlp"), SIZES)
    with pytest.raises(ConfigError, match=r"head: axis 'embed' of size 6.*mesh.fsdp 4.*divisor"):
        check_axes((6, 6), ("embed", None), SIZES, name="head")
    with pytest.raises(ConfigError, match=r"'batch' of size 4.*mesh.data 2 \* mesh.fsdp 4"):
        check_axes((4,), ("batch",), SIZES)
    with pytest.raises(ConfigError, match="1 named axes"):
        check_axes((8, 8), ("embed",), SIZES)


def test_parameters_without_names_are_split_along_their_largest_axis():
    assert name_axes((3, 3, 3, 8, 16), SIZES) == (None, None, None, None, "largest")
    assert name_axes((16, 16), SIZES) == (None, "largest")
    assert name_axes((12, 6), SIZES) == ("largest", None)
    for shape in ((64,), (), (3, 6)):  # vectors, scalars and what nothing divides stay whole
        assert name_axes(shape, SIZES) == (None,) * len(shape)
    assert name_axes((16, 16), SIZES | {"fsdp": 1}) == (None, None)


def test_without_a_mesh_nothing_happens():
    x = jnp.ones((3, 5))
    assert mesh_sizes() == {}
    assert constrain(x, ("batch", None)) is x
    assert gather(x, (None, "embed"), jnp.bfloat16).dtype == jnp.bfloat16
    assert gather(x, (None, None), jnp.bfloat16).dtype == jnp.float32


def test_activations_stay_where_the_table_says():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    with jax.set_mesh(mesh):
        split = jax.jit(lambda x: constrain(x * 2, ("batch", None, "heads")))(jnp.ones((8, 3, 4)))
        few = jax.jit(lambda x: constrain(x * 2, ("batch", None, "heads")))(jnp.ones((3, 3, 4)))
        with pytest.raises(ConfigError, match="'heads' of size 3"):
            constrain(jnp.ones((8, 3)), ("batch", "heads"))
    assert {shard.data.shape for shard in split.addressable_shards} == {(2, 3, 2)}
    assert {shard.data.shape for shard in few.addressable_shards} == {(3, 3, 2)}


def test_a_call_is_divided_as_the_table_says():
    shapes = []

    def double(x, nothing, table):
        assert nothing is None
        shapes.append(x.shape)
        return x * table.sum()

    def call(x):
        axes = (("batch", None, "heads"), ("batch",), (None,))
        return split_call(double, (x, None, jnp.ones(2)), axes, out_axes=axes[0])

    x = np.arange(96, dtype=np.float32).reshape(8, 3, 4)
    np.testing.assert_array_equal(call(x), 2 * x)
    with jax.set_mesh(make_mesh(data=2, fsdp=2, tensor=2)):
        split = jax.jit(call)(x)
        few = jax.jit(call)(x[:3])
        gradient = jax.jit(jax.grad(lambda x: jnp.sum(call(x))))(x[:3])
        with pytest.raises(ConfigError, match="'heads' of size 3"):
            call(x[:, :, :3])
    assert shapes[:3] == [(8, 3, 4), (2, 3, 2), (3, 3, 2)]
    np.testing.assert_array_equal(split, 2 * x)
    np.testing.assert_array_equal(few, 2 * x[:3])
    np.testing.assert_array_equal(gradient, np.full_like(x[:3], 2))
    assert {shard.data.shape for shard in split.addressable_shards} == {(2, 3, 2)}


def test_a_parameter_is_whole_in_use_and_its_gradient_lies_where_it_is_stored():
    mesh = make_mesh(fsdp=4, tensor=2)
    stored = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    rng = np.random.default_rng(0)
    value = rng.normal(size=(8, 6)).astype(np.float32)
    param = jax.device_put(value, stored)
    x = jax.device_put(np.eye(8, dtype=np.float32), NamedSharding(mesh, PartitionSpec("fsdp")))
    shapes = []

    def loss(param):
        whole = gather(param, ("embed", "mlp"), jnp.bfloat16)
        shapes.append(whole.dtype)
        return jnp.sum((x.astype(jnp.bfloat16) @ whole).astype(jnp.float32) ** 2) / 2

    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.grad(loss))(param)
        used = jax.jit(lambda p: gather(p, ("embed", "mlp"), jnp.bfloat16))(param)
        all_used = jax.jit(lambda p: gather_all(p))({"w": param})["w"]
    assert shapes == [jnp.bfloat16]
    assert {shard.data.shape for shard in used.addressable_shards} == {(8, 3)}
    assert all_used.sharding.is_fully_replicated
    assert gradient.dtype == jnp.float32
    assert gradient.sharding.is_equivalent_to(stored, 2)
    rounded = np.asarray(jnp.asarray(value, jnp.bfloat16), np.float32)
    np.testing.assert_allclose(gradient, rounded, rtol=1e-2)
