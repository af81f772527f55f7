# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The result of an evaluation and its JSON: both ways, and what is no result."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from nbp.errors import DataError
from nbp.evaluation.result import EvaluationResult, write_report
from tests.report.report_example import make_report

KEYS = [
    "protocol",
    "complete",
    "deviations",
    "workdir",
    "config",
    "held_out_clips",
    "data",
    "features",
    "lpips",
    "c3d",
    "seed",
    "sampling",
    "generated",
    "checkpoints",
    "averaged",
    "averaged_generator",
    "versions",
    "device",
    "processes",
    "seconds",
    "scores",
    "leaks",
    "psnr_per_frame",
    "worst",
    "code_usage",
    "generation",
    "reference",
    "per_class",
    "repeats",
    "generated_psnr_per_frame",
]


def test_every_key_comes_back_in_its_order() -> None:
    report = make_report(c3d={"file": "c3d.pth"}, generated_psnr_per_frame=[30.0])
    found = EvaluationResult.from_json(report).to_json()
    assert list(found) == KEYS
    assert json.dumps(found) == json.dumps({key: report[key] for key in KEYS})


def test_what_was_not_measured_has_no_key() -> None:
    report = make_report()
    made = ("generation", "reference", "per_class", "repeats", "generated_psnr_per_frame")
    for key in made:
        report.pop(key, None)
    found = EvaluationResult.from_json(report).to_json()
    assert list(found) == [key for key in KEYS if key not in (*made, "c3d")]
    assert EvaluationResult.from_json(report).generated_set is None


def test_another_versions_keys_are_left_out() -> None:
    assert "later" not in EvaluationResult.from_json(make_report(later=1)).to_json()


OPTIONAL = ("c3d", "generation", "generated_psnr_per_frame")


@pytest.mark.parametrize("key", [key for key in KEYS if key not in OPTIONAL])
def test_a_missing_key_is_named(key: str) -> None:
    report = make_report()
    del report[key]
    with pytest.raises(DataError, match=f"^{key} is missing$"):
        EvaluationResult.from_json(report)


@pytest.mark.parametrize(
    "place, value, message",
    [
        (("protocol",), "moving-shapes", "protocol is a str"),
        (("protocol", "name"), 1, "protocol.name is a int"),
        (("protocol", "clips", 0), None, r"protocol.clips\[0\] is a NoneType"),
        (("complete",), 1, "complete is a int"),
        (("deviations",), "none", "deviations is a str"),
        (("scores",), [], "scores is a list"),
        (("scores", "psnr"), "high", "scores.psnr is a str"),
        (("scores", "psnr"), True, "scores.psnr is a bool"),
        (("scores", "psnr"), 10**400, "scores.psnr is a int"),
        (("held_out_clips",), 1.5, "held_out_clips is a float"),
        (("features",), "random", "features is a str"),
        (("versions", "nbp"), 1, "versions.nbp is a int"),
        (("psnr_per_frame", 1), None, r"psnr_per_frame\[1\] is a NoneType"),
        (("code_usage", "real"), 3, "code_usage.real is a int"),
        (("code_usage", "real", "curve"), None, "code_usage.real.curve is a NoneType"),
        (("leaks", "duplicates", 0), "a", r"leaks.duplicates\[0\] is a str"),
        (("worst", 0, "file"), None, r"worst\[0\].file is a NoneType"),
        (("generation", "seconds_of", "draw"), "long", "generation.seconds_of.draw is a str"),
        (("per_class", 0, "feature_distance"), "far", r"per_class\[0\].feature_distance is a str"),
        (("repeats", 0), [], r"repeats\[0\] is a list"),
    ],
)
def test_another_type_is_named(place: tuple[Any, ...], value: Any, message: str) -> None:
    report = copy.deepcopy(make_report())
    holder = report
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = value
    with pytest.raises(DataError, match=f"^{message}$"):
        EvaluationResult.from_json(report)


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    result = EvaluationResult.from_json(make_report())
    write_report(path, result)
    assert json.loads(path.read_text()) == make_report()
    with pytest.raises(TypeError):
        write_report(path, dataclasses.replace(result, leaks={"x": object()}))  # pyright: ignore
    assert json.loads(path.read_text()) == make_report()
    write_report(path, dataclasses.replace(result, complete=True))
    assert json.loads(path.read_text())["complete"]
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]
