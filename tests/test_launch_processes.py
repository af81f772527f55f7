# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Two real processes of four virtual devices each, through launch/local.sh."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest

from nbp import build, build_data
from nbp.config import load_config
from nbp.train import train_workdir
from nbp.training.checkpoint import Checkpointer
from tests import tiny
from tests.training import toy

ROOT = Path(__file__).resolve().parent.parent
LOCAL = ROOT / "launch" / "local.sh"
STEPS, EVERY = 12, 4
CHANGES = {
    "mesh.data": "0",  # all devices
    "mesh.fsdp": "0",
    "stages": "('generator',)",  # on a tokenizer that is not trained: it is quicker
    "train.generator.steps": str(STEPS),
    "train.checkpoint_every": str(EVERY),
    "generator.null_probability": "0.5",  # drawn for each row: rows must be where they belong
}
GRACE = 20
# Compiling is most of the time here, and how well it is done does not change the values that much.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def start(
    workdir: Path, *options: str, python: str = sys.executable, config: str = tiny.CONFIG
) -> subprocess.Popen[str]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment |= {"PYTHON": python, "NBP_HEARTBEAT_SECONDS": "10", "XLA_FLAGS": QUICK}
    options = (*options, "--wait", "0", "--grace", str(GRACE))
    return subprocess.Popen(
        [str(LOCAL), *options, config, str(workdir), *tiny.flags(CHANGES)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def make_python(folder: Path, module: str) -> str:
    """An interpreter that runs `module` in place of nbp.train."""
    path = folder / "python"
    path.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\n'
        f'exec {sys.executable} -m {module} "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


def finish(process: subprocess.Popen[str], *, code: int = 0, seconds: float = 300) -> str:
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"still running after {seconds} s: {process.communicate()[0]}")
    assert process.returncode == code, output
    return output


def test_two_processes_see_eight_devices(tmp_path: Path) -> None:
    python = make_python(tmp_path, "tests.launch.psum")
    finish(start(tmp_path, "--processes", "2", "--devices", "4", python=python))
    seen = [json.loads((tmp_path / f"{process}.json").read_text()) for process in range(2)]
    assert [entry.pop("rows") for entry in seen] == [list(range(8)), list(range(8, 16))]
    for entry in seen:
        assert entry.pop("disagreement").startswith("process 1 has another data set than process 0")
        assert entry == {
            "processes": 2,
            "devices": 8,
            "local": 4,
            "order": list(range(16)),
            "psum": 120.0,  # 0 + 1 + ... + 15
            "placed": [0.0, 1.0, 2.0],
            "decided": True,
        }


@pytest.mark.slow
def test_faults_of_one_process_end_the_job_as_they_should(tmp_path: Path) -> None:
    """A preemption, a death of the process that coordinates, and data that one cannot read."""
    python = make_python(tmp_path, "tests.launch.toy_job")
    faults = "1:7:term,0:13:kill,1:17:data"
    process = start(tmp_path, "--processes", "2", "--devices", "4", python=python, config=faults)
    output = finish(process, code=3)
    # SIGTERM reached one process; both stopped at the same step, later than the signal, and saved.
    [preempted] = set(re.findall(r"nbp: Preempted: SIGTERM at step (\d+): .*", output))
    assert 7 < int(preempted) <= 12
    assert output.count("nbp: Preempted: ") == 2
    assert "exit code 143; restart 1 of 5" in output
    assert f"resumes after step {preempted}" in output
    # The next start lost the process that coordinates, which then had saved step 10.
    assert re.search(r"exit code (137|42|134); restart 2 of 5", output)
    assert f"resumes after step {max(10, int(preempted))}" in output
    # No restart brings data back.
    assert "nbp: DataError: this process cannot read its clips" in output
    assert "restart 3" not in output
    steps = [int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdecimal()]
    assert max(steps) == 15
    alone = toy.train(tmp_path / "alone", steps=15, task=toy.ToyTask(steps=toy.STEPS))
    template = jax.eval_shape(toy.ToyTask().init, jax.random.key(0))
    with Checkpointer(tmp_path / "checkpoints", read_only=True) as checkpointer:
        together = checkpointer.restore(template).state
    for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def train_alone(workdir: Path) -> None:
    """Trains in this process, on its eight devices, on a tokenizer as it was initialised."""
    config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, **CHANGES})
    state = jax.jit(build.make_tokenizer_task(config).init)(jax.random.key(0))
    with Checkpointer(workdir / "tokenizer" / "checkpoints") as checkpointer:
        checkpointer.save(1, state, data={}, meta={})
    train_workdir(config, workdir)


def saved_steps(workdir: Path) -> list[int]:
    folder = workdir / "generator" / "checkpoints"
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdecimal())


def find_process(launcher: subprocess.Popen[str], number: int) -> psutil.Process:
    for process in psutil.Process(launcher.pid).children(recursive=True):
        if process.environ().get("NBP_PROCESS") == str(number) and "nbp.train" in process.cmdline():
            return process
    raise AssertionError(f"no process {number}")


def read_losses(workdir: Path) -> dict[int, list[float]]:
    with (workdir / "generator" / "metrics.csv").open(encoding="utf8") as file:
        rows = list(csv.DictReader(file))
    return {int(row["step"]): [float(row["loss"]), float(row["grad_norm"])] for row in rows}


def read_state(workdir: Path) -> dict[str, np.ndarray]:
    """The final state of the generator, read by this process onto its eight devices."""
    config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, **CHANGES})
    train, _ = build_data.make_data(config)
    tokenizer = build.make_tokenizer_task(config)
    params = jax.eval_shape(tokenizer.network.init, jax.random.key(0))
    task = build.make_generator_task(config, train.label_names, params)
    template = jax.eval_shape(task.init, jax.random.key(0))
    with Checkpointer(workdir / "generator" / "checkpoints", read_only=True) as checkpointer:
        state = checkpointer.restore(template, step=STEPS).state
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.slow
def test_two_processes_train_as_one_and_survive_a_kill(tmp_path: Path) -> None:
    """One process trains to the end; two go on from its first checkpoint, and one is killed."""
    one, two = tmp_path / "one", tmp_path / "two"
    train_alone(one)
    assert saved_steps(one) == [EVERY, 2 * EVERY, STEPS]
    shutil.copytree(one, two)
    for step in (2 * EVERY, STEPS):
        shutil.rmtree(two / "generator" / "checkpoints" / str(step))

    launcher = start(two, "--processes", "2", "--devices", "4", "--restarts", "1")
    deadline = time.monotonic() + 200
    while 2 * EVERY not in saved_steps(two):
        assert launcher.poll() is None, launcher.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    survivor = find_process(launcher, 0)
    find_process(launcher, 1).kill()
    killed = time.monotonic()
    assert saved_steps(two) == [EVERY, 2 * EVERY]
    survivor.wait(timeout=GRACE + 10)
    assert time.monotonic() - killed < GRACE + 5
    output = finish(launcher)
    assert "exit code 137; restart 1 of 1" in output or "exit code 42; restart 1 of 1" in output
    assert f"resumes after step {EVERY}" in output
    assert f"resumes after step {2 * EVERY}" in output

    losses, expected = read_losses(two), read_losses(one)
    assert sorted(losses) == sorted(expected) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(
        [losses[step] for step in expected], list(expected.values()), rtol=1e-6
    )
    ours, theirs = read_state(two), read_state(one)
    assert ours.keys() == theirs.keys()
    for path, value in theirs.items():
        np.testing.assert_allclose(ours[path], value, rtol=1e-5, atol=1e-6, err_msg=path)
    # Files that a job has once were written once: no second writer's temporary file is left.
    assert not list(two.rglob("*.tmp"))
    assert not list(two.glob("bad_videos*"))
