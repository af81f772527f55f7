# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Trees of arrays by the paths of their leaves."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nbp.errors import NonFiniteError
from nbp.shapes import PyTree

SHOWN = 3  # names in a message


def flatten_paths(tree: PyTree) -> dict[str, Any]:
    """Maps the path of each leaf, e.g. `"layers/attention/kernel"`, to the leaf."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def nest_paths(tree: PyTree) -> dict[str, Any]:
    """Rewrites any tree as nested dicts with string keys; nodes without leaves vanish.

    The result no longer depends on the Python classes of `tree` (optax's named tuples, for
    instance), so it can be stored and read back by name.
    """
    nested: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        node = nested
        parts = [jax.tree_util.keystr((entry,), simple=True) for entry in path] or ["value"]
        for part in parts[:-1]:
            node = node.setdefault(part, {})
        node[parts[-1]] = leaf
    return nested


def nest_flat(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts of the leaves that `flatten_paths` has found in some."""
    nested: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = nested
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = leaf
    return nested


def unnest_paths(nested: Mapping[str, Any], template: PyTree) -> PyTree:
    """Inverse of `nest_paths`: puts the leaves of `nested` into the structure of `template`."""
    paths, treedef = jax.tree_util.tree_flatten_with_path(template)
    leaves = []
    for path, _ in paths:
        node: Any = nested
        for part in [jax.tree_util.keystr((entry,), simple=True) for entry in path] or ["value"]:
            node = node[part]
        leaves.append(node)
    return jax.tree_util.tree_unflatten(treedef, leaves)


def find_non_finite(params: PyTree) -> list[str]:
    """Paths of the arrays that hold NaN or infinity."""
    leaves = flatten_paths(params)
    floats = {n: leaf for n, leaf in leaves.items() if jnp.issubdtype(leaf.dtype, jnp.floating)}
    finite = jax.device_get([_is_finite(leaf) for leaf in floats.values()])
    return [name for name, fine in zip(floats, finite, strict=True) if not fine]


def check_parameters(stages: Mapping[str, PyTree]) -> None:
    """NonFiniteError that names the arrays, stage by stage, where no sample can come of them."""
    for stage, params in stages.items():
        if bad := find_non_finite(params):
            more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
            raise NonFiniteError(
                f"the {stage}'s weights are not finite: NaN or infinity in "
                f"{', '.join(bad[:SHOWN])}{more}. Train or convert again, or use a checkpoint from "
                "before"
            )


@jax.jit
def _is_finite(leaf: Any) -> Any:
    return jnp.isfinite(leaf).all()
