# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What the kernel for GPUs skips, and that it lowers; its values are in `test_reference`."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.layout import LatentGrid, Opening, SequencePlan
from nbp.nn.attention.pallas import PallasAttention, _audience, _reach
from nbp.nn.attention.reference import dense_attention
from tests.nn.devices import describe_gpu

PLANS = {
    "row": SequencePlan(LatentGrid(2, 5, 4), (1, 1, 4), Opening("hybrid"), 3),
    "frame": SequencePlan(LatentGrid(3, 4, 4), (1, 4, 4), Opening("bov"), 2),
    "token": SequencePlan(LatentGrid(1, 5, 5), (1, 1, 1), Opening("prefix"), 0),
}
ROWS, COLUMNS = 8, 4


def cut(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each pair of tiles: whether anything is visible, whether everything is."""
    n, m = mask.shape
    tiles = [
        [mask[i : i + ROWS, j : j + COLUMNS] for j in range(0, m, COLUMNS)]
        for i in range(0, n, ROWS)
    ]
    some, whole = (np.array([[f(t) for t in row] for row in tiles]) for f in (np.any, np.all))
    return some, whole


@pytest.mark.parametrize("name", PLANS)
def test_tables_name_the_tiles_that_meet(name):
    plan = PLANS[name]
    some, whole = cut(plan.mask)
    clear, end = np.asarray(_reach(jnp.asarray(plan.k_end), ROWS, COLUMNS)).reshape(-1, 2).T
    for i, row in enumerate(some):
        assert end[i] == row.sum()
        # The last tile may be cut off: what is not there is never visible.
        assert clear[i] in (whole[i].sum(), whole[i].sum() - (plan.length % COLUMNS > 0))
    table = _audience(jnp.asarray(plan.k_end), ROWS, COLUMNS, plan.length)
    first, clear = np.asarray(table).reshape(-1, 2).T
    for j in range(some.shape[1]):
        assert (np.flatnonzero(some[:, j]) == np.arange(first[j], len(some))).all()
        assert whole[clear[j] :, j].all()
        assert clear[j] == first[j] or not whole[clear[j] - 1, j]


def test_keys_that_nobody_sees_and_limits_that_fall_again():
    limits = jnp.asarray([4] * 8 + [8] * 8 + [2] * 8)
    first, clear = np.asarray(_audience(limits, ROWS, COLUMNS, 12)).reshape(-1, 2).T
    assert first.tolist() == [0, 1, 3]  # 3: no tile of queries
    assert clear.tolist() == [3, 3, 3]  # the last queries see half of the first tile


def test_hidden_tiles_are_not_read():
    """Not even a number that is none can pass from a tile that nobody sees."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(1, 16, 1, 4)).astype(np.float32) for _ in range(3))
    k[:, 8:] = v[:, 8:] = np.nan
    limits = np.repeat([8, 16], 8)
    out = PallasAttention(interpret=True, tiles=(8, 8))(q, k, v, limits)
    expected = dense_attention(q[:, :8], k[:, :8], v[:, :8], limits[:8])
    np.testing.assert_allclose(out[:, :8], expected, atol=2e-6)
    assert np.isnan(out[:, 8:]).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("masked", [False, True])
def test_it_lowers_for_a_gpu_that_is_not_here(dtype, masked):
    limits = np.minimum(np.arange(1, 302), 300)
    shape = jax.ShapeDtypeStruct((2, 301, 2, 96), dtype)
    shown = jax.ShapeDtypeStruct((2, 301), jnp.bool_) if masked else None

    def run(q, k, v, weight, shown):
        out, pull = jax.vjp(lambda q, k, v: PallasAttention()(q, k, v, limits, shown), q, k, v)
        return out, pull(weight)

    with describe_gpu(), warnings.catch_warnings():
        # From JAX 0.11 on: `mosaic` is the backend for later ones.
        warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated")
        traced = jax.jit(run).trace(shape, shape, shape, shape, shown)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    for kernel in ("forward", "d_q", "d_kv"):
        assert text.count(f'name = "block_causal_{kernel}_kernel"') == 1
