# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Long videos on the report page: charts of what was measured, slopes, and nothing that runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from nbp.metrics.drift import fit_slope
from nbp.report.drift import make_curve, make_report, read_drifts
from nbp.report.page import build_page
from nbp.report.records import Page
from nbp.report.sections import show_drift
from nbp.report.svg import Curve

PARTS = ("label", "shape", "colour", "motion")


def make_values(segments: int = 6) -> dict[str, Any]:
    """A `drift.json` of 16 videos that lose their shape, with all that can be in it."""
    rng, frames = np.random.default_rng(0), 8 * segments + 1
    agreement = (rng.random((16, segments)) < np.linspace(0.9, 0.3, segments)).astype(float)
    sharpness = 6 - 0.01 * np.arange(frames) + rng.normal(0, 0.02, frames)
    shift = 0.05 * np.arange(frames)
    rows = sharpness[None, : segments * 8].reshape(1, segments, 8).mean(-1)
    rows = rows + rng.normal(0, 0.1, (16, segments))
    noise = rng.normal(5, 0.1, (8, segments))
    fvd = 100 + 12 * np.arange(segments) + rng.normal(0, 4, segments)
    slopes = {
        "sharpness": fit_slope(rows),
        "real_fvd": fit_slope(fvd),
        "entropy": fit_slope(np.concatenate([noise, noise[:, ::-1]])),
        **{f"{part}_agreement": fit_slope(agreement) for part in PARTS},
    }
    return {
        "videos": 16,
        "frames": frames,
        "slide": "anchor",
        "sharpness": sharpness.tolist(),
        "colour_shift": shift.tolist(),
        "story": [[0, "red square right"], [25, "<b>blue</b> disk left"]],
        "segments": [
            {
                "frame": 8 * i,
                "frames": 9,
                "entropy": 5.0,
                "code_distance": 0.1 * i,
                "fvd": 20.0 * i,
                "real_fvd": float(fvd[i]),
                **{f"{part}_agreement": float(agreement[:, i].mean()) for part in PARTS},
            }
            for i in range(segments)
        ],
        "slopes": {name: vars(slope) for name, slope in slopes.items()},
        "survival": {
            "position_error": [None, *(0.02 * i for i in range(1, segments))],
            "position_error_from_start": [None, *(0.04 * i for i in range(1, segments))],
            "survival": {"33": dict.fromkeys(PARTS, 0.625), "49": dict.fromkeys(PARTS, 0.5)},
        },
    }


def test_all_that_was_measured_is_shown():
    values = make_values()
    report = make_report("anchored", values)
    titles = [chart.title for chart in report.charts]
    assert len(titles) == len(set(titles)) == 7
    assert [curve.name for curve in report.charts[0].curves] == list(PARTS)
    assert len(report.charts[2].curves[0].points) == values["frames"]
    assert report.charts[1].curves[0].points[0][0] == 8, "nothing predicts the first segment"
    assert all(chart.borders == (8, 16, 24, 32, 40) for chart in report.charts)
    assert report.charts[0].events == ((25.0, "<b>blue</b> disk left"),)
    verdicts = {row[0]: row[-1] for row in report.slopes}
    assert verdicts["sharpness"] == "falls"
    assert verdicts["FVD to real videos in the same segment"] == "rises"
    assert verdicts["entropy of the codes"] == "within chance"
    page = show_drift(report)
    assert page.count('<svg class="chart"') == 7
    assert "<b>blue" not in page
    assert "&lt;b&gt;blue&lt;/b&gt; disk left from frame 25" in page
    assert "0.625" in page


def test_reports_without_the_new_keys_are_shown_too():
    """As older versions wrote them: no slopes, no labels, no features."""
    values = make_values()
    for name in ("slopes", "survival", "story"):
        del values[name]
    for segment in values["segments"]:
        segment["fvd"] = None
        for name in (*(f"{part}_agreement" for part in PARTS), "real_fvd", "entropy"):
            del segment[name]
    report = make_report("old", values)
    assert len(report.charts) == 3
    assert not report.slopes
    assert "<table" not in show_drift(report)
    assert make_curve("none", [0.0, 1.0], [None, float("nan")]) is None
    assert make_curve("one", [0.0, 8.0], [None, 2.0]) == Curve("one", [(8.0, 2.0)])


def test_reports_are_found_in_folders_and_damaged_ones_named(tmp_path: Path):
    for name, text in (
        ("samples", json.dumps(make_values())),
        ("broken", "{"),
        ("empty", "{}"),
        ("words", json.dumps({**make_values(), "sharpness": ["x"]})),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "drift.json").write_text(text)
    found, left_out = read_drifts(tmp_path)
    assert [report.name for report in found] == ["samples"]
    assert sorted(text.split("/")[0] for text in left_out) == ["broken", "empty", "words"]
    page = build_page(Page(title="run", facts={}, drifts=tuple(found)))
    assert 'id="drift"' in page
    assert "Long videos" in page
