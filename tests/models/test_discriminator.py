# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The discriminator against a plain numpy version, and what its verdicts may depend on."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp import losses
from nbp.models.discriminator import DiscriminatorNetwork, DiscriminatorSpec
from nbp.nn.conv3d import lax_conv, taps_conv
from tests.models.toy import random_params

NETWORK = DiscriminatorNetwork(DiscriminatorSpec((4, 16, 32)), taps_conv)


@pytest.fixture(scope="module")
def params():
    return draw_params(NETWORK)


def draw_params(network: DiscriminatorNetwork):
    return random_params(jax.eval_shape(network.init, jax.random.key(0)))


@pytest.fixture(scope="module")
def judge():
    return jax.jit(NETWORK.judge)


def draw_clips(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((*shape, 3), np.float32)


def numpy_conv(x, p, stride):
    """4x4x4 convolution, one output position at a time, of one clip [t h w c]."""
    sizes = [math.ceil(size / stride) for size in x.shape[:3]]
    missing = [max((n - 1) * stride + 4 - m, 0) for n, m in zip(sizes, x.shape, strict=False)]
    front = [missing[0], missing[1] // 2, missing[2] // 2]
    sides = [(f, m - f) for f, m in zip(front, missing, strict=True)]
    x = np.pad(x, [*sides, (0, 0)], mode="edge")
    out = np.zeros((*sizes, p["kernel"].shape[-1]))
    for i, j, k in np.ndindex(*sizes):
        box = x[tuple(slice(n * stride, n * stride + 4) for n in (i, j, k))]
        out[i, j, k] = np.tensordot(box, p["kernel"], 4) + p["bias"]
    return out


def numpy_judge(params, clip, groups):
    params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float64), params)
    x = 2 * clip.astype(np.float64) - 1
    convs = params["convs"]
    for index in sorted(convs, key=int):
        x = numpy_conv(x, convs[index], 2 if index < len(convs) - 1 else 1)
        if index:
            p = params["norms"][index - 1]
            split = x.reshape(*x.shape[:3], groups[index], -1)
            split -= split.mean((1, 2, 4), keepdims=True)
            split /= np.sqrt(np.square(split).mean((1, 2, 4), keepdims=True) + 1e-5)
            x = split.reshape(x.shape) * p["scale"] + p["bias"]
        x = np.where(x > 0, x, 0.2 * x)
    return numpy_conv(x, params["head"], 1)[..., 0]


def test_equals_a_numpy_version(params, judge):
    clips = draw_clips(2, 5, 9, 8)
    expected = [numpy_judge(params, clip, groups=(1, 1, 2)) for clip in clips]
    assert expected[0].shape == (2, 3, 2)
    np.testing.assert_allclose(judge(params, clips), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "clip,patches",
    [
        ((17, 128, 128), (3, 16, 16)),
        ((9, 64, 64), (2, 8, 8)),
        ((1, 64, 64), (1, 8, 8)),
        ((4, 17, 2), (1, 3, 1)),
        ((1, 1, 1), (1, 1, 1)),
    ],
)
def test_every_clip_has_a_map_of_patches(clip, patches):
    network = DiscriminatorNetwork(DiscriminatorSpec(), lax_conv)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    found = jax.eval_shape(network.judge, shapes, jax.ShapeDtypeStruct((2, *clip, 3), jnp.float32))
    assert found.shape == (2, *patches)


def test_a_first_frame_is_judged_like_the_image_it_is(params, judge):
    clips = draw_clips(2, 5, 8, 8)
    on_clips, on_images = judge(params, clips), judge(params, clips[:, :1])
    np.testing.assert_allclose(on_clips[:, :1], on_images, rtol=1e-4, atol=1e-5)


def test_a_verdict_does_not_depend_on_the_rest_of_the_batch(params, judge):
    clips = draw_clips(3, 3, 8, 8)
    alone = np.concatenate([judge(params, clips[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(judge(params, clips), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 4])
def test_every_pixel_is_looked_at(params, frames):
    gradient = jax.jit(jax.grad(lambda x: NETWORK.judge(params, x).sum()))(
        draw_clips(1, frames, 7, 8)
    )
    assert np.all(np.abs(gradient).max(axis=-1) > 0)


def check_along(function, start, *, step: float, rtol: float) -> None:
    """The derivative along one random direction against a central difference."""
    rng = np.random.default_rng(1)
    way = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), start)
    along = jax.jit(lambda s: function(jax.tree.map(lambda x, d: x + s * d, start, way)))
    expected = (along(step) - along(-step)) / (2 * step)
    gradient = jax.jit(jax.grad(function))(start)
    parts = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, way)
    np.testing.assert_allclose(sum(jax.tree.leaves(parts)), expected, rtol=rtol)


def test_gradient_of_the_generators_loss_agrees_with_differences(params):
    clips = jnp.asarray(draw_clips(2, 3, 8, 8))
    check_along(
        lambda x: losses.hinge_generator(NETWORK.judge(params, x)), clips, step=3e-4, rtol=0.02
    )


def test_gradient_of_r1_agrees_with_differences():
    """In float64 and without a normalisation: R1 jumps where an activation changes its sign."""
    with jax.enable_x64(True):
        spec = DiscriminatorSpec((4,), dtype=jnp.float64)
        network = DiscriminatorNetwork(spec, taps_conv)
        start = draw_params(network)
        start = jax.tree.map(lambda x: x.astype(jnp.float64), start)
        clips = jnp.asarray(draw_clips(2, 3, 5, 4), jnp.float64)

        def penalty(params):
            return losses.r1(lambda x: network.judge(params, x).mean((1, 2, 3)), clips)

        check_along(penalty, start, step=1e-6, rtol=1e-6)


def test_backends_agree_up_to_second_derivatives(params):
    clips = draw_clips(1, 3, 8, 8)

    def penalty(p, network):
        return losses.r1(lambda x: network.judge(p, x).mean((1, 2, 3)), clips)

    other = DiscriminatorNetwork(NETWORK.spec, lax_conv)
    one, two = (jax.jit(jax.grad(lambda p, n=n: penalty(p, n)))(params) for n in (NETWORK, other))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_bfloat16_computes_narrow_and_keeps_statistics_and_logits_wide(params, judge):
    spec = dataclasses.replace(NETWORK.spec, dtype=jnp.bfloat16)
    network = DiscriminatorNetwork(spec, taps_conv)
    clips = draw_clips(2, 3, 16, 16)
    wide, narrow = judge(params, clips), jax.jit(network.judge)(params, clips)
    assert narrow.dtype == jnp.float32
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    difference = np.abs(np.asarray(wide) - narrow)
    assert 0 < difference.max() < 0.1 * np.abs(wide).max()


def test_logits_start_small(judge):
    start = NETWORK.init(jax.random.key(1))
    found = np.asarray(judge(start, draw_clips(4, 3, 16, 16)))
    assert 0.05 < found.std() < 5


def test_a_discriminator_has_layers():
    with pytest.raises(ValueError, match="at least one width"):
        DiscriminatorSpec(())
