# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Splash attention over several tiles, and that it lowers; its values are in `test_reference`."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.layout import LatentGrid, Opening, SequencePlan
from nbp.nn.attention.reference import dense_attention
from nbp.nn.attention.splash import LANES, STEP, PrefixMask, SplashAttention, choose_tile
from tests.nn.devices import TPUS, describe_tpu

PLAN = SequencePlan(LatentGrid(2, 10, 7), (1, 1, 7), Opening("hybrid"), 5)


def make_arrays(length: int, *, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(1, length, 1, 24)).astype(np.float32) for _ in range(4)]


def test_tiles_of_the_mask_are_cut_from_the_plan():
    mask = PrefixMask(PLAN.k_end, PLAN.length)
    assert mask.shape == PLAN.mask.shape == (145, 145)
    for rows, columns in ((slice(0, 8), slice(3, 9)), (slice(40, 145), slice(0, 145))):
        np.testing.assert_array_equal(mask[rows, columns], PLAN.mask[rows, columns])
    assert mask == PrefixMask(PLAN.k_end.copy(), PLAN.length)
    assert mask != PrefixMask(np.full_like(PLAN.k_end, 145), PLAN.length)


def test_several_tiles_a_key_mask_and_lengths_that_are_no_multiples():
    *qkv, weight = make_arrays(PLAN.length)
    shown = np.ones((1, PLAN.length), bool)
    shown[0, 2:4] = shown[0, 130:140] = False

    def run(backend):
        out, pull = jax.vjp(lambda q, k, v: backend(q, k, v, PLAN.k_end, shown), *qkv)
        return out, *pull(weight)

    found = jax.jit(lambda: run(SplashAttention(interpret=True, tile=LANES)))()
    for one, other in zip(found, jax.jit(lambda: run(dense_attention))(), strict=True):
        np.testing.assert_allclose(one, other, atol=5e-6)
    assert (np.asarray(found[2])[~shown] == 0).all()


def test_hidden_tiles_are_not_read():
    """Not even a number that is none can pass from a tile that nobody sees."""
    q, k, v, _ = make_arrays(2 * LANES)
    k[:, LANES:] = v[:, LANES:] = np.nan
    limits = np.concatenate([np.full(LANES, LANES), np.full(LANES, 2 * LANES)])
    out = jax.jit(lambda: SplashAttention(interpret=True, tile=LANES)(q, k, v, limits))()
    q, k, v = (x[:, :LANES] for x in (q, k, v))
    expected = dense_attention(q, k, v, limits[:LANES])
    np.testing.assert_allclose(out[:, :LANES], expected, atol=2e-6)
    assert np.isnan(out[:, LANES:]).all()


@pytest.mark.parametrize("length, expected", [(100, 128), (129, 256), (512, 512), (1281, 512)])
def test_the_tile_of_least_cost(length, expected):
    assert choose_tile(np.arange(1, length + 1)) == expected


def test_the_cost_of_a_tile_counts_its_step():
    """768 causal positions: 6 tiles of 384 steps, or 3 of 512; with cheap steps, smaller ones."""
    limits = np.arange(1, 769)
    assert 3 * (384**2 + STEP) < 3 * (512**2 + STEP)
    assert choose_tile(limits) == 384


def test_limits_must_be_known_when_it_is_compiled():
    q, k, v, _ = make_arrays(4)
    with pytest.raises(ValueError, match="limits that are known"):
        SplashAttention(interpret=True)(q, k, v, jnp.arange(1, 5))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("kind", TPUS)
def test_it_lowers_for_a_tpu_that_is_not_here(kind, dtype, masked):
    """Forward and backward pass over lengths that are no multiple of a tile."""
    limits = np.minimum(np.arange(1, 302), 300)
    shape = jax.ShapeDtypeStruct((2, 301, 2, 96), dtype)
    shown = jax.ShapeDtypeStruct((2, 301), jnp.bool_) if masked else None

    def run(q, k, v, weight, shown):
        out, pull = jax.vjp(lambda q, k, v: SplashAttention()(q, k, v, limits, shown), q, k, v)
        return out, pull(weight)

    with describe_tpu(kind):
        traced = jax.jit(run).trace(shape, shape, shape, shape, shown)
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert len(re.findall(r"custom_call @tpu_custom_call", text)) == 3  # forward, two backward
    assert not re.search(r"tensor<(?:\d+x)*301x301xi1>", text)  # no mask of queries by keys
