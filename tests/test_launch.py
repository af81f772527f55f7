# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The launch scripts: what they run, what they restart, that shellcheck finds nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOCAL = ROOT / "launch" / "local.sh"

# Stands in for Python: notes its arguments and ends with the next code of the list.
FAKE = """#!/usr/bin/env bash
cd "$(dirname "$0")"
printf '%s|' "$@" >> calls; echo >> calls
code=$(head -n 1 codes); sed -i 1d codes
[[ $code != sleep ]] || { trap 'exit 143' TERM; while :; do sleep 0.05; done; }
exit "$code"
"""


def fake_python(folder: Path, *codes: object) -> Path:
    path = folder / "python"
    path.write_text(FAKE)
    path.chmod(0o755)
    (folder / "codes").write_text("".join(f"{code}\n" for code in codes))
    return path


def launch(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(LOCAL), *arguments],
        env={**os.environ, "PYTHON": str(python)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_dry_run_prints_the_command_quoted(tmp_path: Path) -> None:
    python = fake_python(tmp_path, 0)
    done = launch(
        python,
        "--dry-run",
        "configs/quickstart.py",
        "my runs/a",
        "--config.generator.block=(1,2,2)",
    )
    assert done.returncode == 0
    assert done.stdout.split("-m nbp.train ")[1].strip() == (
        r"--config configs/quickstart.py --workdir my\ runs/a --config.generator.block=\(1\,2\,2\)"
    )
    assert not calls(tmp_path)


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 130])
def test_what_a_restart_cannot_cure_is_not_restarted(tmp_path: Path, code: int) -> None:
    done = launch(fake_python(tmp_path, code, 0), "--wait", "0", "c.py", "w", "--config.seed=1")
    assert done.returncode == code
    assert calls(tmp_path) == ["-m|nbp.train|--config|c.py|--workdir|w|--config.seed=1|"]


def test_restarts_until_it_is_done(tmp_path: Path) -> None:
    done = launch(fake_python(tmp_path, 42, 137, 143, 0), "--wait", "0", "c.py", "w")
    assert done.returncode == 0
    assert calls(tmp_path) == ["-m|nbp.train|--config|c.py|--workdir|w|"] * 4
    assert "exit code 137; restart 2 of 5" in done.stderr


def test_restarts_are_limited(tmp_path: Path) -> None:
    python = fake_python(tmp_path, 42, 42, 42, 0)
    done = launch(python, "--restarts", "2", "--wait", "0", "c.py", "w")
    assert done.returncode == 42
    assert len(calls(tmp_path)) == 3
    assert "2 restarts are used up" in done.stderr


@pytest.mark.parametrize(
    "arguments", [(), ("c.py",), ("--fast", "c.py", "w"), ("--restarts", "x", "c.py", "w")]
)
def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = launch(fake_python(tmp_path, 0), *arguments)
    assert done.returncode == 2
    assert done.stderr
    assert not calls(tmp_path)


def test_a_signal_reaches_the_training_and_nothing_restarts(tmp_path: Path) -> None:
    python = fake_python(tmp_path, "sleep", 0)
    process = subprocess.Popen([str(LOCAL), "c.py", "w"], env={**os.environ, "PYTHON": str(python)})
    deadline = time.monotonic() + 30
    while not (tmp_path / "codes").read_text().startswith("0") and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)  # the trap of the stand-in
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert len(calls(tmp_path)) == 1


@pytest.mark.parametrize("script", [".ci/run", *sorted(p.name for p in LOCAL.parent.glob("*.sh"))])
def test_shellcheck_finds_nothing(script: str) -> None:
    path = ROOT / script if "/" in script else LOCAL.parent / script
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([str(shellcheck), str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert os.access(path, os.X_OK)
