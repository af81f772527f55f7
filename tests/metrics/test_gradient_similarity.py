# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Gradient magnitude similarity against the paper's formula written as loops."""

import math

import numpy as np
import pytest

from nbp.metrics.psnr_ssim import gms_per_frame


def luminance(frame: np.ndarray) -> np.ndarray:
    """Mean luminance of each 2x2 pixels; [h w 3] to [h // 2, w // 2]."""
    half = np.zeros((frame.shape[0] // 2, frame.shape[1] // 2))
    for i, j in np.ndindex(half.shape):
        for di, dj in np.ndindex(2, 2):
            red, green, blue = frame[2 * i + di, 2 * j + dj].astype(float)
            half[i, j] += (0.299 * red + 0.587 * green + 0.114 * blue) / 4
    return half


def magnitude(image: np.ndarray) -> np.ndarray:
    """Prewitt's two 3x3 filters at each pixel, zeros outside."""
    result = np.zeros_like(image)
    for i, j in np.ndindex(image.shape):
        across = down = 0.0
        for di, dj in np.ndindex(3, 3):
            y, x = i + di - 1, j + dj - 1
            if 0 <= y < image.shape[0] and 0 <= x < image.shape[1]:
                across += (dj - 1) * image[y, x] / 3
                down += (di - 1) * image[y, x] / 3
        result[i, j] = math.hypot(across, down)
    return result


def gms_by_loops(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    m, n = magnitude(luminance(a)), magnitude(luminance(b))
    values = [
        float((2 * m[i, j] * n[i, j] + 170) / (m[i, j] ** 2 + n[i, j] ** 2 + 170))
        for i, j in np.ndindex(m.shape)
    ]
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))


def draw_clips(seed: int, shape: tuple[int, ...] = (2, 3, 13, 10, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def blur(clips: np.ndarray, times: int) -> np.ndarray:
    x = clips.astype(float)
    for _ in range(times):
        for axis in (2, 3):
            x = (np.roll(x, 1, axis) + 2 * x + np.roll(x, -1, axis)) / 4
    return np.round(x).astype(np.uint8)


def test_both_numbers_are_those_of_the_loops() -> None:
    a, b = draw_clips(0), draw_clips(1)
    mean, deviation = gms_per_frame(a, b)
    assert mean.shape == deviation.shape == (2, 3)
    for clip, frame in np.ndindex(2, 3):
        want = gms_by_loops(a[clip, frame], b[clip, frame])
        assert (mean[clip, frame], deviation[clip, frame]) == pytest.approx(want, rel=1e-10)


def test_identical_clips_are_perfect() -> None:
    a = draw_clips(2)
    mean, deviation = gms_per_frame(a, a)
    np.testing.assert_allclose(mean, 1.0, rtol=1e-14)
    np.testing.assert_allclose(deviation, 0.0, atol=1e-14)


def test_blur_costs_more_the_stronger_it_is() -> None:
    """Squares on a plain ground: edges are all there is to lose."""
    clips = np.full((1, 2, 48, 48, 3), 60, np.uint8)
    clips[:, :, 10:30, 14:34] = (200, 90, 40)
    scores = [gms_per_frame(clips, blur(clips, times)) for times in (0, 1, 3, 8, 20)]
    means = [mean.mean() for mean, _ in scores]
    assert means == sorted(means, reverse=True)
    assert means[1] - means[-1] > 0.05
    deviations = [deviation.mean() for _, deviation in scores]
    assert deviations == sorted(deviations)


def test_a_shift_of_brightness_costs_little() -> None:
    clips = draw_clips(3, (1, 2, 32, 32, 3)) // 2
    shifted = gms_per_frame(clips, clips + 20)[0].mean()
    assert shifted > gms_per_frame(clips, blur(clips, 1))[0].mean()


def test_frames_of_one_pixel_are_refused() -> None:
    tiny = np.zeros((1, 1, 1, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="at least 2 px, got 1x8"):
        gms_per_frame(tiny, tiny)
