# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Moments of features and the numbers that are reported."""

from collections.abc import Iterator

import numpy as np
from scipy import special

from nbp.metrics.estimates import Repeats
from nbp.metrics.inception_score import score_classes
from nbp.metrics.kvd import kernel_distance
from nbp.metrics.psnr_ssim import psnr_per_clip, ssim_per_clip
from tests.protocol_conformance import ours, sets
from tests.protocol_conformance.cells import Check
from tests.protocol_conformance.originals import scoring

# Protocols by whose code they take moments and roots.
STYLEGANV = ("nbp-ucf", "nbp-k600")
LARP = ("larp-rfvd", "larp-ucf", "larp-k600")
VIDEOGPT = (
    "nbp-rfvd",
    "omni-rfvd",
    "seed-rfvd",
    "omni-ucf",
    "omni-k600",
    "tats-ucf",
    "tats-ucf-uncond",
)
FLOAT64 = "moments and root in float64"


def compare_scores(count: int, dimensions: int) -> Iterator[Check]:
    """Covariances and distances of `count` features, which float32 networks gave."""
    pair = [
        sets.draw_features(count, seed=seed, dimensions=dimensions, shift=seed / 20)
        for seed in (1, 2)
    ]
    doubled = [features.astype(np.float64) for features in pair]
    plain = [scoring.numpy_moments(features) for features in doubled]
    summed = [scoring.summed_moments(features) for features in pair]
    single = [scoring.single_moments(features) for features in pair]
    scores = {
        STYLEGANV: (plain, scoring.matrix_root_distance(*plain), 1e-8),
        LARP: (summed, scoring.singular_root_distance(*summed), 1e-8),
        VIDEOGPT: (single, scoring.singular_root_distance(*single), 0.0),
    }
    for names, (moments, wanted, bound) in scores.items():
        for name in names:
            protocol = ours.find_protocol(name)
            covariance = ours.covariance(protocol, pair[0])
            off = np.abs(covariance - moments[0][1]).max() / np.abs(covariance).max()
            float32 = names is VIDEOGPT
            yield Check(name, "moments", "covariance, relative", off, 1e-5 if float32 else 1e-12)
            found = ours.distance(protocol, *pair)
            off = abs(found - wanted)
            if float32:
                what = "distance"
                yield Check(name, "score", what, off, listed=FLOAT64, limit=0.1)
            else:
                yield Check(name, "score", "distance, relative", off / wanted, bound)
    for name in ("tats-ucf", "tats-ucf-uncond"):
        wanted = scoring.kernel_distance(*doubled)
        off = abs(kernel_distance(*pair).value - wanted) / abs(wanted)
        yield Check(name, "score", "kernel distance, relative", off, 1e-9)
    yield from _compare_repeats(doubled, plain)


def _compare_repeats(features: list[np.ndarray], moments: list[scoring.Moments]) -> Iterator[Check]:
    """MAGVIT: four repeats, and one inception score of all clips of each."""
    name = "magvit-ucf"
    protocol = ours.find_protocol(name)
    covariance = ours.covariance(protocol, features[0])
    off = np.abs(covariance - moments[0][1]).max() / np.abs(covariance).max()
    yield Check(name, "moments", "covariance, relative", off, 1e-12)
    sets_of = [np.roll(features[1], 7 * repeat) * (1 + repeat / 50) for repeat in range(4)]
    wanted = scoring.repeated(
        [
            scoring.singular_root_distance(moments[0], scoring.numpy_moments(rows))
            for rows in sets_of
        ]
    )
    values = [ours.distance(protocol, features[0], rows) for rows in sets_of]
    found = Repeats.of(values, ddof=protocol.repeats_ddof)
    for what, a, b in (
        ("mean of four distances, relative", found.mean, wanted[0]),
        ("their deviation, relative", found.deviation, wanted[1]),
    ):
        yield Check(name, "score", what, abs(a - b) / b, 1e-7)
    logits = [3 * sets.draw_features(500, seed=seed, dimensions=101) for seed in range(4)]
    wanted = scoring.repeated([scoring.inception_score(rows) for rows in logits])
    rows = [special.softmax(one.astype(np.float64), axis=1) for one in logits]
    values = [score_classes(one, rule=protocol.inception)["inception_score"] for one in rows]
    off = abs(float(np.mean(values)) - wanted[0]) / wanted[0]
    yield Check(name, "score", "inception score, relative", off, 1e-9)


def compare_quality() -> Iterator[Check]:
    """PSNR in dB and SSIM of reconstructions, there of floats and here of bytes."""
    real, noise = sets.draw_pixels(2, 16, 32), np.random.default_rng(5)
    made = np.clip(real + noise.normal(0, 0.04, real.shape), 0, 1).astype(np.float32)
    clips = [np.rint(pixels * 255).astype(np.uint8) for pixels in (real, made)]
    shown = clips[0].astype(np.float32) / np.float32(255)  # real clips are bytes
    listed = "PSNR and SSIM of clips rounded to bytes"
    psnr = float(np.abs(psnr_per_clip(*clips) - scoring.clip_psnr(shown, made)).max())
    ssim = float(np.abs(ssim_per_clip(*clips) - scoring.clip_ssim(shown, made)).max())
    for name in ("nbp-rfvd", "larp-rfvd"):
        yield Check(name, "quality", "PSNR, dB", psnr, 1e-6, listed=listed, limit=0.01)
    yield Check("nbp-rfvd", "quality", "SSIM", ssim, 1e-7, listed=listed, limit=1e-3)
