# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Norms of each layer of parameters, gradients or updates, and the size of its outputs."""

from collections.abc import Mapping

import jax.numpy as jnp

from nbp.shapes import Array, Float, PyTree
from nbp.trees import flatten_paths


def layer_norms(tree: PyTree) -> dict[str, Float[Array, ""]]:
    """The L2 norm over the leaves of each layer of parameters, or of a tree like them.

    Names are the first two parts of a path, such as "encoder.0" or "transformer.norm". Stacked
    layers (`nbp.nn.transformer`) have their layers on the first axis of leaves below "layers", and
    are "transformer.0", "transformer.1", ...
    """
    squares: dict[str, Array] = {}

    def add(name: str, square: Array) -> None:
        squares[name] = squares[name] + square if name in squares else square

    for path, leaf in flatten_paths(tree).items():
        *parents, last = path.split("/")
        square = jnp.square(leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)))
        if "layers" in parents:
            above = ".".join(parents[: parents.index("layers")])
            for i, total in enumerate(jnp.sum(square, tuple(range(1, leaf.ndim)))):
                add(f"{above}.{i}", total)
        else:
            add(".".join(parents[:2]) or last, jnp.sum(square))
    return {name: jnp.sqrt(square) for name, square in squares.items()}


def mean_square(x: Float[Array, "*s"]) -> Float[Array, ""]:
    """The mean of the squares of all values, in float32 at least."""
    return jnp.mean(jnp.square(x.astype(jnp.promote_types(x.dtype, jnp.float32))))


def name_activations(squares: Mapping[str, Float[Array, ""]]) -> dict[str, Float[Array, ""]]:
    """LAYER/activation_rms of the mean squares of the layers' outputs."""
    return {f"{layer}/activation_rms": jnp.sqrt(square) for layer, square in squares.items()}
