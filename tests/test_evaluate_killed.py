# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A whole evaluation, killed three times with SIGKILL: the number is the same, bit for bit."""

import shutil
from pathlib import Path

import pytest

from benchmarks import evaluate_killed


@pytest.mark.slow
def test_a_killed_evaluation_ends_with_the_same_number(tmp_path: Path) -> None:
    workdir = evaluate_killed.make_model(tmp_path / "run", 32, 9, "configs/quickstart.py:smoke")
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
