# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The page of a sweep: quality against passes, seconds and compute, and the table of all runs."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nbp import files
from nbp.metrics.score_table import find_place, find_score
from nbp.report.page import build_document
from nbp.report.plots import write_charts_png
from nbp.report.sections import Cell, Section, SortableRow, show_chart, show_header, show_sortable
from nbp.report.svg import Chart, Curve, format_number
from nbp.report.sweep_table import Row, summarize

# What quality is drawn against: a name, and where it stands in a row.
AXES: Mapping[str, Callable[[Row], float | None]] = {
    "passes of the generator for a clip": lambda row: row.passes,
    "seconds for a clip": lambda row: row.seconds_per_clip,
    "operations of training": lambda row: row.training_flops or None,
}
FAMILIES = ("label_agreement", "fvd", "bits_per_token", "psnr")  # one score of each is drawn
SCORES = 4  # columns of scores in the table


def write_page(workdir: Path, title: str, rows: Sequence[Row]) -> Path:
    """Writes `index.html` and `sweep.png` of rows, at least one; returns the page's path."""
    charts = make_charts(rows)
    groups = [Section("quality", "Quality", _show_quality(charts))] if charts else []
    groups.append(Section("runs", "Runs", show_rows(rows)))
    runs, seeds = len({row.run for row in rows}), len({row.seed for row in rows})
    facts = {"runs": str(runs), "seeds": str(seeds), "rows": str(len(rows))}
    page = workdir / "index.html"
    files.write_text(page, build_document(title, show_header(title, facts), groups))
    if charts:
        write_charts_png(workdir / "sweep.png", charts, title=title)
    return page


def choose_scores(rows: Sequence[Row]) -> list[str]:
    """The scores that are drawn: one of each family, that which a reader asks for first."""
    names = {name for row in rows for name in row.scores}
    found = []
    for family in FAMILIES:
        fitting = [n for n in names if find_score(n).headline and _base(n) == family]
        found += sorted(fitting, key=lambda name: (find_place(name), name))[:1]
    return found


def _base(name: str) -> str:
    """The family of a reported score: `fvd` of `fvd_random_features_256`."""
    return "fvd" if name.startswith("fvd_") else name


def make_charts(rows: Sequence[Row]) -> list[Chart]:
    """Each score against each axis; a curve joins the dials of a design, means over its seeds.

    Errors are standard deviations over seeds.
    """
    charts = []
    for name in choose_scores(rows):
        score = find_score(name)
        for axis, read in AXES.items():
            points = gather(rows, name, read)
            if len({x for curve in points.values() for x, _, _ in curve}) < 2:
                continue
            curves = tuple(
                Curve(design, [(x, y) for x, y, _ in found], [error for _, _, error in found])
                for design, found in points.items()
            )
            better = f", {score.better} is better" if score.better else ""
            charts.append(
                Chart(
                    f"{name.replace('_', ' ')}{better}",
                    curves,
                    x_name=axis,
                    unit=score.unit,
                    x_logarithmic=True,
                    ends=False,
                )
            )
    return charts


def gather(
    rows: Sequence[Row], score: str, read: Callable[[Row], float | None]
) -> dict[str, list[tuple[float, float, float]]]:
    """By design: (x, mean, deviation over seeds) of each dial, by growing x."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        x = read(row)
        if x is not None and x > 0 and score in row.scores:
            dials = found.setdefault(row.design, {})
            dials.setdefault(row.dial, []).append((float(x), row.scores[score]))
    curves = {}
    for design, dials in found.items():
        points = []
        for pairs in dials.values():
            mean, deviation = summarize([y for _, y in pairs])
            points.append((summarize([x for x, _ in pairs])[0], mean, deviation))
        curves[design] = sorted(points)
    return curves


def _show_quality(charts: Sequence[Chart]) -> str:
    panels = "".join(map(show_chart, charts))
    return (
        "<p>Means over seeds; bars are their standard deviations. A line joins the dials of one "
        f'training.</p><div class="panels wide">{panels}</div>'
    )


def show_rows(rows: Sequence[Row]) -> str:
    """A table that sorts by any column and shows only the runs that are typed."""
    scores = choose_scores(rows)[:SCORES]
    columns: dict[str, Callable[[Row], Any]] = {
        "dial": lambda row: row.dial,
        **{name.replace("_", " "): _reader(name) for name in scores},
        "passes": lambda row: row.passes,
        "s per clip": lambda row: row.seconds_per_clip,
        "training operations": lambda row: row.training_flops,
        "parameters": lambda row: row.parameters,
        "updates": lambda row: row.updates,
    }
    body = []
    for row in rows:
        cells = []
        for value in (read(row) for read in columns.values()):
            if isinstance(value, str):
                cells.append(Cell(value, word=True))
            else:
                cells.append(Cell("" if value is None else format_number(value, 4), value))
        body.append(SortableRow(escape(row.run), cells))
    return show_sortable(f"Filter {len(rows)} rows", ["run", *columns], body)


def _reader(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.scores.get(name)
