# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of scores."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbp.metrics.drift import Drift


def write_frame_curve(path: Path, psnr: Sequence[float], *, title: str, stride: int) -> None:
    """Draws the PSNR (dB) of each frame of a clip as a PNG, whole or not at all.

    stride: frames of a latent frame; its borders are marked, as errors usually jump there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(range(len(psnr)), psnr, marker="o", markersize=3)
    for border in range(1, len(psnr), stride):
        axes.axvline(border - 0.5, color="0.85", linewidth=0.8, zorder=0)
    axes.set_xticks(range(0, len(psnr), max(1, len(psnr) // 8)))
    axes.set_xlabel("frame")
    axes.set_ylabel("PSNR (dB)")
    axes.set_title(title, fontsize=10)
    _save(figure, path)


def write_drift_curves(path: Path, drift: Drift, *, title: str) -> None:
    """Draws sharpness, colour shift, code statistics and distances over the frames, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    starts = [segment.frame for segment in drift.segments]
    curves: list[tuple[str, Sequence[int], Sequence[float]]] = [
        ("sharpness (1/255 per px)", range(len(drift.sharpness)), drift.sharpness),
        ("colour shift (1/255)", range(len(drift.colour_shift)), drift.colour_shift),
        ("perplexity of codes", starts, [segment.perplexity for segment in drift.segments]),
        ("code distance", starts, [segment.code_distance for segment in drift.segments]),
    ]
    distances = [segment.fvd for segment in drift.segments if segment.fvd is not None]
    if distances:
        curves.append(("FVD to the first segment", starts, distances))
    figure = Figure(figsize=(6.4, 1.5 * len(curves) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    for row, (name, frames, values) in enumerate(curves):
        axes = figure.add_subplot(len(curves), 1, row + 1)
        marker = "" if frames is not starts else "o"
        axes.plot(frames, values, marker=marker, markersize=3)
        for start in starts[1:]:
            axes.axvline(start, color="0.85", linewidth=0.8, zorder=0)
        axes.set_xlim(0, len(drift.sharpness) - 1)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(name, fontsize=7)
    figure.axes[-1].set_xlabel("frame (lines: segments as long as a clip of training)")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=110, format="png")
    os.replace(temporary, path)
