# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""PSNR and SSIM against the formulas written as loops, and in closed form."""

import math

import numpy as np
import pytest

from nbp.metrics.psnr_ssim import psnr_per_clip, ssim_per_clip

C1, C2 = 6.5025, 58.5225  # (0.01 * 255)^2, (0.03 * 255)^2


def make_pair(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 256, (2, 2, 13, 12, 3), np.uint8)
    noise = rng.integers(-30, 31, a.shape)
    return a, np.clip(a.astype(int) + noise, 0, 255).astype(np.uint8)


def ssim_by_loops(a: np.ndarray, b: np.ndarray) -> float:
    """One clip [t h w c]: statistics of every 11x11 window under one 2D Gaussian."""
    y, x = np.mgrid[-5:6, -5:6]
    weight = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    weight /= weight.sum()
    values = []
    for t, c in np.ndindex(a.shape[0], a.shape[3]):
        for i, j in np.ndindex(a.shape[1] - 10, a.shape[2] - 10):
            p = a[t, i : i + 11, j : j + 11, c].astype(float)
            q = b[t, i : i + 11, j : j + 11, c].astype(float)
            mp, mq = (weight * p).sum(), (weight * q).sum()
            vp, vq = (weight * (p - mp) ** 2).sum(), (weight * (q - mq) ** 2).sum()
            cov = (weight * (p - mp) * (q - mq)).sum()
            values.append(
                (2 * mp * mq + C1) * (2 * cov + C2) / ((mp**2 + mq**2 + C1) * (vp + vq + C2))
            )
    return float(np.mean(values))


def test_psnr_per_clip():
    a, b = make_pair()
    expected = []
    for x, y in zip(a, b, strict=True):
        errors = [(int(p) - int(q)) ** 2 for p, q in zip(x.ravel(), y.ravel(), strict=True)]
        expected.append(10 * math.log10(255**2 * len(errors) / sum(errors)))
    np.testing.assert_allclose(psnr_per_clip(a, b), expected, rtol=1e-12)
    one_level = np.full((1, 1, 4, 4, 3), 100, np.uint8)
    np.testing.assert_allclose(psnr_per_clip(one_level, one_level + 1), [48.1308036], rtol=1e-8)
    # uint8 differences must not wrap around: 3 - 100 is -97, not 159.
    np.testing.assert_allclose(
        psnr_per_clip(one_level, one_level - 97), [20 * math.log10(255 / 97)]
    )
    assert psnr_per_clip(a[:1], a[:1])[0] == math.inf


def test_ssim_per_clip():
    a, b = make_pair(1)
    expected = [ssim_by_loops(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(ssim_per_clip(a, b), expected, rtol=1e-9)
    np.testing.assert_allclose(ssim_per_clip(a, a), 1.0, rtol=1e-12)
    np.testing.assert_allclose(ssim_per_clip(a, b), ssim_per_clip(b, a), rtol=1e-12)
    flat = np.full((1, 1, 11, 11, 3), 50, np.uint8)
    closed = (2 * 50 * 150 + C1) / (50**2 + 150**2 + C1)
    np.testing.assert_allclose(ssim_per_clip(flat, flat * 3), [closed], rtol=1e-9)


def test_ssim_needs_frames_of_the_window():
    small = np.zeros((1, 2, 12, 10, 3), np.uint8)
    with pytest.raises(ValueError, match="at least 11 px, got 12x10"):
        ssim_per_clip(small, small)
