# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The dense oracle against float64 loops, and every backend against the dense oracle."""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.layout import LatentGrid, Opening, SequencePlan
from nbp.nn.attention import reference
from nbp.nn.attention.cudnn import CudnnAttention
from nbp.nn.attention.mosaic import is_installed
from nbp.nn.attention.pallas import PallasAttention
from nbp.nn.attention.reference import dense_attention, prefix_attention, xla_attention
from nbp.nn.attention.splash import SplashAttention

BATCH, LENGTH, HEADS, WIDTH = 2, 14, 2, 5
GRID = LatentGrid(1, 6, 2)


def plan_limits(kind, prompt: int, block=(1, 1, 2)) -> np.ndarray:
    k_end = SequencePlan(GRID, block, Opening(kind), prompt).k_end
    assert len(k_end) == LENGTH
    return k_end


PATTERNS = {
    "causal": np.arange(1, LENGTH + 1),
    "full": np.full(LENGTH, LENGTH),
    "one key": np.ones(LENGTH, int),
    "scattered": np.random.default_rng(5).integers(1, LENGTH + 1, LENGTH),
    "prefix": plan_limits("prefix", 4),
    "bov": plan_limits("bov", 2),
    "hybrid": plan_limits("hybrid", 2),
    "token": plan_limits("prefix", 3, (1, 1, 1)),
    "column": plan_limits("bov", 2, (1, 6, 1)),
    "box": plan_limits("hybrid", 2, (1, 3, 2)),
}
KEY_MASK = np.ones((BATCH, LENGTH), bool)
KEY_MASK[0, 3:5] = KEY_MASK[1, 9:] = False  # each query keeps key 0


def make_arrays(queries: int = LENGTH, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = [(BATCH, n, HEADS, WIDTH) for n in (queries, LENGTH, LENGTH, queries)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def attend_by_loops(q, k, v, *, k_end, key_mask=None) -> np.ndarray:
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    out = np.zeros_like(q)
    for b, n, head in np.ndindex(q.shape[:3]):
        keys = [m for m in range(k_end[n]) if key_mask is None or key_mask[b, m]]
        scores = [math.exp(q[b, n, head] @ k[b, m, head] / math.sqrt(WIDTH)) for m in keys]
        for score, m in zip(scores, keys, strict=True):
            out[b, n, head] += score / sum(scores) * v[b, m, head]
    return out


@jax.jit
def dense_with_gradients(q, k, v, weight, k_end, key_mask):
    return value_and_gradients(dense_attention, q, k, v, weight, k_end, key_mask)


@jax.jit
def xla_with_gradients(q, k, v, weight, k_end, key_mask):
    return value_and_gradients(xla_attention, q, k, v, weight, k_end, key_mask)


@jax.jit
def cached_with_gradients(q, k, v, weight, k_end, key_mask):
    def attend(q, k, v, k_end, key_mask):
        queries, values = (jnp.transpose(x, (0, 2, 3, 1)) for x in (q, v))
        out = reference.cached_attention(
            queries, jnp.swapaxes(k, 1, 2), None, values, None, k_end=k_end, key_mask=key_mask
        )
        return jnp.transpose(out, (0, 3, 1, 2))

    return value_and_gradients(attend, q, k, v, weight, k_end, key_mask)


def prefix_with_gradients(q, k, v, weight, k_end, key_mask):
    """Limits known when compiled, and pieces of three queries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "PIECE", 3)
        return compile_for(prefix_attention, tuple(k_end.tolist()))(q, k, v, weight, key_mask)


# Tiles of four, so that there are hidden, partly and wholly visible ones.
PALLAS = PallasAttention(interpret=True, tiles=(4, 4), backward_tiles=(4, 8))


@jax.jit
def pallas_with_gradients(q, k, v, weight, k_end, key_mask):
    return value_and_gradients(PALLAS, q, k, v, weight, k_end, key_mask)


@jax.jit
def cudnn_with_gradients(q, k, v, weight, k_end, key_mask):
    backend = CudnnAttention(implementation="xla")
    return value_and_gradients(backend, q, k, v, weight, k_end, key_mask)


def splash_with_gradients(q, k, v, weight, k_end, key_mask):
    limits = tuple(k_end.tolist())
    return compile_for(SplashAttention(interpret=True), limits)(q, k, v, weight, key_mask)


@functools.cache
def compile_for(backend, k_end):
    def run(q, k, v, weight, key_mask):
        return value_and_gradients(backend, q, k, v, weight, np.array(k_end), key_mask)

    return jax.jit(run)


def value_and_gradients(backend, q, k, v, weight, k_end, key_mask):
    out, pull = jax.vjp(lambda *qkv: backend(*qkv, k_end, key_mask), q, k, v)
    return out, pull(weight)


FAST = {
    "xla": xla_with_gradients,
    "prefix": prefix_with_gradients,
    "cached": cached_with_gradients,
    "pallas": pallas_with_gradients,
    "cudnn": cudnn_with_gradients,
    "splash": splash_with_gradients,
}
HALF = {
    "dense": dense_attention,
    "xla": xla_attention,
    "prefix": prefix_attention,
    "pallas": PALLAS,
    "splash": SplashAttention(interpret=True),
    "cudnn": CudnnAttention("xla"),
}
if is_installed():
    from tests.nn.devices import make_mosaic

    HALF["mosaic"] = make_mosaic()

    @jax.jit
    def mosaic_with_gradients(q, k, v, weight, k_end, key_mask):
        return value_and_gradients(HALF["mosaic"], q, k, v, weight, k_end, key_mask)

    FAST["mosaic"] = mosaic_with_gradients
BACKENDS = {"dense": dense_with_gradients, **FAST}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_dense_attention_is_the_loop(pattern, masked):
    q, k, v, weight = make_arrays()
    key_mask = KEY_MASK if masked else None
    out, _ = dense_with_gradients(q, k, v, weight, PATTERNS[pattern], key_mask)
    expected = attend_by_loops(q, k, v, k_end=PATTERNS[pattern], key_mask=key_mask)
    np.testing.assert_allclose(out, expected, atol=2e-6)


def make_case(pattern: str, masked: bool, backend: str):
    """Splash attention compiles for seconds, for each pattern: most of it is slow."""
    quick = backend != "splash" or (pattern, masked) in (("hybrid", True), ("box", False))
    return pytest.param(pattern, masked, backend, marks=() if quick else pytest.mark.slow)


def is_compiled_for_others(pattern: str, masked: bool, backend: str) -> bool:
    """Limits known when compiled make a program for each pattern: half of them get a mask."""
    return backend == "prefix" and masked != (list(PATTERNS).index(pattern) % 2 == 1)


PRODUCT = itertools.product(PATTERNS, (False, True), FAST)
CASES = [make_case(*case) for case in PRODUCT if not is_compiled_for_others(*case)]


@pytest.mark.parametrize("pattern, masked, backend", CASES)
def test_backends_agree_with_the_oracle(pattern, masked, backend):
    arrays = make_arrays(seed=1)
    key_mask = KEY_MASK if masked else None
    out, gradients = FAST[backend](*arrays, PATTERNS[pattern], key_mask)
    expected, expected_gradients = dense_with_gradients(*arrays, PATTERNS[pattern], key_mask)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    for one, other in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-6)
    again = FAST[backend](*arrays, PATTERNS[pattern], key_mask)
    np.testing.assert_array_equal(again[0], out)


def test_gradient_of_the_oracle_is_the_slope_of_the_loop():
    arrays = make_arrays(seed=2)
    weight, k_end = arrays[3].astype(np.float64), PATTERNS["hybrid"]
    _, gradients = dense_with_gradients(*arrays, k_end, KEY_MASK)
    directions = [a.astype(np.float64) for a in make_arrays(seed=3)[:3]]

    def loss(step: float) -> float:
        moved = [a + step * d for a, d in zip(arrays[:3], directions, strict=True)]
        return float(np.sum(weight * attend_by_loops(*moved, k_end=k_end, key_mask=KEY_MASK)))

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    found = sum(float(np.sum(g * d)) for g, d in zip(gradients, directions, strict=True))
    assert found == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_hidden_keys_have_no_influence_at_all(backend):
    q, k, v, weight = make_arrays(seed=4)
    weight[:, 4:] = 0.0  # only the first four queries count
    k_end = PATTERNS["hybrid"]
    reach = k_end[:4].max()
    out, (_, dk, dv) = BACKENDS[backend](q, k, v, weight, k_end, KEY_MASK)
    for gradient in (np.asarray(dk), np.asarray(dv)):
        assert (gradient[:, reach:] == 0).all()
        assert (gradient[~KEY_MASK] == 0).all()
        assert (gradient[1, :reach] != 0).any(axis=(1, 2)).all()
    k[:, reach:], v[:, reach:] = 1e6, -1e6
    changed, _ = BACKENDS[backend](q, k, v, weight, k_end, KEY_MASK)
    np.testing.assert_array_equal(changed[:, :4], out[:, :4])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_few_queries_over_a_longer_cache(backend):
    q, k, v, weight = make_arrays(queries=3, seed=6)
    k_end = np.array([5, 6, 9])
    out, _ = BACKENDS[backend](q, k, v, weight, k_end, None)
    np.testing.assert_allclose(out, attend_by_loops(q, k, v, k_end=k_end), atol=2e-6)


@pytest.mark.parametrize("name", HALF)
def test_half_precision_keeps_its_type(name):
    q, k, v, _ = make_arrays(seed=7)
    narrow = [jnp.asarray(a, jnp.bfloat16) for a in (q, k, v)]
    out = HALF[name](*narrow, PATTERNS["causal"])
    assert out.dtype == jnp.bfloat16
    q, k, v = (np.asarray(a, np.float64) for a in narrow)
    expected = attend_by_loops(q, k, v, k_end=PATTERNS["causal"])
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, atol=0.03)


def test_pieces_read_only_the_keys_that_their_queries_see():
    """Floating-point operations of the compiled program, against all pairs of queries and keys."""
    n = 4 * reference.PIECE
    shape = jax.ShapeDtypeStruct((1, n, 2, 8), jnp.float32)
    limits = np.arange(1, n + 1)

    def count(backend) -> float:
        run = jax.jit(lambda q, k, v: backend(q, k, v, limits))
        cost: Any = run.lower(shape, shape, shape).compile().cost_analysis()
        return cost["flops"]

    # Four pieces see 1, 2, 3 and 4 quarters of the keys.
    assert count(prefix_attention) == pytest.approx(10 / 16 * count(xla_attention), rel=0.2)


def test_no_array_of_all_scores_is_kept_for_the_backward_pass():
    q, k, v, _ = make_arrays()
    _, pull = jax.vjp(lambda q, k, v: prefix_attention(q, k, v, PATTERNS["hybrid"]), q, k, v)
    kept = [leaf.shape for leaf in jax.tree.leaves(pull) if hasattr(leaf, "shape")]
    assert (BATCH, HEADS, LENGTH, LENGTH) not in kept
    assert (BATCH, HEADS, LENGTH, 1) in kept  # one number per query instead
