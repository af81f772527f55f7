# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What the texts of the project say: strings of the code, code blocks of documents, commands."""

import ast
import functools
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))
LAUNCHERS = sorted(p for p in (ROOT / "launch").iterdir() if p.is_file())
COMMANDS = ("train", "sample", "evaluate", "encode", "prepare", "convert", "export", "report")
COMMANDS += ("precompile",)
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


def load_parser(command: str) -> Any:
    """The parser of a command, e.g. `train`; it does not run."""
    return importlib.import_module(f"nbp.{command}").make_parser()


@functools.cache
def list_flags(command: str) -> frozenset[str]:
    return frozenset(load_parser(command)._option_string_actions)
