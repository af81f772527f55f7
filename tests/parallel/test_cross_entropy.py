# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Chunked cross-entropy against float64 numpy and the plain version, alone and on meshes."""

import contextlib
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.errors import ConfigError
from nbp.parallel.cross_entropy import (
    chunked_cross_entropy,
    look_up,
    plain_cross_entropy,
    weighted_cross_entropy,
)
from nbp.parallel.mesh import make_mesh

CLIPS, LENGTH, WIDTH, CLASSES = 4, 11, 8, 40


def make_arrays(clips: int = CLIPS):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(clips, LENGTH, WIDTH)).astype(np.float32)
    kernel = (rng.normal(size=(WIDTH, CLASSES)) / 2).astype(np.float32)
    # Half of the targets are likely ones, so that both accuracies are between 0 and 1.
    targets = rng.integers(0, CLASSES, (clips, LENGTH))
    targets[:, ::2] = np.argsort(hidden[:, ::2] @ kernel, axis=-1)[..., -3]
    targets[:, ::4] = np.argmax(hidden[:, ::4] @ kernel, axis=-1)
    return hidden, kernel, targets.astype(np.int32)


def reference(hidden, kernel, targets):
    """Loss, accuracies and gradients, from the definition."""
    hidden, kernel = hidden.astype(np.float64), kernel.astype(np.float64)
    logits = hidden @ kernel
    share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    right = np.eye(CLASSES)[targets]
    place = (share > (share * right).sum(-1, keepdims=True)).sum(-1)
    d_logits = (share - right) / targets.size
    return (
        (-np.log((share * right).sum(-1)).mean(), (place == 0).mean(), (place < 5).mean()),
        (d_logits @ kernel.T, np.einsum("bnd,bnv->dv", hidden, d_logits)),
    )


def differentiate(score):
    """Scores and the gradients of the loss, compiled; the loss is scaled to see it passed on."""

    def loss(hidden, kernel, targets):
        scores = score(hidden, kernel, targets)
        return 3.0 * scores.loss, scores

    def run(hidden, kernel, targets):
        grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        (_, scores), gradients = grad(hidden, kernel, targets)
        return scores, jax.tree.map(lambda g: g / 3.0, gradients)

    return jax.jit(run)


def chunked(tokens):
    return lambda *arrays: chunked_cross_entropy(*arrays, tokens=tokens)


PLAIN = differentiate(plain_cross_entropy)


@pytest.mark.parametrize("tokens", [1, 20, 1000])
def test_value_and_gradient_are_those_of_the_definition(tokens):
    arrays = make_arrays()
    values, gradients = reference(*arrays)
    assert 0 < values[1] < values[2] < 1
    for run in (PLAIN, differentiate(chunked(tokens))):
        scores, found = run(*arrays)
        np.testing.assert_allclose(scores, values, rtol=2e-6)
        for one, other in zip(found, gradients, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)
    # Without a gradient another program runs.
    np.testing.assert_allclose(jax.jit(chunked(tokens))(*arrays), values, rtol=2e-6)


def test_half_precision_multiplies_and_sums_in_float32():
    hidden, kernel, targets = make_arrays()
    hidden = jnp.asarray(hidden, jnp.bfloat16)
    scores, (d_hidden, d_kernel) = differentiate(chunked(12))(hidden, kernel, targets)
    assert (d_hidden.dtype, d_kernel.dtype) == (jnp.bfloat16, jnp.float32)
    rounded = np.asarray(jnp.asarray(kernel, jnp.bfloat16), np.float32)
    values, gradients = reference(np.asarray(hidden, np.float32), rounded, targets)
    np.testing.assert_allclose(scores.loss, values[0], rtol=1e-5)
    np.testing.assert_allclose(d_kernel, gradients[1], atol=2e-3)


def test_no_array_of_all_logits_exists():
    arrays = make_arrays()

    def largest(score) -> int:
        grad = jax.grad(lambda *a: score(*a).loss, argnums=(0, 1))
        text = str(jax.jit(grad).lower(*arrays).compile().as_text())
        sizes = re.findall(r"f32\[([\d,]*)\]", text)
        return max(math.prod(int(n) for n in size.split(",") if n) for size in sizes)

    logits = CLIPS * LENGTH * CLASSES
    assert largest(plain_cross_entropy) >= logits
    assert largest(chunked(8)) < logits / 3


MESHES = {
    "data": {"data": 4, "devices": jax.devices()[:4]},
    "fsdp": {"data": 2, "fsdp": 2, "devices": jax.devices()[:4]},
    "tensor": {"fsdp": 2, "tensor": 4},
}


@pytest.mark.parametrize("clips", [CLIPS, 3])
@pytest.mark.parametrize("name", MESHES)
def test_devices_that_share_the_work_find_the_same(name, clips, monkeypatch):
    monkeypatch.setattr(
        "nbp.parallel.cross_entropy.GATHERED_BYTES", 200
    )  # several pieces of the kernel
    arrays = make_arrays(clips)
    values, gradients = reference(*arrays)
    with jax.set_mesh(make_mesh(**MESHES[name])):
        scores, found = differentiate(chunked(4))(*arrays)
        evaluated = jax.jit(chunked(4))(*arrays)
    np.testing.assert_allclose(scores, values, rtol=2e-6)
    np.testing.assert_allclose(evaluated, values, rtol=2e-6)
    for one, other in zip(found, gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)


def test_a_vocabulary_that_does_not_divide_is_refused():
    hidden, kernel, targets = make_arrays()
    refused = pytest.raises(ConfigError, match="'vocabulary' of size 36")
    with jax.set_mesh(make_mesh(tensor=8)), refused:
        chunked_cross_entropy(hidden, kernel[:, :36], targets)
    with pytest.raises(ValueError, match="pieces of 0 tokens"):
        chunked_cross_entropy(hidden, kernel, targets, tokens=0)


@pytest.mark.parametrize("clips", [8, 3])
def test_embeddings_of_a_split_table(clips):
    rng = np.random.default_rng(1)
    table = rng.normal(size=(10, 16)).astype(np.float32)
    ids = rng.integers(0, 10, (clips, 5))
    weight = rng.normal(size=(clips, 5, 16)).astype(np.float32)
    expected = np.zeros_like(table)
    np.add.at(expected, ids, weight)

    @jax.jit
    def run(table, ids):
        rows, pull = jax.vjp(lambda t: look_up(t, ids), table)
        return rows, pull(jnp.asarray(weight))[0]

    with jax.set_mesh(make_mesh(data=2, fsdp=4)):
        rows, gradient = run(table, ids)
    np.testing.assert_array_equal(rows, table[ids])
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


WEIGHTS = np.random.default_rng(3).uniform(0, 2, (CLIPS, LENGTH)).astype(np.float32)
WEIGHTS[:, ::3] = 0.0


@pytest.mark.parametrize("mesh", [None, *MESHES])
def test_weights_of_targets_are_those_of_the_definition(mesh):
    hidden, kernel, targets = make_arrays()
    logits = hidden.astype(np.float64) @ kernel.astype(np.float64)
    share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    right = np.eye(CLASSES)[targets]
    nats = -np.log((share * right).sum(-1))
    d_logits = (share - right) * (WEIGHTS / WEIGHTS.sum())[..., None]
    gradients = (d_logits @ kernel.T, np.einsum("bnd,bnv->dv", hidden, d_logits))

    def loss(hidden, kernel, weights):
        scores = weighted_cross_entropy(hidden, kernel, targets, weights, tokens=12)
        return scores.loss, scores

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    with jax.set_mesh(make_mesh(**MESHES[mesh])) if mesh else contextlib.nullcontext():
        (_, scores), found = run(hidden, kernel, WEIGHTS)
        alone = jax.jit(lambda *a: loss(*a)[1])(hidden, kernel, WEIGHTS)
    for each in (scores, alone):
        np.testing.assert_allclose(each.loss, (nats * WEIGHTS).sum() / WEIGHTS.sum(), rtol=2e-6)
        np.testing.assert_allclose(each.nats, nats, rtol=1e-5, atol=1e-6)
        place = (share > (share * right).sum(-1, keepdims=True)).sum(-1)
        np.testing.assert_array_equal(each.hit, place < 1)
        np.testing.assert_array_equal(each.hit_top5, place < 5)
    for one, other in zip(found, (*gradients, np.zeros_like(WEIGHTS)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)


def test_equal_weights_are_the_mean():
    arrays = make_arrays()
    plain = jax.jit(lambda *a: chunked_cross_entropy(*a, tokens=8))(*arrays)
    ones = np.ones(arrays[2].shape, np.float32)
    weighted = jax.jit(lambda x, k, t: weighted_cross_entropy(x, k, t, ones, tokens=8))(*arrays)
    assert float(weighted.loss) == float(plain.loss)
    assert float(weighted.hit.mean()) == pytest.approx(float(plain.accuracy))
