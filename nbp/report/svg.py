# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Line charts as inline SVG: text that a page holds, coloured by the page's style sheet.

Colours are classes (`series-1` ...), so that a chart follows the page into the dark. Points lie
beside the drawing as JSON, from which the page's script shows values under the pointer.
"""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 28
SERIES = 6  # colours that the style sheet has
DASHES = 9  # kinds of lines that it has, solid ones first
MARKED = 20  # curves of at most this many points show them as dots
DESCRIBED = 8  # curves of a chart that are told in words

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """Points (x, y) with growing x; all finite, at least one. errors: of each y, or none.

    joined: whether a line goes through them. run: number of the run that it is of, on a page of
    several: the run has one colour and one kind of line in all charts, whichever others are in one.
    """

    name: str
    points: Points
    errors: Sequence[float] = ()
    joined: bool = True
    run: int | None = None


@dataclass(frozen=True)
class Chart:
    """What is drawn in one frame.

    borders: x of faint vertical lines; events: (x, name) of dashed ones. from_zero: the y axis
    begins at zero. logarithmic: for positive values; x_logarithmic: the same of x. ends: whether
    last values are worth reading.
    """

    title: str
    curves: tuple[Curve, ...]
    x_name: str = "step"
    unit: str = ""
    logarithmic: bool = False
    x_logarithmic: bool = False
    from_zero: bool = False
    ends: bool = True
    borders: tuple[float, ...] = ()
    events: tuple[tuple[float, str], ...] = ()


def choose_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / raw)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def format_number(value: float | int, digits: int = 4) -> str:
    """A number for people: 12,345, 0.0123, 3.2e-05."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{int(value):,}"
    if 1e-4 <= abs(value) < 1e6:
        text = f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{exponent}"


def format_ticks(ticks: Sequence[float]) -> list[str]:
    """Ticks with as many decimals as tell neighbours apart, and no more."""
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    if not steps or min(steps) < 1e-4 or max(map(abs, ticks)) >= 1e6:
        return [format_number(tick, 3) for tick in ticks]
    if max(steps) > 1.5 * min(steps):  # of a logarithmic axis
        return [format_number(tick, 3) for tick in ticks]
    decimals = max(0, -math.floor(math.log10(min(steps)) + 1e-9))
    return [f"{tick:,.{decimals}f}" for tick in ticks]


def draw_chart(chart: Chart) -> str:
    """The chart as an `<svg>` element; everything from outside is escaped.

    Raises ValueError for a chart without a point.
    """
    if not chart.curves or not all(curve.points for curve in chart.curves):
        raise ValueError(f"the chart {chart.title!r} has no points to draw")
    frame = _Frame(chart)
    parts = [*_draw_grid(chart, frame), *_draw_lines(chart, frame)]
    data = {
        "curves": [
            {"name": c.name, "run": c.run, "points": [[_short(x), _short(y)] for x, y in c.points]}
            for c in chart.curves
        ],
        "x": [frame.x_low, frame.x_high],
        "y": [frame.y_low, frame.y_high],
        "log": chart.logarithmic,
        "xLog": chart.x_logarithmic,
        "xName": chart.x_name,
        "unit": chart.unit,
        "frame": [LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM],
    }
    kind = "chart many-lines" if len(chart.curves) > DESCRIBED else "chart"
    return (
        f'<svg class="{kind}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(describe_chart(chart))}" '
        f'data-chart="{escape(json.dumps(data, separators=(",", ":")))}">'
        f"{''.join(parts)}</svg>"
    )


def describe_chart(chart: Chart) -> str:
    """What the chart shows in words, for those who do not see it."""
    parts = []
    for curve in chart.curves[:DESCRIBED]:
        (x0, y0), (x1, y1) = curve.points[0], curve.points[-1]
        unit = f" {chart.unit}" if chart.unit else ""
        parts.append(
            f"{curve.name} from {format_number(y0)}{unit} at {chart.x_name} {format_number(x0)} "
            f"to {format_number(y1)}{unit} at {chart.x_name} {format_number(x1)}"
        )
    if more := len(chart.curves) - len(parts):
        parts.append(f"and {more} more curves")
    return f"{chart.title}: {'; '.join(parts)}"


def name_style(place: int) -> str:
    """Classes of the style sheet for line `place`: a colour, and dashes beyond the last colour.

    SERIES * DASHES lines can be told apart.
    """
    dashes = place // SERIES % DASHES
    return f"series-{place % SERIES + 1}" + (f" dash-{dashes}" if dashes else "")


def draw_swatch(place: int) -> str:
    """A short piece of line `place`, for legends."""
    return (
        f'<svg class="swatch" viewBox="0 0 26 8" aria-hidden="true"><line '
        f'class="line {name_style(place)}" x1="1" x2="25" y1="4" y2="4"/></svg>'
    )


class _Frame:
    """Ranges of the axes, and where a point lies."""

    def __init__(self, chart: Chart) -> None:
        xs = [x for curve in chart.curves for x, _ in curve.points]
        ys = [y for curve in chart.curves for low_high in list_ends(curve) for y in low_high]
        self.x_low, self.x_high = min(xs), max(xs)
        self.x_logarithmic = chart.x_logarithmic
        if self.x_low == self.x_high:
            narrow = self.x_low / 2 if chart.x_logarithmic else 1
            self.x_low, self.x_high = self.x_low - narrow, self.x_high + narrow
        self.logarithmic = chart.logarithmic
        if chart.logarithmic:  # an error may be larger than its value
            ys = [y for y in ys if y > 0]
        low, high = min(ys), max(ys)
        if chart.logarithmic:
            self.y_low, self.y_high = low / 1.1, high * 1.1
        else:
            low = min(0.0, low) if chart.from_zero else low
            margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
            self.y_low = low if chart.from_zero and low == 0 else low - margin
            self.y_high = high + margin

    def x(self, value: float) -> float:
        low, high = self.x_low, self.x_high
        if self.x_logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = (value - low) / (high - low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 2)

    def y(self, value: float) -> float:
        low, high = self.y_low, self.y_high
        if self.logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 2)

    def y_ticks(self) -> list[float]:
        if not self.logarithmic:
            return choose_ticks(self.y_low, self.y_high)
        return choose_log_ticks(self.y_low, self.y_high)

    def x_ticks(self) -> list[float]:
        if not self.x_logarithmic:
            return choose_ticks(self.x_low, self.x_high, 5)
        return choose_log_ticks(self.x_low, self.x_high)


def choose_log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high], with 2 and 5 times these where they are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [10.0**p for p in powers if low <= 10.0**p <= high]
    if len(ticks) < 2:
        ticks = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    return ticks


def list_ends(curve: Curve) -> list[tuple[float, float]]:
    """Of each point the ends of its error: y twice without errors."""
    errors = curve.errors or [0.0] * len(curve.points)
    return [(y - e, y + e) for (_, y), e in zip(curve.points, errors, strict=True)]


def _short(value: float) -> float:
    return float(f"{value:.5g}") if abs(value) < 1e5 else round(value, 1)


def _draw_grid(chart: Chart, frame: _Frame) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    ticks = frame.y_ticks()
    for tick, text in zip(ticks, format_ticks(ticks), strict=True):
        y = frame.y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.2f}" text-anchor="end">{text}</text>')
    ticks = frame.x_ticks()
    for tick, text in zip(ticks, format_ticks(ticks), strict=True):
        x = frame.x(tick)
        parts.append(f'<line class="tick" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{x}" y="{bottom + 15}" text-anchor="middle">{text}</text>')
    for border in chart.borders:
        x = frame.x(border)
        parts.append(f'<line class="border" x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}"/>')
    for at, name in chart.events:
        x = frame.x(min(max(at, frame.x_low), frame.x_high))
        parts.append(
            f'<line class="event" x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}">'
            f"<title>{escape(name)}</title></line>"
        )
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    return parts


def _draw_lines(chart: Chart, frame: _Frame) -> list[str]:
    parts = []
    for place, curve in enumerate(chart.curves):
        style = name_style(place if curve.run is None else curve.run)
        of_run = "" if curve.run is None else f' data-run="{curve.run}"'
        colour = style.split()[0]
        spots = [(frame.x(x), frame.y(y)) for x, y in curve.points]
        path = " ".join(f"{x:g},{y:g}" for x, y in spots)
        if curve.joined:
            parts.append(f'<polyline class="line {style}"{of_run} points="{path}"/>')
        for (x, _), (low, high) in zip(curve.points, list_ends(curve), strict=True):
            low = max(low, frame.y_low) if chart.logarithmic else low
            if high > low:
                ends = (
                    f'x1="{frame.x(x)}" x2="{frame.x(x)}" y1="{frame.y(low)}" y2="{frame.y(high)}"'
                )
                parts.append(f'<line class="line {colour}"{of_run} {ends}/>')
        if len(spots) <= MARKED or not curve.joined:
            dot = f'<circle class="dot {colour}"{of_run} r="2.2"'
            parts += [f'{dot} cx="{x}" cy="{y}"/>' for x, y in spots]
    return parts
