# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Both convolutions against a float64 loop and its adjoint; causality; norm; depth-to-space."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nbp.nn.conv3d import (
    FORMULATIONS,
    CausalConv3d,
    FrameCache,
    FrameGroupNorm,
    Swish,
    depth_to_space,
    repeat_ends,
    taps_conv,
)

STRIDES = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (3, 1, 2)]
# Kernel shapes: one kind is enough for most formulations, `fold` has a thin input or output end.
KERNELS = {"widens": (3, 3, 3, 2, 4), "narrows": (3, 3, 3, 4, 2), "pairs": (2, 1, 3, 2, 2)}


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def output_shape(x: np.ndarray, kernel: np.ndarray, stride) -> tuple[int, ...]:
    sizes = zip(x.shape[1:4], kernel.shape[:3], stride, strict=True)
    return (x.shape[0], *((n - k) // s + 1 for n, k, s in sizes), kernel.shape[-1])


def convolve_by_loops(x: np.ndarray, kernel: np.ndarray, stride) -> np.ndarray:
    y = np.zeros(output_shape(x, kernel, stride))
    for t, h, w in np.ndindex(y.shape[1:4]):
        for i, j, k in np.ndindex(kernel.shape[:3]):
            pixel = x[:, t * stride[0] + i, h * stride[1] + j, w * stride[2] + k]
            y[:, t, h, w] += pixel.astype(np.float64) @ kernel[i, j, k]
    return y


def adjoints_by_loops(x, kernel, stride, weight) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of sum(weight * y) for x and the kernel: y is linear in both."""
    dx, dkernel = np.zeros(x.shape), np.zeros(kernel.shape)
    for t, h, w in np.ndindex(weight.shape[1:4]):
        for i, j, k in np.ndindex(kernel.shape[:3]):
            at = (slice(None), t * stride[0] + i, h * stride[1] + j, w * stride[2] + k)
            dx[at] += weight[:, t, h, w].astype(np.float64) @ kernel[i, j, k].T
            dkernel[i, j, k] += x[at].astype(np.float64).T @ weight[:, t, h, w]
    return dx, dkernel


# Every stride with every formulation; `fold` has a branch of its own for each thin end.
LOOPED = [
    *((name, stride, shape) for name in ("lax", "taps") for stride, shape in
      zip(STRIDES, ("widens", "narrows", "pairs", "widens"), strict=True)),
    *(("fold", stride, shape) for stride in STRIDES for shape in ("widens", "narrows")),
    ("fold", (3, 1, 2), "pairs"),
]  # fmt: skip


@pytest.mark.parametrize("formulation, stride, shape", LOOPED)
def test_convolution_is_the_loop(formulation, stride, shape):
    shape = KERNELS[shape]
    x, kernel = normal(2, 5, 6, 7, shape[3]), normal(*shape, seed=1)
    weight = normal(*output_shape(x, kernel, stride), seed=2)

    @jax.jit
    def run(x, kernel):
        conv = FORMULATIONS[formulation]
        y, pull = jax.vjp(lambda x, kernel: conv(x, kernel, stride), x, kernel)
        return y, *pull(weight)

    y, dx, dkernel = run(x, kernel)
    np.testing.assert_allclose(y, convolve_by_loops(x, kernel, stride), atol=2e-5)
    expected_dx, expected_dkernel = adjoints_by_loops(x, kernel, stride, weight)
    np.testing.assert_allclose(dx, expected_dx, atol=2e-5)
    np.testing.assert_allclose(dkernel, expected_dkernel, atol=5e-5)


@pytest.mark.parametrize("channels", [(3, 16), (16, 3), (16, 16)])
def test_mixed_formulation(channels):
    x, kernel = normal(1, 4, 5, 5, channels[0]), normal(3, 3, 3, *channels, seed=1)
    y = jax.jit(lambda x, kernel: FORMULATIONS["mixed"](x, kernel, (1, 1, 1)))(x, kernel)
    np.testing.assert_allclose(y, convolve_by_loops(x, kernel, (1, 1, 1)), atol=5e-5)


def test_half_precision_formulations_are_as_exact_as_the_oracle():
    x, kernel = normal(1, 4, 6, 6, 16), normal(3, 3, 3, 16, 16, seed=1)
    half = jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16)
    expected = convolve_by_loops(
        np.asarray(half[0], np.float32), np.asarray(half[1], np.float32), (1, 1, 1)
    )
    errors = {}
    for name, conv in FORMULATIONS.items():
        run = jax.jit(lambda x, kernel, conv=conv: conv(x, kernel, (1, 1, 1)))
        found = np.asarray(run(*half), np.float32)
        errors[name] = np.sqrt(np.mean((found - expected) ** 2))
    assert errors["lax"] > 0.01  # rounding of the result, of size 20
    assert max(errors.values()) < 2 * errors["lax"]


def make_conv(inputs: int, outputs: int, **options) -> CausalConv3d:
    conv = CausalConv3d(inputs, outputs, backend=taps_conv, rngs=nnx.Rngs(0), **options)
    conv.bias[...] = jnp.asarray(normal(outputs, seed=9))
    return conv


@pytest.mark.parametrize("stride", STRIDES[:3])
def test_causal_convolution_replicates_borders_and_the_first_frame(stride):
    x = normal(2, 5, 6, 4, 2)
    conv = make_conv(2, 3, stride=stride)
    padded = np.concatenate([x[:, :1], x[:, :1], x], axis=1)  # twice in front, never behind
    padded = np.concatenate([padded[:, :, :1], padded, padded[:, :, -1:]], axis=2)
    padded = np.concatenate([padded[:, :, :, :1], padded, padded[:, :, :, -1:]], axis=3)
    expected = convolve_by_loops(padded, np.asarray(conv.kernel[...]), stride)
    np.testing.assert_allclose(jax.jit(conv)(x), expected + np.asarray(conv.bias[...]), atol=2e-5)
    sizes = [-(-n // s) for n, s in zip(x.shape[1:4], stride, strict=True)]
    assert expected.shape == (2, *sizes, 3)


@pytest.mark.parametrize(
    "taps, step", [(1, 1), (1, 3), (2, 1), (2, 2), (2, 4), (3, 1), (3, 2), (3, 3), (3, 4)]
)
def test_chunks_with_a_cache_are_the_whole(taps, step):
    x = normal(2, 1 + 6 * step, 3, 4, 2)
    conv = make_conv(2, 3, taps=taps, stride=(step, 1, 1))

    @jax.jit
    def run(x):
        outputs, frames = [], None
        for chunk in jnp.split(x, (1, 1 + 3 * step, 1 + 4 * step), axis=1):
            cache = FrameCache(frames)
            outputs.append(conv(chunk, cache))
            frames = cache.frames
            assert [frame.shape[1] for frame in frames] == [taps - step] * (taps > step)
        return conv(x), jnp.concatenate(outputs, axis=1)

    whole, chunks = run(x)
    assert whole.shape[1] == 7
    np.testing.assert_allclose(chunks, whole, atol=1e-5)


def test_length_in_time_is_its_own():
    assert make_conv(2, 3, taps=1).kernel.shape == (1, 3, 3, 2, 3)
    assert make_conv(2, 3, kernel=1, taps=3).kernel.shape == (3, 1, 1, 2, 3)
    x = normal(1, 4, 3, 3, 2)
    conv = make_conv(2, 3, taps=1)
    alone = jnp.concatenate([conv(x[:, t : t + 1]) for t in range(4)], axis=1)
    np.testing.assert_allclose(conv(x), alone, atol=1e-5)


@pytest.mark.parametrize("axis, times", [(1, (2, 0)), (2, (1, 1)), (3, (0, 3)), (1, (0, 0))])
def test_repeated_ends(axis, times):
    x = normal(2, 3, 2, 4, 2)
    widths = [times if i == axis else (0, 0) for i in range(5)]
    np.testing.assert_array_equal(repeat_ends(x, axis, times), np.pad(x, widths, mode="edge"))


def test_kernel_of_one_is_a_matrix():
    x = normal(2, 3, 4, 5, 2)
    for stride in ((1, 1, 1), (1, 2, 2)):
        conv = make_conv(2, 3, kernel=1, stride=stride)
        picked = x[:, :: stride[0], :: stride[1], :: stride[2]]
        expected = picked @ np.asarray(conv.kernel[...])[0, 0, 0] + np.asarray(conv.bias[...])
        np.testing.assert_allclose(conv(x), expected, atol=1e-5)


@pytest.mark.parametrize("time_stride", [1, 2])
def test_no_frame_sees_a_later_one(time_stride):
    x = normal(1, 5, 4, 4, 2)
    conv = make_conv(2, 2, stride=(time_stride, 1, 1))
    influence = np.asarray(jax.jit(jax.jacrev(lambda x: jnp.sum(conv(x) ** 2, (0, 2, 3, 4))))(x))
    influence = np.abs(influence).sum((1, 3, 4, 5))  # [output frame, input frame]
    for out, row in enumerate(influence):
        last = out * time_stride
        assert (row[last + 1 :] == 0).all()
        assert (row[max(0, last - 2) : last + 1] > 0).all()


def test_gain_scales_the_initial_weights():
    loud, quiet = make_conv(4, 64), make_conv(4, 64, gain=0.1)
    np.testing.assert_allclose(quiet.kernel[...], 0.1 * loud.kernel[...], rtol=1e-5)
    assert np.std(loud.kernel[...]) == pytest.approx((27 * 4) ** -0.5, rel=0.1)


def test_group_norm_is_per_frame():
    x = normal(2, 3, 4, 5, 6, seed=3) * 4 + 7
    norm = FrameGroupNorm(6, 2)
    norm.scale[...], norm.bias[...] = jnp.arange(1.0, 7.0), jnp.arange(6.0) - 2
    expected = np.zeros(x.shape)
    for b, t, group in np.ndindex(2, 3, 2):
        part = x[b, t, :, :, 3 * group : 3 * group + 3].astype(np.float64)
        normal_part = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
        expected[b, t, :, :, 3 * group : 3 * group + 3] = normal_part
    expected = expected * np.arange(1.0, 7.0) + np.arange(6.0) - 2
    np.testing.assert_allclose(norm(x), expected, atol=2e-5)
    with pytest.raises(ValueError, match="6 channels do not divide into 4 groups"):
        FrameGroupNorm(6, 4)


def test_group_norm_of_a_flat_bright_frame_is_its_bias():
    x = np.full((1, 1, 8, 8, 4), 1000.0, np.float32)  # E[x^2] - E[x]^2 would cancel here
    np.testing.assert_allclose(FrameGroupNorm(4, 2)(x), 0.0, atol=1e-3)


def test_swish():
    x = normal(3, 4, seed=4)
    act = Swish(4)
    np.testing.assert_allclose(act(x), x / (1 + np.exp(-x)), rtol=1e-5, atol=1e-6)
    act.beta[...] = jnp.array([0.0, 1.0, 2.0, -3.0])
    np.testing.assert_allclose(
        act(x), x / (1 + np.exp(-x * [0.0, 1.0, 2.0, -3.0])), rtol=1e-5, atol=1e-6
    )


def test_depth_to_space_keeps_every_frame_after_the_start():
    x = jnp.asarray(normal(1, 3, 2, 2, 16))
    whole = depth_to_space(x, (4, 1, 2))
    later = depth_to_space(x[:, 1:], (4, 1, 2), starts=False)
    assert later.shape[1] == 8
    np.testing.assert_array_equal(later, whole[:, 1:])


@pytest.mark.parametrize("stride", [(1, 2, 2), (2, 2, 2), (2, 1, 3)])
def test_depth_to_space_index_by_index(stride):
    bt, bh, bw = stride
    outputs = 3
    x = normal(2, 3, 2, 4, bt * bh * bw * outputs)
    y = np.asarray(depth_to_space(jnp.asarray(x), stride))
    assert y.shape == (2, 3 * bt - bt + 1, 2 * bh, 4 * bw, outputs)
    written = 0
    for t, h, w in np.ndindex(3, 2, 4):
        for i, j, k in np.ndindex(stride):
            frame = t * bt + i - (bt - 1)  # the first bt - 1 frames are dropped
            if frame >= 0:
                channel = ((i * bh + j) * bw + k) * outputs
                np.testing.assert_array_equal(
                    y[:, frame, h * bh + j, w * bw + k],
                    x[:, t, h, w, channel : channel + outputs],
                )
                written += 1
    assert written == y[0, ..., 0].size
