# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The learning rate schedule of the official release, quirks included (REFERENCE 2)."""

import jax.numpy as jnp

from nbp.shapes import Array, Float, Int


def paper_learning_rate(
    update: Int[Array, "*s"], *, peak: float, warmup: int, total: int, accumulate: int = 1
) -> Float[Array, "*s"]:
    """Learning rate of the update after `update` completed ones.

    The official loop counts micro-batches and sets the rate of the micro-batch just done: update
    u >= 1 uses f(accumulate * u - 1), and u = 0 the start of the warm-up, so that the first two
    updates do nothing where accumulate = 1. f rises linearly from 0 over `warmup`, then follows a
    cosine that starts at 0, not at the end of the warm-up (the rate jumps down a little there),
    and is 0 from `total` on.

    Args:
        update: completed updates.
        peak: rate at the end of the warm-up.
        warmup, total: in micro-batches.
        accumulate: micro-batches per update.

    Returns:
        Rates in the default float type: float64 under `jax.enable_x64`, else float32.
    """
    done = jnp.asarray(accumulate * jnp.asarray(update) - 1, float)
    t = jnp.maximum(done, 0.0)
    cosine = 0.5 * peak * (1.0 + jnp.cos(jnp.pi * t / total))
    rate = jnp.where(t < warmup, peak * t / max(warmup, 1), jnp.where(t < total, cosine, 0.0))
    first = 0.0 if warmup else peak
    return jnp.where(done < 0, first, rate)
