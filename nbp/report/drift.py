# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Long videos on the report page: how they change with time, and whether that is more than chance.

Read are the `drift.json` that `nbp.sample` leaves beside long videos in a folder of the workdir.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from nbp.files import read_json
from nbp.report.records import DriftReport
from nbp.report.svg import Chart, Curve, format_number

PARTS = ("label", "shape", "colour", "motion")


class Measure(NamedTuple):
    """name: in `slopes`. title, unit: for people."""

    name: str
    title: str
    unit: str


MEASURES = (
    Measure("sharpness", "sharpness", "1/255 per px"),
    Measure("colour_shift", "colour shift", "1/255"),
    Measure("entropy", "entropy of the codes", "bits"),
    Measure("usage", "share of codes in use", ""),
    Measure("code_distance", "distance of the codes from the first segment's", ""),
    Measure("fvd", "FVD to the first segment", ""),
    Measure("real_fvd", "FVD to real videos in the same segment", ""),
    *(Measure(f"{part}_agreement", f"share that shows its {part}", "") for part in PARTS),
)


def read_drifts(workdir: Path) -> tuple[list[DriftReport], list[str]]:
    """Reports of long videos in the folders of a workdir, and what could not be read."""
    found, left_out = [], []
    for path in sorted(workdir.glob("*/drift.json")):
        place = f"{path.parent.name}/{path.name}"
        try:
            found.append(make_report(path.parent.name, read_json(path)))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            left_out.append(f"{place} is left out: it cannot be read")
    return found, left_out


def make_report(name: str, values: Mapping[str, Any]) -> DriftReport:
    """What the page shows of one `drift.json`. Raises where values are missing or no numbers."""
    segments = values["segments"]
    starts = [float(segment["frame"]) for segment in segments]
    borders = tuple(starts[1:])
    story = [(float(frame), str(label)) for frame, label in values.get("story") or []]
    survival = values.get("survival") or {}
    options: dict[str, Any] = {"x_name": "frame", "borders": borders, "events": tuple(story[1:])}

    def chart(title: str, unit: str, curves: Sequence[Curve | None]) -> list[Chart]:
        kept = tuple(curve for curve in curves if curve is not None)
        return [Chart(title, kept, unit=unit, from_zero=True, **options)] if kept else []

    def by_segment(title: str, column: Sequence[Any]) -> Curve | None:
        return make_curve(title, starts, column)

    def column(name: str) -> list[Any]:
        return [segment.get(name) for segment in segments]

    charts = chart(
        "videos that show what their label says",
        "share",
        [by_segment(part, column(f"{part}_agreement")) for part in PARTS],
    )
    charts += chart(
        "place of the shape, off the predicted one",
        "share of the frame",
        [
            by_segment("from its last frames", survival.get("position_error", [])),
            by_segment("from its first clip", survival.get("position_error_from_start", [])),
        ],
    )
    for measure in MEASURES[:2]:
        frames = values[measure.name]
        curve = make_curve("all videos", [float(i) for i in range(len(frames))], frames)
        charts += chart(measure.title, measure.unit, [curve])
    charts += chart("entropy of the codes", "bits", [by_segment("a video", column("entropy"))])
    curve = by_segment("total variation", column("code_distance"))
    charts += chart("codes, distance from the first segment's", "", [curve])
    pairs = (("to the first segment", "fvd"), ("to real videos, same segment", "real_fvd"))
    curves = [by_segment(title, column(key)) for title, key in pairs]
    charts += chart("Frechet distance of features", "", curves)
    slopes = values.get("slopes") or {}
    return DriftReport(
        name=name,
        title=f"{int(values['videos']):,} videos of {int(values['frames']):,} frames, "
        f"{values['slide']}",
        charts=tuple(charts),
        slopes=tuple(make_row(m, slopes[m.name]) for m in MEASURES if m.name in slopes),
        survival={
            int(frames): {part: float(shares[part]) for part in PARTS}
            for frames, shares in (survival.get("survival") or {}).items()
        },
        story=tuple((int(frame), label) for frame, label in story),
    )


def make_curve(title: str, places: Sequence[float], values: Sequence[Any]) -> Curve | None:
    """The points that were measured; None without any."""
    pairs = zip(places, values, strict=False)
    points = [(x, float(y)) for x, y in pairs if y is not None and math.isfinite(y)]
    return Curve(title, points) if points else None


def make_row(measure: Measure, slope: Mapping[str, Any]) -> tuple[str, ...]:
    """Cells of the table of slopes."""
    low, high = slope["low"], slope["high"]
    verdict, interval = "not known", ""
    if low is not None and high is not None:
        interval = f"{format_number(float(low), 3)} to {format_number(float(high), 3)}"
        verdict = "within chance" if low <= 0 <= high else "falls" if high < 0 else "rises"
    numbers = (slope["first"], slope["last"], slope["per_segment"])
    texts = (format_number(float(number), 3) for number in numbers)
    return (measure.title, measure.unit, *texts, interval, str(slope["over"]), verdict)


HEAD = ("measure", "unit", "first", "last", "per segment", "95% of resamples", "of", "verdict")
NUMBERS = range(2, 6)


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> str:
    """A table of texts; those in the columns `numbers` stand to the right."""

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=num' if i in numbers else ''}>{escape(text)}</{tag}>"
            for i, text in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="slopes"><thead><tr>{cells(head, "th")}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def show_slopes(report: DriftReport) -> str:
    """The tables of a report: slopes, and what survives."""
    text = show_table(HEAD, report.slopes, NUMBERS) if report.slopes else ""
    if report.survival:
        rows = [
            (f"{frames:,}", *(format_number(shares[part], 3) for part in PARTS))
            for frames, shares in sorted(report.survival.items())
        ]
        text += "<p>Share of videos in which this survives so many frames:</p>"
        text += show_table(("frames", *PARTS), rows, range(5))
    return text
