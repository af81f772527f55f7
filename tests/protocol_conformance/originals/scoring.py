# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Moments, Frechet distances and the other scores of the originals."""

import math

import numpy as np
from scipy import linalg, ndimage, special

Moments = tuple[np.ndarray, np.ndarray]


def numpy_moments(features: np.ndarray) -> Moments:
    """StyleGAN-V's: mean and np.cov, which divides by n - 1, in the features' float64."""
    return features.mean(axis=0), np.cov(features, rowvar=False)


def summed_moments(features: np.ndarray) -> Moments:
    """StyleGAN 3's FeatureStats: sums of float32 features in float64, a covariance over n."""
    rows = features.astype(np.float32).astype(np.float64)
    mean = rows.sum(axis=0) / len(rows)
    return mean, rows.T @ rows / len(rows) - np.outer(mean, mean)


def single_moments(features: np.ndarray) -> Moments:
    """VideoGPT's: mean and covariance over n - 1, in float32."""
    rows = features.astype(np.float32)
    mean = rows.mean(axis=0, dtype=np.float32)
    centred = rows - mean
    return mean, (centred.T @ centred) * np.float32(1 / (len(rows) - 1))


def matrix_root_distance(first: Moments, second: Moments) -> float:
    """StyleGAN-V's: scipy's sqrtm of the product, its real part."""
    root = linalg.sqrtm(first[1] @ second[1])
    trace = np.trace(first[1] + second[1] - 2 * np.real(root))
    return float(np.square(first[0] - second[0]).sum() + trace)


def singular_root_distance(first: Moments, second: Moments, *, floor: float = 1e-10) -> float:
    """tfgan's, which VideoGPT and LARP took over: two symmetric roots by singular values.

    Singular values below `floor` are kept as they are. Computed in the moments' own precision.
    """
    root = _symmetric_root(first[1], floor)
    trace = np.trace(_symmetric_root(root @ second[1] @ root, floor))
    difference = first[0] - second[0]
    return float(np.trace(first[1] + second[1]) - 2 * trace + (difference**2).sum())


def _symmetric_root(matrix: np.ndarray, floor: float) -> np.ndarray:
    left, values, right = np.linalg.svd(matrix)
    return (left * np.where(values < floor, values, np.sqrt(values))) @ right


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """TATS's KVD: unbiased squared MMD, kernel (x y / d + 1)^3 (scikit-learn's defaults)."""

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: np.ndarray) -> float:
        values = kernel(x, x)
        return (values.sum() - np.trace(values)) / (len(x) * (len(x) - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())


def inception_score(logits: np.ndarray) -> float:
    """tfgan's classifier_score_from_logits: one part, exp of the mean divergence."""
    logs = special.log_softmax(logits.astype(np.float64), axis=1)
    rows = np.exp(logs)
    return math.exp(float((rows * (logs - np.log(rows.mean(axis=0)))).sum(axis=1).mean()))


def repeated(scores: list[float]) -> tuple[float, float]:
    """MAGVIT's mean and deviation over repeats, the latter over n."""
    return float(np.mean(scores)), float(np.std(scores))


def clip_psnr(real: np.ndarray, made: np.ndarray) -> np.ndarray:
    """PSNR [n] in dB of clips [n t h w c] in [0, 1], from the mean error of a whole clip."""
    errors = np.square(real.astype(np.float64) - made).mean(axis=(1, 2, 3, 4))
    return -10 * np.log10(errors)


def clip_ssim(real: np.ndarray, made: np.ndarray) -> np.ndarray:
    """pytorch_msssim's SSIM [n] of clips [n t h w c] in [0, 1], the mean over frames and channels.

    Gaussian window of 11 and deviation 1.5, no padding, constants 0.01 and 0.03 of the range.
    """
    places = np.arange(11) - 5
    window = np.exp(-(places**2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(values: np.ndarray) -> np.ndarray:
        for axis in (2, 3):
            values = ndimage.correlate1d(values, window, axis=axis)
        return values[:, :, 5:-5, 5:-5]

    x, y = real.astype(np.float64), made.astype(np.float64)
    mean_x, mean_y = blur(x), blur(y)
    spread_x, spread_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    shared = blur(x * y) - mean_x * mean_y
    small, large = 0.01**2, 0.03**2
    found = (2 * mean_x * mean_y + small) / (mean_x**2 + mean_y**2 + small)
    found *= (2 * shared + large) / (spread_x + spread_y + large)
    return found.mean(axis=(1, 2, 3, 4))
