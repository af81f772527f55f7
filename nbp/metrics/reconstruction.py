# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What evaluations feed batch by batch: quality of reconstructions, use of the codes, worst clips.

Each takes a set of any length in memory that does not grow with the clips' pixels.
"""

import heapq
import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from nbp.metrics.frechet import Moments, frechet_distance
from nbp.metrics.psnr_ssim import (
    PSNR_LIMIT,
    SSIM_LEAST,
    gms_per_frame,
    psnr_per_clip,
    psnr_per_frame,
    ssim_per_clip,
)
from nbp.shapes import Clip, Clips, Float, Int


class ReconstructionScores:
    """Means over clips of PSNR (dB), SSIM, GMS and GMSD between clips and their reconstructions.

    frames: the first frames, which are scored; None all. `psnr_per_frame` always has all of them.
    A clip's PSNR counts as at most 100 dB.
    """

    def __init__(self, frames: int | None = None) -> None:
        self._frames = frames
        self._clips: dict[str, list[float]] = {}
        self._curve = np.zeros(0)
        self._count = 0

    def add(
        self, clips: Clips, outputs: Clips, *, pool: ThreadPoolExecutor | None = None
    ) -> Float[np.ndarray, "b"]:
        """Counts clips and returns the PSNR of each; a pool takes one clip per thread."""
        pairs = [(clips[i : i + 1], outputs[i : i + 1]) for i in range(len(clips))]
        rows = list((pool.map if pool else map)(self._measure, pairs))
        for row in rows:
            for name, value in row.values.items():
                self._clips.setdefault(name, []).append(value)
            if not self._count:
                self._curve = np.zeros_like(row.curve)
            self._curve += row.curve
            self._count += 1
        return np.array([row.values["psnr"] for row in rows])

    def result(self) -> dict[str, float]:
        """`psnr` (mean over clips), `psnr_worst`, `gms` and `gmsd`; `ssim` from 11 px on."""
        means = {name: float(np.mean(values)) for name, values in self._clips.items()}
        return {"psnr": means.pop("psnr"), "psnr_worst": min(self._clips["psnr"]), **means}

    @property
    def psnr_per_frame(self) -> list[float]:
        """PSNR (dB) of each frame of a clip, the mean over clips."""
        return (self._curve / max(self._count, 1)).tolist()

    def _measure(self, pair: tuple[Clips, Clips]) -> "_Row":
        curve = np.minimum(psnr_per_frame(*pair)[0], PSNR_LIMIT)
        a, b = (clip[:, : self._frames] for clip in pair)
        gms, gmsd = gms_per_frame(a, b)
        values = {"psnr": min(float(psnr_per_clip(a, b)[0]), PSNR_LIMIT)}
        if min(a.shape[2:4]) >= SSIM_LEAST:
            values["ssim"] = float(ssim_per_clip(a, b)[0])
        return _Row({**values, "gms": float(gms.mean()), "gmsd": float(gmsd.mean())}, curve)


@dataclass(frozen=True)
class _Row:
    values: dict[str, float]
    curve: np.ndarray


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


@dataclass(frozen=True)
class BadClip:
    """A clip that was reproduced badly; `index` is its place in the evaluated order."""

    psnr: float
    index: int
    clip: Clip
    output: Clip

    @property
    def triple(self) -> Clips:
        """The clip, its reconstruction, and four times their absolute difference."""
        difference = np.abs(self.clip.astype(np.int32) - self.output.astype(np.int32))
        return np.stack([self.clip, self.output, np.minimum(4 * difference, 255).astype(np.uint8)])


class WorstClips:
    """The `count` clips of the lowest PSNR; of equal ones those that came first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._heap: list[tuple[float, int, int, BadClip]] = []
        self._arrivals = itertools.count()

    def add(self, indices: Sequence[int], psnr: Sequence[float], clips: Clips, outputs: Clips):
        """Looks at a batch; keeps copies of what it needs."""
        for row, (index, value) in enumerate(zip(indices, psnr, strict=True)):
            if len(self._heap) == self._count and -value <= self._heap[0][0]:
                continue
            bad = BadClip(float(value), int(index), clips[row].copy(), outputs[row].copy())
            heapq.heappush(self._heap, (-bad.psnr, -next(self._arrivals), bad.index, bad))
            if len(self._heap) > self._count:
                heapq.heappop(self._heap)

    def result(self) -> list[BadClip]:
        """From the worst on."""
        return [entry[-1] for entry in sorted(self._heap, key=lambda entry: entry[:2])[::-1]]


class PairedMoments:
    """Features of clips and of what a model made of them, for their Frechet distance.

    ddof: of its covariances, see `frechet_distance`.
    """

    def __init__(self, dimensions: int, *, ddof: int = 1) -> None:
        self._ddof = ddof
        self.real = self.made = Moments.empty(dimensions)

    def add(self, real: Float[np.ndarray, "b d"], made: Float[np.ndarray, "b d"]) -> None:
        self.real, self.made = self.real.add(real), self.made.add(made)

    @property
    def distance(self) -> float:
        """Raises ValueError below two clips."""
        return frechet_distance(self.real, self.made, ddof=self._ddof)
