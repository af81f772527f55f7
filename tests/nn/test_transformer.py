# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The scanned stack against float64 numpy, the cache against the full pass, dropout statistics."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nbp.layout import LatentGrid, Opening, SequencePlan
from nbp.models.inference import forward_cached, pack_layers
from nbp.nn.attention.kv_cache import make_cache
from nbp.nn.attention.reference import dense_attention, xla_attention
from nbp.nn.transformer import Initialisation, Parts, Transformer, TransformerSpec, drop, gelu
from tests.models.toy import random_params, reference_transformer

INIT = Initialisation(linear=0.02, embedding=0.02, position=0.0, residual=0.02)
SPEC = TransformerSpec(layers=3, heads=2, width=16)
PLAN = SequencePlan(LatentGrid(2, 2, 2), (1, 1, 2), Opening("hybrid", 2), 1)


class NoNorm(nnx.Module):
    """Stands in for the norm where a test wants to see the residual stream itself."""

    def __init__(self, width, dtype, *, rngs):
        del width, dtype, rngs

    def __call__(self, x):
        return x


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    parts = Parts(xla_attention, INIT)
    abstract = nnx.eval_shape(lambda: Transformer(SPEC, parts, rngs=nnx.Rngs(0)))
    params = random_params(nnx.to_pure_dict(nnx.state(abstract)))
    return nnx.merge(nnx.graphdef(abstract), params)


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    shape = (2, PLAN.length, SPEC.width)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def full_pass(transformer, inputs) -> np.ndarray:
    return np.asarray(jax.jit(transformer.__call__)(inputs, jnp.asarray(PLAN.k_end)))


def test_scanned_layers_are_the_layers_one_by_one(transformer, inputs, full_pass):
    params = nnx.to_pure_dict(nnx.state(transformer))
    expected = reference_transformer(params, inputs, PLAN.k_end, SPEC.heads)
    np.testing.assert_allclose(full_pass, expected, atol=2e-5)


@pytest.mark.parametrize("groups", [1, 2, "prefill and one", "uneven"])
def test_extending_the_cache_block_by_block_is_the_full_pass(
    transformer, inputs, full_pass, groups
):
    # A chunk may end only where a group of positions that see each other ends.
    ends = sorted({int(k) for k in PLAN.k_end})
    match groups:
        case "prefill and one":
            ends = ends[-2:]
        case "uneven":
            ends = [ends[0], ends[3], *ends[-2:]]
        case step:
            ends = [*ends[step - 1 :: step]]
            ends += [PLAN.length] * (ends[-1] != PLAN.length)
    layers = pack_layers(transformer)
    cache = make_cache(transformer.spec, len(inputs), PLAN.length)
    advance = jax.jit(
        lambda x, cache, start, k_end: forward_cached(
            transformer, x, cache, layers, start=start, k_end=k_end
        )
    )
    for start, end in itertools.pairwise([0, *ends]):
        limits = jnp.asarray(PLAN.k_end[start:end])
        out, cache = advance(inputs[:, start:end], cache, start, limits)
        np.testing.assert_allclose(out, full_pass[:, start:end], atol=2e-5)


def test_a_hidden_key_changes_nothing(transformer, inputs):
    mask = np.ones(inputs.shape[:2], bool)
    mask[1, 1] = False
    changed = inputs.copy()
    changed[1, 1] = 7.0
    run = jax.jit(lambda x: transformer(x, jnp.asarray(PLAN.k_end), key_mask=mask))
    one, other = np.asarray(run(inputs)), np.asarray(run(changed))
    others = np.arange(PLAN.length) != 1
    np.testing.assert_array_equal(one[:, others], other[:, others])
    assert np.any(one[1, 1] != other[1, 1])


def test_compute_type_and_cache_type():
    spec = TransformerSpec(layers=1, heads=2, width=8, dtype=jnp.bfloat16)
    parts = Parts(dense_attention, INIT)
    module = nnx.eval_shape(lambda: Transformer(spec, parts, rngs=nnx.Rngs(0)))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.state(module)))
    cache = make_cache(module.spec, 3, 5)
    assert [key.data.shape for key in cache.keys] == [(3, 2, 5, 4)]
    assert [value.data.shape for value in cache.values] == [(3, 2, 4, 5)]
    assert cache.values[0].data.dtype == jnp.bfloat16


def test_initialisation():
    init = Initialisation(linear=0.05, embedding=1.0, position=1.0, residual=0.01)
    spec = TransformerSpec(layers=2, heads=2, width=64)

    @jax.jit
    def make_layers():
        module = Transformer(spec, Parts(xla_attention, init), rngs=nnx.Rngs(0))
        return nnx.to_pure_dict(nnx.state(module.layers))

    layers = make_layers()
    for path, std in ((("qkv",), 0.05), (("mlp", "up"), 0.05), (("proj",), 0.01)):
        node = layers
        for name in path:
            node = node[name]
        assert np.std(node["kernel"]) == pytest.approx(std, rel=0.05)
        assert not np.any(node["bias"])
        assert np.any(node["kernel"][0] != node["kernel"][1]), "layers start different"
    assert np.std(layers["mlp"]["down"]["kernel"]) == pytest.approx(0.01, rel=0.05)


def test_drop_keeps_the_mean():
    x = jnp.ones((400, 400))
    dropped = np.asarray(drop(x, 0.3, jax.random.key(0)))
    share = (dropped == 0).mean()
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / x.size)
    np.testing.assert_allclose(dropped[dropped != 0], 1 / 0.7, rtol=1e-6)
    assert drop(x, 0.3, None) is x
    assert drop(x, 0.0, jax.random.key(0)) is x


def test_dropout_hits_each_residual_branch_of_each_layer_by_itself():
    spec = TransformerSpec(layers=2, heads=2, width=16, dropout=0.25)
    parts = Parts(xla_attention, INIT, norm=NoNorm)
    abstract = nnx.eval_shape(lambda: Transformer(spec, parts, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(abstract))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), params)
    # Every branch writes 1: the stream then counts the branches that were kept.
    for layer in (params["layers"]["proj"], params["layers"]["mlp"]["down"]):
        layer["bias"] += 1
    module = nnx.merge(nnx.graphdef(abstract), params)
    x, k_end = jnp.zeros((4, 100, 16)), jnp.arange(1, 101)
    run = jax.jit(lambda key: module(x, k_end, key=key))
    out = np.asarray(run(jax.random.key(3)))
    kept = np.bincount(np.round(out * 0.75).astype(int).ravel(), minlength=5) / out.size
    expected = [math.comb(4, n) * 0.75**n * 0.25 ** (4 - n) for n in range(5)]
    np.testing.assert_allclose(kept, expected, atol=4 * math.sqrt(0.25 / out.size))
    np.testing.assert_array_equal(out, run(jax.random.key(3)))
    assert np.any(out != run(jax.random.key(4)))
    np.testing.assert_array_equal(module(x, k_end), 4.0)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="width 10 is not a multiple of 4 heads"):
        TransformerSpec(layers=1, heads=4, width=10)


def test_gelu_and_its_derivative():
    """Against x * Phi(x) of Python's erfc in float64, and differences of it.

    Where Phi is below the last bit of 1, as of torch, no more than that is asked.
    """
    x = np.linspace(-9.0, 9.0, 181)

    def exact(x: float) -> float:
        return 0.5 * x * math.erfc(-x * math.sqrt(0.5))

    values = [exact(float(v)) for v in x]
    np.testing.assert_allclose(gelu(jnp.asarray(x, jnp.float32)), values, rtol=2e-5, atol=5e-7)
    slopes = [(exact(v + 1e-5) - exact(v - 1e-5)) / 2e-5 for v in x.tolist()]
    found = jax.vmap(jax.grad(gelu))(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, slopes, atol=2e-6)
    half = jax.vmap(jax.grad(gelu))(jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), slopes, atol=0.02)
