# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Where arrays live: the device mesh, and one table from logical axes to mesh axes.

Parameters are replicated for now and the batch is split; sharding a parameter axis means naming
its logical axis here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nbp.errors import ConfigError
from nbp.shapes import PyTree

MESH_AXES = ("data", "fsdp", "tensor")

# Logical axis -> mesh axes that split it. An axis that is absent here is an error.
RULES: Mapping[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "embed": (),
    "heads": (),
    "mlp": (),
    "vocabulary": (),
    "layers": (),
}


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
    return jax.make_mesh(
        (data, fsdp, tensor),
        MESH_AXES,
        axis_types=(AxisType.Auto,) * len(MESH_AXES),
        devices=devices[:needed],
    )


def make_partition_spec(
    axes: Sequence[str | None], rules: Mapping[str, tuple[str, ...]] = RULES
) -> PartitionSpec:
    """Translates logical axes, e.g. `("batch", None)`, by `rules`.

    Raises:
        ConfigError: an axis is not in the table, or two axes claim the same mesh axis.
    """
    entries = []
    for axis in axes:
        if axis is not None and axis not in rules:
            raise ConfigError(f"logical axis {axis!r} has no rule; known are {sorted(rules)}.")
        entries.append(rules[axis] if axis is not None else ())
    used = [name for entry in entries for name in entry]
    if len(set(used)) != len(used):
        raise ConfigError(f"logical axes {tuple(axes)} use a mesh axis twice: {used}.")
    return PartitionSpec(*[entry or None for entry in entries])


def replicate(mesh: Mesh) -> NamedSharding:
    """The sharding that puts a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def make_state_shardings(mesh: Mesh, state: PyTree) -> PyTree:
    """Returns a tree like `state` (arrays or shapes) with the sharding of each leaf."""
    return jax.tree.map(lambda _: replicate(mesh), state)


def place_state(state: PyTree, mesh: Mesh) -> PyTree:
    """Puts the arrays of `state` where the rules want them."""
    return jax.device_put(state, make_state_shardings(mesh, state))


def check_batch(global_batch: int, mesh: Mesh, *, what: str = "clips") -> None:
    """Checks that the mesh divides the batch, of clips or of what else is named.

    Raises:
        ConfigError: it does not.
    """
    shards = int(np.prod([mesh.shape[axis] for axis in RULES["batch"]]))
    if global_batch % shards:
        raise ConfigError(
            f"a batch of {global_batch} {what} does not divide among {shards} devices "
            f"(mesh {dict(mesh.shape)}). Use a batch that is a multiple of {shards}, or set "
            "mesh.data to a factor of the batch."
        )


def place_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Turns this process's rows (numpy) into global arrays split over `data` and `fsdp`.

    64-bit integers become 32-bit ones, as everywhere in JAX.

    Raises:
        ConfigError: the batch does not divide among the devices.
    """
    sharding = NamedSharding(mesh, make_partition_spec(("batch",)))

    def place(name: str, rows: np.ndarray) -> jax.Array:
        what = "images" if name == "image" else "clips"
        check_batch(rows.shape[0] * jax.process_count(), mesh, what=what)
        narrow = np.asarray(rows).astype(jax.dtypes.canonicalize_dtype(rows.dtype), copy=False)
        return jax.make_array_from_process_local_data(sharding, narrow)

    return {name: place(name, np.asarray(rows)) for name, rows in batch.items()}
