# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Numpy arrays in checkpoints: saved without copies, in pieces, and read back as they were."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint.experimental.v1 as v1

from nbp.training import checkpoint
from nbp.training.checkpoint import Checkpointer
from nbp.training.state import TrainState

ROOT = Path(__file__).resolve().parent.parent.parent


def save(folder: Path, params: dict[str, np.ndarray]) -> None:
    state = TrainState(np.asarray(3, np.int32), params, ema={}, opt_state={}, extra={})
    with Checkpointer(folder) as checkpointer:
        assert checkpointer.save(3, state, data={}, meta={})
        checkpointer.wait()
        assert checkpointer.latest_step() == 3


def test_arrays_saved_in_pieces_are_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "PIECE", 1000)
    rng = np.random.default_rng(0)
    params = {
        "many": rng.standard_normal((7, 33, 5), np.float32),
        "turned": rng.standard_normal((40, 50), np.float32).T,
        "one": np.asarray(2.5, np.float32),
        "whole": rng.integers(0, 9, (3, 4), np.int32),
    }
    save(tmp_path, params)
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        found = checkpointer.restore_params(params, use_ema=False)
    for name, value in params.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def test_the_interface_that_is_to_come_opens_our_checkpoints(tmp_path):
    """Orbax's v1: the day it leaves `experimental`, no checkpoint is lost."""
    params = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(1, np.float32)}
    save(tmp_path, params)
    found = v1.load_checkpointables(tmp_path / "3")
    assert set(found) == {"model", "opt", "data", "meta"}
    assert found["meta"]["items"] == ["model", "opt", "data", "meta"]
    for name, value in params.items():
        np.testing.assert_array_equal(found["model"][name], value)


def test_saving_needs_little_more_than_the_arrays(tmp_path):
    """256 MiB of numbers that do not compress, in a process of its own: no second copy."""
    code = f"from tests.training.test_orbax_setup import measure; measure({str(tmp_path)!r})"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    before, after = map(float, run.stdout.split()[-2:])
    assert after - before < 0.9 * 256


def measure(path: str) -> None:
    """Prints the peak memory in MiB before and after saving."""
    folder = Path(path)
    bits = np.random.default_rng(0).integers(0, 2**30, 2**26, np.int32)  # 256 MiB
    params = {str(i): part for i, part in enumerate(bits.reshape(8, 64, -1))}
    save(folder / "warm", {"a": np.zeros(9, np.float32)})  # what orbax needs in any case
    before = peak_mib()
    save(folder / "run", params)
    print(before, peak_mib())


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
