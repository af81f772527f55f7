# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from nbp.evaluation.reconstruction import psnr_per_clip, ssim_per_clip
from nbp.evaluation.scores import CodeCounter, ReconstructionScores


def test_reconstruction_scores_are_means_over_clips_not_over_batches():
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (5, 1, 12, 12, 3), np.uint8)
    outputs = rng.integers(0, 256, clips.shape, np.uint8)
    outputs[3] = clips[3] ^ 1  # one good clip, so that the batches differ
    scores = ReconstructionScores()
    scores.add(clips[:1], outputs[:1])
    scores.add(clips[1:], outputs[1:])
    psnr, ssim = psnr_per_clip(clips, outputs), ssim_per_clip(clips, outputs)
    result = scores.result()
    assert result["psnr"] == pytest.approx(sum(psnr) / 5)
    assert result["psnr_worst"] == pytest.approx(min(psnr))
    assert result["ssim"] == pytest.approx(sum(ssim) / 5)


def test_codes_are_counted_over_all_batches():
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
