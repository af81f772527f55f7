# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Preparation of clips against per-pixel loops, and the feature extractor's batching."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.metrics.fvd import (
    PREPARATIONS,
    FeatureExtractor,
    prepare_styleganv,
    prepare_videogpt,
    resize_bilinear,
    resize_short_side,
    truncate_to_bytes,
)
from nbp.models.i3d import I3dNetwork, I3dSpec
from nbp.nn.conv3d import lax_conv
from nbp.protocols.protocol import FeatureRule
from tests.metrics.features import frechet

PREPARED = {name: jax.jit(prepare) for name, prepare in PREPARATIONS.items()}


def naive_bilinear(image, height: int, width: int):
    """Half-pixel centres, clamped neighbours, one output pixel at a time; [h w c]."""
    out = np.empty((height, width, image.shape[2]))
    for row in range(height):
        for column in range(width):
            y = max((row + 0.5) * image.shape[0] / height - 0.5, 0)
            x = max((column + 0.5) * image.shape[1] / width - 0.5, 0)
            top, left = int(y), int(x)
            below = min(top + 1, image.shape[0] - 1)
            right = min(left + 1, image.shape[1] - 1)
            fy, fx = y - top, x - left
            out[row, column] = (1 - fy) * (
                (1 - fx) * image[top, left] + fx * image[top, right]
            ) + fy * ((1 - fx) * image[below, left] + fx * image[below, right])
    return out


def random_pixels(*shape: int, seed: int = 0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


@pytest.mark.parametrize("size", [(13, 9), (5, 30), (3, 4), (6, 7)])
def test_bilinear_is_the_plain_loop(size):
    clip = random_pixels(1, 2, 6, 7, 3)
    got = resize_bilinear(jnp.asarray(clip), *size)
    want = np.stack([naive_bilinear(frame, *size) for frame in clip[0]])[None]
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 9), (10, 7), (8, 8)])
def test_short_side_then_centre(shape):
    clip = random_pixels(1, 1, *shape, 3)
    size, short = 5, min(shape)
    scaled = [size if side == short else math.ceil(side * size / short) for side in shape]
    whole = naive_bilinear(clip[0, 0], *scaled)
    top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    got = resize_short_side(jnp.asarray(clip), size)
    np.testing.assert_allclose(got[0, 0], whole[top : top + size, left : left + size], atol=1e-6)


def plain_preparation(name: str, frame):
    """Each preparation of one frame [h w c] in [0, 1] from its description, in numpy."""
    pixels = frame if name in ("styleganv", "tf1") else np.trunc(frame * np.float32(255)) / 255
    height, width = frame.shape[:2]
    if name == "tf1":  # MAGVIT's metrics_lib.resize_bilinear, element by element
        step = [np.float32(side / 224) for side in (height, width)]  # its numbers are float32
        places = [
            [float(min(np.float32(i) * by, side - 1)) for i in range(224)]
            for by, side in zip(step, (height, width), strict=True)
        ]
        scaled = np.empty((224, 224, 3))
        for i, y in enumerate(places[0]):
            top, bottom = pixels[int(y)], pixels[min(int(y) + 1, height - 1)]
            row = top + (bottom - top) * (y - int(y))
            for j, x in enumerate(places[1]):
                left, right = row[int(x)], row[min(int(x) + 1, width - 1)]
                scaled[i, j] = left + (right - left) * (x - int(x))
    elif name == "videogpt":
        scaled = naive_bilinear(pixels, 224, 224)
    else:
        short = min(height, width)
        sides = [224 if s == short else math.ceil(s * 224 / short) for s in (height, width)]
        scaled = naive_bilinear(pixels, *sides)
    top, left = ((side - 224) // 2 for side in scaled.shape[:2])
    return 2 * scaled[top : top + 224, left : left + 224] - 1


@pytest.mark.parametrize("name", PREPARATIONS)
@pytest.mark.parametrize("shape", [(20, 31), (300, 226)])
def test_preparations_are_the_plain_ones(name, shape):
    frame = random_pixels(*shape, 3, seed=4)
    got = np.asarray(PREPARED[name](frame[None, None]))[0, 0]
    np.testing.assert_allclose(got, plain_preparation(name, frame), atol=2e-6)


def test_variants_differ_where_they_should():
    wide = jnp.asarray(random_pixels(1, 1, 28, 56, 3))
    outputs = {name: np.asarray(prepare(wide)) for name, prepare in PREPARED.items()}
    for output in outputs.values():
        assert output.shape == (1, 1, 224, 224, 3)
        assert output.min() >= -1
        assert output.max() <= 1
    # Truncation darkens by half a level on average, and by less than one.
    lost = outputs["styleganv"] - outputs["videogpt_crop"]
    assert 0.4 < lost.mean() * 255 / 2 < 0.6
    assert lost.max() * 255 / 2 < 1.001
    # The squashed frame keeps the left border, the cropped one does not.
    squashed = outputs["videogpt"][0, 0, 100, 0]
    edge = np.floor(np.asarray(wide)[0, 0, :, 0] * 255) * 2 / 255 - 1
    assert np.abs(squashed - edge[12]).max() < 0.2 * np.abs(edge[12] - edge[13]).max() + 1e-6
    assert np.abs(outputs["videogpt"] - outputs["videogpt_crop"]).max() > 0.1


def test_black_and_white_reach_the_ends_of_the_range():
    for prepare in PREPARED.values():
        np.testing.assert_allclose(prepare(jnp.zeros((1, 1, 8, 8, 3))), -1, atol=1e-6)
        np.testing.assert_allclose(prepare(jnp.ones((1, 1, 8, 8, 3))), 1, atol=1e-6)


def test_bytes_survive_the_way_through_floats():
    levels = np.arange(256, dtype=np.uint8)
    back = jax.jit(lambda x: truncate_to_bytes(x.astype(jnp.float32) / 255.0))(levels)
    np.testing.assert_array_equal(back, levels)


def test_square_clips_need_no_crop():
    clip = jnp.asarray(random_pixels(1, 2, 32, 32, 3))
    whole = resize_bilinear(clip, 224, 224) * 2 - 1
    np.testing.assert_allclose(prepare_styleganv(clip), whole, atol=1e-6)
    exact = jnp.floor(clip * 255) / 255
    np.testing.assert_allclose(prepare_videogpt(clip), prepare_styleganv(exact), atol=1e-6)


@dataclass(frozen=True)
class MeanNetwork(I3dNetwork):
    """Stands in for I3D: per channel mean and mean square, times a parameter."""

    def features(self, params, pixels):
        moments = (pixels.mean(axis=(1, 2, 3)), jnp.square(pixels).mean(axis=(1, 2, 3)))
        return jnp.concatenate(moments, axis=-1) * params["gain"]


def make_extractor(batch: int, **rule) -> FeatureExtractor:
    network = MeanNetwork(I3dSpec(classes=6), lax_conv)
    rule = FeatureRule("any", "styleganv", **rule)
    return FeatureExtractor(network, {"gain": jnp.float32(2.0)}, rule, batch=batch)


def random_clips(seed: int, n: int):
    return np.random.default_rng(seed).integers(0, 256, (n, 2, 4, 4, 3), dtype=np.uint8)


def test_features_do_not_depend_on_batching():
    clips = random_clips(0, 7)
    one, four = make_extractor(1)(clips), make_extractor(4)(clips)
    assert one.shape == (7, 6)
    assert one.dtype == np.float64
    np.testing.assert_allclose(four, one, atol=1e-6)
    want = 2 * np.asarray(prepare_styleganv(clips[6:7] / np.float32(255))).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(four[6:, :3], want, atol=1e-5)


def test_bytes_and_floats_are_the_same_clips():
    clips = random_clips(3, 5)
    extract = make_extractor(4)
    floats = jnp.asarray(clips, jnp.float32) / 255
    np.testing.assert_allclose(extract(floats), extract(clips), atol=1e-6)


def test_only_the_scored_frames_count():
    clips = np.concatenate([random_clips(4, 3)] * 4, axis=1)
    clips[:, :3] = 0
    want = make_extractor(4)(clips[:, 3:7])
    np.testing.assert_allclose(make_extractor(4, first_frame=3, frames=4)(clips), want, atol=1e-6)
    assert np.abs(make_extractor(4)(clips) - want).max() > 0.1


def test_intermediate_sizes_lose_detail_and_antialiasing_more():
    """A grid of single pixels: averaged away by a triangle filter, aliased without one."""
    clips = np.zeros((2, 1, 32, 32, 3), np.uint8)
    clips[:, :, ::4, ::4] = 255
    plain, small, smooth = (
        make_extractor(2, **rule)(clips)[0, 3:]
        for rule in ({}, {"sizes": (8,)}, {"sizes": (8,), "antialias": True})
    )
    # Mean squares in [-1, 1]: black and white give 1, grey gives less.
    np.testing.assert_allclose(small, 2.0, atol=1e-4)
    assert (smooth < 1.7).all()
    assert (plain > smooth).all()


def test_antialiasing_is_a_triangle_as_wide_as_the_scale():
    row = random_pixels(1, 1, 1, 12, 3, seed=2)
    got = np.asarray(resize_bilinear(jnp.asarray(row), 1, 4, antialias=True))[0, 0, 0]
    for column in range(4):
        centre = (column + 0.5) * 3 - 0.5
        weight = np.maximum(1 - np.abs(np.arange(12) - centre) / 3, 0)
        want = (weight / weight.sum()) @ row[0, 0, 0]
        np.testing.assert_allclose(got[column], want, atol=1e-6)
    grown = resize_bilinear(jnp.asarray(row), 1, 30, antialias=True)
    np.testing.assert_allclose(grown, resize_bilinear(jnp.asarray(row), 1, 30), atol=1e-6)


def test_no_clips_give_no_features():
    assert make_extractor(4)(random_clips(0, 0)).shape == (0, 6)


def test_distance_of_clips():
    extract = make_extractor(8)
    clips, others = random_clips(1, 24), random_clips(2, 24) // 2
    features = extract(clips)
    assert frechet(features, extract(clips)) < 1e-3
    assert frechet(features, extract(others)) > 1.0
