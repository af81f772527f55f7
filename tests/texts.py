# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What the texts of the project say: strings of the code, code blocks of documents, commands."""

import argparse
import ast
import functools
import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))
LAUNCHERS = sorted(p for p in (ROOT / "launch").iterdir() if p.is_file())
COMMANDS = ("train", "sample", "evaluate", "encode", "prepare", "convert", "export", "report")
COMMANDS += ("precompile", "sweep", "fit", "doctor", "completion")
HOLE = "\x00"  # what a message puts in


def list_strings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each string in a Python file; what an f-string puts in becomes HOLE."""
    tree = ast.parse(path.read_text(encoding="utf8"))
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
             for part in node.values}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (v.value if isinstance(v, ast.Constant) else HOLE for v in node.values)
            yield node.lineno, "".join(str(part) for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from [] if id(node) in inner else [(node.lineno, node.value)]


def load_command(command: str) -> ModuleType:
    """The module of a command, e.g. `train`; it does not run."""
    return importlib.import_module(f"nbp.{command}{'.__main__' * (command == 'report')}")


def load_parser(command: str) -> Any:
    """The parser of a command."""
    return load_command(command).make_parser()


@functools.cache
def list_flags(command: str) -> frozenset[str]:
    return frozenset(load_parser(command)._option_string_actions)


# Commands ----------------------------------------------------------------------------------------

_STARTS = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:python -m (?:nbp|benchmarks|tests)\.|sbatch |(?:bash )?launch/\w)"
)


@dataclass(frozen=True)
class Command:
    """A command line as a text shows it, `place` being file and line."""

    place: str
    words: tuple[str, ...]

    @property
    def module(self) -> str:
        """`nbp.train` of `python -m nbp.train`; "" for scripts."""
        return self.words[2] if self.words[0] == "python" else ""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of the module, or of the launch script."""
        if self.module:
            return self.words[3:]
        script = next(i for i, word in enumerate(self.words) if word.startswith("launch/"))
        return self.words[script + 1 :]

    @property
    def script(self) -> Path:
        return ROOT / next(word for word in self.words if word.startswith("launch/"))


def list_commands() -> list[Command]:
    """Those of all documents, docstrings and helps; usages with `[...]` have it taken away."""
    documents = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]
    found = [command for path in documents for command in read_markdown(path)]
    for path in [*CONFIGS, *sorted((ROOT / "benchmarks").glob("*.py"))]:
        found += read_lines(path, ast.get_docstring(ast.parse(path.read_text("utf8"))) or "")
    for path in [*LAUNCHERS, ROOT / "Dockerfile"]:
        text = path.read_text("utf8")
        helps = re.findall(r"<<'TEXT'\n(.*?)\nTEXT\n", text, re.S)
        comments = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
        for lines in (*helps, "\n".join(comments)):
            found += [c for c in read_lines(path, lines) if "CONFIG" not in c.words]
    for command in COMMANDS:
        for text in load_parser(command).examples:
            found += read_lines(Path(f"nbp/{command}.py"), text.replace("\n", " "))
    return found


def read_markdown(path: Path) -> list[Command]:
    """The commands of code blocks and of inline code."""
    text = path.read_text(encoding="utf8")
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.S)
    rest = re.sub(r"```.*?```", "", text, flags=re.S)
    inline = [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", rest)]
    return [command for lines in (*blocks, *inline) for command in read_lines(path, lines)]


def read_lines(path: Path, text: str) -> list[Command]:
    """The commands that lines of a text begin with."""
    text = re.sub(r"\\\n\s*", "", text)
    found = []
    for line in text.splitlines():
        line = line.strip()
        if _STARTS.match(line):
            line = re.sub(r"\[(?=[-A-Z])|(?<=[\w.])\](?=\s|$)| \.\.\.", " ", line)  # of usages
            words = shlex.split(line, comments=True)
            while "=" in words[0]:  # variables
                del words[0]
            cut = [i for i, word in enumerate(words) if word in (">", "|", "&&", "#")]
            words = words[: cut[0]] if cut else words
            words = [w if w.startswith("(") else w.split("|")[0] for w in words]  # one of several
            name = str(path.relative_to(ROOT)) if path.is_absolute() else str(path)
            found.append(Command(f"{name}: {line[:90]}", tuple(words)))
    return found


def list_defaults(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The flags of a parser that have a default which a user can see."""
    none = (None, "", False, [], (), argparse.SUPPRESS)
    return [a for a in parser._actions if a.option_strings and a.default not in none]
