# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of scores."""

import os
from collections.abc import Sequence
from pathlib import Path


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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=110, format="png")
    os.replace(temporary, path)
