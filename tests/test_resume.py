# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""kill -9 at several points, then the same command: bit for bit the run that was not disturbed."""

import csv
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from nbp import build, build_data
from nbp.config import load_config
from nbp.training.checkpoint import Checkpointer
from tests import tiny

ROOT = Path(__file__).resolve().parent.parent
STEPS, EVERY = 48, 12
CHANGES = {
    "train.tokenizer.steps": str(STEPS),
    "train.generator.steps": str(STEPS),
    "train.tokenizer.batch": "2",
    "train.generator.batch": "2",
    "train.checkpoint_every": str(EVERY),
    "images.batch": "1",  # the position of images is restored as well
}


def start(workdir: Path) -> subprocess.Popen[str]:
    environment = tiny.make_environment(JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT))
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    command = [sys.executable, "-m", "nbp.train", "--config", tiny.CONFIG]
    return subprocess.Popen(
        [*command, "--workdir", str(workdir), *tiny.flags(CHANGES)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(workdir: Path) -> str:
    process = start(workdir)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def kill_when(workdir: Path, reached: Callable[[Path], bool]) -> None:
    """Starts the training and kills it at a moment when `reached` is certainly true."""
    process = start(workdir)
    try:
        deadline = time.monotonic() + 300
        while True:
            assert time.monotonic() < deadline
            if process.poll() is not None:
                assert process.stdout is not None
                pytest.fail(f"ended before the kill point: {process.stdout.read()}")
            if reached(workdir):
                process.send_signal(signal.SIGSTOP)  # nothing moves while we look again
                if reached(workdir):
                    break
                process.send_signal(signal.SIGCONT)
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    assert reached(workdir)


def saved_steps(workdir: Path, stage: str) -> list[int]:
    folder = workdir / stage / "checkpoints"
    return [int(p.name) for p in folder.glob("*") if p.name.isdecimal()]


def is_saving(workdir: Path, stage: str) -> bool:
    """Whether a checkpoint is written just now, while an older one is whole."""
    unfinished = list((workdir / stage / "checkpoints").glob("*orbax-checkpoint-tmp*"))
    return bool(unfinished) and bool(saved_steps(workdir, stage))


def read_losses(workdir: Path, stage: str) -> dict[int, dict[str, str]]:
    """Rows by step without the columns that measure time or memory."""
    path = workdir / stage / "metrics.csv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf8") as file:
        rows = [row for row in csv.DictReader(file) if (row["step"] or "").isdecimal()]
    return {
        int(row["step"]): {k: v for k, v in row.items() if k in ("step", "loss", "grad_norm")}
        for row in rows
    }


def is_between_saves(workdir: Path, stage: str) -> bool:
    """Whether updates are done that no checkpoint holds, with one checkpoint behind them."""
    steps = saved_steps(workdir, stage)
    done = max(read_losses(workdir, stage), default=0)
    return bool(steps) and max(steps) + 2 <= done < STEPS and not is_saving(workdir, stage)


def is_between_stages(workdir: Path) -> bool:
    return STEPS in saved_steps(workdir, "tokenizer") and not saved_steps(workdir, "generator")


def read_states(workdir: Path) -> dict[str, list[Any]]:
    """All arrays of both final checkpoints: parameters, average, optimizer, data position."""
    config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, **CHANGES})
    train, _ = build_data.make_data(config)
    tokenizer = build.make_tokenizer_task(config)
    params = jax.eval_shape(tokenizer.network.init, jax.random.key(0))
    generator = build.make_generator_task(config, train.label_names, params)
    found = {}
    for task in (tokenizer, generator):
        template = jax.eval_shape(task.init, jax.random.key(0))
        with Checkpointer(workdir / task.name / "checkpoints", read_only=True) as checkpointer:
            restored = checkpointer.restore(template, step=STEPS)
        leaves = jax.tree_util.tree_leaves_with_path(restored.state)
        found[task.name] = [(jax.tree_util.keystr(p), np.asarray(x)) for p, x in leaves]
        found[f"{task.name} data"] = [restored.data]
    return found


def test_killed_runs_end_with_the_same_bits(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    kill_when(killed, lambda w: is_saving(w, "tokenizer"))
    kill_when(killed, is_between_stages)
    kill_when(killed, lambda w: is_between_saves(w, "generator"))
    assert "resumes after step" in finish(killed)
    assert "resumes" not in finish(whole)

    ours, theirs = read_states(killed), read_states(whole)
    assert len(ours["tokenizer"]) > 20
    assert len(ours["generator"]) > 20
    for stage in ("tokenizer", "generator"):
        for (path, a), (other, b) in zip(ours[stage], theirs[stage], strict=True):
            assert path == other
            assert a.dtype == b.dtype
            assert a.tobytes() == b.tobytes(), f"{stage} {path} differs"
        assert ours[f"{stage} data"] == theirs[f"{stage} data"]
        losses = read_losses(whole, stage)
        assert sorted(losses) == list(range(1, STEPS + 1))
        assert read_losses(killed, stage) == losses
    leftovers = list(killed.glob("*/checkpoints/*tmp*"))
    assert not leftovers
