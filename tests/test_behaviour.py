# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The record of what the commands do sees what must be equal, and nothing that cannot be."""

import json
from pathlib import Path

import pytest

from benchmarks import behaviour
from tests.test_configs import list_variants
from tests.texts import COMMANDS, list_flags, load_parser


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_of_a_help_are_those_of_its_parser(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", behaviour.PINNED["COLUMNS"])
    parser = load_parser(command)
    found = behaviour.read_flags(parser.format_help())
    assert set(found) - {"choice"} == list_flags(command) - {"--help"}
    for action in parser._actions:
        name = action.option_strings[0] if action.option_strings else "choice"
        assert found[name]["optional"] == (not action.required), name
        choices = set(action.choices or ())
        assert choices <= set(found[name]["forms"].partition("{")[2].rstrip("}").split(",")), name
    assert set(behaviour.COMMANDS) == set(COMMANDS)


def test_defaults_are_read() -> None:
    text = "usage: x [-h] [--num NUM]\n\noptions:\n  --num NUM  clips to draw; default 16\n"
    found = {"--num": {"forms": "--num NUM", "default": "16", "optional": True}}
    assert behaviour.read_flags(text) == found


def test_all_variants_are_resolved() -> None:
    assert set(behaviour.resolve_configs()) == set(list_variants())


def test_times_and_random_names_are_blank(tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    (stage / "d").mkdir(parents=True)
    (stage / "metrics.csv").write_text("step,loss,step_time_s,mfu\n1,0.25,3.5,0.1\n")
    assert behaviour.read_metrics(stage) == [
        {"step": "1", "loss": "0.25", "step_time_s": "*", "mfu": "*"}
    ]
    for name in ("d/" + "0af3" * 8, "d/" + "1be2" * 8, "events.out.tfevents.17.vm.3", "run-1.npz"):
        (stage / name).touch()
    expected = ["d/*", "events.out.tfevents.*", "metrics.csv", "run-1.npz"]
    assert behaviour.list_names(stage) == expected


def test_compare_names_each_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {"use": {"drawn": ["a", "b"]}, "flags": {"x": 1, "y": 2}}
    after = {"use": {"drawn": ["a", "b"]}, "flags": {"x": 1, "z": 2}}

    def compare(changed: dict[str, object]) -> tuple[int, list[str]]:
        for name, record in (("before", before), ("after", changed)):
            (tmp_path / name).write_text(json.dumps(record))
        code = behaviour.main(["compare", str(tmp_path / "before"), str(tmp_path / "after")])
        return code, capsys.readouterr().out.splitlines()

    assert compare(before) == (0, ["no differences"])
    assert compare({**before, "older": before["use"]}) == (0, ["no differences"])
    lines = ['flags > y: 2 -> "ABSENT"', 'flags > z: "ABSENT" -> 2']
    assert compare(after) == (1, lines)
    assert compare({**before, "older": {"drawn": ["a", "c"]}}) == (
        1,
        ['older > drawn > 1: "b" -> "c"'],
    )
