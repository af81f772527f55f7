# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Drift of videos that are made to drift: blur, tint, other codes, other features."""

import json
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nbp.metrics.drift import Drift, count_codes, measure_drift, measure_sharpness
from nbp.report.plots import write_drift_curves

CODES, WINDOW, STRIDE = 8, 3, 2
FRAMES, LATENTS = 13, 7  # three segments of five frames that share one with the next


def make_videos(seed: int = 0) -> np.ndarray:
    """Still pictures of noise."""
    rng = np.random.default_rng(seed)
    return np.repeat(rng.integers(40, 200, (2, 1, 16, 16, 3)), FRAMES, axis=1).astype(np.uint8)


def measure(videos: np.ndarray, tokens: np.ndarray | None = None, **options: Any) -> Drift:
    tokens = np.zeros((2, LATENTS, 2, 2), np.int32) if tokens is None else tokens
    return measure_drift(videos, tokens, window=WINDOW, stride=STRIDE, codes=CODES, **options)


def test_a_still_video_does_not_drift():
    drift = measure(make_videos())
    assert len(drift.sharpness) == len(drift.colour_shift) == FRAMES
    np.testing.assert_allclose(drift.sharpness, drift.sharpness[0])
    np.testing.assert_allclose(drift.colour_shift, 0, atol=1e-9)
    assert [(s.frame, s.frames) for s in drift.segments] == [(0, 5), (4, 5), (8, 5)]


def test_growing_blur_shows_in_sharpness_alone():
    videos = make_videos().astype(float)
    for frame in range(1, FRAMES):  # each frame is the blurred one before
        last = videos[:, frame - 1]
        shifts = [np.roll(last, (dy, dx), (1, 2)) for dy in (0, 1) for dx in (0, 1)]
        videos[:, frame] = np.mean(shifts, axis=0)
    drift = measure(videos.round().astype(np.uint8))
    assert np.all(np.diff(drift.sharpness) < 0)
    assert drift.sharpness[-1] < drift.sharpness[0] / 4
    assert max(drift.colour_shift) < 1


def test_growing_tint_shows_in_colour_by_its_length():
    videos = make_videos().astype(int)
    tint = np.array([3, 0, -1])
    videos += np.arange(FRAMES)[None, :, None, None, None] * tint
    drift = measure(videos.astype(np.uint8))
    home = 2.0  # the mean of the first segment's frames 0..4
    expected = np.abs(np.arange(FRAMES) - home) * math.sqrt(10)
    np.testing.assert_allclose(drift.colour_shift, expected, atol=1e-6)
    np.testing.assert_allclose(drift.sharpness, drift.sharpness[0], rtol=0.05)


def test_colour_is_compared_within_each_video():
    videos = make_videos()
    videos[0] //= 4  # one dark video, one light one: neither drifts
    np.testing.assert_allclose(measure(videos).colour_shift, 0, atol=1e-9)


def test_sharpness_of_a_ramp_is_its_slope():
    y, x = np.mgrid[:8, :8]
    ramp = np.repeat((3 * x + 4 * y)[None, ..., None], 3, axis=-1).astype(np.uint8)
    np.testing.assert_allclose(measure_sharpness(ramp), 5.0)
    assert measure_sharpness(np.full((2, 8, 8, 3), 9, np.uint8)).tolist() == [0, 0]


def test_codes_of_segments():
    tokens = np.zeros((2, LATENTS, 2, 2), np.int32)
    tokens[:, 0] = 7  # a single pixel frame: left out
    tokens[:, 3:5, 0] = 1  # half of the second segment
    tokens[:, 5:7] = np.arange(4).reshape(2, 2)
    assert count_codes(tokens[:, :1], CODES).tolist() == [0] * 7 + [8]
    segments = measure(make_videos(), tokens).segments
    np.testing.assert_allclose([s.usage for s in segments], [1 / 8, 2 / 8, 4 / 8])
    np.testing.assert_allclose([s.perplexity for s in segments], [1, 2, 4])
    np.testing.assert_allclose([s.code_distance for s in segments], [0, 0.5, 0.75])
    assert [s.fvd for s in segments] == [None] * 3


def test_features_of_segments():
    videos = make_videos()
    videos[:, 9:] = videos[:, 9:] // 2 + 100

    def extract(clips: np.ndarray) -> np.ndarray:
        assert clips.shape == (2, 5, 16, 16, 3)
        return clips.mean((1, 2, 3), dtype=np.float64)

    fvd = [s.fvd for s in measure(videos, extractor=extract).segments]
    assert fvd[0] == pytest.approx(0, abs=1e-6)
    assert fvd[1] == pytest.approx(0, abs=1e-6)
    assert fvd[2] is not None
    first, last = extract(videos[:, :5]), extract(videos[:, 8:])
    step = last.mean(0) - first.mean(0)
    assert fvd[2] > step @ step * 0.99


def test_a_report_and_its_picture(tmp_path):
    drift = measure(make_videos(), extractor=lambda clips: clips.mean((1, 2, 3)))
    report = json.loads(json.dumps(drift.to_json()))
    assert set(report) == {"sharpness", "colour_shift", "segments"}
    assert set(report["segments"][0]) >= {"frame", "usage", "perplexity", "code_distance", "fvd"}
    write_drift_curves(tmp_path / "new" / "drift.png", drift, title="2 videos")
    with Image.open(tmp_path / "new" / "drift.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 400
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["drift.png"]


def test_short_videos_have_one_segment():
    drift = measure(make_videos()[:, :4], np.zeros((2, 3, 2, 2), np.int32))
    assert [(s.frame, s.frames) for s in drift.segments] == [(0, 4)]
