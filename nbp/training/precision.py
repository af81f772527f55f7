# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""How parameters are stored between updates.

* float32: as they are computed.
* master: bfloat16, while the optimizer updates a float32 copy of its own (arXiv 1710.03740).
* stochastic: bfloat16 and nothing else. Most updates are smaller than half of its last digit; they
  are rounded up or down at random, so that they arrive on average (arXiv 2010.06192).

Whatever the storage, an update is computed in float32.
"""

import itertools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from nbp.shapes import Array, Float, PyTree

Storage = Literal["float32", "master", "stochastic"]

SEED = 0xBF16  # of the rounding; folded with the step, so that a resumed run rounds alike


def cast_to_storage(params: PyTree, storage: PyTree) -> PyTree:
    """Float32 parameters in the type of their storage, rounded to the nearest."""
    return jax.tree.map(
        lambda p, kind: p if kind == "float32" else p.astype(jnp.bfloat16), params, storage
    )


def cast_shapes_to_storage(shapes: PyTree, storage: PyTree) -> PyTree:
    """`narrow` for `jax.ShapeDtypeStruct`s."""
    return jax.eval_shape(lambda params: cast_to_storage(params, storage), shapes)


def round_update(params: PyTree, storage: PyTree, step: Array) -> PyTree:
    """Updated float32 parameters in the type of their storage; `step`: updates before this one."""
    key = jax.random.fold_in(jax.random.key(SEED), step)
    count = itertools.count()

    def round_leaf(leaf: Array, kind: Storage) -> Array:
        own_key = jax.random.fold_in(key, next(count))
        return (
            round_stochastically(leaf, own_key)
            if kind == "stochastic"
            else cast_to_storage(leaf, kind)
        )

    return jax.tree.map(round_leaf, params, storage)


def round_stochastically(x: Float[Array, "*s"], key: Array) -> Float[Array, "*s"]:
    """bfloat16 above or below `x` (float32), with probabilities whose mean is `x`.

    Adds 16 random bits below the 16 bits that stay. What is not finite is rounded as usual.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    upper = ((bits + noise) >> 16).astype(jnp.uint16)
    rounded = jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def is_narrow(storage: PyTree) -> bool:
    """Whether any parameter is stored in bfloat16."""
    return any(kind != "float32" for kind in jax.tree.leaves(storage))


def keep_masters(
    optimizer: optax.GradientTransformation, storage: PyTree
) -> optax.GradientTransformation:
    """Adds the float32 copies to the optimizer's state, `{"optimizer": ..., "master": ...}`."""

    def pick(params: PyTree) -> PyTree:
        return jax.tree.map(
            lambda p, kind: p if kind == "master" else optax.MaskedNode(), params, storage
        )

    def init(params: Any) -> Any:
        return {"optimizer": optimizer.init(params), "master": jax.tree.map(jnp.copy, pick(params))}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, inner = optimizer.update(updates, state["optimizer"], params)
        master = pick(optax.apply_updates(params, updates))
        return updates, {"optimizer": inner, "master": master}

    return optax.GradientTransformation(init, update)


def widen(params: PyTree, storage: PyTree, opt_state: PyTree) -> PyTree:
    """Float32 parameters: the optimizer's own copies where it has them."""
    wide = jax.tree.map(lambda p: p.astype(jnp.promote_types(p.dtype, jnp.float32)), params)
    if "master" not in jax.tree.leaves(storage):
        return wide
    return jax.tree.map(
        lambda p, kind, own: own if kind == "master" else p, wide, storage, opt_state["master"]
    )
