# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""launch/local.sh: what it runs and restarts. Of all scripts: dry runs as recorded, shellcheck."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch import golden

ROOT = Path(__file__).resolve().parent.parent
LOCAL = ROOT / "launch" / "local.sh"

# Stands in for Python: notes its arguments and ends with the next code of the list, which each of
# several processes has for itself. "sleep" goes on until a signal, "hang" beyond it.
FAKE = """#!/usr/bin/env bash
cd "$(dirname "$0")"
printf '%s|' "$@" >> calls; echo >> calls
echo "$NBP_PROCESS of $NBP_PROCESSES at $NBP_COORDINATOR devices $JAX_LOCAL_DEVICE_IDS" \
  "$XLA_FLAGS" >> places
echo "started" >&2
codes=codes${NBP_PROCESS:+.$NBP_PROCESS}
code=$(head -n 1 $codes); sed -i 1d $codes
case $code in
  sleep) trap 'exit 143' TERM; while :; do sleep 0.05; done ;;
  hang) trap '' TERM; while :; do sleep 0.05; done ;;
esac
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


def fake_processes(folder: Path, *codes: tuple[object, ...]) -> Path:
    """A stand-in for several processes: the codes of each in turn."""
    for process, own in enumerate(codes):
        (folder / f"codes.{process}").write_text("".join(f"{code}\n" for code in own))
    return fake_python(folder)


def calls(folder: Path, name: str = "calls") -> list[str]:
    path = folder / name
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


# Several processes -------------------------------------------------------------------------------


def test_processes_know_each_other(tmp_path: Path) -> None:
    python = fake_processes(tmp_path, (0,), (0,))
    done = launch(
        python,
        "--processes",
        "2",
        "--devices",
        "4",
        "--port",
        "4711",
        "c.py",
        "w",
        "--config.seed=1",
    )
    assert done.returncode == 0, done.stderr
    assert calls(tmp_path) == ["-m|nbp.train|--config|c.py|--workdir|w|--config.seed=1|"] * 2
    places = sorted(calls(tmp_path, "places"))
    assert [line.split(" --")[0] for line in places] == [
        "0 of 2 at 127.0.0.1:4711 devices 0,1,2,3",
        "1 of 2 at 127.0.0.1:4711 devices 4,5,6,7",
    ]
    assert all(line.endswith("--xla_force_host_platform_device_count=4") for line in places)
    assert sorted(done.stderr.splitlines()) == ["[1] started", "started"]


def test_one_process_is_told_nothing(tmp_path: Path) -> None:
    assert launch(fake_python(tmp_path, 0), "c.py", "w").returncode == 0
    [place] = calls(tmp_path, "places")
    assert place.split() == ["of", "at", "devices", *os.environ.get("XLA_FLAGS", "").split()]


def test_a_lost_process_ends_the_others_and_all_start_again(tmp_path: Path) -> None:
    python = fake_processes(tmp_path, ("hang", 0), (137, 0))
    began = time.monotonic()
    done = launch(
        python, "--processes", "2", "--grace", "1", "--wait", "0", "--port", "4711", "c.py", "w"
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 30
    assert "killing the processes that still run 1 s after one failed" in done.stderr
    assert "exit code 137; restart 1 of 5" in done.stderr
    assert len(calls(tmp_path)) == 4


@pytest.mark.parametrize("codes", [(134, 3), (3, 134), (42, 3)])
def test_what_a_person_must_mend_decides(tmp_path: Path, codes: tuple[int, int]) -> None:
    python = fake_processes(tmp_path, *((code, 0) for code in codes))
    done = launch(python, "--processes", "2", "--port", "4711", "--wait", "0", "c.py", "w")
    assert done.returncode == 3
    assert len(calls(tmp_path)) == 2


def test_a_signal_reaches_all_processes(tmp_path: Path) -> None:
    python = fake_processes(tmp_path, ("sleep",), ("sleep",))
    process = subprocess.Popen(
        [str(LOCAL), "--processes", "2", "--port", "4711", "c.py", "w"],
        env={**os.environ, "PYTHON": str(python)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while len(calls(tmp_path, "places")) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # the traps of the stand-ins
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert len(calls(tmp_path)) == 2


# All scripts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", golden.CASES)
def test_dry_runs_are_as_recorded(name: str) -> None:
    """After a change on purpose: `python -m tests.launch.golden` records them anew."""
    assert golden.run(name) == golden.path(name).read_text()


def documented() -> list[list[str]]:
    """The calls of launch scripts in docs/launching.md, from the name of the script on."""
    text = (ROOT / "docs" / "launching.md").read_text(encoding="utf8").replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.S))
    calls = [
        shlex.split(line[line.index("launch/") :])
        for line in blocks.splitlines()
        if "launch/" in line
    ]
    assert {Path(call[0]).name for call in calls} >= {
        "local.sh",
        "slurm.sbatch",
        "tpu_pod.sh",
        "gke.sh",
    }
    return calls


@pytest.mark.parametrize("call", documented(), ids=lambda call: Path(call[0]).name)
def test_documented_calls_are_understood(call: list[str]) -> None:
    script, *arguments = call
    done = subprocess.run(
        ["bash", str(ROOT / script), "--dry-run", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


SCRIPTS = sorted(p.name for p in LOCAL.parent.iterdir() if p.suffix in (".sh", ".sbatch"))


@pytest.mark.parametrize("script", [".ci/run", ".ci/newest", *SCRIPTS])
def test_shellcheck_finds_nothing(script: str) -> None:
    path = ROOT / script if "/" in script else LOCAL.parent / script
    shellcheck = Path(sys.executable).parent / "shellcheck"
    command = [str(shellcheck), "--external-sources", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    sourced = script == "cloud.sh"
    assert os.access(path, os.X_OK) is not sourced
