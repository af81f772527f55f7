# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Sweep files: which runs they mean, what they are called, and every mistake in one line."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from nbp.config.sweep import (
    SweepSpec,
    find_protocol_name,
    list_runs,
    load_sweep,
    resolve_run,
    resolve_tokenizer,
    write_overrides,
)
from nbp.errors import ConfigError
from tests.texts import ROOT

CONFIG = "configs/quickstart.py:smoke"
FILES = sorted((ROOT / "configs" / "sweeps").glob("*.py"))


def make(**changes: Any) -> SweepSpec:
    values: dict[str, Any] = {"name": "s", "config": CONFIG, "runs": {"row": {}}}
    return SweepSpec(**{**values, **changes})


def write(folder: Path, body: str) -> str:
    path = folder / "sweep.py"
    path.write_text(f"def get_sweep(variant=''):\n    return {body}\n")
    return str(path)


def test_a_grid_is_every_combination_with_every_seed() -> None:
    grid = {"generator.width": (32, 64), "train": {"generator": {"steps": [5, 7]}}}
    spec = make(runs={"row": {"grid": grid, "overrides": {"generator": {"block": "row"}}}})
    runs = list_runs(SweepSpec(**{**vars(spec), "seeds": (0, 3)}))
    expected = list(itertools.product((32, 64), (5, 7), (0, 3)))
    found = [
        (r.overrides["generator.width"], r.overrides["train.generator.steps"], r.seed) for r in runs
    ]
    assert found == expected
    assert {r.overrides["generator.block"] for r in runs} == {"row"}
    assert runs[0].name == "row-width=32,steps=5-s0"
    assert runs[1].design == runs[0].design == "row-width=32,steps=5"
    assert {r.group for r in runs} == {"row"}
    assert len({r.name for r in runs}) == 8


def test_names_are_those_of_folders_and_tell_keys_apart() -> None:
    grid = {"generator.block": ((1, 2, 2), "row"), "train.generator.learning_rate": (1e-3,)}
    names = [run.name for run in list_runs(make(runs={"a": {"grid": grid}}))]
    assert names == ["a-block=1x2x2,learning_rate=0.001-s0", "a-block=row,learning_rate=0.001-s0"]
    grid = {"train.generator.steps": (1,), "train.tokenizer.steps": (2,)}
    (run,) = list_runs(make(runs={"a": {"grid": grid}}))
    assert run.name == "a-train.generator.steps=1,train.tokenizer.steps=2-s0"


def test_values_survive_the_command_line() -> None:
    values = {"generator.block": (1, 2, 2), "sampling.top_p": 0.5, "generator.recipe": "modern"}
    run = list_runs(make(runs={"a": {"overrides": values}}, seeds=(7,)))[0]
    training = resolve_run(make(), run, "", None)
    config = training.config
    assert config.generator.block == (1, 2, 2)
    assert (config.sampling.top_p, config.seed, config.stages) == (0.5, 7, ("generator",))
    assert training.overrides["generator.block"] == "(1, 2, 2)"
    assert config.name == "s/a"
    assert write_overrides({"a": "x", "b": True}) == {"a": "x", "b": "True"}


def test_dials_are_configurations_of_the_same_model() -> None:
    dials = {"cold": {"sampling": {"temperature": 0.5}}, "one": {"generator.opening_blocks": 1}}
    runs = {"row": {"dials": {"hot": {"sampling.temperature": 2.0}}}}
    (run,) = list_runs(make(runs=runs, dials=dials))
    assert list(run.dials) == ["default", "cold", "one", "hot"]
    training = resolve_run(make(), run, "moving-shapes", None)
    temperatures = [config.sampling.temperature for config in training.dials.values()]
    assert temperatures == [1.0, 0.5, 1.0, 2.0]
    assert training.dials["one"].opening.blocks == 1 != training.config.opening.blocks
    assert training.config.evaluation.protocol == ""


def test_the_tokenizer_is_trained_alone_and_shared() -> None:
    spec = make(overrides={"tokenizer.groups": 2}, seeds=(5, 6))
    shared = resolve_tokenizer(spec)
    assert (shared.config.stages, shared.config.seed) == (("tokenizer",), 5)
    run = list_runs(spec)[1]
    resolve_run(spec, run, "", shared.config)
    runs = {"wide": {"overrides": {"tokenizer.widths": (8, 16, 32)}}}
    run = list_runs(make(runs=runs))[0]
    with pytest.raises(ConfigError, match=r"wide-s0: all runs share one tokenizer.*widths"):
        resolve_run(make(runs=runs), run, "", shared.config)
    own = make(runs=runs, tokenizer="own")
    assert resolve_run(own, run, "", None).config.stages == ("tokenizer", "generator")


def test_the_protocol_is_the_sweeps_or_the_configurations() -> None:
    assert find_protocol_name(make()) == "moving-shapes"
    assert find_protocol_name(make(protocol="reconstruction")) == "reconstruction"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"runs": {}}, "runs: name at least one"),
        ({"runs": {"a/b": {}}}, "runs.a/b: 'a/b' names files"),
        ({"runs": {"a": {"grid": {"generator.width": 3}}}}, "grid.generator.width: 3 is no list"),
        ({"runs": {"a": {"grid": {"generator.width": ()}}}}, "is no list of values"),
        ({"runs": {"a": {"overrides": {"seed": 3}}}}, "give seeds="),
        ({"runs": {"a": {"overrides": {"stages": ()}}}}, "stages: the sweep decides"),
        ({"overrides": {"evaluation": {"protocol": "x"}}}, "give protocol=NAME to the sweep"),
        ({"runs": {"a": {"seeds": (1, 1)}}}, "name each once"),
        ({"runs": {"a": {"seeds": (-1,)}}}, "runs.a: seeds"),
        ({"runs": {"a": {"sizes": ()}}}, "unknown config key 'sizes'"),
        (
            {
                "runs": {
                    "a": {"overrides": {"generator.width": 1}, "grid": {"generator.width": (2,)}}
                }
            },
            "both in overrides and in grid",
        ),
        ({"dials": {"a": {"generator.width": 3}}}, "would need another training"),
        ({"dials": {"default": {"sampling.top_p": 1.0}}}, "that of the configuration as it is"),
        ({"dials": {"a": {}}}, "is no group of keys"),
        ({"runs": {"a": {"grid": {"sampling.fps": (1, 1)}}}}, "two runs would be called"),
    ],
)
def test_mistakes_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        list_runs(make(**changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides, dials, message",
    [
        ({"generator.widht": 3}, {}, "a-s0: unknown config key 'generator.widht'"),
        ({"generator.width": 30}, {}, "a-s0: generator.heads"),
        ({}, {"d": {"sampling.top_p": 7}}, "a-s0, dial d: sampling.top_p"),
        ({}, {"d": {"sampling.top": 7}}, "dial d: unknown config key"),
        ({}, {"d": {"generator.opening": "bov"}}, "this opening has tokens of its own"),
    ],
)
def test_what_a_configuration_refuses_names_the_run(
    overrides: dict[str, Any], dials: dict[str, Any], message: str
) -> None:
    run = list_runs(make(runs={"a": {"overrides": overrides, "dials": dials}}))[0]
    with pytest.raises(ConfigError) as caught:
        resolve_run(make(), run, "moving-shapes", None)
    assert message in str(caught.value)


def test_dials_need_a_protocol() -> None:
    run = list_runs(make(dials={"a": {"sampling.top_p": 1.0}}))[0]
    with pytest.raises(ConfigError, match="scored under a protocol"):
        resolve_run(make(), run, "", None)


@pytest.mark.parametrize(
    "body, message",
    [
        ("{'name': 's'}", "missing config key 'config'"),
        ("{'name': 's', 'config': 'c', 'runs': {}, 'run': 3}", "unknown config key 'run'"),
        ("3", "get_sweep returns a int"),
        ("1 / 0", "line 2: ZeroDivisionError"),
    ],
)
def test_files_that_are_no_sweep(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_sweep(write(tmp_path, body))
    assert message in str(caught.value)
    path = tmp_path / "config.py"
    path.write_text("def get_config():\n    return {}\n")
    with pytest.raises(ConfigError, match="it must define get_sweep"):
        load_sweep(str(path))


def list_variants() -> list[str]:
    found = []
    for path in FILES:
        text = path.read_text(encoding="utf8")
        names = re.findall(r'variant not in \("", "(\w+)"\)', text)
        found += [str(path), *(f"{path}:{name}" for name in names)]
    return found


@pytest.mark.parametrize("argument", list_variants(), ids=lambda text: Path(text).name)
def test_shipped_sweeps_are_in_order(argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    spec, runs = load_sweep(argument)
    protocol = find_protocol_name(spec)
    shared = resolve_tokenizer(spec)
    for run in runs:
        assert resolve_run(spec, run, protocol, shared.config).dials
    assert len(list_variants()) >= 4
