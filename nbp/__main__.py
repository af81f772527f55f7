# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""All commands by their names: `nbp train ...` is `python -m nbp.train ...`.

`nbp --help` lists them.
"""

import ast
import difflib
import importlib.util
import inspect
import runpy
import sys
from pathlib import Path

from nbp import __version__
from nbp.errors import ConfigError, run_main
from nbp.flags import Parser

GROUPS = {
    "models": ("train", "sample", "evaluate", "report"),
    "data and weights": ("prepare", "encode", "convert", "export"),
    "many or large trainings": ("sweep", "fit", "precompile"),
    "this machine": ("doctor", "completion"),
}
COMMANDS = tuple(name for group in GROUPS.values() for name in group)


def main(argv: list[str] | None = None) -> None:
    """The console script `nbp`, and `python -m nbp`. argv: default: those of the process."""
    run_main(dispatch, sys.argv[1:] if argv is None else argv)


def dispatch(argv: list[str] | None) -> None:
    """Runs the command that the first argument names, as `python -m nbp.COMMAND` would.

    Raises ConfigError where there is none of this name.
    """
    name, *arguments = argv or ("",)
    if name in ("-h", "--help", "help"):
        print(describe_commands())
    elif name == "--version":
        print(f"nbp {__version__}")
    elif name in COMMANDS:
        Parser.console = Path(sys.argv[0]).name == "nbp"
        sys.argv[1:] = arguments
        # Its first lines read the flags, before JAX is imported.
        runpy.run_module(f"nbp.{name}", run_name="__main__", alter_sys=True)
    else:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(COMMANDS)}"
        raise ConfigError(f"no command {name!r}; {hint}" if name else f"name a command; {hint}")


def describe_commands() -> str:
    """The commands with the first sentence of each, which is read without importing it."""
    width = max(map(len, COMMANDS))
    lines = ["usage: nbp COMMAND [flags]", "", "Next-block-prediction video generation in JAX.", ""]
    for title, names in GROUPS.items():
        lines += [f"{title}:", *(f"  {name:{width}}  {read_summary(name)}" for name in names), ""]
    lines += [
        "nbp COMMAND --help shows its flags, with examples. python -m nbp.COMMAND is the same.",
        "",
        "first steps:",
        "  nbp doctor",
        "  nbp train --config configs/quickstart.py:smoke --workdir runs/smoke",
    ]
    return "\n".join(lines)


def read_summary(name: str) -> str:
    """The first paragraph of a command's documentation, in one line."""
    found = importlib.util.find_spec(f"nbp.{name}")
    assert found is not None
    assert found.origin is not None
    path = Path(found.origin)
    path = path.with_name("__main__.py") if path.name == "__init__.py" else path
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf8"))) or ""
    return " ".join(inspect.cleandoc(text).split("\n\n")[0].split())


if __name__ == "__main__":
    main()
