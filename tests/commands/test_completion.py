# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Completion: the script of bash is run, and all scripts have all flags of the real parsers."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nbp import completion
from nbp.__main__ import COMMANDS
from tests.test_configs import list_variants
from tests.texts import ROOT, list_flags, load_parser

SWEEP = "configs/sweeps/blocks.py"


@pytest.fixture(scope="module")
def commands() -> completion.Commands:
    parsers = {name: completion.load_parser(name) for name in COMMANDS}
    return {name: completion.list_arguments(parser) for name, parser in parsers.items()}


@pytest.fixture(scope="module")
def script(commands: completion.Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "nbp.bash"
    path.write_text(completion.write_bash(commands), encoding="utf8")
    return path


def complete(script: Path, line: str, folder: Path, *, breaks: str = " \t\n=:") -> list[str]:
    """What bash would put in place of the last word that it sees."""
    code = (
        'source "$1"; COMP_WORDBREAKS=$3; COMP_LINE=$2; COMP_POINT=${#2}; _nbp 2>/dev/null; '
        'complete -p nbp >/dev/null || exit 1; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", code, "bash", str(script), line, breaks],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [found for found in done.stdout.splitlines() if found]


def test_the_parsers_are_the_real_ones(commands: completion.Commands) -> None:
    for name, found in commands.items():
        flags = {argument.name for argument in found if argument.name}
        assert flags == list_flags(name) - {"-h"}
        free = [action for action in load_parser(name)._actions if not action.option_strings]
        assert len([argument for argument in found if not argument.name]) == len(free)
    kinds = {(name, a.name): a.kind for name, found in commands.items() for a in found}
    assert kinds["train", "--config"] == kinds["precompile", "--config"] == "config"
    assert kinds["sweep", ""] == "sweep"
    assert kinds["sample", "--workdir"] == kinds["sample", "--opener"] == kinds["fit", ""] == "path"
    assert kinds["train", "--check"] == "none"
    assert kinds["sample", "--seed"] == "text"


def test_configurations_and_their_variants_are_listed() -> None:
    found = completion.list_configurations("get_config")
    assert set(found) >= set(list_variants())
    assert "configs/sweeps/blocks.py:smoke" in completion.list_configurations("get_sweep")


@pytest.mark.parametrize(
    "line,found",
    [
        ("nbp tr", ["train"]),
        ("nbp do", ["doctor"]),
        ("nbp train --re", ["--resume_from", "--resume_step"]),
        ("nbp train --config configs/ucf101/tok", ["configs/ucf101/tokenizer.py"]),
        ("nbp train --config configs/quickstart.py:s", ["smoke", "stream"]),
        ("nbp train --config=configs/quickstart.py:s", ["smoke", "stream"]),
        ("nbp train --config=configs/fol", ["configs/folder.py"]),
        ("nbp train --workdir r", ["runs"]),
        ("nbp train --config my", ["my_config.py"]),
        ("nbp sample --decoding ", ["jacobi", "plain", "relaxed", "self_speculative"]),
        ("nbp sample --workdir runs --decoding=self", ["self_speculative"]),
        ("nbp sample --seed ", []),
        ("nbp prepare ", ["folder", "k600", "ucf101"]),
        ("nbp prepare folder --vid", ["--videos"]),
        ("nbp train --check --res", ["--resume_from", "--resume_step"]),
        ("nbp sweep configs/sweeps/blo", [SWEEP, f"{SWEEP}:smoke"]),
        ("nbp fit a", ["a file"]),
        ("nbp unknown --", []),
        ("nbp completion z", ["zsh"]),
    ],
)  # fmt: skip
def test_bash_completes(script: Path, tmp_path: Path, line: str, found: list[str]) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "a file").touch()
    (tmp_path / "my_config.py").touch()
    (tmp_path / "my_notes.txt").touch()
    assert complete(script, line, tmp_path) == found


def test_words_that_bash_does_not_cut_stay_whole(script: Path, tmp_path: Path) -> None:
    line = "nbp train --config=configs/quickstart.py:sm"
    whole = ["--config=configs/quickstart.py:smoke"]
    assert complete(script, line, tmp_path, breaks=" \t\n") == whole
    assert complete(script, line, tmp_path, breaks=" \t\n:") == ["smoke"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_all_flags(shell: str, commands: completion.Commands) -> None:
    write = {"zsh": completion.write_zsh, "fish": completion.write_fish}[shell]
    text = write(commands)
    for name, found in commands.items():
        pattern = {"zsh": rf"^    {name}\)\n(.*?);;", "fish": rf"^(.*from {name}'.*?)$"}[shell]
        part = "\n".join(re.findall(pattern, text, re.M | (re.S if shell == "zsh" else 0)))
        for argument in found:
            flag = argument.name if shell == "zsh" else f"-l {argument.name[2:]} "
            assert not argument.name or flag in part or part.endswith(flag.strip()), argument
            assert all(word in part for word in argument.words)
    assert "configs/quickstart.py:smoke" in text
    if (program := shutil.which(shell)) is not None:  # where there is one, it reads the script
        assert subprocess.run([program, "-n"], input=text, text=True, timeout=60).returncode == 0


def test_the_command_is_light() -> None:
    code = (
        "import sys; from nbp.completion import main; main(['bash']);"
        "heavy = {'jax', 'flax', 'grain', 'av'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("# Completion of nbp in bash")
