# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What every quantizer keeps to, and LFQ and VQ against oracles in float64."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nbp.nn.fsq import Fsq
from nbp.nn.lfq import Lfq
from nbp.nn.quantizer import Quantized, Quantizer
from nbp.nn.vq import Vq

QUANTIZERS = {"fsq": Fsq((4, 3)), "lfq": Lfq(16), "vq": Vq(7, 3)}
EVERY = pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)


def make_state(quantizer: Quantizer) -> Any:
    return quantizer.init(jax.random.key(3))


def draw_latents(quantizer: Quantizer, shape: tuple[int, ...] = (4, 2, 4, 4)) -> np.ndarray:
    rng = np.random.default_rng(len(shape))
    return rng.normal(size=(*shape, quantizer.channels)).astype(np.float32)


def apply(quantizer: Quantizer, z: Any, state: Any) -> Quantized:
    return jax.jit(quantizer.apply)(z, state)


def assert_close(a: Any, b: Any, *, atol: float = 1e-6) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=atol, rtol=1e-5)


# All of them -----------------------------------------------------------------------------------


@EVERY
def test_codes_and_vectors_agree_on_every_way(quantizer: Quantizer) -> None:
    assert isinstance(quantizer, Quantizer)
    state, z = make_state(quantizer), draw_latents(quantizer)
    found = apply(quantizer, z, state)
    assert found.codes.shape == z.shape[:-1]
    assert found.codes.dtype == jnp.int32
    assert found.vectors.shape == z.shape
    assert 0 <= found.codes.min() <= found.codes.max() < quantizer.codes
    assert len(np.unique(found.codes)) > 3
    np.testing.assert_array_equal(jax.jit(quantizer.assign)(z, state), found.codes)
    vectors = jax.jit(quantizer.lookup)(found.codes, state)
    np.testing.assert_allclose(vectors, found.vectors, atol=1e-6)


@EVERY
def test_each_position_stands_for_itself(quantizer: Quantizer) -> None:
    state, z = make_state(quantizer), draw_latents(quantizer, (30,))
    order = np.random.default_rng(0).permutation(30)
    assign = jax.jit(quantizer.assign)
    codes = np.asarray(assign(z, state))
    np.testing.assert_array_equal(assign(z[order], state), codes[order])
    np.testing.assert_array_equal(assign(z[:1], state), codes[:1])


@EVERY
def test_codes_of_vectors_are_the_codes(quantizer: Quantizer) -> None:
    state, every = make_state(quantizer), np.arange(quantizer.codes)
    vectors = quantizer.lookup(every, state)
    assert len(np.unique(vectors, axis=0)) == quantizer.codes
    if isinstance(quantizer, Fsq):  # its vectors are no latents: the bounding lies between
        np.testing.assert_array_equal(quantizer.index(vectors), every)
    else:
        np.testing.assert_array_equal(quantizer.assign(vectors, state), every)


@EVERY
def test_gradients_pass_to_the_latents_and_not_to_the_state(quantizer: Quantizer) -> None:
    state, z = make_state(quantizer), draw_latents(quantizer)
    weight = np.random.default_rng(5).normal(size=z.shape).astype(np.float32)

    def score(z: Any, state: Any) -> Any:
        return jnp.sum(quantizer.apply(z, state).vectors * weight)

    def punish(state: Any) -> Any:
        found = quantizer.apply(z, state)
        return found.penalty + sum(jnp.sum(x) for x in jax.tree.leaves(found.statistics))

    @jax.jit
    def run(z: Any, state: Any) -> Any:
        return *jax.grad(score, argnums=(0, 1))(z, state), jax.grad(punish)(state)

    through, to_state, punished = run(z, state)
    if isinstance(quantizer, Fsq):
        assert (np.abs(through) > 0).all()
        assert (np.sign(through) == np.sign(weight)).all()
    else:
        np.testing.assert_array_equal(through, weight)
    for gradient in (to_state, punished):
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


@EVERY
def test_statistics_of_a_whole_are_the_mean_of_its_parts(quantizer: Quantizer) -> None:
    state, z = make_state(quantizer), draw_latents(quantizer)
    run = jax.jit(quantizer.apply)
    whole = run(z, state).statistics
    parts = [run(half, state).statistics for half in np.split(z, 2)]
    assert_close(whole, jax.tree.map(lambda a, b: (a + b) / 2, *parts))
    assert bool(whole) == bool(state)


@EVERY
def test_eight_devices_find_what_one_finds(quantizer: Quantizer) -> None:
    """Moments, penalty and the state after them, with latents split over the devices."""
    state, z = make_state(quantizer), draw_latents(quantizer, (8, 16))

    @jax.jit
    def step(z: Any, state: Any) -> Any:
        found = quantizer.apply(z, state)
        return found, quantizer.update(state, found.statistics)

    mesh = Mesh(np.array(jax.devices()), ("data",))
    assert mesh.size == 8
    split = jax.device_put(z, NamedSharding(mesh, PartitionSpec("data")))
    copied = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    assert_close(step(split, copied), step(z, state))


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: Lfq(12), "power of two.*Use 8 or 16"),
        (lambda: Lfq(0), "Use 2 or 4"),
        (lambda: Lfq(2**30), "Use 16777216 or 16777216"),
        (lambda: Vq(1, 4), "at least 2 codes"),
        (lambda: Vq(8, 0), "at least 1 channel"),
    ],
)
def test_impossible_sizes_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# LFQ -------------------------------------------------------------------------------------------


def lfq_entropies(z: np.ndarray, temperature: float) -> tuple[float, float, float]:
    """By enumeration of all codes: mean entropy, entropy of the mean, the same of its marginals."""
    channels = z.shape[-1]
    codes = np.array(list(itertools.product((-1.0, 1.0), repeat=channels)))
    distance = np.square(z.reshape(-1, 1, channels) - codes).sum(-1)
    weight = np.exp(-(distance - distance.min(1, keepdims=True)) / temperature)
    share = weight / weight.sum(1, keepdims=True)

    def entropy(p: np.ndarray) -> np.ndarray:
        return -np.sum(p * np.log(np.maximum(p, 1e-300)), axis=-1)

    ones = (share[:, :, None] * (codes > 0)).sum(1).mean(0)
    bits = entropy(np.stack([ones, 1 - ones], axis=-1)).sum()
    return float(entropy(share).mean()), float(entropy(share.mean(0))), float(bits)


def lfq_penalty(quantizer: Lfq, z: np.ndarray) -> float:
    single, _, mean = lfq_entropies(z, quantizer.temperature)
    hard = np.where(z > 0, 1.0, -1.0)
    return quantizer.entropy * (single - mean) + quantizer.commitment * float(
        np.square(z - hard).mean()
    )


def differentiate(function: Any, z: np.ndarray, *, step: float = 1e-5) -> np.ndarray:
    """Central differences in float64."""
    gradient = np.zeros(z.shape)
    for place in np.ndindex(z.shape):
        moved = [z.astype(np.float64) for _ in range(2)]
        moved[0][place] += step
        moved[1][place] -= step
        gradient[place] = (function(moved[0]) - function(moved[1])) / (2 * step)
    return gradient


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_lfq_entropies_are_those_of_all_codes(temperature: float) -> None:
    quantizer = Lfq(16, temperature=temperature)
    z = draw_latents(quantizer, (40,)) * 0.5
    single, joint, bits = lfq_entropies(z, temperature)
    found = jax.jit(quantizer.entropies)(z)
    np.testing.assert_allclose(found, (single, bits), rtol=1e-4)
    assert found[1] >= joint, "independent bits bound the entropy from above"
    metrics = apply(quantizer, z, {}).metrics
    measured = (metrics["code_certainty"], metrics["code_entropy"])
    np.testing.assert_allclose(measured, found, rtol=1e-6)


def test_lfq_penalty_and_gradient_agree_with_finite_differences() -> None:
    quantizer = Lfq(8, entropy=0.7, commitment=0.3, temperature=1.5)
    z = draw_latents(quantizer, (12,))
    value, gradient = jax.jit(jax.value_and_grad(lambda z: quantizer.apply(z).penalty))(z)
    np.testing.assert_allclose(value, lfq_penalty(quantizer, z), rtol=1e-5)
    expected = differentiate(lambda z: lfq_penalty(quantizer, z), z)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_lfq_gradients_stay_finite_far_out_and_where_a_bit_never_changes() -> None:
    z = jnp.asarray([[50.0, -50.0], [60.0, 0.0], [500.0, 50.0]])
    gradient = jax.jit(jax.grad(lambda z: Lfq(4).apply(z).penalty))(z)
    assert np.isfinite(gradient).all()
    assert (gradient[:, 0] > 0).all(), "the commitment pulls back"


def test_lfq_channel_0_is_the_lowest_bit_and_zero_is_no_one() -> None:
    z = np.array([[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [0, 0, 2], [1, 1, 1]], np.float32)
    quantizer = Lfq(8)
    np.testing.assert_array_equal(quantizer.assign(z), [1, 2, 4, 4, 7])
    np.testing.assert_array_equal(quantizer.lookup(np.array([5])), [[1, -1, 1]])


def test_lfq_penalty_is_least_for_sure_and_even_codes() -> None:
    quantizer = Lfq(4)
    every = np.asarray(quantizer.lookup(np.arange(4)))
    even, collapsed = apply(quantizer, every, {}), apply(quantizer, every[[0, 0, 0, 0]], {})
    unsure = apply(quantizer, 0.2 * every, {})
    assert even.penalty < min(collapsed.penalty, unsure.penalty)
    np.testing.assert_allclose(even.metrics["code_entropy"], np.log(4), atol=1e-5)


# VQ --------------------------------------------------------------------------------------------


def vq_codebook(shares: np.ndarray, sums: np.ndarray) -> np.ndarray:
    extra = 1e-5 / len(shares)
    smooth = (shares + extra) / (shares.sum() + 1e-5) * shares.sum()
    return sums / smooth[:, None]


def vq_reference(
    quantizer: Vq, shares: np.ndarray, sums: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, then shares and sums after one update, one position and one code at a time."""
    z = z.reshape(-1, quantizer.channels).astype(np.float64)
    vectors = vq_codebook(shares, sums)
    codes = np.array([np.argmin([np.sum((x - e) ** 2) for e in vectors]) for x in z])
    draws = np.asarray(jax.random.normal(jax.random.key(0), sums.shape), np.float64)
    shares, sums = shares.copy(), sums.copy()
    members = [z[codes == code] for code in range(quantizer.codes)]
    for code, own in enumerate(members):
        shares[code] = 0.99 * shares[code] + 0.01 * len(own) / len(z)
        sums[code] = 0.99 * sums[code] + 0.01 * own.sum(0) / len(z)
    errors = [len(own) * own.var(0).sum() if len(own) else 0.0 for own in members]
    dead = [code for code in range(quantizer.codes) if shares[code] < 0.1 / quantizer.codes]
    for rank, code in enumerate(dead):
        place = (rank + 0.5) / len(dead) * sum(errors)
        own = members[next(c for c in range(99) if sum(errors[: c + 1]) >= place)]
        shares[code] = 1 / quantizer.codes
        sums[code] = (own.mean(0) + own.std(0) * draws[code]) / quantizer.codes
    return codes, shares, sums


def test_vq_follows_the_reference() -> None:
    quantizer = Vq(12, 2)
    state = jax.tree.map(np.asarray, make_state(quantizer))
    shares, sums = (state[name].astype(np.float64) for name in ("shares", "sums"))
    rng, reborn = np.random.default_rng(2), []
    step = jax.jit(lambda z, s: (f := quantizer.apply(z, s), quantizer.update(s, f.statistics)))
    for _ in range(3):
        z = (rng.normal(size=(3, 32, 2)) * [1.0, 0.2] + [3.0, 0.0]).astype(np.float32)
        codes, shares, sums = vq_reference(quantizer, shares, sums, z)
        reborn.append(int(np.sum(shares == 1 / 12)))
        found, state = step(z, state)
        np.testing.assert_array_equal(found.codes.reshape(-1), codes)
        np.testing.assert_allclose(state["shares"], shares, rtol=1e-5)
        np.testing.assert_allclose(state["sums"], sums, atol=1e-5)
    assert 12 > reborn[0] > 4 > reborn[-1], "first all codes that nothing took, then few"
    np.testing.assert_allclose(quantizer.codebook(state), vq_codebook(shares, sums), atol=1e-4)


def test_vq_penalty_gradient_pulls_latents_to_their_codes() -> None:
    quantizer = Vq(7, 3)
    state, z = make_state(quantizer), draw_latents(quantizer, (10,))
    vectors = np.asarray(quantizer.codebook(state), np.float64)[quantizer.assign(z, state)]

    def penalty(z: np.ndarray) -> float:
        return 0.25 * float(np.mean((z - vectors) ** 2))

    found = jax.jit(jax.value_and_grad(lambda z: quantizer.apply(z, state).penalty))
    value, gradient = found(z)
    np.testing.assert_allclose(value, penalty(z), rtol=1e-5)
    np.testing.assert_allclose(gradient, differentiate(penalty, z), atol=1e-6)


def test_vq_recovers_from_a_collapse() -> None:
    """All codes but one far from the latents: they come back, and each cluster gets its own."""
    quantizer = Vq(8, 2)
    sums = np.full((8, 2), 100.0, np.float32)
    sums[3] = 0.0
    state = {"shares": jnp.full((8,), 0.125), "sums": jnp.asarray(sums * 0.125)}
    rng = np.random.default_rng(4)
    centres = np.array([[2, 2], [2, -2], [-2, 2], [-2, -2]])
    step = jax.jit(lambda z, s: (f := quantizer.apply(z, s), quantizer.update(s, f.statistics)))
    found, usage = apply(quantizer, centres.astype(np.float32), state), []
    for _ in range(700):
        z = centres[np.arange(64) % 4] + 0.1 * rng.normal(size=(64, 2))
        found, state = step(z.astype(np.float32), state)
        usage.append(len(np.unique(found.codes)))
    assert usage[0] == 1
    assert usage[-1] >= 4
    assert len(set(np.asarray(found.codes)[:4])) == 4
    assert found.metrics["commitment"] < 0.02
    assert found.metrics["dead_codes"] == 0.0


def test_vq_smoothing_keeps_codes_that_nothing_takes_in_place() -> None:
    quantizer = Vq(4, 1)
    state = {
        "shares": jnp.array([0.9, 0.1, 1e-9, 0.0]),
        "sums": jnp.array([[0.9], [0.2], [0], [0]]),
    }
    vectors = quantizer.codebook(state)
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(vectors[:2, 0], [1.0, 2.0], rtol=1e-4)
