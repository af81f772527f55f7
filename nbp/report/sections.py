# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The sections of the report page as HTML. Every text from outside goes through `escape`."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from nbp.layout import latent_borders
from nbp.metrics.score_table import find_place, find_score
from nbp.report.clip_cards import show_clips, show_previews
from nbp.report.drift import show_slopes
from nbp.report.records import DriftReport, Evaluation, Page
from nbp.report.svg import Chart, Curve, draw_chart, draw_swatch, format_number

HEADLINES = 4  # scores shown large


class Section(NamedTuple):
    anchor: str
    title: str
    html: str


def make_sections(page: Page) -> list[Section]:
    """The sections that have something to show, in reading order."""
    found = [
        Section("scores", "Scores", "".join(show_scores(e) for e in page.evaluations)),
        Section("clips", "Clips", show_clips(page)),
        Section("frames", "Error per frame", show_frames(page.evaluations)),
        Section("classes", "Classes", "".join(show_classes(e) for e in page.evaluations)),
        Section("codes", "Use of the codes", show_codes(page.evaluations)),
        Section("drift", "Long videos", "".join(show_drift(d) for d in page.drifts)),
        Section("training", "Training", show_stages(page.curves)),
        Section("previews", "Previews over training", show_previews(page)),
        Section("speed", "Speed", show_speed(page)),
        Section("configuration", "Configuration", show_config(page)),
    ]
    return [section for section in found if section.html]


def show_header(title: str, facts: Mapping[str, str], notes: Sequence[str] = ()) -> str:
    """The title, what is said under it, and what a reader must know before all else."""
    listed = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    told = "".join(f'<p class="note">{escape(text)}</p>' for text in notes)
    return f'<header><h1>{escape(title)}</h1><dl class="facts">{listed}</dl>{told}</header>'


def format_score(name: str, value: Any) -> tuple[str, str]:
    """(number, unit) of a score."""
    if not isinstance(value, int | float):
        return str(value), ""
    score = find_score(name)
    return f"{value:,.{score.digits}f}", score.unit


def show_scores(evaluation: Evaluation) -> str:
    """Large: what is asked for first. Then all scores, and all that fixes them, folded."""
    names = sorted(evaluation.scores, key=lambda name: (find_place(name), name))
    families: dict[int, str] = {}
    for name in names:  # one of each kind
        if find_score(name).headline:
            families.setdefault(find_place(name), name)
    large = list(families.values())[:HEADLINES]
    tiles, rows = "", ""
    for name in large:
        number, unit = format_score(name, evaluation.scores[name])
        tiles += (
            f'<div class="tile"><div class="name">{escape(name)}</div><div class="number">{number}'
            f' <span class="unit">{escape(unit)}</span></div><div class="hint">'
            f"{escape(find_score(name).meaning)}</div></div>"
        )
    for name in names:
        number, unit = format_score(name, evaluation.scores[name])
        score = find_score(name)
        rows += (
            f'<tr><th scope="row"><code>{escape(name)}</code></th><td class="num">{escape(number)}'
            f"</td><td>{escape(unit)}</td><td>{score.better}</td><td>{escape(score.meaning)}</td></tr>"
        )
    notes = "".join(f'<p class="note">{escape(text)}</p>' for text in evaluation.notes)
    return (
        f'<div class="evaluation"><h3>Protocol <code>{escape(evaluation.name)}</code> '
        f"v{evaluation.version}</h3>{notes}"
        f'<div class="tiles">{tiles}</div>'
        f'<details open><summary>All {len(names)} scores</summary><div class="scroll">'
        f'<table class="scores"><thead><tr><th scope="col">score</th>'
        f'<th scope="col" class="num">value</th><th scope="col">unit</th>'
        f'<th scope="col">better</th><th scope="col">what it is</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
        f"{fold('Everything that the protocol fixes', evaluation.protocol)}"
        f"{fold('Under which conditions this was measured', evaluation.conditions)}</div>"
    )


def fold(title: str, values: Mapping[str, Any]) -> str:
    """Names and values under a title that opens them."""
    if not values:
        return ""
    return (
        f"<details><summary>{escape(title)}</summary>"
        f'<div class="scroll"><table class="fields"><tbody>{list_fields(values)}</tbody></table>'
        "</div></details>"
    )


def list_fields(values: Mapping[str, Any], prefix: str = "") -> str:
    """Rows of a table; nested names are joined by dots."""
    rows = ""
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            rows += list_fields(value, f"{path}.")
        elif isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
            rows += list_fields({f"{path}[{i}]": inner for i, inner in enumerate(value)})
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            rows += (
                f'<tr><th scope="row"><code>{escape(path)}</code></th><td>{escape(text)}</td></tr>'
            )
    return rows


def show_chart(chart: Chart, *, legend: bool = True) -> str:
    """A chart under its title; several curves get a legend with their last values.

    legend: False where the page has one for all charts.
    """
    unit = f' <span class="unit">({escape(chart.unit)})</span>' if chart.unit else ""
    ends = [
        (escape(curve.name), f" <b>{format_number(curve.points[-1][1], 3)}</b>" * chart.ends)
        for curve in chart.curves
    ]
    keys = "".join(
        f'<span class="key">{draw_swatch(place)}{name}{end}</span>'
        for place, (name, end) in enumerate(ends)
    )
    if not legend:
        keys = ""
    elif len(ends) == 1:
        unit, keys = f"{unit}{ends[0][1]}", ""
    return (
        f'<figure class="panel"><figcaption>{escape(chart.title)}{unit}</figcaption>'
        f'{draw_chart(chart)}<div class="keys">{keys}</div></figure>'
    )


def show_stages(stages: Mapping[str, tuple[Chart, ...]]) -> str:
    return "".join(
        f'<h3>{escape(stage)}</h3><div class="panels">{"".join(map(show_chart, charts))}</div>'
        for stage, charts in stages.items()
        if charts
    )


def show_drift(report: DriftReport) -> str:
    """Measures over the frames of long videos, segments marked, and the table of their slopes."""
    scenes = ", ".join(f"{label} from frame {frame}" for frame, label in report.story)
    told = f"<p>Story (dashed lines): {escape(scenes)}.</p>" if scenes else ""
    return (
        f"<h3><code>{escape(report.name)}</code>: {escape(report.title)}</h3>{told}"
        "<p>Faint lines are borders of segments, as long as clips of training. A measure changes "
        "where 95% of the resampled slopes are on one side of zero.</p>"
        f'<div class="panels">{"".join(map(show_chart, report.charts))}</div>{show_slopes(report)}'
    )


def show_frames(evaluations: Sequence[Evaluation]) -> str:
    """PSNR over the frames of a clip, borders of latent frames marked."""
    panels = ""
    for evaluation in evaluations:
        curves = tuple(
            Curve(name, tuple((float(t), value) for t, value in enumerate(values)))
            for name, values in evaluation.frame_curves.items()
            if len(values) > 1
        )
        if curves:
            count = max(len(curve.points) for curve in curves)
            borders = tuple(at - 0.5 for at in latent_borders(count, evaluation.stride))
            title = f"{evaluation.name}: PSNR of each frame, {' and '.join(c.name for c in curves)}"
            panels += show_chart(Chart(title, curves, x_name="frame", unit="dB", borders=borders))
    if not panels:
        return ""
    return (
        "<p>Against the real clip, mean over clips. Faint lines are borders of latent frames, "
        f'where errors usually jump.</p><div class="panels wide">{panels}</div>'
    )


def show_classes(evaluation: Evaluation) -> str:
    """A table that sorts by any column and shows only the classes that are typed."""
    rows = evaluation.per_class
    if not rows:
        return ""
    measured = (name for row in rows for name, value in row.items() if value is not None)
    names = list(dict.fromkeys(["label", *measured]))
    body = []
    for row in rows:
        cells = []
        for name in names[1:]:
            value = row.get(name)
            text = format_score(name, value)[0] if isinstance(value, float) else value
            cells.append(Cell("" if value is None else str(text), value))
        body.append(SortableRow(escape(str(row.get("label", ""))), cells))
    title = f"Filter {len(rows)} classes of <code>{escape(evaluation.name)}</code>"
    return show_sortable(title, [name.replace("_", " ") for name in names], body)


class Cell(NamedTuple):
    """A cell of a table that sorts. text: plain. value: the number behind it, None for none.

    word: the text itself is what is sorted by. hint: shown when the pointer rests on the cell.
    mark: a class of the style sheet.
    """

    text: str
    value: Any = None
    word: bool = False
    hint: str = ""
    mark: str = ""


class SortableRow(NamedTuple):
    """title: HTML. run: see `Curve.run`."""

    title: str
    cells: Sequence[Cell]
    run: int | None = None


def show_sortable(
    title: str,
    heads: Sequence[str],
    rows: Sequence[SortableRow],
    *,
    groups: Sequence[tuple[str, int]] = (),
) -> str:
    """A table that sorts by any column and shows only the rows whose names are typed.

    title: HTML. heads: plain texts, the first above the rows' titles. groups: (HTML, columns) of a
    line above the heads. Columns of words stand to the left.
    """
    words = {i for row in rows for i, cell in enumerate(row.cells, start=1) if cell.word} | {0}
    head = "".join(
        f'<th scope="col" aria-sort="none"{"" if i in words else " class=num"}>'
        f'<button type="button">{escape(name)}</button></th>'
        for i, name in enumerate(heads)
    )
    above = "".join(f'<th scope="colgroup" colspan="{n}">{html}</th>' for html, n in groups)
    above = f'<tr class="groups">{above}</tr>' if groups else ""
    body = ""
    for row in rows:
        cells = "".join(map(_show_cell, row.cells))
        of_run = "" if row.run is None else f' data-run="{row.run}"'
        body += f'<tr{of_run}><th scope="row">{row.title}</th>{cells}</tr>'
    return (
        f'<div class="classes"><label class="search">{title} '
        f'<input type="search" placeholder="part of a name"></label>'
        f'<div class="scroll tall"><table class="sortable"><thead>{above}<tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></div>"
    )


def _show_cell(cell: Cell) -> str:
    number = isinstance(cell.value, int | float)
    classes = " ".join(name for name in ("" if cell.word else "num", cell.mark) if name)
    kind = f' class="{classes}"' if classes else ""
    value = "" if cell.word else f' data-value="{cell.value if number else ""}"'
    hint = f' title="{escape(cell.hint)}"' if cell.hint else ""
    return f"<td{kind}{value}{hint}>{escape(cell.text)}</td>"


def show_codes(evaluations: Sequence[Evaluation]) -> str:
    """Share of all tokens against share of the codes, the most frequent first, beside equal use."""
    panels = ""
    for evaluation in evaluations:
        if not evaluation.code_curves:
            continue
        curves = [
            Curve(name, ((0.0, 0.0), *((100 * (k + 1) / len(c), 100 * v) for k, v in enumerate(c))))
            for name, c in evaluation.code_curves.items()
        ]
        codes = f" of {evaluation.codes:,}" if evaluation.codes else ""
        panels += show_chart(
            Chart(
                f"{evaluation.name}: share of tokens made of the most frequent codes{codes}",
                (*curves, Curve("all codes used alike", ((0.0, 0.0), (100.0, 100.0)))),
                x_name="% of the codes",
                unit="%",
                from_zero=True,
                ends=False,
            )
        )
    return f'<div class="panels wide">{panels}</div>' if panels else ""


def show_speed(page: Page) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(speed.what)}</th>'
        f'<td class="num">{format_number(speed.value, 3)}</td><td>{escape(speed.unit)}</td>'
        f"<td>{escape(speed.source)}</td></tr>"
        for speed in page.speeds
    )
    table = (
        '<div class="scroll"><table><thead><tr><th scope="col">what</th><th scope="col" '
        'class="num">value</th><th scope="col">unit</th><th scope="col">of</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        if rows
        else ""
    )
    return table + show_stages(page.machine)


def show_config(page: Page) -> str:
    return fold("The resolved configuration", page.config)
