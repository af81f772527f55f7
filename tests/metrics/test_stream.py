# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""STREAM against its definition written out, and signals whose spectrum is known."""

import math

import numpy as np
import pytest

from nbp.metrics.precision_recall import manifold_scores
from nbp.metrics.stream import Spectra, fit_slopes, stream_scores, temporal_agreement


def loop_skewness(signal):
    """Of one feature of one clip: discrete Fourier sums, a line through logarithms, moments."""
    t = len(signal)
    half = t // 2
    amplitudes = []
    for k in range(half + 1):
        angle = [2 * math.pi * k * i / t for i in range(t)]
        real = sum(v * math.cos(a) for v, a in zip(signal, angle, strict=True))
        imaginary = sum(v * math.sin(a) for v, a in zip(signal, angle, strict=True))
        amplitudes.append(2 * math.hypot(real, imaginary) / (half + 1))
    k = np.arange(1, half + 1)
    b, log_a = np.polyfit(np.log(k), np.log(np.array(amplitudes[1:]) + 1e-6), 1)
    fitted = math.exp(log_a) * k**b
    norm = math.exp(log_a) / fitted.sum()
    skewness = (k ** (b + 3)).sum() / (math.sqrt(norm) * math.sqrt((k ** (b + 2)).sum()))
    return skewness, amplitudes[0]


@pytest.mark.parametrize("frames", [4, 9, 16])
def test_spectra_are_the_published_formulas(frames):
    features = np.random.default_rng(frames).standard_normal((3, frames, 5)) + 0.4
    spectra = Spectra.of(features)
    for clip in range(3):
        for column in range(5):
            skewness, mean = loop_skewness(features[clip, :, column])
            assert spectra.skewness[clip, column] == pytest.approx(skewness, rel=1e-9)
            assert spectra.mean[clip, column] == pytest.approx(mean, rel=1e-9)


def test_a_power_law_has_its_power_and_stillness_is_flat():
    k = np.arange(1.0, 9.0)
    amplitudes = np.stack([5 * k**-1.5, 2e3 * k**-0.25, np.zeros(8)], axis=-1)[None]
    np.testing.assert_allclose(fit_slopes(amplitudes), [[-1.5, -0.25, 0]], atol=1e-4)


def test_only_the_slope_counts_not_the_amount_of_motion():
    features = np.random.default_rng(0).standard_normal((4, 16, 3))
    spectra, louder = Spectra.of(features), Spectra.of(100 * features)
    np.testing.assert_allclose(louder.skewness, spectra.skewness, rtol=1e-3)


def test_skewness_rises_with_the_slope():
    """From slow to quick signals: a sum of cosines with amplitudes k^b for growing b."""
    time = np.arange(16)[:, None]
    k = np.arange(1, 9)
    waves = np.cos(2 * np.pi * k * time / 16)
    skewness = [
        Spectra.of((waves @ k ** np.float64(b))[None, :, None]).skewness[0, 0]
        for b in (-3, -1.5, -0.5, 0, 1)
    ]
    assert np.all(np.diff(skewness) > 0)


def test_temporal_agreement_is_that_of_histograms():
    rng = np.random.default_rng(1)
    real, made = rng.gamma(4, 20, (300, 6)), rng.gamma(5, 20, (200, 6))
    want = []
    for x, y in zip(real.T, made.T, strict=True):
        low, high = int(min(x.min(), y.min())) - 1, int(max(x.max(), y.max())) + 1
        edges = np.linspace(low, high, 51)
        a, b = (np.histogram(v, edges)[0] for v in (x, y))
        want.append(np.corrcoef(a, b)[0, 1] ** 2)
    assert temporal_agreement(real, made) == pytest.approx(np.mean(want), rel=1e-9)
    assert temporal_agreement(made, real) == pytest.approx(np.mean(want), rel=1e-9)
    assert temporal_agreement(real, real[::-1]) == pytest.approx(1)
    assert temporal_agreement(real, real + 1e4) < 0.01


def test_scores_are_separate():
    """Other looks with the same motion, and the same mean looks with other motion."""
    rng = np.random.default_rng(2)
    # Slow signals: random walks around a constant.
    features = np.cumsum(rng.standard_normal((120, 16, 4)), axis=1) + 50
    real = Spectra.of(features)
    looks = stream_scores(real, Spectra.of(features + 500))
    assert looks.temporal == pytest.approx(1)
    assert looks.fidelity == looks.diversity == 0
    motion = stream_scores(real, Spectra.of(rng.permuted(features, axis=1)))
    assert motion.temporal < 0.5
    assert motion.fidelity == motion.diversity == 1
    half = Spectra.of(features[:60] - 0.1 * (features[:60] - features[:60].mean(axis=0)))
    spatial = manifold_scores(real.mean, half.mean, neighbours=5)
    scores = stream_scores(real, half)
    assert (scores.fidelity, scores.diversity) == (spatial.precision, spatial.recall)
    assert scores.diversity < 1


def test_parts_join():
    features = np.random.default_rng(3).standard_normal((7, 9, 3))
    joined = Spectra.join([Spectra.of(features[:2]), Spectra.of(features[2:])])
    for name in Spectra.names():
        np.testing.assert_array_equal(getattr(joined, name), getattr(Spectra.of(features), name))


def test_too_short_clips_are_refused():
    with pytest.raises(ValueError, match="at least 4 frames, these have 3"):
        Spectra.of(np.zeros((9, 3, 2)))
