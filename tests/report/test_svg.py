# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0

import itertools
import json
from xml.etree import ElementTree

import pytest

from nbp.report.svg import Chart, Curve, choose_ticks, draw_chart, format_number, format_ticks
from tests.report.page_example import EVIL


def draw(**options) -> ElementTree.Element:
    points = tuple((float(x), float(x * x)) for x in range(1, 11))
    return ElementTree.fromstring(draw_chart(Chart("title", (Curve("a", points),), **options)))


def read_line(svg: ElementTree.Element) -> list[tuple[float, float]]:
    line = svg.find("polyline")
    assert line is not None
    return [(float(x), float(y)) for x, y in (p.split(",") for p in line.attrib["points"].split())]


@pytest.mark.parametrize(
    "low,high,ticks",
    [
        (0.0, 10.0, [0, 2, 4, 6, 8, 10]),
        (0.013, 0.047, [0.02, 0.03, 0.04]),
        (-1.0, 1.0, [-1, -0.5, 0, 0.5, 1]),
        (990.0, 1010.0, [990, 995, 1000, 1005, 1010]),
        (3.0, 3.0, [3]),
    ],
)
def test_ticks_are_round_and_inside(low, high, ticks):
    assert choose_ticks(low, high) == pytest.approx(ticks)


def test_numbers_are_short():
    values = (0, 3, 12345, 0.012345, 1.5, 29.51234, 0.0005, 3.25e-7, 1e7 + 0.5)
    shown = [format_number(value) for value in values]
    assert shown == [
        *("0", "3", "12,345", "0.01235", "1.5", "29.51", "0.0005", "3.25e-07", "1e+07")
    ]


@pytest.mark.parametrize(
    "ticks,shown",
    [
        ([26.85, 26.9, 26.95], ["26.85", "26.90", "26.95"]),
        ([0.0, 500.0, 1000.0], ["0", "500", "1,000"]),
        ([0.1, 1.0, 10.0], ["0.1", "1", "10"]),
        ([1e-5, 2e-5], ["1e-05", "2e-05"]),
        ([3.0], ["3"]),
    ],
)
def test_ticks_can_be_told_apart(ticks, shown):
    assert format_ticks(ticks) == shown


def test_points_lie_where_the_axes_say():
    """Equal steps in x are equal steps; y grows upwards; squares are quadratic on a linear axis."""
    spots = read_line(draw())
    steps = {round(b[0] - a[0], 1) for a, b in itertools.pairwise(spots)}
    assert len(steps) <= 2
    assert max(steps) - min(steps) < 0.2
    assert [y for _, y in spots] == sorted((y for _, y in spots), reverse=True)
    assert (spots[0][1] - spots[2][1]) / (spots[0][1] - spots[1][1]) == pytest.approx(
        8 / 3, rel=0.05
    )


def test_a_logarithmic_axis_makes_powers_straight():
    points = tuple((float(x), 10.0**x) for x in range(4))
    svg = ElementTree.fromstring(draw_chart(Chart("t", (Curve("a", points),), logarithmic=True)))
    heights = [y for _, y in read_line(svg)]
    drops = [a - b for a, b in itertools.pairwise(heights)]
    assert max(drops) - min(drops) < 0.05
    assert {"1", "10", "100", "1,000"} <= {text.text for text in svg.findall("text")}


def test_a_logarithmic_x_axis_makes_factors_equal_steps():
    points = tuple((10.0**x, float(x)) for x in range(1, 5))
    chart = Chart("t", (Curve("a", points),), x_logarithmic=True)
    svg = ElementTree.fromstring(draw_chart(chart))
    steps = [b[0] - a[0] for a, b in itertools.pairwise(read_line(svg))]
    assert max(steps) - min(steps) < 0.05
    assert {"10", "100", "1,000"} <= {text.text for text in svg.findall("text")}
    assert json.loads(svg.attrib["data-chart"])["xLog"] is True
    alone = Chart("t", (Curve("a", ((7.0, 1.0),)),), x_logarithmic=True)
    assert "nan" not in draw_chart(alone)


def test_errors_are_bars_around_their_points():
    curve = Curve("a", ((1.0, 5.0), (2.0, 6.0), (3.0, 7.0)), (1.0, 0.0, 2.0), joined=False)
    svg = ElementTree.fromstring(draw_chart(Chart("t", (curve,))))
    bars = [line for line in svg.findall("line") if line.get("class") == "line series-1"]
    dots = svg.findall("circle")
    assert (len(bars), len(dots), svg.find("polyline")) == (2, 3, None)
    for bar, dot in zip(bars, (dots[0], dots[2]), strict=True):
        ends = [float(bar.attrib[name]) for name in ("y1", "y2")]
        assert bar.attrib["x1"] == bar.attrib["x2"] == dot.attrib["cx"]
        assert sum(ends) / 2 == pytest.approx(float(dot.attrib["cy"]), abs=0.02)
        assert 10 <= min(ends) < max(ends) <= 172
    heights = [abs(float(b.attrib["y1"]) - float(b.attrib["y2"])) for b in bars]
    assert heights[1] == pytest.approx(2 * heights[0], rel=0.01)
    logarithmic = Chart("t", (Curve("a", ((1.0, 5.0),), (9.0,)),), logarithmic=True)
    assert "<line" in draw_chart(logarithmic), "an error that is larger than its value"


def test_marks_are_drawn_inside_the_frame():
    svg = draw(borders=(1.5, 5.5), events=((3.0, EVIL), (99.0, "late")))
    lines = svg.findall("line")
    marks = {
        kind: [line for line in lines if line.get("class") == kind] for kind in ("border", "event")
    }
    assert [len(found) for found in marks.values()] == [2, 2]
    assert all(40 < float(line.attrib["x1"]) <= 350 for found in marks.values() for line in found)
    assert marks["event"][0].findtext("title") == EVIL


def test_names_are_text_and_data():
    curve = Curve(EVIL, ((0.0, 1.0), (1.0, 2.0)))
    text = draw_chart(Chart(EVIL, (curve,), unit="dB"))
    assert "<script" not in text
    svg = ElementTree.fromstring(text)
    assert EVIL in svg.attrib["aria-label"]
    data = json.loads(svg.attrib["data-chart"])
    assert data["curves"] == [{"name": EVIL, "run": None, "points": [[0.0, 1.0], [1.0, 2.0]]}]


@pytest.mark.parametrize("values", [(5.0,), (5.0, 5.0), (0.0, 0.0)])
def test_a_flat_curve_has_a_place(values):
    points = tuple((float(x), value) for x, value in enumerate(values))
    svg = ElementTree.fromstring(draw_chart(Chart("t", (Curve("a", points),))))
    assert all(10 <= y <= 172 for _, y in read_line(svg))


@pytest.mark.parametrize("curves", [(), (Curve("a", ()),)])
def test_nothing_to_draw_is_an_error(curves):
    with pytest.raises(ValueError, match="no points"):
        draw_chart(Chart("t", curves))
