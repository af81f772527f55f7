# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The official schedule against the loop that it stands for."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.training.optimizer import paper_learning_rate


def run_official_loop(updates: int, peak: float, warmup: int, total: int, accumulate: int):
    """Rates used by a loop over micro-batches that sets the next rate after each update."""
    rate, used, micro_batch = (0.0 if warmup else peak), [], 0
    while len(used) < updates:
        if (micro_batch + 1) % accumulate == 0:
            used.append(rate)
            if micro_batch < warmup:
                rate = peak * micro_batch / warmup
            elif micro_batch < total:
                rate = peak / 2 * (1 + math.cos(math.pi * micro_batch / total))
            else:
                rate = 0.0
        micro_batch += 1
    return used


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("warmup, total", [(4, 20), (0, 10), (3, 7)])
def test_is_the_official_loop(accumulate, warmup, total):
    want = run_official_loop(25, 0.01, warmup, total, accumulate)
    with jax.enable_x64(True):
        rates = paper_learning_rate(
            jnp.arange(25), peak=0.01, warmup=warmup, total=total, accumulate=accumulate
        )
        np.testing.assert_allclose(rates, want, rtol=1e-12, atol=1e-15)


def test_the_first_two_updates_do_nothing():
    rates = paper_learning_rate(jnp.arange(3), peak=1.0, warmup=10, total=100)
    np.testing.assert_allclose(rates, [0.0, 0.0, 0.1], atol=1e-7)
