# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Layers laid out for decoding: numpy, 8-bit integers, growing caches.

That passes through a cache are the full pass is in `test_transformer` and `sampling/test_decode`.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nbp.layout import LatentGrid, Opening, SequencePlan
from nbp.models import inference
from nbp.models.inference import forward_cached, pack_layers
from nbp.nn.attention import kv_cache
from nbp.nn.attention.kv_cache import make_cache
from nbp.nn.attention.reference import cached_attention, xla_attention
from nbp.nn.transformer import Initialisation, Parts, Transformer, TransformerSpec
from tests.models.toy import layer_norm, random_params

PLAN = SequencePlan(LatentGrid(2, 2, 2), (1, 1, 2), Opening("bov"))
SPEC = TransformerSpec(layers=2, heads=2, width=16)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_a_norm_over_features():
    x, scale, bias = draw(16, 2, 3), draw(16, seed=1), draw(16, seed=2)
    out = inference.normalize(inference.Norm(scale, bias), x)
    expected = layer_norm(np.moveaxis(x, 0, -1), {"scale": scale, "bias": bias})
    np.testing.assert_allclose(np.moveaxis(out, 0, -1), expected, atol=1e-5)


def test_a_kernel_of_several_axes_becomes_rows():
    kernel, bias, x = draw(4, 3, 5), draw(3, 5, seed=1), draw(4, 2, 6, seed=2)
    matrix = inference.pack(kernel, bias, jnp.float32, "compute")
    expected = np.einsum("ibn,ico->cobn", x, kernel) + bias[..., None, None]
    out = inference.multiply("qkv", matrix, x)
    np.testing.assert_allclose(out, expected.reshape(15, 2, 6), atol=1e-5)
    head = inference.pack(kernel[:, 0], None, jnp.float32, "compute")
    logits = inference.score(head, np.moveaxis(x, 0, 2))
    np.testing.assert_allclose(logits, np.einsum("ibn,iv->bnv", x, kernel[:, 0]), atol=1e-5)


def test_integers_are_off_by_half_a_step_at_most():
    x = draw(6, 50) * np.array([1e-6, 1e-3, 1, 10, 1e4, 0], np.float32)[:, None]
    integers, scale = kv_cache.quantize(x, axis=1)
    assert integers.dtype == jnp.int8
    step = np.abs(x).max(1) / 127
    np.testing.assert_allclose(scale[:5], step[:5], rtol=1e-6)
    error = np.abs(np.asarray(integers, float) * np.asarray(scale)[:, None] - x)
    assert (error <= step[:, None] * 0.501).all()
    assert (np.abs(np.asarray(integers)).max(1)[:5] == 127).all()
    assert not integers[5].any(), "a row of zeros stays one"


def test_a_matrix_of_integers_is_the_matrix_to_their_precision():
    kernel, x = draw(64, 32), draw(64, 1, 8, seed=1)
    exact = np.einsum("ibn,io->obn", x, kernel)
    rough = inference.multiply("up", inference.pack(kernel, None, jnp.float32, "int8"), x)
    integers, scale = kv_cache.quantize(kernel, axis=0)
    expected = np.einsum("ibn,io->obn", x, np.asarray(integers, float) * np.asarray(scale))
    np.testing.assert_allclose(rough, expected, atol=1e-4)
    assert 1e-3 < np.std(rough - exact) / np.std(exact) < 0.01


def test_scales_of_a_cache_multiply_its_positions():
    q, keys, values = draw(1, 2, 4, 3), draw(1, 2, 5, 4, seed=1), draw(1, 2, 4, 5, seed=2)
    one, other = np.abs(draw(1, 2, 5, seed=3)), np.abs(draw(1, 2, 5, seed=4))
    limits = np.array([2, 4, 5])
    scaled = cached_attention(q, keys, one, values, other, k_end=limits)
    whole = cached_attention(
        q, keys * one[..., None], None, values * other[:, :, None], None, k_end=limits
    )
    np.testing.assert_allclose(scaled, whole, atol=1e-5)


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    init = Initialisation(linear=0.02, embedding=0.02, position=0.0, residual=0.02)
    abstract = nnx.eval_shape(
        lambda: Transformer(SPEC, Parts(xla_attention, init), rngs=nnx.Rngs(0))
    )
    params = random_params(nnx.to_pure_dict(nnx.state(abstract)))
    return nnx.merge(nnx.graphdef(abstract), params)


@pytest.fixture(scope="module")
def full_pass(transformer) -> tuple[np.ndarray, np.ndarray]:
    x = draw(2, PLAN.length, SPEC.width)
    return x, np.asarray(jax.jit(transformer.__call__)(x, jnp.asarray(PLAN.k_end)))


# Of the largest output: bfloat16 has 8 bits of mantissa, integers 7 and a sign.
@pytest.mark.parametrize(
    "weights, stored, most",
    [
        ("compute", "compute", 1e-5),
        ("compute", "bfloat16", 0.02),
        ("int8", "int8", 0.06),
    ],
)
def test_passes_through_a_cache_that_grows(transformer, full_pass, weights, stored, most):
    x, expected = full_pass
    layers = jax.jit(lambda: pack_layers(transformer, weights))()
    advance = jax.jit(functools.partial(forward_cached, transformer))
    ends = sorted({int(k) for k in PLAN.k_end})
    cache = make_cache(transformer.spec, 2, ends[0], stored=stored)
    outs = []
    for start, end in itertools.pairwise([0, *ends]):
        cache = cache.grow(end)
        assert cache.length == end
        limits = jnp.asarray(PLAN.k_end[start:end])
        out, cache = advance(x[:, start:end], cache, layers, start=start, k_end=limits)
        outs.append(out)
    error = np.abs(np.concatenate(outs, 1) - expected).max() / np.abs(expected).max()
    assert error < most
    if stored != "compute":
        assert error > most / 100, "the cache is as coarse as asked for"
    kinds = {"compute": jnp.float32, "bfloat16": jnp.bfloat16, "int8": jnp.int8}
    assert {leaf.data.dtype for leaf in (*cache.keys, *cache.values)} == {jnp.dtype(kinds[stored])}


def test_lengths_of_a_cache():
    assert kv_cache.choose_lengths(100) == (100,)
    assert kv_cache.choose_lengths(256) == (128, 256)
    assert kv_cache.choose_lengths(1264) == (640, 1024, 1264)
    assert kv_cache.choose_lengths(5120) == (2560, 3840, 5120)
