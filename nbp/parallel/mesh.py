# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Where the arrays of a run live: the device mesh, and the state and batches on it.

Names of axes become mesh axes by the one table in `nbp.parallel.sharding`. Parameters, their
average and the optimizer's state lie in pieces on the devices of `fsdp`, batches on those of `data`
and `fsdp`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nbp.errors import ConfigError
from nbp.parallel.sharding import (
    MESH_AXES,
    RULES,
    Axes,
    check_axes,
    count_parts,
    make_partition_spec,
    name_axes,
)
from nbp.shapes import PyTree
from nbp.trees import flatten_paths


def make_mesh(
    *,
    data: int | None = None,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """Builds the mesh with axes `data`, `fsdp`, `tensor`.

    Args:
        data: devices along `data`; None takes as many as there are.
        fsdp: devices along `fsdp`.
        tensor: devices along `tensor`.
        devices: the devices to use, all by default. The first `data * fsdp * tensor` are taken.

    Raises:
        ConfigError: there are too few devices, or `fsdp * tensor` does not divide them.
    """
    devices = list(jax.devices() if devices is None else devices)
    if min(fsdp, tensor, 1 if data is None else data) < 1:
        raise ConfigError(
            f"mesh (data {data}, fsdp {fsdp}, tensor {tensor}): use sizes of 1 or more."
        )
    if data is None:
        if len(devices) % (fsdp * tensor):
            raise ConfigError(
                f"mesh.fsdp * mesh.tensor = {fsdp * tensor} does not divide the {len(devices)} "
                "devices. Use factors of the number of devices, or set mesh.data as well."
            )
        data = len(devices) // (fsdp * tensor)
    needed = data * fsdp * tensor
    if needed > len(devices):
        raise ConfigError(
            f"mesh (data {data}, fsdp {fsdp}, tensor {tensor}) needs {needed} devices, "
            f"{len(devices)} are here. Make the mesh smaller."
        )
    sizes, types = (data, fsdp, tensor), (AxisType.Auto,) * len(MESH_AXES)
    try:
        return jax.make_mesh(sizes, MESH_AXES, axis_types=types, devices=devices[:needed])
    except NotImplementedError:  # an axis of the slice has to be cut, e.g. 8x8 chips into 32 x 2
        grid = mesh_utils.create_device_mesh(
            sizes, devices[:needed], allow_split_physical_axes=True
        )
        return Mesh(grid, MESH_AXES, axis_types=types)


def replicate(mesh: Mesh) -> NamedSharding:
    """The sharding that puts a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def make_state_shardings(
    mesh: Mesh, state: PyTree, axes: Mapping[str, Axes] | None = None
) -> PyTree:
    """Returns a tree like `state` (arrays or shapes) with the sharding of each leaf.

    A leaf whose path ends in that of a parameter is split as this parameter is, whether it is its
    average or something that the optimizer keeps for it.

    Args:
        mesh: devices.
        state: a TrainState, parameters, or any tree of arrays.
        axes: names of the axes of parameters, by path; a leaf that is no parameter named here is
            split along its largest axis (see `nbp.parallel.sharding.name_axes`).

    Raises:
        ConfigError: an axis does not divide among the devices that share it.
    """
    sizes = dict(mesh.shape)

    def find(path: str, leaf: Any) -> NamedSharding:
        parts = path.split("/")
        tails = ("/".join(parts[i:]) for i in range(len(parts)))
        named = next((axes[tail] for tail in tails if tail in axes), None) if axes else None
        if named is None or len(named) != len(leaf.shape):
            named = name_axes(leaf.shape, sizes)
        check_axes(leaf.shape, named, sizes, name=path)
        return NamedSharding(mesh, make_partition_spec(named))

    found = [find(path, leaf) for path, leaf in flatten_paths(state).items()]
    return jax.tree.unflatten(jax.tree.structure(state), found)


def describe_placement(
    mesh: Mesh, state: Any, *, global_batch: int, accumulate: int = 1
) -> list[str]:
    """Lines for the log: the mesh, the table as it takes effect, and what a device holds.

    Args:
        mesh: devices.
        state: the TrainState, placed.
        global_batch: clips of an update; accumulate: its micro-batches.
    """
    sizes = dict(mesh.shape)
    table = ", ".join(
        f"{axis} over {' x '.join(split)}"
        for axis, over in RULES.items()
        if (split := [name for name in over if sizes[name] > 1])
    )
    parts = count_parts(RULES["batch"], sizes)
    fields = {"parameters": state.params, "average": state.ema, "optimizer": state.opt_state}
    held = {name: measure_bytes(tree) for name, tree in fields.items()}
    memory = ", ".join(f"{name} {size / 2**20:,.1f}" for name, size in held.items() if size)
    return [
        f"mesh {' x '.join(f'{name} {size}' for name, size in sizes.items())}: "
        f"{table or 'nothing is split'}",
        f"a batch of {global_batch} clips is {global_batch / parts / accumulate:g} a device in "
        f"{accumulate} micro-batch{'es' if accumulate > 1 else ''}; MiB a device: {memory}",
    ]


def measure_bytes(tree: PyTree) -> int:
    """Bytes of a tree of placed arrays (or their shapes with shardings) on one device."""

    def count(leaf: Any) -> int:
        shape = leaf.sharding.shard_shape(leaf.shape)
        return int(np.prod(shape, dtype=np.int64)) * leaf.dtype.itemsize

    return sum(count(leaf) for leaf in jax.tree.leaves(tree))


def place_state(state: PyTree, mesh: Mesh, axes: Mapping[str, Axes] | None = None) -> PyTree:
    """Puts the arrays of `state` where the rules want them; arguments of `make_state_shardings`.

    In a job of several processes, arrays that each of them holds for itself must be the same.
    """

    def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
        own = getattr(leaf, "is_fully_addressable", True)
        if not own or sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        values = np.asarray(leaf)  # devices of other processes take no copy from ours
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    return jax.tree.map(place, state, make_state_shardings(mesh, state, axes))


def check_batch(global_batch: int, mesh: Mesh, *, what: str = "clips") -> None:
    """Checks that the mesh divides the batch, of clips or of what else is named.

    Raises:
        ConfigError: it does not.
    """
    shards = count_parts(RULES["batch"], mesh.shape)
    if global_batch % shards:
        raise ConfigError(
            f"a batch of {global_batch} {what} does not divide among {shards} devices "
            f"(mesh {dict(mesh.shape)}). Use a batch that is a multiple of {shards}, or set "
            "mesh.data to a factor of the batch."
        )


def shard_batch(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis, over the mesh axes that split batches."""
    return NamedSharding(mesh, make_partition_spec(("batch",)))


def place_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Turns this process's rows (numpy) into global arrays split over `data` and `fsdp`.

    64-bit integers become 32-bit ones, as everywhere in JAX.

    Raises:
        ConfigError: the batch does not divide among the devices.
    """
    sharding = shard_batch(mesh)

    def place(name: str, rows: np.ndarray) -> jax.Array:
        what = "images" if name == "image" else "clips"
        check_batch(rows.shape[0] * jax.process_count(), mesh, what=what)
        narrow = np.asarray(rows).astype(jax.dtypes.canonicalize_dtype(rows.dtype), copy=False)
        return jax.make_array_from_process_local_data(sharding, narrow)

    return {name: place(name, np.asarray(rows)) for name, rows in batch.items()}
