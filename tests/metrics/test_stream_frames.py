# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Features of frames: a numpy convolution, and independence of batches and neighbours."""

import jax
import numpy as np
import pytest

from nbp.metrics.stream import draw_convolutions, make_random_frames, make_vgg_frames
from nbp.models.lpips import LpipsNetwork


def draw_clips(count: int, frames: int = 3, size: int = 16):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, frames, size, size, 3), np.uint8)


def naive_features(image):
    """The random network in numpy: loops over positions and cells."""
    x = image / 255 * 2 - 1.0
    for layer in draw_convolutions():
        side = x.shape[0] // 2
        # SAME with stride 2 and an even side: one row of zeros behind, none in front.
        padded = np.pad(x, ((0, 1), (0, 1), (0, 0)))
        out = np.empty((side, side, layer["kernel"].shape[-1]))
        for i in range(side):
            for j in range(side):
                window = padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
                out[i, j] = np.einsum("ijc,ijco->o", window, layer["kernel"]) + layer["bias"]
        x = np.maximum(out, 0)
    half = len(x) // 2
    cells = [x[:half, :half], x[:half, half:], x[half:, :half], x[half:, half:]]
    return np.concatenate([cell.mean(axis=(0, 1)) for cell in cells])


def test_random_features_are_plain_convolutions():
    clips = draw_clips(2)
    found = make_random_frames()(clips)
    assert found.shape == (2, 3, 128)
    np.testing.assert_allclose(found[1, 2], naive_features(clips[1, 2]), atol=1e-5)


def test_features_do_not_depend_on_batching_or_form():
    clips = draw_clips(5)
    want = make_random_frames(batch=8)(clips)
    np.testing.assert_allclose(make_random_frames(batch=2)(clips), want, atol=1e-5)
    floats = clips.astype(np.float32) / 255
    np.testing.assert_allclose(make_random_frames(batch=8)(floats), want, atol=1e-5)


def test_random_weights_never_change():
    """Pinned: a trend of last year goes on."""
    kernels = [layer["kernel"] for layer in draw_convolutions()]
    assert [k.shape for k in kernels] == [(3, 3, 3, 16), (3, 3, 16, 32), (3, 3, 32, 32)]
    assert kernels[0].flat[0] == pytest.approx(0.03421943, abs=1e-7)


def test_vgg_features_are_averages_of_the_last_map():
    rng = np.random.default_rng(1)
    template = jax.eval_shape(LpipsNetwork().init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: 0.05 * rng.standard_normal(leaf.shape, np.float32), template)
    clips = draw_clips(2, frames=2)
    found = make_vgg_frames(params, batch=2)(clips)
    images = clips[:, 1].astype(np.float32) / 255
    want = np.asarray(LpipsNetwork().bind(params).features(images)[-1]).mean(axis=(1, 2))
    assert found.shape == (2, 2, 512)
    np.testing.assert_allclose(found[:, 1], want, rtol=1e-4, atol=1e-4)


def test_small_frames_are_refused():
    with pytest.raises(ValueError, match="at least 16 px, these clips are 8x8"):
        make_random_frames()(draw_clips(1, size=8))
