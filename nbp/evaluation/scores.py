# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Counters that evaluations feed batch by batch: reconstruction quality and use of the codes."""

import math

import numpy as np

from nbp.evaluation.reconstruction import psnr_per_clip, ssim_per_clip
from nbp.shapes import Int, UInt8


class ReconstructionScores:
    """Means over clips of PSNR (dB) and SSIM between clips and their reconstructions."""

    def __init__(self) -> None:
        self.psnr: list[float] = []
        self.ssim: list[float] = []

    def add(
        self, clips: UInt8[np.ndarray, "b t h w c"], outputs: UInt8[np.ndarray, "b t h w c"]
    ) -> None:
        self.psnr += psnr_per_clip(clips, outputs).tolist()
        self.ssim += ssim_per_clip(clips, outputs).tolist()

    def result(self) -> dict[str, float]:
        """`psnr` (mean over clips), `psnr_worst` and `ssim`."""
        return {
            "psnr": float(np.mean(self.psnr)),
            "psnr_worst": float(np.min(self.psnr)),
            "ssim": float(np.mean(self.ssim)),
        }


class CodeCounter:
    """How often each code occurs over a whole set."""

    def __init__(self, codes: int) -> None:
        self.counts = np.zeros(codes, np.int64)

    def add(self, tokens: Int[np.ndarray, "*b"]) -> None:
        self.counts += np.bincount(np.ravel(tokens), minlength=self.counts.size)

    def result(self) -> dict[str, float]:
        """`code_usage` (share of codes seen), `code_perplexity`, `unigram_bits` per token.

        `unigram_bits` is the entropy of the codes' frequencies on this very set: what a model
        that knows nothing but these frequencies would need.
        """
        share = self.counts[self.counts > 0] / self.counts.sum()
        bits = float(-(share * np.log2(share)).sum())
        return {
            "code_usage": float(np.mean(self.counts > 0)),
            "code_perplexity": math.pow(2.0, bits),
            "unigram_bits": bits,
        }
