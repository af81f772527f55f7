# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Looks at this machine and installation, and says what is wrong and which command mends it.

A line for each check: ok, warn or fail. Nothing is written but temporary files, and the network is
not used. Ends with exit code 2 where a check fails.

    python -m nbp.doctor [--workdir DIR] [--json]
"""

from pathlib import Path

from nbp.errors import run_command
from nbp.flags import Parser


def make_parser() -> Parser:
    parser = Parser("nbp.doctor", __doc__, examples=("--workdir runs", "--json"))
    parser.add_argument(
        "--workdir", type=Path, default=Path(), help="where runs are to be, and must have room"
    )
    parser.add_argument("--json", action="store_true", help="print an object, for programs")
    return parser


if __name__ == "__main__":
    run_command("nbp.doctor", make_parser)  # help and mistakes end there, before the imports


import dataclasses
import functools
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from nbp import __version__
from nbp.diagnosis import checks, facts
from nbp.diagnosis.checks import Finding, judge
from nbp.errors import ConfigError

COLOURS = {"ok": "32", "warn": "33", "fail": "31"}  # of ANSI terminals: green, yellow, red


def main(argv: list[str] | None = None) -> None:
    """The command. argv: its arguments; default: those of the process.

    Raises ConfigError where a check fails.
    """
    arguments = make_parser().parse_args(argv)

    colour = not arguments.json and can_colour(sys.stdout, os.environ)
    findings = []
    for finding in examine(arguments.workdir):
        findings.append(finding)
        if not arguments.json:
            print(show(finding, colour=colour), flush=True)
    failed = [finding.name for finding in findings if finding.state == "fail"]
    if arguments.json:
        print(json.dumps(describe(findings), indent=2))
    if failed:
        raise ConfigError(
            f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}. Run the command "
            "that stands behind each, then nbp.doctor again"
        )


def examine(workdir: Path) -> Iterator[Finding]:
    """The findings of all checks, one after the other; none of them raises."""
    ask_packages = functools.cache(facts.find_packages)
    ask_cache = functools.cache(facts.find_cache)
    temporary = Path(tempfile.gettempdir())
    yield judge("Python", checks.check_python, facts.find_interpreter)
    yield judge("packages", checks.check_packages, ask_packages)
    yield judge("devices", checks.check_devices, facts.find_devices, ask_packages)
    yield judge("extras", checks.check_extras, ask_packages)
    yield judge("compiler", checks.check_compilation, facts.time_compilation)
    yield judge("compiled", checks.check_cache, ask_cache)
    yield judge("memory", checks.check_memory, facts.find_host)
    for name, folder in (("workdir", workdir), ("temporary", temporary)):
        ask = functools.partial(facts.find_place, name, folder)
        yield judge(name, checks.check_place, ask)
    yield judge("limits", checks.check_limits, facts.find_limits)
    yield judge("codecs", checks.check_codecs, facts.find_codecs, ask_packages)
    yield judge("data sets", checks.check_data, facts.find_data)


def show(finding: Finding, *, colour: bool) -> str:
    """One line of text, whatever stands in names of folders."""
    state = f"{finding.state:4}"
    if colour:
        state = f"\x1b[{COLOURS[finding.state]}m{state}\x1b[0m"
    remedy = f" -> {finding.remedy}" if finding.remedy else ""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in f"{finding.text}{remedy}")
    return f"{state}  {finding.name:9}  {text}"


def describe(findings: list[Finding]) -> dict[str, Any]:
    """The object of --json: `state` is the worst of all."""
    states = [finding.state for finding in findings]
    worst = next((state for state in ("fail", "warn") if state in states), "ok")
    return {
        "nbp": __version__,
        "state": worst,
        "checks": [dataclasses.asdict(finding) for finding in findings],
    }


def can_colour(stream: Any, environment: Any) -> bool:
    """Whether the stream is a terminal that shows colours, and its user has not refused them."""
    if environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return False
    return bool(stream.isatty())
