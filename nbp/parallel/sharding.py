# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Names of array axes, and the one table that says which mesh axes split them.

A parameter names its axes where it is made, `nnx.Param(value, axes=("embed", "mlp"))`, an
activation where a block ends, `constrain(x, ("batch", None, "mlp"))`. Sizes of the mesh are chosen
in the configuration; with `jax.set_mesh(mesh)` around a computation the table takes effect, without
a mesh nothing here does anything.

* `data` and `fsdp` split the batch.
* `fsdp` also splits what is *stored*: parameters, their average and the optimizer's state lie in
  pieces on its devices (ZeRO, arXiv 1910.02054). `gather` makes a parameter whole where it is used.
* `tensor` splits what is *computed*: heads, the inner width of MLPs, the vocabulary of the head
  (Megatron, arXiv 1909.08053).
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec

from nbp.errors import ConfigError
from nbp.shapes import Array, PyTree

MESH_AXES = ("data", "fsdp", "tensor")
STORAGE = "fsdp"  # splits parameters where they lie, never where they are used

Axes = tuple[str | None, ...]
Rules = Mapping[str, tuple[str, ...]]

# Logical axis -> mesh axes that split it. An axis that is absent here is an error.
RULES: Rules = {
    "batch": ("data", "fsdp"),
    "embed": ("fsdp",),  # width of the residual stream, in parameters
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "vocabulary": ("tensor",),
    "largest": ("fsdp",),  # of a parameter whose axes have no names; see `name_axes`
    "layers": (),
}


def make_partition_spec(axes: Sequence[str | None], rules: Rules = RULES) -> PartitionSpec:
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


def check_axes(
    shape: Sequence[int], axes: Axes, sizes: Mapping[str, int], *, name: str = "array"
) -> None:
    """Checks that a mesh of the given axis sizes divides an array.

    Raises:
        ConfigError: an axis does not divide evenly, or there is not one name per axis.
    """
    if len(shape) != len(axes):
        raise ConfigError(f"{name} of shape {tuple(shape)} has {len(axes)} named axes {axes}.")
    for size, axis, over in zip(shape, axes, make_partition_spec(axes), strict=True):
        parts = count_parts(over, sizes)
        if size % parts:
            split = " * ".join(f"mesh.{part} {sizes[part]}" for part in _names(over))
            raise ConfigError(
                f"{name}: axis {axis!r} of size {size} does not divide among {split}. "
                f"Use a divisor of {size}."
            )


def count_parts(over: Any, sizes: Mapping[str, int]) -> int:
    """Into how many pieces an entry of a PartitionSpec cuts its axis."""
    return math.prod(sizes[name] for name in _names(over))


def mesh_sizes() -> dict[str, int]:
    """Devices along each axis of the mesh in force; `{}` without one, or with a single device."""
    mesh = jax.sharding.get_abstract_mesh()
    return dict(mesh.shape) if not mesh.empty and mesh.size > 1 else {}


def constrain(x: Array, axes: Axes) -> Array:
    """Keeps an activation split as the table says.

    A batch that does not divide among the devices (a few clips that are evaluated or sampled)
    stays whole: each device then computes all of it.

    Raises:
        ConfigError: another axis does not divide.
    """
    sizes = mesh_sizes()
    if not sizes:
        return x
    return jax.lax.with_sharding_constraint(x, _split_activation(x.shape, axes, sizes))


def split_call(
    function: Callable[..., Array],
    arrays: Sequence[Array | None],
    axes: Sequence[Axes],
    *,
    out_axes: Axes,
) -> Array:
    """`function` of each device's own pieces of the activations, cut and put together by the table.

    For kernels that the compiler cannot divide among devices: it would gather their arguments. The
    result has the batch of the first array; `constrain` says when a batch stays whole.

    Raises:
        ConfigError: an axis other than the batch does not divide.
    """
    sizes = mesh_sizes()
    if not sizes:
        return function(*arrays)
    pairs = zip(arrays, axes, strict=True)
    specs = [
        PartitionSpec() if array is None else _split_activation(array.shape, names, sizes)
        for array, names in pairs
    ]
    first = arrays[0]
    assert first is not None
    out = make_partition_spec(_keep_whole(first.shape, out_axes, sizes))
    # Kernels do not say over which axes their results vary.
    divided = jax.shard_map(function, in_specs=tuple(specs), out_specs=out, check_vma=False)
    return divided(*arrays)


def _split_activation(shape: Sequence[int], axes: Axes, sizes: Mapping[str, int]) -> PartitionSpec:
    axes = _keep_whole(shape, axes, sizes)
    check_axes(shape, axes, sizes, name="activation")
    return make_partition_spec(axes)


def _keep_whole(shape: Sequence[int], axes: Axes, sizes: Mapping[str, int]) -> Axes:
    """The axes without a batch that does not divide."""
    parts = count_parts(RULES["batch"], sizes)
    return tuple(
        None if axis == "batch" and size % parts else axis
        for axis, size in zip(axes, shape, strict=True)
    )


def gather(param: Array, axes: Axes, dtype: Any = None) -> Array:
    """A stored parameter, whole along `fsdp`, for use.

    What is split is cast to `dtype` first, so that only these bits travel; the rest keeps its type.
    The gradient is summed over devices where the parameter lies: none of them holds all of it.
    """
    stored = make_partition_spec(axes)
    if dtype is None or STORAGE not in jax.tree.leaves(tuple(stored)):
        dtype = param.dtype
    if not mesh_sizes():
        return param if dtype == param.dtype else param.astype(dtype)
    used = PartitionSpec(*[_without_storage(entry) for entry in stored])
    return _reshard(param, stored, used, jax.numpy.dtype(dtype), param.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _reshard(x: Array, stored: Any, used: Any, dtype: Any, stored_dtype: Any) -> Array:
    del stored_dtype
    x = jax.lax.with_sharding_constraint(x, stored).astype(dtype)
    return jax.lax.with_sharding_constraint(x, used)


def _reshard_forward(
    x: Array, stored: Any, used: Any, dtype: Any, stored_dtype: Any
) -> tuple[Array, None]:
    return _reshard(x, stored, used, dtype, stored_dtype), None


def _reshard_backward(
    stored: Any, used: Any, dtype: Any, stored_dtype: Any, _: None, cotangent: Array
) -> tuple[Array]:
    del used, dtype
    return (jax.lax.with_sharding_constraint(cotangent, stored).astype(stored_dtype),)


_reshard.defvjp(_reshard_forward, _reshard_backward)


def _without_storage(entry: Any) -> tuple[str, ...] | None:
    return tuple(name for name in _names(entry) if name != STORAGE) or None


def _names(entry: Any) -> tuple[str, ...]:
    """The mesh axes in an entry of a PartitionSpec, which may be None, a name or several."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def name_axes(shape: Sequence[int], sizes: Mapping[str, int]) -> Axes:
    """Axes of a parameter that came without names: the largest that `fsdp` divides is `largest`.

    Vectors and what no axis of which divides stay whole.
    """
    parts = sizes.get(STORAGE, 1)
    fitting = [i for i, size in enumerate(shape) if len(shape) > 1 and size % parts == 0]
    if parts == 1 or not fitting:
        return (None,) * len(shape)
    best = max(fitting, key=lambda i: (shape[i], i))
    return tuple("largest" if i == best else None for i in range(len(shape)))


def gather_all(params: PyTree, dtype: Any = None) -> PyTree:
    """`gather` for a tree of parameters without names (see `name_axes`)."""
    sizes = mesh_sizes()
    return jax.tree.map(lambda p: gather(p, name_axes(p.shape, sizes), dtype), params)
