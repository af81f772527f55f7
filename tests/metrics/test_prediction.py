# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Prediction scores against the definitions, one sample and frame at a time."""

import math

import numpy as np
import pytest

from nbp.metrics.psnr_ssim import score_predictions, ssim_per_clip

GIVEN = 2


def draw(count: int = 4, samples: int = 3, *, size: int = 12):
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (count, 5, size, size, 3), np.uint8)
    noise = rng.integers(-40, 41, (count, samples, *real.shape[1:]))
    made = np.clip(real[:, None] + noise * rng.random((count, samples, 1, 1, 1, 1)), 0, 255)
    return real, made.astype(np.uint8)


def psnr(a, b) -> float:
    mse = np.mean((a.astype(float) - b) ** 2)
    return 10 * math.log10(255**2 / mse)


def mean_difference(first, second):
    """Stands in for LPIPS."""
    return np.abs(first.astype(float) - second).mean(axis=(1, 2, 3, 4))


def test_scores_are_those_of_the_frames_after_the_given_ones():
    real, made = draw()
    made[:, :, :GIVEN] = 255 - made[:, :, :GIVEN]  # what is given does not count
    found = score_predictions(real, made, given=GIVEN, lpips=mean_difference)
    for clip in range(4):
        for sample in range(3):
            truth, guess = real[clip, GIVEN:], made[clip, sample, GIVEN:]
            frames = [psnr(a, b) for a, b in zip(truth, guess, strict=True)]
            assert found["psnr"][clip, sample] == pytest.approx(np.mean(frames))
            assert found["ssim"][clip, sample] == ssim_per_clip(truth[None], guess[None])[0]
            assert found["lpips"][clip, sample] == mean_difference(truth[None], guess[None])[0]


def test_small_frames_have_no_ssim():
    real, made = draw(samples=1, size=8)
    assert list(score_predictions(real, made, given=GIVEN)) == ["psnr"]


def test_an_exact_prediction_counts_100_db():
    real, _ = draw()
    assert score_predictions(real, real[:, None], given=0)["psnr"].tolist() == [[100.0]] * 4


def test_what_cannot_be_scored_is_refused():
    real, made = draw()
    with pytest.raises(ValueError, match="5 given frames leave none of 5"):
        score_predictions(real, made, given=5)
