# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Scores of a whole set, whatever the batches: against numpy on all clips at once."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nbp.metrics.psnr_ssim import (
    PSNR_LIMIT,
    gms_per_frame,
    psnr_per_clip,
    psnr_per_frame,
    ssim_per_clip,
)
from nbp.metrics.reconstruction import (
    BadClip,
    CodeCounter,
    PairedMoments,
    ReconstructionScores,
    WorstClips,
)
from nbp.metrics.score_table import name_fvd
from tests.metrics.features import frechet


def draw_pair(count: int = 5, *, frames: int = 2, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (count, frames, size, size, 3), np.uint8)
    outputs = rng.integers(0, 256, clips.shape, np.uint8)
    outputs[3] = clips[3] ^ 1  # one good clip, so that the batches differ
    return clips, outputs


def test_reconstruction_scores_are_means_over_clips_not_over_batches() -> None:
    clips, outputs = draw_pair()
    scores = ReconstructionScores()
    psnr = psnr_per_clip(clips, outputs)
    with ThreadPoolExecutor(2) as pool:
        first = scores.add(clips[:1], outputs[:1])
        rest = scores.add(clips[1:], outputs[1:], pool=pool)
    np.testing.assert_allclose(np.concatenate([first, rest]), psnr)
    result = scores.result()
    assert result["psnr"] == pytest.approx(sum(psnr) / 5)
    assert result["psnr_worst"] == pytest.approx(min(psnr))
    assert result["ssim"] == pytest.approx(sum(ssim_per_clip(clips, outputs)) / 5)
    gms, gmsd = gms_per_frame(clips, outputs)
    assert result["gms"] == pytest.approx(gms.mean())
    assert result["gmsd"] == pytest.approx(gmsd.mean())


def test_the_curve_has_every_frame_the_scores_the_first_ones() -> None:
    clips, _ = draw_pair(4, frames=5)
    outputs = clips.copy()
    for frame in range(5):  # an error that grows with the frame
        outputs[:, frame] = np.clip(clips[:, frame].astype(int) + 4 * (frame + 1), 0, 255)
    scores = ReconstructionScores(frames=3)
    scores.add(clips[:3], outputs[:3])
    scores.add(clips[3:], outputs[3:])
    want = psnr_per_frame(clips, outputs).mean(axis=0)
    np.testing.assert_allclose(scores.psnr_per_frame, want)
    assert want.tolist() == sorted(want, reverse=True)
    assert scores.result()["psnr"] == pytest.approx(
        psnr_per_clip(clips[:, :3], outputs[:, :3]).mean()
    )


def test_a_clip_that_is_reproduced_exactly_leaves_the_mean_finite() -> None:
    clips, outputs = draw_pair()
    outputs[0] = clips[0]
    scores = ReconstructionScores()
    scores.add(clips, outputs)
    rest = psnr_per_clip(clips[1:], outputs[1:])
    assert scores.result()["psnr"] == pytest.approx((PSNR_LIMIT + rest.sum()) / 5)
    assert np.isfinite(scores.psnr_per_frame).all()


def test_small_frames_have_no_ssim() -> None:
    clips, outputs = draw_pair(size=8)
    scores = ReconstructionScores()
    scores.add(clips, outputs)
    assert set(scores.result()) == {"psnr", "psnr_worst", "gms", "gmsd"}


def test_codes_are_counted_over_all_batches() -> None:
    counter = CodeCounter(8)
    counter.add(np.array([[[0, 1], [1, 3]]]))
    counter.add(np.array([3, 3, 3, 7]))
    assert counter.counts.tolist() == [1, 2, 0, 4, 0, 0, 0, 1]
    result = counter.result()
    # 1/8, 1/4, 1/2, 1/8
    assert result["unigram_bits"] == pytest.approx(3 / 8 + 2 / 4 + 1 / 2 + 3 / 8)
    assert result["code_perplexity"] == pytest.approx(math.exp(1.75 * math.log(2)))
    assert result["code_usage"] == 0.5
    uniform = CodeCounter(64)
    uniform.add(np.arange(64))
    assert uniform.result() == pytest.approx(
        {"code_usage": 1.0, "code_perplexity": 64.0, "unigram_bits": 6.0}
    )


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_the_worst_clips_are_kept_whatever_the_batches(batch: int) -> None:
    rng = np.random.default_rng(1)
    psnr = rng.permutation(20).astype(float)
    psnr[[4, 9]] = psnr.min() - 1  # equal ones: the first comes first
    clips = np.arange(20, dtype=np.uint8)[:, None, None, None, None] * np.ones((1, 1, 2, 2, 3))
    clips = clips.astype(np.uint8)
    worst = WorstClips(6)
    for first in range(0, 20, batch):
        rows = slice(first, first + batch)
        buffer = clips[rows].copy()
        worst.add(range(20)[rows], psnr[rows].tolist(), buffer, buffer + 100)
        buffer[:] = 0  # what is kept is a copy
    found = worst.result()
    assert [bad.index for bad in found] == np.argsort(psnr, kind="stable")[:6].tolist()
    assert found[0].index == 4
    assert found[1].index == 9
    for bad in found:
        assert bad.psnr == psnr[bad.index]
        assert (bad.clip == bad.index).all()
        assert (bad.output == bad.index + 100).all()


def test_a_bad_clip_is_shown_with_its_error() -> None:
    clip = np.full((1, 2, 2, 3), 100, np.uint8)
    output = clip.copy()
    output[0, 0, 0] = (90, 110, 255)
    original, reconstruction, difference = BadClip(20.0, 0, clip, output).triple
    assert (original == clip).all()
    assert (reconstruction == output).all()
    assert difference[0, 0, 0].tolist() == [40, 40, 255]
    assert difference.sum() == 335


def test_paired_moments_are_those_of_the_whole_sets() -> None:
    rng = np.random.default_rng(2)
    real, made = rng.standard_normal((40, 6)), 1.5 * rng.standard_normal((40, 6)) + 0.3
    moments = PairedMoments(6)
    for rows in np.split(np.arange(40), [1, 7, 30]):
        moments.add(real[rows], made[rows])
    assert moments.distance == pytest.approx(frechet(real, made), rel=1e-9)
    same = PairedMoments(6)
    same.add(real, real)
    assert 0 <= same.distance < 1e-9


def test_names_say_how_a_frechet_distance_differs() -> None:
    assert name_fvd("fvd", count=2048, complete=2048, features="published") == "fvd"
    assert name_fvd("fvd", count=256, complete=2048, features="published") == "fvd_256"
    assert name_fvd("rfvd", count=9, complete=9, features="random") == "rfvd_random_features"
    assert name_fvd("fvd", count=8, complete=9, features="random") == "fvd_random_features_8"
    assert name_fvd("fvd", count=9, complete=9, features="other") == "fvd_other_features"
