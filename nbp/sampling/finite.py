# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters that are not finite, by name: no sample can come of them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nbp.errors import NonFiniteError
from nbp.shapes import PyTree

SHOWN = 3  # names in a message


def find_non_finite(params: PyTree) -> list[str]:
    """Names of the arrays that hold NaN or infinity, e.g. `layers/attention/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    floats = [(path, leaf) for path, leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    finite = jax.device_get([_is_finite(leaf) for _, leaf in floats])
    return [_name(path) for (path, _), fine in zip(floats, finite, strict=True) if not fine]


def check_parameters(stages: Mapping[str, PyTree]) -> None:
    """NonFiniteError that names the arrays, stage by stage, where there are any."""
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


def _name(path: tuple[Any, ...]) -> str:
    keys = (getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))) for key in path)
    return "/".join(str(key) for key in keys)
