# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which reports may stand side by side."""

import json
from pathlib import Path
from typing import Any

import pytest

from nbp.errors import ConfigError
from nbp.report.table import compare_reports, list_differences


def make_report(**changes: Any) -> dict[str, Any]:
    protocol = {"name": "p", "version": 1, "clips": [{"fps": 8.0}], "features": {"sizes": [64]}}
    base = {"protocol": protocol, "features": {"sha256": "a"}, "scores": {"fvd": 10.0}, "seed": 0}
    return {**base, **changes}


def compare(folder: Path, first: Any, second: Any) -> str:
    files = folder / "a.json", folder / "b.json"
    for file, report in zip(files, (first, second), strict=True):
        file.write_text(report if isinstance(report, str) else json.dumps(report))
    return compare_reports(*files)


def test_differences_name_the_path_of_each_field() -> None:
    a = {"x": 1, "y": [{"z": 1}, 2], "only": 0}
    b = {"x": 1, "y": [{"z": 3}, 2], "w": [1]}
    assert list(list_differences(a, b)) == [("y[0].z", 1, 3), ("only", 0, None), ("w", None, [1])]
    assert list(list_differences([1], [1, 2], "l")) == [("l", [1], [1, 2])]


def test_equal_protocols_are_shown_with_their_differences(tmp_path: Path) -> None:
    other = make_report(scores={"fvd": 12.5, "kvd": 1.0}, seed=4)
    lines = compare(tmp_path, make_report(), other).splitlines()
    assert lines[0] == "protocol p v1"
    assert "seed: A 0, B 4" in lines
    assert lines[-2].split() == ["fvd", "10.0000", "12.5000", "2.5000", "lower", "is", "better"]
    assert lines[-1].split() == ["kvd", "-", "1.0000", "-", "lower", "is", "better"]


@pytest.mark.parametrize(
    "change,message",
    [
        ({"features": {"sha256": "b"}}, "features.sha256 'a' and 'b'"),
        ({"features": None}, "features {'sha256': 'a'} and None"),
        ({"protocol": {**make_report()["protocol"], "name": "q"}}, "name 'p' and 'q'"),
        ({"protocol": {**make_report()["protocol"], "clips": [{}]}}, "clips.0..fps 8.0 and None"),
    ],
)
def test_other_protocols_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(tmp_path, make_report(), make_report(**change))


def test_scores_of_another_number_of_clips_are_refused(tmp_path: Path) -> None:
    first = make_report(held_out_clips=8, generation={"clips": 8})
    for change, message in (
        ({"held_out_clips": 16}, "real clips 8 and 16"),
        ({"generation": {"clips": 4}}, "generated clips 8 and 4"),
    ):
        with pytest.raises(ConfigError, match=message):
            compare(tmp_path, first, {**first, **change})
    assert "protocol p v1" in compare(tmp_path, first, make_report(held_out_clips=8))


def test_another_version_of_a_protocol_is_refused_in_one_line(tmp_path: Path) -> None:
    """Whatever fields the older record had: nobody wants to read them all."""
    newer = {**make_report()["protocol"], "version": 2, "clips": [{"fps": 9.0, "order": "ranks"}]}
    with pytest.raises(ConfigError) as caught:
        compare(tmp_path, make_report(), make_report(protocol=newer))
    assert "protocol p v1 and v2 are different ones" in str(caught.value)
    assert "order" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"protocol": 1, "scores": {}}'])
def test_files_that_are_no_reports(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"b\.json: no report of nbp\.evaluate"):
        compare(tmp_path, make_report(), text)
    with pytest.raises(ConfigError, match="absent.json: No such file"):
        compare_reports(tmp_path / "absent.json", tmp_path / "a.json")
