# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Drift of videos that are made to drift: blur, tint, other codes, other features."""

import json
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nbp.metrics.drift import (
    Drift,
    Slope,
    count_codes,
    fit_slope,
    measure_drift,
    measure_sharpness,
)
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
    assert set(report) == {"sharpness", "colour_shift", "segments", "slopes"}
    assert set(report["segments"][0]) >= {"frame", "usage", "perplexity", "code_distance", "fvd"}
    write_drift_curves(tmp_path / "new" / "drift.png", drift, title="2 videos")
    with Image.open(tmp_path / "new" / "drift.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 400
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["drift.png"]


def test_short_videos_have_one_segment():
    drift = measure(make_videos()[:, :4], np.zeros((2, 3, 2, 2), np.int32))
    assert [(s.frame, s.frames) for s in drift.segments] == [(0, 4)]


def test_slopes_against_polyfit_and_their_intervals():
    rng = np.random.default_rng(0)
    rows = 3 + 0.5 * np.arange(8) + rng.normal(0, 0.3, (20, 8))
    slope = fit_slope(rows)
    expected = [np.polyfit(np.arange(8), row, 1)[0] for row in rows]
    assert slope.per_segment == pytest.approx(np.mean(expected))
    assert slope.over == "videos"
    assert slope.low is not None
    assert slope.high is not None
    assert slope.low < np.mean(expected) < slope.high
    # The percentiles are those of a normal law: 1.96 standard errors each way.
    width = 2 * 1.96 * np.std(expected) / np.sqrt(20)
    assert slope.high - slope.low == pytest.approx(width, rel=0.15)
    assert slope.changes is True
    flat = fit_slope(rng.normal(0, 1, (20, 8)))
    assert flat.changes is False
    assert fit_slope(rows, skip=True).first == pytest.approx(rows[:, 1].mean())
    assert fit_slope(rows[:1]).low is None, "one video has no others"


def test_slopes_of_all_videos_together_and_of_what_is_missing():
    rng = np.random.default_rng(1)
    line = 2 - 0.25 * np.arange(10) + rng.normal(0, 0.05, 10)
    slope = fit_slope(line)
    assert slope.per_segment == pytest.approx(np.polyfit(np.arange(10), line, 1)[0])
    assert (slope.over, slope.changes) == ("segments", True)
    assert fit_slope([1.0, 2.0]).low is None, "too few segments"
    assert fit_slope([1.0]) == Slope(1.0, 1.0, 0.0, None, None, "segments")
    rows = np.array([[0.0, np.nan, 2.0, 3.0], [np.nan, np.nan, np.nan, 1.0], [1, 1, 1, 1]])
    slope = fit_slope(rows)
    assert slope.per_segment == pytest.approx((1 + 0) / 2), "a single value has no slope"
    assert (slope.first, slope.last) == (0.5, pytest.approx(5 / 3))


def test_only_what_drifts_has_a_slope():
    """Videos of noise of which one half of the codes vanishes with time, and the sharpness."""
    rng = np.random.default_rng(0)
    videos = rng.integers(0, 256, (16, 25, 8, 8, 3)).astype(float)
    fade = np.linspace(1, 0.4, 25)[None, :, None, None, None]
    tokens = rng.integers(0, CODES, (16, 13, 4, 4))
    still = measure_drift(
        videos.astype(np.uint8), tokens, window=WINDOW, stride=STRIDE, codes=CODES
    ).slopes
    assert sum(bool(slope.changes) for slope in still.values()) <= 1, "one in twenty by chance"
    tokens[:, 7:] //= 2
    faded = (videos * fade + 128 * (1 - fade)).astype(np.uint8)
    found = measure_drift(faded, tokens, window=WINDOW, stride=STRIDE, codes=CODES).slopes
    signs = {
        name: np.sign(slope.per_segment) * bool(slope.changes) for name, slope in found.items()
    }
    assert signs == {
        "sharpness": -1,
        "usage": -1,
        "entropy": -1,
        "code_distance": 1,
        "colour_shift": signs["colour_shift"],
    }


def test_real_segments_of_the_same_index():
    """The distance is 0 where both change alike, though the first segment is far away by then."""
    rng = np.random.default_rng(0)
    videos = make_videos()[:, :13]
    videos = np.clip(
        videos[:1] * 0.5
        + rng.normal(60, 8, (6, 13, 1, 1, 1))
        + 4 * np.arange(13)[:, None, None, None],
        0,
        255,
    ).astype(np.uint8)

    def extract(clips):
        return np.asarray(clips, np.float64).mean((2, 3))[:, :2].reshape(len(clips), -1)

    tokens = np.zeros((6, 7, 2, 2), np.int32)
    drift = measure(videos, tokens, extractor=extract)
    same = drift.with_real(iter([videos[:2], videos[2:]]), extract)
    assert [s.real_fvd for s in same.segments] == pytest.approx([0, 0, 0], abs=1e-6)
    assert same.segments[-1].fvd is not None
    assert same.segments[-1].fvd > 100
    assert set(same.slopes) - set(drift.slopes) == {"real_fvd"}
    other = drift.with_real(iter([videos + 10]), extract)
    assert other.segments[0].real_fvd == pytest.approx(10**2 * 6, rel=0.01)
    with pytest.raises(ValueError, match="measure the drift with them"):
        measure(videos, tokens).with_real(iter([videos]), extract)
    report = json.loads(json.dumps(same.to_json()))
    assert report["segments"][1]["real_fvd"] == pytest.approx(0, abs=1e-4)
    assert report["slopes"]["fvd"]["over"] == "segments"


def test_agreement_is_added_by_segment():
    rows = {"label": np.array([[1.0, 0, 0], [1, 1, np.nan]]), "colour": np.ones((2, 3))}
    drift = measure(make_videos()[:, :13], np.zeros((2, 7, 2, 2), np.int32)).with_agreement(rows)
    assert [s.label_agreement for s in drift.segments] == [1, 0.5, 0]
    assert [s.colour_agreement for s in drift.segments] == [1, 1, 1]
    assert drift.segments[0].shape_agreement is None
    assert drift.slopes["label_agreement"].per_segment == pytest.approx((-0.5 + 0) / 2)
