# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What degradations do to clips, and that each score falls with those that it should see."""

import functools

import numpy as np
import pytest

from benchmarks.video_degradations import (
    DEGRADATIONS,
    add_noise,
    blur,
    freeze_frames,
    shuffle_frames,
)
from nbp.data.moving_shapes import MovingShapesSpec, render_clip
from nbp.metrics.fvd import FeatureExtractor
from nbp.metrics.stream import Spectra, StreamScores, make_random_frames, stream_scores
from nbp.models import i3d
from nbp.nn.conv3d import taps_conv
from nbp.protocols.published import FeatureRule
from nbp.weights import draw_i3d
from tests.metrics.features import frechet

HELD_OUT = 1_000_000
# Damage that a distance of few clips shows: half a pixel of blur is less than their chance.
PLAIN = ((blur, (0.0, 1.0, 2.0, 4.0)), (add_noise, (0.0, 16.0, 32.0, 64.0)))


@functools.cache
def shapes(count: int, *, start: int = 0, frames: int = 16):
    """Moving shapes; those from `HELD_OUT` on are other clips of the same kind."""
    spec = MovingShapesSpec(frames=frames, size=32, radius=(0.19, 0.23))
    clips = np.stack([render_clip(spec, start + i)[0] for i in range(count)])
    clips.setflags(write=False)
    return clips


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_level_0_changes_nothing_and_more_changes_more(name):
    degrade, levels = DEGRADATIONS[name]
    clips = shapes(12)
    change = [np.abs(degrade(clips, level).astype(int) - clips).mean() for level in levels]
    assert change[0] == 0
    assert np.all(np.diff(change) > 0)
    assert degrade(clips, levels[-1]).dtype == np.uint8
    np.testing.assert_array_equal(degrade(clips, levels[2]), degrade(clips, levels[2]))


def test_blur_spreads_a_point_as_a_gaussian():
    clips = np.zeros((1, 2, 21, 21, 1), np.uint8)
    clips[0, 0, 10, 10] = 255
    found = blur(clips, 1.5)
    offsets = np.arange(21) - 10
    bell = np.exp(-(offsets**2) / (2 * 1.5**2))
    bell /= bell.sum()
    np.testing.assert_allclose(found[0, 0, :, :, 0], 255 * np.outer(bell, bell), atol=0.6)
    assert not found[0, 1].any()
    np.testing.assert_array_equal(blur(np.full_like(clips, 200), 3.0), 200)


def test_noise_has_its_deviation():
    grey = np.full((4, 4, 32, 32, 3), 128, np.uint8)
    noise = add_noise(grey, 10.0).astype(float) - 128
    assert noise.std() == pytest.approx(10, rel=0.02)
    assert np.corrcoef(noise[:, 0].ravel(), noise[:, 1].ravel())[0, 1] < 0.05


@pytest.mark.parametrize("level, moved", [(0.25, 4), (0.5, 8), (1.0, 16)])
def test_shuffling_moves_that_share_and_keeps_every_frame(level, moved):
    clips = np.broadcast_to(np.arange(16, dtype=np.uint8)[:, None, None, None], (3, 16, 2, 2, 1))
    found = shuffle_frames(clips, level)[..., 0, 0, 0]
    assert ((found != np.arange(16)).sum(axis=1) == moved).all()
    assert (np.sort(found, axis=1) == np.arange(16)).all()
    assert (found[0] != found[1]).any()


def test_freezing_repeats_that_share():
    clips = np.broadcast_to(np.arange(17, dtype=np.uint8)[:, None, None, None], (3, 17, 2, 2, 1))
    found = freeze_frames(clips, 0.5)[..., 0, 0, 0].astype(int)
    steps = np.diff(found, axis=1)
    assert ((steps == 0).sum(axis=1) == 8).all()
    assert (steps >= 0).all()
    # A frame that is shown is the right one for its time.
    assert (found[:, 1:][steps > 0] == np.broadcast_to(np.arange(1, 17), (3, 16))[steps > 0]).all()
    assert not freeze_frames(clips, 1.0).any()


@functools.cache
def stream_curve(name: str) -> list[StreamScores]:
    """STREAM of 128 held-out clips against 128 others, from no damage on."""
    features = make_random_frames()
    reference = Spectra.of(features(shapes(128)))
    degrade, levels = DEGRADATIONS[name]
    made = shapes(128, start=HELD_OUT)
    spectra = [Spectra.of(features(degrade(made, level))) for level in levels]
    return [stream_scores(reference, found) for found in spectra]


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_temporal_score_falls_with_every_degradation(name):
    temporal = [scores.temporal for scores in stream_curve(name)]
    assert np.all(np.diff(temporal) < 0), temporal


@pytest.mark.parametrize("name", ["blur", "noise"])
def test_spatial_scores_fall_with_blur_and_noise(name):
    """Precision only when it is strong: a little blur makes a clip look more typical, not less."""
    first, *_, last = curve = stream_curve(name)
    assert np.all(np.diff([scores.diversity for scores in curve]) <= 0)
    assert last.diversity < first.diversity - 0.1
    assert last.fidelity < first.fidelity - 0.2


def test_spatial_scores_do_not_see_the_order_of_frames():
    """They see the mean over the clip alone, and so does every distance of frames' features."""
    first, *rest = stream_curve("shuffle")
    assert all(s.fidelity == first.fidelity for s in rest)
    assert all(s.diversity == first.diversity for s in rest)


def narrow(stage: i3d.Unit | i3d.Pool | i3d.Mixed) -> i3d.Unit | i3d.Pool | i3d.Mixed:
    """A stage of an eighth of the width."""
    if isinstance(stage, i3d.Unit):
        return i3d.Unit(stage.width // 8, stage.kernel, stage.stride)
    if isinstance(stage, i3d.Mixed):
        (a, b), (c, d) = stage.double, stage.second
        pairs = (a // 8, b // 8), (c // 8, d // 8)
        return i3d.Mixed(stage.single // 8, *pairs, stage.pooled // 8)
    return stage


@pytest.fixture
def narrow_i3d(monkeypatch: pytest.MonkeyPatch) -> FeatureExtractor:
    """The random I3D with an eighth of the widths: features of the same kind, in less time."""
    stages = {name: narrow(stage) for name, stage in i3d.STAGES.items()}
    last = stages["Mixed_5c"]
    assert isinstance(last, i3d.Mixed)
    monkeypatch.setattr(i3d, "STAGES", stages)
    monkeypatch.setattr(i3d, "FEATURES", last.width)
    network = i3d.I3dNetwork(i3d.I3dSpec(), taps_conv)
    rule = FeatureRule("any", "videogpt")
    return FeatureExtractor(network, draw_i3d(network), rule, batch=8)


@pytest.mark.slow
def test_fvd_of_random_features_grows_with_blur_and_noise(narrow_i3d):
    """Damaged copies of the reference itself: with 8 other clips their chance would show more."""
    clips = shapes(8, frames=9)
    reference = narrow_i3d(clips)
    for degrade, levels in PLAIN:
        distances = [frechet(narrow_i3d(degrade(clips, level)), reference) for level in levels[1:]]
        assert distances[0] > 1e-3
        assert np.all(np.diff(distances) > 0), (degrade, distances)


def test_distance_of_frame_features_grows_with_blur_and_noise():
    """What a Frechet distance does, without waiting for I3D: on mean features of the frames."""
    features = make_random_frames()

    def describe(clips):
        return features(clips).mean(axis=1)

    reference = describe(shapes(64, frames=4))
    made = shapes(64, start=HELD_OUT, frames=4)
    for degrade, levels in PLAIN:
        distances = [frechet(describe(degrade(made, level)), reference) for level in levels]
        assert np.all(np.diff(distances) > 0), (degrade, distances)
    shuffled = frechet(describe(shuffle_frames(made, 1.0)), reference)
    assert shuffled == pytest.approx(frechet(describe(made), reference), rel=1e-4)
