# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What a training run carries from step to step, and names for its leaves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nbp.shapes import Array, PyTree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """The whole state of a run. No random key is in it: keys are folded from seed and step.

    Attributes:
        step: int32 scalar, completed updates.
        params: nested plain dicts of arrays.
        ema: moving average of `params`, same structure; `{}` when off.
        opt_state: state of the optimizer.
        extra: whatever else a task carries (e.g. a discriminator); `{}` when nothing.
    """

    step: Array
    params: PyTree
    ema: PyTree
    opt_state: PyTree
    extra: PyTree


def make_state(
    params: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    with_ema: bool = False,
    extra: PyTree | None = None,
) -> TrainState:
    """Builds the state before the first update; the average starts as a copy of `params`."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        # A copy: the step donates its state, and a buffer can be donated only once.
        ema=jax.tree.map(jnp.copy, params) if with_ema else {},
        opt_state=optimizer.init(params),
        extra={} if extra is None else extra,
    )


def count_parameters(params: PyTree) -> int:
    """Returns the number of scalars in `params`."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(params))


def compare_leaves(item: str, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Lists paths that are missing, unexpected or different, one line each."""
    lines = [f"missing in the checkpoint: {item}/{path}" for path in wanted if path not in saved]
    lines += [f"only in the checkpoint: {item}/{path}" for path in saved if path not in wanted]
    for path in wanted:
        if path not in saved or jax.dtypes.issubdtype(wanted[path].dtype, jax.dtypes.prng_key):
            continue
        there, here = [
            f"{np.dtype(x.dtype).name}{list(x.shape)}" for x in (saved[path], wanted[path])
        ]
        if there != here:
            lines.append(f"different: {item}/{path} is {there} in the checkpoint, {here} here")
    return lines


def make_target(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns shape, dtype and sharding of a leaf; the first device where it has none."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def make_zeros(leaf: Any) -> Array:
    """Zeros in the place of `make_target(leaf)`."""
    target = make_target(leaf)
    make = jax.jit(lambda: jnp.zeros(target.shape, target.dtype), out_shardings=target.sharding)
    return make()
