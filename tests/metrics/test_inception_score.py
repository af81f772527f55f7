# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Inception score against its definition, its bounds and hand-made cases."""

import dataclasses

import jax
import numpy as np
import pytest

from nbp.metrics.inception_score import (
    ClassProbabilities,
    inception_score,
    prepare_c3d,
    score_classes,
)
from nbp.models.c3d import C3dNetwork, C3dSpec
from nbp.nn.conv3d import taps_conv
from nbp.protocols.protocol import InceptionRule
from nbp.protocols.published import STYLEGANV_INCEPTION, TGAN2_INCEPTION


def test_is_the_published_formula_of_each_part():
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.full(7, 0.4), 53) + 1e-12
    scores = []
    for part in range(5):
        p = rows[part * 10 : part * 10 + 10]
        kl = p * (np.log(p) - np.log(p.mean(axis=0, keepdims=True)))
        scores.append(np.exp(np.mean(np.sum(kl, axis=1))))
    found = inception_score(rows, splits=5)
    assert found.value == pytest.approx(np.mean(scores), rel=1e-9)
    assert found.error == pytest.approx(np.std(scores), rel=1e-8)


def test_bounds():
    """Every class in turn without doubt gives the number of classes; no information gives 1."""
    sure = np.eye(4)[np.arange(40) % 4]
    assert inception_score(sure, splits=2).value == pytest.approx(4)
    assert inception_score(sure, splits=2).error == pytest.approx(0, abs=1e-12)
    assert inception_score(np.full((40, 4), 0.25)).value == pytest.approx(1)
    assert inception_score(np.eye(4)[np.zeros(40, int)]).value == pytest.approx(1)


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="sum to 1"):
        inception_score(np.full((20, 4), 0.5))
    with pytest.raises(ValueError, match="sum to 1"):
        inception_score(np.tile([2.0, -1.0], (20, 1)))
    with pytest.raises(ValueError, match="at least 10 vectors"):
        inception_score(np.full((9, 4), 0.25))


def test_clips_in_the_order_of_their_classes_score_as_in_any():
    sure = np.eye(10)[np.repeat(np.arange(10), 100)]
    assert inception_score(sure).value == pytest.approx(1)
    found = score_classes(sure, name="x")
    assert found["x_parts_1"] == pytest.approx(10)
    assert found["x_parts_10"] > 9
    assert 0 < found["x_parts_10_std"] < 0.5


def draw_rows(count):
    return np.random.default_rng(5).dirichlet(np.full(7, 0.3), count)


def test_scores_of_a_rule_are_those_of_the_repositories():
    """One part in MAGVIT and (ten loops of it) TGAN2, ten shuffled ones in StyleGAN-V."""
    rows = draw_rows(60)
    whole = InceptionRule((1,), shuffle=None)
    assert score_classes(rows, rule=whole) == {
        "inception_score": pytest.approx(inception_score(rows, splits=1).value),
        "inception_score_std": 0.0,
    }
    loops = InceptionRule((1,), clips=20, loops=3, shuffle=None)
    values = [inception_score(rows[i : i + 20], splits=1).value for i in (0, 20, 40)]
    found = score_classes(rows, rule=loops)
    assert found["inception_score"] == pytest.approx(np.mean(values))
    assert found["inception_score_std"] == pytest.approx(np.std(values))
    shuffled = rows.copy()
    np.random.RandomState(42).shuffle(shuffled)  # what StyleGAN-V calls
    ten = inception_score(shuffled, splits=10)
    found = score_classes(rows)
    assert found["inception_score_parts_10"] == pytest.approx(ten.value)
    assert found["inception_score_parts_10_std"] == pytest.approx(ten.error)
    with pytest.raises(ValueError, match="of 60 clips, not of 59"):
        score_classes(rows[:59], rule=loops)
    assert (TGAN2_INCEPTION.loops, STYLEGANV_INCEPTION.shuffle) == (10, 42)


def test_the_number_of_parts_moves_the_score():
    """2,048 clips of 101 classes, each 0.99 certain: one part is far above ten."""
    rows = np.full((2_048, 101), 0.01 / 100)
    rows[np.arange(2_048), np.random.default_rng(0).integers(0, 101, 2_048)] = 0.99
    found = score_classes(rows)
    assert found["inception_score_parts_1"] == pytest.approx(88.8, abs=1)
    assert found["inception_score_parts_10"] == pytest.approx(70.7, abs=1.5)


def test_whole_frames_are_squashed_with_aligned_corners():
    """As Chainer scales: pixel i of n comes from i (length - 1) / (n - 1), nothing is cut off."""
    clip = np.random.default_rng(2).integers(0, 256, (2, 1, 24, 31, 3), dtype=np.uint8)
    found = np.asarray(prepare_c3d(clip, SPEC, "squash"))
    assert found.shape == (2, 1, 16, 16, 3)
    rows, columns = (np.linspace(0, length - 1, 16) for length in (24, 31))
    for y, x in ((0, 0), (15, 15), (7, 3), (1, 14)):
        low, left = min(int(rows[y]), 22), min(int(columns[x]), 29)
        down, right = rows[y] - low, columns[x] - left
        square = clip[:, 0, low : low + 2, left : left + 2].astype(float)
        upper, lower = (
            square[:, row, 0] * (1 - right) + square[:, row, 1] * right for row in (0, 1)
        )
        want = upper * (1 - down) + lower * down
        np.testing.assert_allclose(found[:, 0, y, x], want, atol=1e-3)
    same = np.broadcast_to(np.arange(16, dtype=np.uint8)[:, None, None], (1, 1, 16, 16, 3))
    np.testing.assert_allclose(prepare_c3d(same, SPEC, "squash"), same, atol=1e-4)


SPEC = C3dSpec(
    classes=5, widths=(2, 2, 2, 2, 3), hidden=4, size=16, resized=(20, 27), mean=(1.0, 2.0, 3.0)
)


def test_clips_are_prepared_as_the_port_does():
    """Whole frames scaled at half-pixel centres, bytes again, then the crop of the ports' code."""
    clip = np.random.default_rng(2).integers(0, 256, (1, 1, 24, 32, 3), dtype=np.uint8)

    def weights(size, length):  # [size length]
        centres = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        return np.maximum(1 - np.abs(centres[:, None] - np.arange(length)), 0)

    whole = np.einsum("yh,xw,hwc->yxc", weights(20, 24), weights(27, 32), clip[0, 0])
    found = np.asarray(prepare_c3d(clip, SPEC))[0, 0]
    np.testing.assert_allclose(found, whole[2:18, 6:22], atol=0.501)
    np.testing.assert_array_equal(found, np.round(found))
    published = C3dSpec()  # the corner of the crop, 8 and 30, is written in the port
    wide = np.broadcast_to(np.arange(171, dtype=np.uint8)[None, :, None], (1, 1, 128, 171, 3))
    tall = np.broadcast_to(np.arange(128, dtype=np.uint8)[:, None, None], (1, 1, 128, 171, 3))
    assert np.asarray(prepare_c3d(wide, published))[0, 0, 0, 0, 0] == 30
    assert np.asarray(prepare_c3d(tall, published))[0, 0, 0, 0, 0] == 8


def test_probabilities_of_clips():
    network = C3dNetwork(SPEC, taps_conv)
    params = network.init(jax.random.key(0))
    params["fc8"] = jax.tree.map(lambda leaf: leaf * 0.01, params["fc8"])  # undecided
    classes = ClassProbabilities(network, params, batch=2)
    clips = np.random.default_rng(3).integers(0, 256, (3, 17, 12, 14, 3), dtype=np.uint8)
    found = classes(clips)
    assert found.shape == (3, 5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-4
    np.testing.assert_allclose(classes(clips[:, :16]), found, atol=1e-6)
    assert np.abs(classes(clips[:, 1:]) - found).max() > 1e-4
    squashed = dataclasses.replace(classes, preparation="squash")
    assert np.abs(squashed(clips) - found).max() > 1e-5
    with pytest.raises(ValueError, match="it needs 16"):
        classes(clips[:, :15])
