# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The page of several runs: scores, curves over each other, the same conditions, what differs.

A run has one colour and one kind of line in everything. The bar on top shows and hides runs in
all sections; without the script all of them are there.
"""

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from nbp import files
from nbp.errors import DataError
from nbp.files import make_folder
from nbp.metrics.score_table import find_score
from nbp.report.clip_cards import show_canvas, show_form, show_transport
from nbp.report.clips import Shown
from nbp.report.collect import MOST_POINTS, name_chart, thin_out
from nbp.report.comparison.conditions import collect_conditions
from nbp.report.comparison.runs import Run, list_config_differences, read_runs
from nbp.report.comparison.scores import (
    Scored,
    ScoreGroup,
    explain_missing,
    group_reports,
    list_rows,
)
from nbp.report.page import build_document
from nbp.report.plots import MACHINE, Panel
from nbp.report.sections import (
    Cell,
    Section,
    SortableRow,
    format_score,
    show_chart,
    show_header,
    show_sortable,
)
from nbp.report.svg import Chart, Curve, draw_swatch

FEW = 8  # runs that the bar lists without being opened
KEYS = 4  # keys that differ, of which the tables of scores have columns where there are no more
POINTS = 6000  # of all curves of a chart, but at least LEAST of each
LEAST = 40
SIDE_BY_SIDE = 3  # clips that fit beside each other in a card of half the width


def write_comparison(folders: Sequence[Path], out: Path) -> tuple[Path, list[str]]:
    """Writes the page of these workdirs, whole or not at all; returns its path, and notes on what
    is not on it.

    Raises CheckpointError for a folder that is no workdir, DataError where none has anything to
    show, and ConfigError where the place cannot be written.
    """
    runs, gone = read_runs(folders)
    files.check_writable_file(out, "Name another with --out FILE.html.")
    if not any(run.results or run.panels for run in runs):
        raise DataError("none of these runs has curves or scores to show yet. Train or score them")
    shown = collect_conditions(runs)
    notes = [*gone, *(f"{run.name}: {note}" for run in runs for note in run.notes)]
    notes += shown.left_out
    text = build_comparison(runs, shown, notes)
    make_folder(out.parent)
    files.write_text(out, text)
    return out, notes


def build_comparison(runs: Sequence[Run], shown: Shown, notes: Sequence[str] = ()) -> str:
    """The page as one HTML document. notes: on what is not on it."""
    differences = list_config_differences(runs)
    groups = group_reports(runs)
    charts, machine = make_charts(runs)
    found = [
        Section("scores", "Scores", show_scores(runs, groups, differences)),
        Section("curves", "Curves", show_curves(charts)),
        Section("conditions", "The same condition", show_conditions(runs, shown)),
        Section("configuration", "What differs", show_differences(runs, differences)),
        Section("speed", "Speed", show_curves(machine)),
        Section("runs", "Runs", show_runs(runs)),
    ]
    title = f"{len(runs)} runs side by side" if len(runs) > 1 else f"{runs[0].name} alone"
    names = sorted({run.config.name for run in runs if run.config is not None})
    facts = {
        "configurations": ", ".join(names) if len(names) <= KEYS else str(len(names)),
        "evaluations": str(sum(len(run.results) for run in runs)),
        "keys that differ": str(len(differences)),
    }
    return build_document(
        title,
        show_header(title, facts, notes),
        [section for section in found if section.html],
        clips=shown.clips,
        bar=show_bar(runs),
    )


def show_bar(runs: Sequence[Run]) -> str:
    """A box to tick for each run; of many, behind a title that opens them."""
    boxes = "".join(
        f'<label class="run" data-pick="{i}" title="{escape(run.name)}"><input type="checkbox" '
        f'checked value="{i}">{draw_swatch(i)}<span>{escape(run.name)}</span></label>'
        for i, run in enumerate(runs)
    )
    buttons = (
        '<button type="button" id="all-runs">All</button>'
        '<button type="button" id="no-runs">None</button>'
    )
    if len(runs) <= FEW:
        return (
            f'<div class="bar"><div class="runs" role="group" aria-label="Runs">{boxes}</div></div>'
        )
    return (
        '<div class="bar"><details class="legend"><summary>Runs: <output id="runs-shown">'
        f"all {len(runs)} shown</output></summary>"
        '<div class="sheet"><div class="tools"><label>Find <input type="search" id="find-run" '
        f'placeholder="part of a name"></label>{buttons}</div>'
        f'<div class="runs" role="group" aria-label="Runs">{boxes}</div></div></details></div>'
    )


def show_name(runs: Sequence[Run], number: int, more: str = "") -> str:
    """A run with its kind of line."""
    return f'{draw_swatch(number)}<span class="named">{escape(runs[number].name + more)}</span>'


def show_scores(
    runs: Sequence[Run], groups: Sequence[ScoreGroup], differences: dict[str, list[Any]]
) -> str:
    """The scores that are asked for first, and all of them folded."""
    if not groups:
        return ""
    rows = list_rows(runs, groups)
    keys = {key: values for key, values in differences.items() if key != "name"}
    keys = keys if len(keys) <= KEYS else {}
    tables = []
    for headlines in (True, False):
        columns = [
            (group, [n for n in group.names if find_score(n).headline or not headlines])
            for group in groups
        ]
        columns = [(group, names) for group, names in columns if names]
        tables.append(show_score_table(runs, rows, columns, keys) if columns else "")
    count = sum(len(group.names) for group in groups)
    folded = f"<details><summary>All {count} scores</summary>{tables[1]}</details>"
    return (
        "<p>Only numbers that <code>nbp.evaluate --compare</code> would compare share a column: of "
        "one protocol and version, with the same file of features, of as many clips. The best of a "
        "column is bold. An empty cell says why it is empty when the pointer rests on it.</p>"
        f"{tables[0]}{folded}"
    )


def show_score_table(
    runs: Sequence[Run],
    rows: Sequence[Scored],
    columns: Sequence[tuple[ScoreGroup, list[str]]],
    keys: dict[str, list[Any]],
) -> str:
    """A row for each run, a column for each score of each group, keys that differ before them."""
    above = [("", 1)]
    above += [("configuration", len(keys))] if keys else []
    above += [
        (f"<code>{escape(g.protocol)}</code> {escape(g.describe())}", len(names))
        for g, names in columns
    ]
    body = []
    for row in rows:
        cells = [_show_value(values[row.run]) for values in keys.values()]
        for group, names in columns:
            cells += [make_score_cell(runs[row.run], row, group, name) for name in names]
        title = show_name(runs, row.run, f": {row.file}" if row.file else "")
        body.append(SortableRow(title, cells, row.run))
    heads = ["run", *keys, *(name.replace("_", " ") for _, names in columns for name in names)]
    return show_sortable(f"Filter {len(rows)} rows", heads, body, groups=above)


def make_score_cell(run: Run, row: Scored, group: ScoreGroup, name: str) -> Cell:
    report = group.reports.get(row)
    if report is None:
        return Cell("", hint=explain_missing(run, row, group), mark="none")
    if name not in report["scores"]:
        return Cell("", hint="not measured in this evaluation", mark="none")
    value = report["scores"][name]
    number, unit = format_score(name, value)
    told = [f"{value} {unit}".strip(), f"seed {report['seed']}", *report["deviations"]]
    best = "best" if value == group.find_best(name) else ""
    return Cell(number, value, hint="; ".join(told), mark=best)


def _show_value(value: Any) -> Cell:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(write_value(value), value if number else None, word=not number)


def write_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def make_charts(runs: Sequence[Run]) -> tuple[dict[str, tuple[Chart, ...]], ...]:
    """By stage: a chart for each metric of training and of each evaluator, a curve for each run;
    and the same of how the machine did.
    """
    found: dict[str, dict[tuple[str, str, str], dict[int, list[tuple[int, float]]]]] = {}
    for number, run in enumerate(runs):
        for stage, panels in run.panels.items():
            for panel in panels:
                for (metric, source), points in panel.curves.items():
                    curves = found.setdefault(stage, {}).setdefault(
                        (panel.title, metric, source), {}
                    )
                    curves[number] = points
    learned: dict[str, tuple[Chart, ...]] = {}
    machine: dict[str, tuple[Chart, ...]] = {}
    for stage, metrics in found.items():
        for (panel, metric, source), curves in metrics.items():
            home = machine if metric.endswith(MACHINE) else learned
            chart = make_chart(runs, panel, metric, source, curves)
            home[stage] = (*home.get(stage, ()), chart)
    return learned, machine


def make_chart(
    runs: Sequence[Run],
    panel: str,
    metric: str,
    source: str,
    curves: dict[int, list[tuple[int, float]]],
) -> Chart:
    title, unit = name_chart([metric], panel)
    most = min(MOST_POINTS, max(LEAST, POINTS // len(curves)))
    return Chart(
        f"{title}, {source}" if source else title,
        tuple(
            Curve(runs[number].name, thin_out(points, most), run=number)
            for number, points in curves.items()
        ),
        unit=unit,
        logarithmic=Panel(panel, {(str(i), ""): c for i, c in curves.items()}).logarithmic,
        from_zero=metric.endswith(MACHINE),
    )


def show_curves(stages: dict[str, tuple[Chart, ...]]) -> str:
    return "".join(
        f'<h3>{escape(stage)}</h3><div class="panels wide">'
        f"{''.join(show_chart(chart, legend=False) for chart in charts)}</div>"
        for stage, charts in stages.items()
    )


def show_conditions(runs: Sequence[Run], shown: Shown) -> str:
    """A card for each condition, with a clip of each run that drew it."""
    if not shown.clips:
        return ""
    places = itertools.groupby(enumerate(shown.clips), key=lambda pair: pair[1].group)
    cards, labels = "", set()
    for title, members in places:
        members = list(members)
        figures = "".join(
            f'<figure class="kind-{clip.kind}" data-kind="{clip.kind}"'
            + (
                f">{show_canvas(clip, place)}<figcaption><b>real</b>"
                if clip.run is None
                else f' data-run="{clip.run}">{show_canvas(clip, place, runs[clip.run].name)}'
                f"<figcaption>{show_name(runs, clip.run)}"
            )
            + "</figcaption></figure>"
            for place, clip in members
        )
        label = next((clip.label for _, clip in members if clip.label), "")
        labels |= {label} - {""}
        cards += (
            f'<article class="card" data-label="{escape(label)}" aria-label="{escape(title)}">'
            f'<h4>{escape(title)}</h4><div class="row many">{figures}</div></article>'
        )
    full = " full" if len(runs) >= SIDE_BY_SIDE else ""
    sorts = [("order", "runs that drew it"), ("label-up", "class, A to Z")]
    return (
        "<p>A class, first frames or a held-out clip that several runs drew: of evaluations, else "
        "of <code>samples/</code>, else of the last preview. None is chosen for its looks.</p>"
        f"{show_transport(max(c.picture.frames for c in shown.clips), shown.clips[0].fps)}"
        f"{show_form(sorts if labels else sorts[:1], sorted(labels), shown.clips)}"
        f'<div class="cards{full}" id="gallery">{cards}</div>'
        '<p class="more"><button type="button" id="more" hidden>Show more</button></p>'
    )


def show_differences(runs: Sequence[Run], differences: dict[str, list[Any]]) -> str:
    """Dotted keys by runs; values that most runs do not have are marked."""
    known = [number for number, run in enumerate(runs) if run.config is not None]
    if len(known) < 2:
        return ""
    if not differences:
        return "<p>All runs have the same configuration.</p>"
    head = "".join(
        f'<th scope="col" data-run="{number}">{show_name(runs, number)}</th>' for number in known
    )
    body = ""
    for key, values in differences.items():
        texts = {number: write_value(values[number]) for number in known}
        ((usual, count),) = Counter(texts.values()).most_common(1)
        cells = "".join(
            f'<td data-run="{number}"{" class=odd" * (text != usual and count > 1)}>'
            f"{escape(text)}</td>"
            for number, text in texts.items()
        )
        body += f'<tr><th scope="row"><code>{escape(key)}</code></th>{cells}</tr>'
    return (
        f"<p>Keys that have the same value in all runs shown are left out. Values that differ from "
        "most runs' are marked.</p>"
        '<div class="scroll tall"><table class="fields differences" id="differences"><thead><tr>'
        f'<th scope="col">key</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def show_runs(runs: Sequence[Run]) -> str:
    """Where the runs are, and how far they came."""
    stages = list(dict.fromkeys(stage for run in runs for stage in run.updates))
    rows = []
    for number, run in enumerate(runs):
        cells = [Cell("" if run.config is None else run.config.name, word=True)]
        for stage in stages:
            count = run.updates.get(stage)
            cells.append(Cell("" if count is None else f"{count:,}", count))
        cells.append(Cell(", ".join(run.results), word=True))
        cells.append(Cell(str(run.folder), word=True))
        rows.append(SortableRow(show_name(runs, number), cells, number))
    updates = [f"{stage} updates" for stage in stages]
    heads = ["run", "configuration", *updates, "evaluations", "folder"]
    return show_sortable(f"Filter {len(runs)} runs", heads, rows)
