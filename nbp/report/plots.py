# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of curves, as PNG: metrics of a training, scores over frames and time."""

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbp.errors import DataError
from nbp.files import open_part
from nbp.layout import latent_borders
from nbp.metrics.drift import Drift
from nbp.metrics.score_table import find_score
from nbp.report.svg import MARKED, Chart
from nbp.training.metrics import MetricsTable

UNITS = {"_per_s": "1/s", "_s": "seconds", "_mib": "MiB"}
MACHINE = ("_per_s", "_s", "_mib")  # endings of what says how it ran, not how well it learned

# Metrics that are read side by side share a panel.
PANELS = {
    "losses": ("loss", "reconstruction", "perceptual", "quantizer"),
    "adversary": ("adversarial", "discriminator_loss"),
    "gradient norms": ("grad_norm", "discriminator_grad_norm"),
}
# Of each layer (`train.STAGE.statistics_every`): more curves than a small picture has room for.
LAYERED = ("gradient_norm", "update_norm", "weight_norm", "activation_rms")
# Magnitudes; their panels are logarithmic where the values span more than a decade.
MAGNITUDES = ("losses", "gradient norms", "adversarial_weight", "learning_rate", *LAYERED)
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:brown", "tab:olive")
ALARM_COLOURS = ("tab:red", "tab:pink", "tab:cyan", "tab:gray", "tab:olive")


@dataclass
class Panel:
    """Curves by (metric, source), each a list of (step, value)."""

    title: str
    curves: dict[tuple[str, str], list[tuple[int, float]]] = field(default_factory=dict)

    @property
    def logarithmic(self) -> bool:
        values = [value for points in self.curves.values() for _, value in points]
        return self.title in MAGNITUDES and min(values) > 0 and max(values) > 10 * min(values)


def find_unit(metrics: Sequence[str]) -> str:
    """The unit of the metrics of a panel; "" where they have none, or not the same."""
    endings = (unit for ending, unit in UNITS.items() if metrics[0].endswith(ending))
    units = {find_score(metric).unit for metric in metrics}
    return next(endings, units.pop() if len(units) == 1 else "")


def write_curves_png(
    csv_path: str | os.PathLike[str], png_path: str | os.PathLike[str], *, title: str = ""
) -> None:
    """Draws every metric of a `metrics.csv` but those of layers over the steps, in small panels.

    A metric of training and the same metric of evaluators share a panel, as do metrics that are
    read side by side. Alarms and rollbacks are vertical lines in all panels about learning.

    Raises:
        DataError: the table is absent or holds no numbers.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels, alarms = arrange_panels(MetricsTable(Path(csv_path)))
    panels = [panel for panel in panels if panel.title not in LAYERED]
    if alarms and not panels:  # it went wrong before there was anything to average
        panels = [Panel("no healthy update")]
    if not panels:
        raise DataError(
            f"{csv_path} holds no metrics to draw. Train for at least one log interval."
        )
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.6 * columns, 2.6 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    lines: dict[str, Any] = {}
    for place, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        _draw(axes, panel)
        if place > len(panels) - columns:
            axes.set_xlabel("step", fontsize=8)
        if panel.title.endswith(MACHINE):
            continue
        for (kind, steps), colour in zip(alarms.items(), itertools.cycle(ALARM_COLOURS)):
            for step in steps:
                style = "--" if kind == "rollback" else ":"
                lines[kind] = axes.axvline(step, color=colour, linestyle=style, linewidth=1)
    if lines:
        names = ["went back to here" if kind == "rollback" else f"alarm: {kind}" for kind in lines]
        figure.legend(
            list(lines.values()),
            names,
            loc="outside lower center",
            ncols=len(lines),
            fontsize=8,
            frameon=False,
        )
    if title:
        figure.suptitle(title, fontsize=11)
    _save(figure, Path(png_path))


def arrange_panels(table: MetricsTable) -> tuple[list[Panel], dict[str, list[int]]]:
    """Sorts the columns of a table into panels and alarms."""
    homes = {metric: title for title, metrics in PANELS.items() for metric in metrics}
    panels: dict[str, Panel] = {}
    alarms: dict[str, list[int]] = {}
    # Side by side in the order of the table above, each metric next to its evaluations.
    names = [name.rpartition("/") for name in table.columns[1:]]
    ranks = list(dict.fromkeys([*homes, *(metric for _, _, metric in names)]))
    for source, slash, metric in sorted(names, key=lambda name: ranks.index(name[2])):
        column = f"{source}{slash}{metric}"
        points = [(s, float(r[column])) for s, r in sorted(table.rows.items()) if r.get(column)]
        if source == "alarm":
            alarms[metric] = [step for step, _ in points]
            continue
        # Zero says that the adversary is switched off.
        off = (0.0,) if metric in ("adversarial_weight", "discriminator_grad_norm") else ()
        points = [(s, value) for s, value in points if math.isfinite(value) and value not in off]
        if points:
            home = homes.get(metric, metric)
            panels.setdefault(home, Panel(home)).curves[metric, source] = points
    # How well it learned first, how it ran last.
    order = sorted(panels.values(), key=lambda panel: panel.title.endswith(MACHINE))
    return order, {kind: steps for kind, steps in alarms.items() if steps}


def _draw(axes: Any, panel: Panel) -> None:
    if not panel.curves:
        axes.set_title(panel.title, fontsize=9)
        return
    metrics = list(dict.fromkeys(metric for metric, _ in panel.curves))
    shades = itertools.cycle(COLOURS)
    for (metric, source), points in panel.curves.items():
        steps, values = zip(*points, strict=True)
        words = [metric.replace("_", " ")] if len(metrics) > 1 else []
        words += [source] if source else [] if words else ["train"]
        axes.plot(
            steps,
            values,
            label=f"{' '.join(words)}: {values[-1]:.4g}",
            marker="o" if len(steps) < 30 else None,
            markersize=3,
            linewidth=1,
            linestyle="--" if source and len(metrics) > 1 else "-",
            color=next(shades),
        )
    first = next(iter(panel.curves.values()))
    alone = len(panel.curves) == 1
    name = metrics[0] if len(metrics) == 1 else panel.title
    axes.set_title(name.replace("_", " ") + (f": {first[-1][1]:.4g}" if alone else ""), fontsize=9)
    axes.set_ylabel(find_unit(metrics), fontsize=8)
    if panel.logarithmic:
        axes.set_yscale("log")
    elif metrics[0].endswith(MACHINE):  # from zero, so that noise does not look like a trend
        largest = max(value for points in panel.curves.values() for _, value in points)
        axes.set_ylim(0, 1.2 * largest or 1.0)
    elif metrics[0] == "discriminator_accuracy":
        axes.set_ylim(-0.02, 1.02)
    axes.tick_params(labelsize=7, which="both")
    axes.grid(alpha=0.3)
    if not alone or "" not in {source for _, source in panel.curves}:
        axes.legend(fontsize=7, frameon=False)


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
    for border in latent_borders(len(psnr), stride):
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


def write_charts_png(path: Path, charts: Sequence[Chart], *, title: str) -> None:
    """Draws charts of the page as one PNG, three in a row: points with their errors, joined."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(charts), 3)
    rows = math.ceil(len(charts) / columns)
    figure = Figure(figsize=(4.4 * columns, 3.3 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    for place, chart in enumerate(charts, start=1):
        axes = figure.add_subplot(rows, columns, place)
        for curve, colour in zip(chart.curves, itertools.cycle(COLOURS)):
            x, y = zip(*curve.points, strict=True)
            smooth = len(x) > MARKED and curve.joined
            axes.errorbar(
                x,
                y,
                yerr=curve.errors or None,
                label=curve.name,
                color=colour,
                marker=None if smooth else "o",
                markersize=3,
                linewidth=1,
                linestyle="-" if curve.joined else "",
                capsize=2,
            )
        axes.set_title(chart.title, fontsize=9)
        axes.set_xlabel(chart.x_name, fontsize=8)
        axes.set_ylabel(chart.unit, fontsize=8)
        axes.set_xscale("log" if chart.x_logarithmic else "linear")
        axes.set_yscale("log" if chart.logarithmic else "linear")
        axes.tick_params(labelsize=7, which="both")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6, frameon=False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_part(path) as part:
        figure.savefig(part, dpi=110, format="png")
