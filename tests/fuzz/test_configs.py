# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Configurations, overrides, flags, and the JSON files of workdirs, damaged and of wrong values."""

import argparse
import dataclasses
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbp.config import from_dict, load_config, parse_overrides, to_json
from nbp.config.parsing import list_keys
from nbp.config.schema import Config
from nbp.errors import CheckpointError, ConfigError
from nbp.workdir import read_config, read_labels
from tests import tiny
from tests.fuzz.bounds import Tally, fuzz_settings, run_case, run_command
from tests.fuzz.mutations import TEXTS, damaged, texts
from tests.texts import load_command

ROOT = Path(__file__).resolve().parents[2]
KEYS = list(list_keys(Config))
WHOLE = load_config(str(ROOT / tiny.CONFIG), tiny.OVERRIDES)
SOURCE = (
    'def get_config(variant=""):\n    """A configuration."""\n'
    f"    return {dataclasses.asdict(WHOLE)!r}\n"
).encode()
VALUES = (
    *("tokens", "folder", "records", "label", "text", "hybrid", "prefix", "bov", "frame", "row"),
    *("(1, 2, 2)", "((2, 4, 4),)", "(4, 8)", "(0, 0)", "()", "((),)", "[1]", "{1}", "b'x'", "1j"),
    *("0.5", "16", "17", "1e-3", "float32", "bfloat16", "moving-shapes", "ucf101-fvd", "lpips"),
)
ALLOWED = (ConfigError, CheckpointError)


def join(parts: Iterable[list[str]]) -> list[str]:
    return list(itertools.chain.from_iterable(parts))


def overrides() -> st.SearchStrategy[list[str]]:
    key = st.one_of(st.sampled_from(KEYS), st.sampled_from(KEYS), texts(KEYS[:20]))
    value = st.one_of(st.sampled_from(VALUES), st.sampled_from(TEXTS), texts(VALUES))

    def spell(name: str, text: str, form: int) -> list[str]:
        prefix = "--config." if form else "--config"
        return [f"{prefix}{name}", text] if form == 1 else [f"{prefix}{name}={text}"]

    form = st.sampled_from((1, 2, 2, 2, 0))
    return st.lists(st.builds(spell, key, value, form), min_size=1, max_size=4).map(join)


def fuzz_overrides(tmp_path: Path, cases: int) -> Tally:
    """What is accepted can be written and read again, and all of it can be derived."""
    tally = Tally("overrides")

    @fuzz_settings(cases)
    @given(overrides())
    def check(arguments: list[str]) -> None:
        def load() -> Config:
            return load_config(str(ROOT / tiny.CONFIG), parse_overrides(arguments))

        config = run_case(load, tally, allowed=ALLOWED)
        if config is not None:
            assert from_dict(json.loads(to_json(config))) == config
            assert config.plan is not None

    check()
    tally.report()
    return tally


def fuzz_files(tmp_path: Path, cases: int) -> Tally:
    """Configuration files that are damaged, or no Python at all."""
    tally = Tally("configuration files")
    path = tmp_path / "config.py"
    tokens = [b"return", b"def ", b"import x", b"{", b"}", b"1/0", b"raise SystemExit(1)", b"    "]

    @fuzz_settings(cases)
    @given(damaged([SOURCE], tokens), st.sampled_from(("", ":", ":x", ":x:y")))
    def check(data: bytes, variant: str) -> None:
        path.write_bytes(data)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        run_case(lambda: load_config(f"{path}{variant}", {}), tally, allowed=ALLOWED)

    check()
    tally.report()
    return tally


def fuzz_workdirs(tmp_path: Path, cases: int) -> Tally:
    """The files config.json and labels.json: damaged, and of values of wrong kinds."""
    tally = Tally("workdirs")
    whole = to_json(WHOLE)
    odd = st.sampled_from((None, True, -1, 0, 10**400, 1e999, "", "x", [], [[]], {}, {"a": 1}))
    tokens = [b"null", b"NaN", b"Infinity", b"[]", b"{}", b'"', b"\\ud800", b"1e999", b"[" * 3000]

    def put(changes: list[tuple[str, Any]]) -> bytes:
        table = json.loads(whole)
        for key, value in changes:
            *groups, last = key.split(".")
            place = table
            for group in groups:
                place = place.get(group) if isinstance(place, dict) else None
            if isinstance(place, dict):
                place[last] = value
        return json.dumps(table).encode()

    changes = st.lists(st.tuples(st.sampled_from(KEYS), odd), min_size=1, max_size=3)
    files = (
        damaged([whole.encode()], tokens) | changes.map(put) | odd.map(json.dumps).map(str.encode)
    )
    labels = damaged([b'["left", "right"]\n'], tokens) | odd.map(json.dumps).map(str.encode)

    @fuzz_settings(cases)
    @given(files, labels)
    def check(config: bytes, names: bytes) -> None:
        (tmp_path / "config.json").write_bytes(config)
        (tmp_path / "labels.json").write_bytes(names)
        run_case(lambda: read_config(tmp_path), tally, allowed=ALLOWED)
        found = run_case(lambda: read_labels(tmp_path), tally, allowed=ALLOWED)
        assert found is None or all(isinstance(name, str) for name in found)

    check()
    tally.report()
    return tally


# Flags of the commands ---------------------------------------------------------------------------

# What a command calls once its flags are right. Where it needs no workdir the work itself would
# begin; the others find their folder damaged or absent.
WORK = {"train": "nbp.train.train_workdir", "precompile": "nbp.precompile.precompile"}
COMMANDS = ("train", "prepare", "sample", "evaluate", "encode", "export", "convert", "report")
COMMANDS += ("precompile", "sweep", "fit")


class _Seen(Exception):
    """The parser is known."""


def find_options(name: str, main: Callable[[list[str] | None], None]) -> list[argparse.Action]:
    """The flags of a command, from the parser that it makes."""
    found: list[argparse.Action] = []

    def catch(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        found.extend(parser._actions)
        raise _Seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", catch)
        with pytest.raises(_Seen):
            main([])
    return [action for action in found if action.dest != "help"]


def fuzz_flags(tmp_path: Path, cases: int, patch: pytest.MonkeyPatch) -> Tally:
    """Every flag of every command with right and wrong values, in a folder of damaged things."""
    tally = Tally("flags")
    mains = {name: load_command(name).main for name in COMMANDS}
    options = {name: find_options(name, main) for name, main in mains.items()}
    for place in WORK.values():
        patch.setattr(place, lambda *_, **__: {})
    folder = tmp_path / "here"
    places = ("run", "empty", "videos", "file", "absent", "absent/x", "file/x", "../here/run", ".")
    values = (*places, *VALUES, *TEXTS, "8", "0/1", "1/0", "h264", "jpeg", "native", "cpu:8", "1:x")

    def spell(action: argparse.Action, text: str, form: int) -> list[str]:
        if not action.option_strings:
            return [text]
        flag = action.option_strings[0]
        if action.nargs == 0:
            return [flag] if form else [f"{flag}={text}"]
        if action.nargs == 2:
            return [flag, text, text][: 2 + form]
        return [flag, text] if form else [f"{flag}={text}"]

    def of_command(name: str) -> st.SearchStrategy[tuple[str, list[str]]]:
        def of_action(action: argparse.Action) -> st.SearchStrategy[list[str]]:
            right = [str(choice) for choice in action.choices or ()] or list(places)
            if action.dest == "config":
                right = [str(ROOT / tiny.CONFIG)] * 3 + ["file", "absent"]
            text = st.one_of(st.sampled_from(right), st.sampled_from(values), texts(values[:20]))
            return st.builds(spell, st.just(action), text, st.sampled_from((0, 1)))

        needed = [action for action in options[name] if action.required]
        rest = st.lists(st.sampled_from(options[name]).flatmap(of_action), max_size=4)
        extra = (
            overrides() if name in ("train", "evaluate", "encode", "precompile") else st.just([])
        )
        parts = st.tuples(*map(of_action, needed), rest.map(join), extra)
        return st.tuples(st.just(name), parts.map(join))

    @fuzz_settings(cases)
    @given(st.sampled_from(COMMANDS).flatmap(of_command))
    def check(case: tuple[str, list[str]]) -> None:
        name, argv = case
        shutil.rmtree(folder, ignore_errors=True)
        for inner in ("run", "empty", "videos"):
            (folder / inner).mkdir(parents=True)
        (folder / "file").write_text("x\n")
        (folder / "run" / "config.json").write_text(to_json(WHOLE))
        (folder / "videos" / "a.mp4").write_bytes(b"x")
        os.chdir(folder)
        run_command(mains[name], argv, tally)

    patch.chdir(tmp_path)
    check()
    os.chdir(tmp_path)
    tally.report()
    return tally


SHORT = (fuzz_overrides, fuzz_files, fuzz_workdirs)


def test_damaged_configurations_in_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in SHORT:
        assert run(tmp_path, 25).outcomes.total() >= 20
    assert fuzz_flags(tmp_path, 25, monkeypatch).outcomes["exit 2"]


@pytest.mark.slow
@pytest.mark.parametrize("run", SHORT)
def test_damaged_configurations(run: Callable[[Path, int], Tally], tmp_path: Path) -> None:
    assert "read" in run(tmp_path, 1500).outcomes


@pytest.mark.slow
def test_flags_of_all_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tally = fuzz_flags(tmp_path, 1000, monkeypatch)
    assert {"exit 2", "exit 3", "exit 4"} <= set(tally.outcomes)
