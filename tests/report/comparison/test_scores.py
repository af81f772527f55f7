# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which scores of several runs share a column, and what an empty cell says."""

import copy
from pathlib import Path
from typing import Any

import pytest

from nbp.report.comparison.runs import Run, read_runs
from nbp.report.comparison.scores import Scored, explain_missing, group_reports, list_rows
from tests.report.comparison.runs_example import add_report, make_run
from tests.report.report_example import REPORT


def make_runs(folder: Path, *changes: dict[str, Any]) -> list[Run]:
    """Runs whose reports differ from the example by these keys."""
    folders = [make_run(folder / str(i)) for i in range(len(changes))]
    for place, change in zip(folders, changes, strict=True):
        add_report(place, **change)
    return read_runs(folders)[0]


def change_protocol(**fields: Any) -> dict[str, Any]:
    return {"protocol": {**copy.deepcopy(REPORT["protocol"]), **fields}}


SHAPES: dict[str, Any] = {
    "kind": "moving_shapes",
    "size": 32,
    "moving_shapes": {"texture": 12.0, "snap": 4},
}
OTHERS = {
    "version": (change_protocol(version=2), "protocol moving-shapes v2 and v1 are different"),
    "field": (change_protocol(clips=[{"dataset": "ucf101"}]), "clips[0].dataset 'ucf101' and"),
    "features": ({"features": {"sha256": "b"}}, "features {'sha256': 'b'} and None"),
    "size": ({"data": {**SHAPES, "size": 64}}, "data.size 64 and 32"),
    "shapes": (
        {"data": {**SHAPES, "moving_shapes": {"texture": 3.0, "snap": 4}}},
        "data.moving_shapes.texture 3.0 and 12.0",
    ),
    "held-out clips": ({"held_out_clips": 16}, "real clips 16 and 8"),
    "generated clips": (
        {"generation": {**REPORT["generation"], "clips": 4}},
        "generated clips 4 and 8",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_scores_of_other_conditions_have_another_column(name: str, tmp_path: Path) -> None:
    change, reason = OTHERS[name]
    known = {"data": SHAPES}
    runs = make_runs(tmp_path, known, known | change, known)
    common, other = group_reports(runs)
    assert [row.run for row in common.reports] == [0, 2], "of most runs first"
    assert [row.run for row in other.reports] == [1]
    assert reason in explain_missing(runs[1], Scored(1, ""), common)


def test_what_an_older_report_does_not_tell_does_not_divide(tmp_path: Path) -> None:
    older = {"kind": "moving_shapes", "size": 32, "moving_shapes": {"texture": 12.0}}
    for i, data in enumerate(({}, {"kind": "moving_shapes", "size": 32}, older)):
        runs = make_runs(tmp_path / str(i), {"data": SHAPES}, {"data": data})
        (group,) = group_reports(runs)
        assert len(group.reports) == 2


def test_data_are_their_files_and_not_the_folder(tmp_path: Path) -> None:
    def made(root: str, fingerprint: str) -> dict[str, Any]:
        size = {"frames": 9, "size": 32, "width": 48}
        return {"data": {"kind": "folder", "root": root, "fingerprint": fingerprint, **size}}

    folder = change_protocol(clips=[{"dataset": "videos"}])
    places = [("a/cats", "f-1"), ("b/copied", "f-1"), ("a/cats", "f-2")]
    runs = make_runs(tmp_path / "videos", *(folder | made(*place) for place in places))
    same, _ = group_reports(runs)
    assert [row.run for row in same.reports] == [0, 1]
    assert same.describe() == "v1, 9x32x48, cats, 8 real clips, 8 generated clips"
    assert "data.clips 'f-2' and 'f-1'" in explain_missing(runs[2], Scored(2, ""), same)
    # A protocol that names its data set has the same clips however they were prepared.
    named = change_protocol(clips=[{"dataset": "ucf101"}])
    runs = make_runs(tmp_path / "named", *(named | made(*place) for place in places))
    assert len(group_reports(runs)) == 1


def test_what_is_only_told_does_not_divide(tmp_path: Path) -> None:
    shapes = {"kind": "moving_shapes", "fingerprint": "of another seed"}
    changes: dict[str, Any] = {"data": shapes}
    changes |= {"seed": 9, "sampling": {"top_p": 0.5}, "deviations": [], "device": "2 x gpu"}
    (group,) = group_reports(make_runs(tmp_path, {}, changes))
    assert len(group.reports) == 2
    assert group.describe() == "v1, 8 real clips, 8 generated clips"


def test_the_best_is_that_of_the_better_direction(tmp_path: Path) -> None:
    scores = [{"fvd": 10.0, "psnr": 30.0, "odd": 1.0}, {"fvd": 12.0, "psnr": 31.0, "odd": 2.0}]
    (group,) = group_reports(make_runs(tmp_path, *({"scores": s} for s in scores)))
    assert group.names == ["fvd", "psnr", "odd"]
    assert [group.find_best(name) for name in group.names] == [10.0, 31.0, None]


def test_a_further_evaluation_of_a_run_has_a_row_of_its_own(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in "ab"]
    add_report(folders[0], "refined", scores={"psnr": 33.0})
    add_report(folders[1], "folder", **change_protocol(name="folder"))
    runs, _ = read_runs(folders)
    shapes, folder = group_reports(runs)
    rows = list_rows(runs, [shapes, folder])
    assert rows == [Scored(0, ""), Scored(0, "refined"), Scored(1, "")]
    assert shapes.reports[Scored(0, "refined")]["scores"] == {"psnr": 33.0}
    assert explain_missing(runs[0], rows[0], folder) == (
        f"not scored: python -m nbp.evaluate --workdir {folders[0]} --protocol folder"
    )
    assert explain_missing(runs[0], rows[1], folder) == "report/refined.json is of another protocol"
