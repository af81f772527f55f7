# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A whole evaluation, killed or divided between two processes: the same number, bit for bit."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from benchmarks import evaluate_killed

SMOKE = "configs/quickstart.py:smoke"


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight virtual devices in every process would only take their time."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.mark.slow
def test_a_killed_evaluation_ends_with_the_same_number(tmp_path: Path) -> None:
    workdir = evaluate_killed.make_model(tmp_path / "run", 32, 9, SMOKE)
    whole, row = evaluate_killed.measure(workdir, 320)
    chunks = evaluate_killed.count_files(workdir)
    assert chunks == 6  # of 16 real and 320 generated clips
    shutil.rmtree(workdir / "report")
    killed, points = evaluate_killed.kill(
        workdir, clips=320, chunks=chunks, kills=3, seed=1, seconds=row["seconds"]
    )
    assert len(points) == 3
    assert points == sorted(points)
    assert points[-1] > 0  # something was there to go on from
    assert killed["scores"] == whole["scores"]
    assert killed["per_class"] == whole["per_class"]


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workdir = evaluate_killed.make_model(tmp_path / "run", 32, 9, SMOKE)
    alone, _ = evaluate_killed.measure(workdir, 160)
    shutil.rmtree(workdir / "report")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    monkeypatch.setenv("NBP_COORDINATOR", address)
    monkeypatch.setenv("NBP_PROCESSES", "2")
    processes: list[subprocess.Popen[str]] = []
    for place in range(2):
        monkeypatch.setitem(os.environ, "NBP_PROCESS", str(place))
        processes.append(evaluate_killed.start(workdir, 160))
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    shared = evaluate_killed.read(workdir)
    assert shared["processes"] == 2
    assert shared["scores"] == alone["scores"]
    assert "written to" in outputs[0]
    assert "[evaluate]" not in outputs[1]  # one of them talks
    # Each process has made some of the chunks: neither counts all of them.
    assert "96/96 generated clips" in outputs[0]
