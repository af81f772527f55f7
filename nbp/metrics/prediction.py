# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""How close a continued clip comes to what really followed: PSNR, SSIM, LPIPS of its new frames.

The future is open, so one condition may be continued several times: `psnr` is the mean over its
samples, `psnr_best_of_N` that of its best one, as in stochastic video prediction (SVG, Denton and
Fergus 2018). The best is chosen for each score by itself.
"""

from collections.abc import Callable

import numpy as np

from nbp.metrics.psnr_ssim import SSIM_LEAST, psnr_per_frame, ssim_per_clip
from nbp.metrics.reconstruction import PSNR_LIMIT
from nbp.metrics.score_table import SCORES
from nbp.shapes import Array, Clips, Float, UInt8

# `nbp.metrics.feature_extractors.LpipsScorer`: two sets of clips to a distance per pair.
Lpips = Callable[[Array, Array], Float[np.ndarray, "n"]]


def score_predictions(
    real: Clips, made: UInt8[np.ndarray, "b s t h w c"], *, given: int, lpips: Lpips | None = None
) -> dict[str, Float[np.ndarray, "b s"]]:
    """Each score of each of the s samples of each real clip, over the frames from `given` on.

    `psnr` (dB) is the mean of the frames' own values, each at most 100, as prediction papers have
    it (a reconstruction's is that of the clip's mean error). `ssim` for frames of 11 px or more.
    `lpips` where a scorer is given. Raises ValueError where no frame is left.
    """
    if not 0 <= given < real.shape[1]:
        raise ValueError(f"{given} given frames leave none of {real.shape[1]} to score")
    samples = made.shape[1]
    truth = np.repeat(real[:, given:], samples, axis=0)
    guess = made[:, :, given:].reshape(truth.shape)
    scores = {"psnr": np.minimum(psnr_per_frame(truth, guess), PSNR_LIMIT).mean(axis=1)}
    if min(real.shape[2:4]) >= SSIM_LEAST:
        scores["ssim"] = ssim_per_clip(truth, guess)
    if lpips is not None:
        scores["lpips"] = lpips(truth, guess)
    return {name: values.reshape(len(real), samples) for name, values in scores.items()}


class PredictionScores:
    """Means over conditions of `score_predictions`; and PSNR of each frame after the given ones."""

    def __init__(self, given: int, *, lpips: Lpips | None = None) -> None:
        self._given, self._lpips = given, lpips
        self._rows: dict[str, list[np.ndarray]] = {}
        self._curves: list[np.ndarray] = []

    def add(
        self, real: Clips, made: UInt8[np.ndarray, "b s t h w c"]
    ) -> dict[str, Float[np.ndarray, "b s"]]:
        """Counts clips and their samples, always as many of a clip; returns the scores."""
        found = score_predictions(real, made, given=self._given, lpips=self._lpips)
        for name, values in found.items():
            self._rows.setdefault(name, []).append(values)
        truth = real[:, self._given :]
        for sample in np.moveaxis(made, 1, 0)[:, :, self._given :]:
            self._curves.append(np.minimum(psnr_per_frame(truth, sample), PSNR_LIMIT))
        return found

    def result(self) -> dict[str, float]:
        """`psnr`, `ssim`, `lpips`; of N > 1 samples per condition also `psnr_best_of_N` and so on.

        Raises ValueError before the first clip.
        """
        if not self._rows:
            raise ValueError("no predictions to score")
        scores: dict[str, float] = {}
        for name, parts in self._rows.items():
            values = np.concatenate(parts)
            scores[name] = float(values.mean())
            if values.shape[1] > 1:
                best = values.min(axis=1) if SCORES[name].better == "lower" else values.max(axis=1)
                scores[f"{name}_best_of_{values.shape[1]}"] = float(best.mean())
        return scores

    @property
    def psnr_per_frame(self) -> list[float]:
        """PSNR (dB) of each predicted frame, the mean over clips and samples."""
        return np.concatenate(self._curves).mean(axis=0).tolist()
