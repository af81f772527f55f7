# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Every command line that a text shows works as it is written, and every help shows some.

Flags are parsed by the parsers of the commands, configurations are loaded with their overrides, and
launch scripts are run with --dry-run. Nothing is trained.
"""

import argparse
import functools
import importlib
import inspect
import os
import re
import subprocess
import sys

import pytest

from nbp import build_data
from nbp.config import load_config, parse_overrides
from nbp.config.schema import Config
from nbp.config.sweep import load_sweep
from nbp.errors import ConfigError
from nbp.evaluation.setup import change_sampling, split_overrides
from nbp.metrics.feature_statistics import parse_statistics
from nbp.protocols import find_protocol, needs_features
from tests.launch.golden import stand_in_python
from tests.texts import (
    COMMANDS,
    DOCUMENTS,
    ROOT,
    Command,
    list_commands,
    list_defaults,
    load_command,
)
from tests.texts import load_parser as load

SHOWN = list_commands()


def choose(prefix: str) -> list[Command]:
    """The command lines with arguments of modules that begin so; of scripts for ""."""
    shown = [command for command in SHOWN if command.arguments]
    return [c for c in shown if c.module.startswith(prefix) and bool(c.module) == bool(prefix)]


@functools.cache
def load_cached(argument: str, overrides: tuple[tuple[str, str], ...]) -> Config:
    return load_config(argument, dict(overrides), expand=False)


def check_training(config: str, rest: list[str]) -> None:
    """The file, its variant and the overrides are those of a configuration that is complete."""
    if config not in ("CONFIG", "FILE"):
        load_cached(config, tuple(parse_overrides(rest).items()))


def test_commands_are_found_where_texts_have_them() -> None:
    places = {command.place.partition(":")[0] for command in SHOWN}
    assert {"README.md", "docs/launching.md", "docs/protocols.md", "configs/folder.py"} <= places
    assert {"launch/gke.sh", "nbp/train.py", "benchmarks/decoding.py"} <= places
    shown = sum(len(re.findall(r"^python -m nbp", p.read_text("utf8"), re.M)) for p in DOCUMENTS)
    assert len([c for c in choose("nbp.") if c.place.partition(":")[0].endswith(".md")]) >= shown


@pytest.mark.parametrize("command", choose("nbp."), ids=lambda c: c.place)
def test_shown_commands_have_flags_and_configurations_that_exist(command: Command) -> None:
    parser = load(command.module.removeprefix("nbp."))
    arguments, rest = parser.parse_known_args(command.arguments)
    if command.module == "nbp.prepare" and arguments.runner:  # the rest are flags of Beam
        return
    assert not rest or parser.overrides
    if command.module == "nbp.sweep" and arguments.sweep != "FILE":
        load_sweep(arguments.sweep)
    overrides = parse_overrides(rest)
    if parser.overrides == "all" and command.module == "nbp.train":
        check_training(arguments.config, rest)
    elif parser.overrides == "all":
        unread = {"data.root": "unread", "losses.lpips_root": "unread", **overrides}
        load_cached(arguments.config, tuple(unread.items()))
    elif overrides:
        drawing, reading = split_overrides(overrides)
        # What the workdirs in the documents were trained with.
        knows = {"generator.blocks": "('frame', 'token')"}
        if "sampling.refinements" in drawing:
            knows = {"generator.draft": "True"}
        config = load_cached("configs/quickstart.py", tuple(knows.items()))
        build_data.change_data(change_sampling(config, drawing), None, reading)


@pytest.mark.parametrize("command", choose("nbp.evaluate"), ids=lambda c: c.place)
def test_shown_evaluations_name_what_their_protocol_needs(command: Command) -> None:
    arguments, _ = load("evaluate").parse_known_args(command.arguments)
    parse_statistics(arguments.statistics)
    assert arguments.compare or arguments.protocol
    for name in arguments.protocol:
        protocol = find_protocol(name)
        assert arguments.features or not needs_features(name), "its features"
        fixed = any(rule.split != "held out" for rule in protocol.clips)
        assert arguments.data or not fixed, "a data set that nbp.prepare wrote"


class Parsed(Exception):
    """Raised in place of the work of a benchmark, whose flags were understood."""


@pytest.mark.parametrize(
    "command", [*choose("benchmarks."), *choose("tests.")], ids=lambda c: c.place
)
def test_shown_benchmarks_have_flags_that_exist(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = command.module + (".__main__" if command.module.startswith("tests.") else "")
    module = importlib.import_module(name)
    parse = argparse.ArgumentParser.parse_known_args

    def parse_only(self: argparse.ArgumentParser, *_: object, **__: object) -> None:
        rest = parse(self, [w for w in command.arguments if w != "NAME"])[1]  # of choices
        assert all(word.startswith("--config.") for word in rest), rest
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_only)
    monkeypatch.setattr(sys, "argv", [command.module, *command.arguments])
    with pytest.raises(Parsed):
        module.main()


@pytest.mark.parametrize("command", choose(""), ids=lambda c: c.place)
def test_shown_launches_pass_their_dry_run(command: Command) -> None:
    arguments = list(command.arguments)
    if "--help" not in arguments and "--dry-run" not in arguments:
        arguments.insert(0, "--dry-run")
    done = subprocess.run(
        ["bash", str(command.script), *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{stand_in_python()}:{os.environ['PATH']}", "PYTHON": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    shared = [i for i, word in enumerate(arguments) if word.startswith("nbp.")]
    if shared:  # a command whose work an array divides
        parser = load(arguments[shared[0]].removeprefix("nbp."))
        _, rest = parser.parse_known_args(arguments[shared[0] + 1 :])
        assert all(word.startswith("--config.") for word in rest), rest
    elif "--help" not in arguments:
        config = next(i for i, word in enumerate(arguments) if word.startswith("configs/"))
        if "--sweep" in arguments:
            load_sweep(arguments[config])
        else:
            check_training(arguments[config], arguments[config + 2 :])


# Help --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_examples_defaults_and_texts(name: str) -> None:
    parser = load(name)
    shown = parser.format_help()
    assert parser.prog == f"python -m nbp.{name}"
    assert parser.examples
    assert len([line for line in shown.splitlines() if line.startswith(f"  {parser.prog} ")]) == (
        len(parser.examples)
    )
    for action in parser._actions:
        assert action.help, f"{action.dest} has no text"
    alone = {action.dest for action in parser._optionals._group_actions} - {"help"}
    assert not alone or len(parser._actions) <= 5, f"{alone} belong to no group"
    flat = " ".join(shown.split())
    for action in list_defaults(parser):
        if "default" not in (action.help or ""):
            assert f"default {action.default}" in flat, action.dest
    assert (f"--config.{'' if parser.overrides == 'all' else 'data.'}KEY=VALUE" in shown) == bool(
        parser.overrides
    )


def test_every_main_of_the_package_is_walked_over() -> None:
    texts = {p: p.read_text("utf8") for p in (ROOT / "nbp").rglob("*.py")}
    mains = {
        p.stem if p.stem != "__main__" else p.parent.name
        for p in texts
        if p.name != "errors.py" and "run_command(" in texts[p]
    }
    assert mains == set(COMMANDS)
    for name in COMMANDS:  # it has the parser that is tested
        assert "make_parser()" in inspect.getsource(load_command(name).main)


@pytest.mark.parametrize("script", ["local.sh", "slurm.sbatch", "tpu_pod.sh", "gke.sh"])
def test_every_launcher_shows_an_example(script: str) -> None:
    assert any(c.place.startswith(f"launch/{script}:") for c in choose("")), script


# Launchers look before they ask ------------------------------------------------------------------


def test_check_refuses_what_training_would_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    train = load_command("train")
    shown = ["--config", "configs/ucf101/generator_700m.py", "--workdir", "/absent", "--check"]
    with pytest.raises(ConfigError, match=r"data\.root: name the folder of videos"):
        train.main(shown)
    train.main([*shown, "--config.data.root=$FOLDER_OF_THE_HOSTS/ucf101"])
    assert "in order" in capsys.readouterr().out


TPU = "tpu_pod.sh --name a --type v6e-64 --zone z --project p --dry-run"
GKE = "gke.sh --name a --type v6e-64 --zone z --project p --cluster c --image r/i:1 --dry-run"


@pytest.mark.parametrize("script", ["slurm.sbatch --dry-run", TPU, GKE])
@pytest.mark.parametrize("python", ["refuses", "has no project", "is absent"])
def test_launchers_tell_what_is_missing_before_they_ask(
    tmp_path: os.PathLike[str], script: str, python: str
) -> None:
    stand_in = os.path.join(tmp_path, "python")
    line = "nbp: ConfigError: data.root: name it"
    code = {"refuses": 2, "has no project": 1}.get(python, 127)
    if python != "is absent":
        with open(stand_in, "w") as file:
            file.write(f"#!/bin/sh\necho warning >&2\necho '{line}' >&2\nexit {code}\n")
        os.chmod(stand_in, 0o755)
    name, *options = script.split()
    done = subprocess.run(
        ["bash", f"launch/{name}", *options, "configs/folder.py", "/data/run"],
        cwd=ROOT,
        env={**os.environ, "PYTHON": stand_in},
        capture_output=True,
        text=True,
    )
    (told,) = done.stderr.splitlines()
    if python == "refuses":
        assert done.returncode == 2
        assert line in told
        assert not done.stdout, "nothing more is shown"
    else:
        assert done.returncode == 0
        assert "the configuration is not checked" in told
        assert "nbp.train" in done.stdout
