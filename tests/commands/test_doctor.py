# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`nbp doctor`: the whole command in a process, its lines, its JSON and its exit code."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbp import doctor
from nbp.diagnosis.checks import Finding
from nbp.errors import EXIT_USAGE, run_main
from tests.texts import ROOT

FINDINGS = [
    Finding("Python", "ok", "3.12.1"),
    Finding("devices", "warn", "a GPU\nidle", "pip install", {"kinds": ("cpu",)}),
]
FAILED = Finding("codecs", "fail", "no encoder", "pip install av")
NAMES = "Python packages devices extras compiler compiled memory workdir temporary limits codecs"


def run_doctor(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """Where no connection can be made and JAX finds no other device; with its own folders."""
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse\n"
        "from nbp import doctor\nfrom nbp.errors import run_main\nrun_main(doctor.main)"
    )
    variables = {"HOME": str(folder), "TMPDIR": str(folder / "tmp"), "XLA_FLAGS": "", **environment}
    (folder / "tmp").mkdir(exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMP", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**kept, "PYTHONPATH": str(ROOT), **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def test_this_machine_is_well_and_nothing_is_left(tmp_path: Path) -> None:
    code, out, error = run_doctor(tmp_path, "--json")
    report = json.loads(out)
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert code == 0, (states, error)
    assert list(states) == [*NAMES.split(), "data sets"]
    assert "fail" not in states.values()
    assert report["state"] in ("ok", "warn")
    assert [path.name for path in tmp_path.rglob("*")] == ["tmp"]


def test_a_check_that_fails_ends_with_the_documented_code(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, out, error = run_doctor(tmp_path, "--workdir", "file/runs", JAX_PLATFORMS="nothing")
    assert code == EXIT_USAGE
    lines = out.splitlines()
    assert [line[:4].strip() for line in lines].count("fail") >= 2
    (device,) = [line for line in lines if line[6:13] == "devices"]
    assert device.startswith("fail")
    assert device.endswith("-> unset JAX_PLATFORMS")
    assert "workdir" in error.splitlines()[-1]
    assert "Traceback" not in error
    assert "\x1b" not in out


@pytest.mark.parametrize("failed", [False, True])
def test_lines_and_exit_code(
    failed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def examine(workdir: Path) -> Iterator[Finding]:
        yield from [*FINDINGS, *([FAILED] if failed else [])]

    monkeypatch.setattr(doctor, "examine", examine)
    for arguments in ([], ["--json"]):
        if failed:
            with pytest.raises(SystemExit) as caught:
                run_main(doctor.main, arguments)
            assert caught.value.code == EXIT_USAGE
        else:
            run_main(doctor.main, arguments)
        out, error = capsys.readouterr()
        assert ("1 of 3 checks failed: codecs" in error) == failed
        if arguments:
            report = json.loads(out)
            assert report["state"] == ("fail" if failed else "warn")
            assert report["checks"][1]["details"] == {"kinds": ["cpu"]}
        else:
            assert out.splitlines()[:2] == [
                "ok    Python     3.12.1",
                "warn  devices    a GPU\\nidle -> pip install",
            ]


def test_colour_is_for_terminals_that_have_it() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert doctor.can_colour(Terminal(), {"TERM": "xterm"})
    assert not doctor.can_colour(Terminal(), {"TERM": "dumb"})
    assert not doctor.can_colour(Terminal(), {"NO_COLOR": "1"})
    assert not doctor.can_colour(io.StringIO(), {"TERM": "xterm"})
    assert doctor.show(FAILED, colour=True).startswith("\x1b[31mfail\x1b[0m  codecs ")
