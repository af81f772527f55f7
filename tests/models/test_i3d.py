# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""I3D against loops in numpy, its published size and shapes, and pinned logits."""

from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nbp.interop.feature_networks import i3d_drops, i3d_rules, i3d_shapes
from nbp.interop.mapping import check_rules, convert_tensors
from nbp.models.i3d import (
    PYTORCH_EPSILON,
    TFHUB_EPSILON,
    ConvUnit,
    I3dNetwork,
    I3dSpec,
    Mixed,
    MixedUnit,
    Pool,
    Unit,
    average_pool,
    max_pool,
    same_padding,
)
from nbp.nn.conv3d import lax_conv, taps_conv
from tests.official_parity.weights import make_weight

PINNED = Path(__file__).parent.parent / "golden" / "i3d_logits.npz"

Triple = tuple[int, int, int]


def pad_by_rule(x, kernel: Triple, stride: Triple):
    """The rule of the reference, written with its own two cases."""
    sides = [(0, 0)]
    for size, k, step in zip(x.shape[1:4], kernel, stride, strict=True):
        total = max(k - step, 0) if size % step == 0 else max(k - size % step, 0)
        sides.append((total // 2, total - total // 2))
    return np.pad(x, [*sides, (0, 0)])


def windows(x, kernel: Triple, stride: Triple):
    """Yields output position and its window, of an already padded array."""
    ends = [range(0, n - k + 1, s) for n, k, s in zip(x.shape[1:4], kernel, stride, strict=True)]
    for t, h, w in product(*ends):
        cut = x[:, t : t + kernel[0], h : h + kernel[1], w : w + kernel[2]]
        yield (t // stride[0], h // stride[1], w // stride[2]), cut


def naive_pool(x, kernel: Triple, stride: Triple):
    found = {
        at: cut.max(axis=(1, 2, 3))
        for at, cut in windows(pad_by_rule(x, kernel, stride), kernel, stride)
    }
    return collect(found)


def naive_unit(x, params, kernel: Triple, stride: Triple, epsilon: float):
    """Convolution, batch normalisation as usually written, ReLU; float64."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    padded = pad_by_rule(x.astype(np.float64), kernel, stride)
    y = collect(
        {
            at: np.einsum("bthwc,thwco->bo", cut, p["kernel"])
            for at, cut in windows(padded, kernel, stride)
        }
    )
    y = (y - p["mean"]) / np.sqrt(p["variance"] + epsilon) * p["scale"] + p["bias"]
    return np.maximum(y, 0)


def collect(found):
    """Values by position as one array [b t h w c]."""
    size = np.array(list(found)).max(axis=0) + 1
    first = next(iter(found.values()))
    out = np.empty((first.shape[0], *size, first.shape[1]), first.dtype)
    for at, value in found.items():
        out[(slice(None), *at)] = value
    return out


def randomize(module, seed: int):
    """Replaces all parameters, normalisation included, by random ones; variances positive."""
    rng = np.random.default_rng(seed)
    params = nnx.to_pure_dict(nnx.state(module))
    params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), params)
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: np.abs(x) + 0.01 if "variance" in str(path[-1]) else x, params
    )
    nnx.update(module, params)
    return params


@pytest.mark.parametrize(
    "kernel, stride, shape, epsilon, backend",
    [
        ((3, 3, 3), (1, 1, 1), (3, 4, 5), PYTORCH_EPSILON, taps_conv),
        # Odd and even sizes pad differently.
        ((7, 7, 7), (2, 2, 2), (5, 6, 7), TFHUB_EPSILON, lax_conv),
        ((3, 3, 3), (2, 2, 2), (5, 6, 7), PYTORCH_EPSILON, taps_conv),
        ((1, 1, 1), (1, 1, 1), (2, 3, 3), TFHUB_EPSILON, taps_conv),
    ],
)
def test_unit_is_convolution_normalisation_relu(kernel, stride, shape, epsilon, backend):
    unit = ConvUnit(3, Unit(4, kernel, stride), backend, epsilon=epsilon, rngs=nnx.Rngs(0))
    params = randomize(unit, seed=1)
    x = np.random.default_rng(2).normal(size=(2, *shape, 3)).astype(np.float32)
    want = naive_unit(x, params, kernel, stride, epsilon)
    np.testing.assert_allclose(jax.jit(unit.__call__)(x), want, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    "kernel, stride, shape",
    [
        ((1, 3, 3), (1, 2, 2), (2, 6, 7)),
        ((3, 3, 3), (2, 2, 2), (5, 4, 7)),
        ((2, 2, 2), (2, 2, 2), (3, 4, 5)),
    ],
)
def test_max_pool_pads_with_zeros(kernel, stride, shape):
    x = np.random.default_rng(0).normal(-1, 1, (2, *shape, 2)).astype(np.float32)
    got = max_pool(jnp.asarray(x), Pool(kernel, stride))
    np.testing.assert_array_equal(got, naive_pool(x, kernel, stride))


def test_zero_padding_shows_in_negative_corners():
    pooled = max_pool(-jnp.ones((1, 3, 3, 3, 1)), Pool((3, 3, 3), (1, 1, 1)))
    assert pooled[0, 0, 0, 0, 0] == 0  # touches the border
    assert pooled[0, 1, 1, 1, 0] == -1  # does not


def test_average_pool_is_the_mean_of_full_windows():
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 5, 2)).astype(np.float32)
    want = collect({at: cut.mean(axis=(1, 2, 3)) for at, cut in windows(x, (2, 3, 5), (1, 1, 1))})
    np.testing.assert_allclose(average_pool(jnp.asarray(x), (2, 3, 5)), want, atol=1e-6)


def test_mixed_unit_joins_its_branches_in_order():
    mixed = Mixed(2, (3, 4), (2, 5), 3)
    module = MixedUnit(3, mixed, lax_conv, epsilon=1e-5, rngs=nnx.Rngs(0))
    params = randomize(module, seed=3)
    x = np.abs(np.random.default_rng(4).normal(size=(1, 2, 3, 4, 3))).astype(np.float32)
    one, three = (1, 1, 1), (3, 3, 3)

    def unit(name, value, kernel):
        return naive_unit(value, params[name], kernel, one, 1e-5)

    want = [
        unit("b0", x, one),
        unit("b1b", unit("b1a", x, one), three),
        unit("b2b", unit("b2a", x, one), three),
        unit("b3b", naive_pool(x, three, one), one),
    ]
    got = jax.jit(module.__call__)(x)
    assert got.shape[-1] == mixed.width == 14
    np.testing.assert_allclose(got, np.concatenate(want, axis=-1), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    "size, window, stride, want",
    [(16, 7, 2, (2, 3)), (17, 7, 2, (3, 3)), (7, 2, 2, (0, 1)), (5, 1, 1, (0, 0))],
)
def test_same_padding(size, window, stride, want):
    assert same_padding(size, window, stride) == want


def test_published_parameter_count():
    params = jax.eval_shape(I3dNetwork(I3dSpec(), lax_conv).init, jax.random.key(0))
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    trained = [x.size for path, x in leaves if path[-1].key not in ("mean", "variance")]
    assert len(leaves) == 287
    assert sum(trained) == 12_697_264


@pytest.mark.parametrize("frames, averages", [(9, 1), (16, 1), (33, 4)])
def test_stage_shapes_of_the_reference(frames, averages):
    network = I3dNetwork(I3dSpec(), lax_conv)
    params = jax.eval_shape(network.init, jax.random.key(0))
    pixels = jax.ShapeDtypeStruct((1, frames, 224, 224, 3), jnp.float32)
    stages = jax.eval_shape(lambda p, x: network.bind(p).endpoints(x), params, pixels)
    pooled = jax.eval_shape(lambda p, x: network.bind(p).pool(x), params, pixels)
    assert pooled.shape == (1, averages, 1, 1, 1024)
    assert jax.eval_shape(network.features, params, pixels).shape == (1, 400)
    if frames == 16:
        assert stages["Conv3d_2c_3x3"].shape == (1, 8, 56, 56, 192)
        assert stages["Mixed_3c"].shape == (1, 8, 28, 28, 480)
        assert stages["Mixed_4f"].shape == (1, 4, 14, 14, 832)
        assert stages["Mixed_5c"].shape == (1, 2, 7, 7, 1024)


@pytest.mark.parametrize("shape", [(1, 8, 224, 224, 3), (1, 16, 128, 128, 3)])
def test_clips_that_do_not_fit_are_refused(shape):
    network = I3dNetwork(I3dSpec(), lax_conv)
    params = jax.eval_shape(network.init, jax.random.key(0))
    with pytest.raises(ValueError, match="I3D"):
        jax.eval_shape(network.features, params, jax.ShapeDtypeStruct(shape, jnp.float32))


def test_rules_cover_file_and_model():
    spec = I3dSpec()
    shapes = i3d_shapes(spec)
    assert len(shapes) == 287
    file = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    units = [name.removesuffix(".bn.weight") for name in shapes if name.endswith(".bn.weight")]
    assert len(units) == 57
    file |= {f"{name}.bn.num_batches_tracked": np.zeros((), np.int64) for name in units}
    template = jax.eval_shape(I3dNetwork(spec, lax_conv).init, jax.random.key(0))
    notes = check_rules(file, i3d_rules(), i3d_drops(), template=template, origin="test")
    assert notes == [
        "57 tensors dropped (counts training steps, unused at inference): "
        "Conv3d_1a_7x7.bn.num_batches_tracked"
    ]


def test_pinned_logits_of_the_whole_network():
    """Weights by the rule of the golden cases, on a clip that a formula makes.

    The stored logits come from this implementation when it agreed with the official network to
    2e-6 on every golden case. One wrong weight must show.
    """
    spec = I3dSpec()
    network = I3dNetwork(spec, lax_conv)
    tensors = {name: make_weight("i3d", name, s) for name, s in i3d_shapes(spec).items()}
    template = jax.eval_shape(network.init, jax.random.key(0))
    params = convert_tensors(tensors, i3d_rules(), template=template, origin="test")
    axes = np.meshgrid(np.arange(9), np.arange(224), np.arange(224), np.arange(3), indexing="ij")
    t, h, w, c = (axis.astype(np.float32) for axis in axes)
    clip = np.sin(0.05 * (h + 2 * w) + 0.7 * t + c) * np.cos(0.11 * h - 0.3 * t)
    features = jax.jit(network.features)
    with np.load(PINNED) as stored:
        want = stored["logits"]
    np.testing.assert_allclose(features(params, clip[None]), want, atol=2e-4, rtol=2e-4)
    params["units"]["Mixed_4d"]["b1b"]["kernel"][1, 1, 1, 3, 5] += 1.0
    assert np.abs(features(params, clip[None]) - want).max() > 4e-4
