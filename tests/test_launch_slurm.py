# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""launch/slurm.sbatch with stand-ins of srun, squeue and scontrol: what is requeued, and when."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.launch.stage import LAUNCH, Stage

JOB = {"SLURM_JOB_ID": "77"}
CHECKED = 'case " $* " in *" --check "*) exit 0 ;; esac'
# Stands in for the interpreter: each task ends with the next code of the list.
PYTHON = """#!/bin/sh
case " $* " in *" --check "*) exit 0 ;; esac
cd {folder}
printf '%s|' "$@" >>ran; echo >>ran
code=$(head -n 1 codes); sed -i 1d codes
exit "$code"
"""


def make_stage(folder: Path, *codes: int, state: str = "RUNNING") -> Stage:
    """srun runs the command of the task once, then returns 143, as it does for ended tasks."""
    stage = Stage(
        folder / "s",
        ("^srun", [{"run": "srun"}]),
        ("^squeue", [{"out": f"{state}\n"} if state else {"code": 1}]),
    )
    python = stage.folder / "python"
    python.write_text(PYTHON.format(folder=stage.folder))
    python.chmod(0o755)
    (stage.folder / "codes").write_text("".join(f"{code}\n" for code in codes))
    return stage


def launch(stage: Stage, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return stage.run(
        "slurm.sbatch",
        *options,
        "c.py",
        "my runs/a",
        "--config.generator.block=(1,2,2)",
        variables={**JOB, "PYTHON": str(stage.folder / "python"), **variables},
    )


def test_the_task_gets_its_arguments_whole(tmp_path: Path) -> None:
    stage = make_stage(tmp_path, 0)
    done = launch(stage)
    assert done.returncode == 0, done.stderr
    assert (stage.folder / "ran").read_text() == (
        "-u|-m|nbp.train|--config|c.py|--workdir|my runs/a|--config.generator.block=(1,2,2)|\n"
    )
    assert stage.verbs() == ["srun bash"]
    assert "--kill-on-bad-exit=1" in stage.calls()[0]


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 130])
def test_what_a_restart_cannot_cure_ends_the_job(tmp_path: Path, code: int) -> None:
    stage = make_stage(tmp_path, code)
    assert launch(stage).returncode == code
    assert stage.verbs() == ["srun bash"]


@pytest.mark.parametrize("code", [42, 134, 137, 143])
def test_what_a_restart_cures_is_requeued(tmp_path: Path, code: int) -> None:
    stage = make_stage(tmp_path, code)
    assert launch(stage).returncode == code
    assert stage.verbs() == ["srun bash", "squeue", "scontrol requeue 77"]


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PREEMPTED", ""])
def test_a_cancelled_or_preempted_job_is_left_to_slurm(tmp_path: Path, state: str) -> None:
    stage = make_stage(tmp_path, 143, state=state)
    assert launch(stage).returncode == 143
    assert stage.verbs() == ["srun bash", "squeue"]


def test_faults_are_limited_and_preemptions_are_not(tmp_path: Path) -> None:
    stage = make_stage(tmp_path, 42, 143, 143, 143, 137, 42)
    requeued = []
    for _ in range(6):
        launch(stage, "--restarts", "2")
        requeued.append(stage.verbs()[-1] == "scontrol requeue 77")
    assert requeued == [True, True, True, True, True, False]


def test_the_first_task_that_failed_decides(tmp_path: Path) -> None:
    """Two tasks: one fails with 3, then srun ends the other, and returns the higher 143."""
    stage = make_stage(tmp_path, 3, 143)
    both = stage.folder / "bin" / "srun"
    both.write_text('#!/bin/sh\nshift\n"$@"\n"$@"\nexit 143\n')
    assert launch(stage).returncode == 3
    assert not stage.calls()  # nothing was asked, nothing requeued

    stage = make_stage(tmp_path / "other", 134, 2)
    both = stage.folder / "bin" / "srun"
    both.write_text('#!/bin/sh\nshift\n"$@"\n"$@"\nexit 134\n')
    assert launch(stage).returncode == 2


def test_a_signal_reaches_the_task_which_saves(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    saves = stage.folder / "saves.py"
    saves.write_text(
        "import pathlib, signal, sys, time\n"
        f"folder = pathlib.Path({str(stage.folder)!r})\n"
        "def save(*_):\n"
        "    time.sleep(0.5)\n"
        "    (folder / 'saved').touch()\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "(folder / 'ready').touch()\n"
        "time.sleep(60)\n"
    )
    python = stage.folder / "python"
    python.write_text(f"#!/bin/sh\n{CHECKED}\nexec {sys.executable} {saves}\n")
    (stage.folder / "bin" / "srun").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    process = subprocess.Popen(
        [str(LAUNCH / "slurm.sbatch"), "c.py", str(tmp_path / "w")],
        env={**stage.environment, **JOB, "PYTHON": str(python)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while not (stage.folder / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)  # the batch script, the note-taker and the training
    assert process.wait(timeout=30) == 143
    assert (stage.folder / "saved").exists()
    assert stage.verbs() == ["squeue", "scontrol requeue 77"]


def test_proxies_do_not_reach_the_processes(tmp_path: Path) -> None:
    stage = make_stage(tmp_path, 0)
    python = stage.folder / "python"
    python.write_text(f"#!/bin/sh\n{CHECKED}\nenv >{stage.folder}/seen\n")
    assert launch(stage, http_proxy="http://proxy:1", HTTPS_PROXY="http://proxy:1").returncode == 0
    assert "proxy:1" not in (stage.folder / "seen").read_text()


@pytest.mark.parametrize("cores", ["8", ""])
def test_the_step_asks_for_the_cores_of_the_job(tmp_path: Path, cores: str) -> None:
    """srun takes --cpus-per-task of sbatch from no other variable, since SLURM 22.05."""
    stage = make_stage(tmp_path, 0)
    python = stage.folder / "python"
    python.write_text(
        f'#!/bin/sh\n{CHECKED}\necho "${{SRUN_CPUS_PER_TASK-none}}" >{stage.folder}/seen\n'
    )
    variables = {"SLURM_CPUS_PER_TASK": cores} if cores else {}
    assert launch(stage, **variables).returncode == 0
    assert (stage.folder / "seen").read_text() == f"{cores or 'none'}\n"


@pytest.mark.parametrize(
    "arguments, variables, message",
    [
        (("c.py", "w"), {}, "submit it with sbatch"),
        (("c.py",), JOB, "usage:"),
        (("--fast", "c.py", "w"), JOB, "unknown option --fast"),
        (("--restarts", "few", "c.py", "w"), JOB, "needs a number"),
    ],
)
def test_wrong_usage(
    tmp_path: Path, arguments: tuple[str, ...], variables: dict[str, Any], message: str
) -> None:
    stage = make_stage(tmp_path, 0)
    done = stage.run("slurm.sbatch", *arguments, variables=variables)
    assert done.returncode == 2
    assert message in done.stderr
    assert not stage.calls()


# Sweeps ------------------------------------------------------------------------------------------

ARRAY = {
    "SLURM_ARRAY_JOB_ID": "77",
    "SLURM_ARRAY_TASK_ID": "7",
    "SLURM_ARRAY_TASK_MIN": "3",
    "SLURM_ARRAY_TASK_COUNT": "4",
    "SLURM_ARRAY_TASK_STEP": "2",
}


def launch_sweep(stage: Stage, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    python = {"PYTHON": str(stage.folder / "python")}
    return stage.run("slurm.sbatch", "--sweep", *options, variables={**JOB, **python, **variables})


def make_sweep_stage(folder: Path, *codes: int) -> Stage:
    stage = make_stage(folder, *codes)
    python = stage.folder / "python"
    python.write_text(python.read_text().replace("--check", "--dry_run"))
    return stage


def test_a_task_of_an_array_makes_its_share_of_a_sweep(tmp_path: Path) -> None:
    """--array=3-9:2 has four tasks, of which 7 is the third."""
    stage = make_sweep_stage(tmp_path, 0)
    done = launch_sweep(stage, "s.py", "my runs/a", **ARRAY)
    assert done.returncode == 0, done.stderr
    assert (stage.folder / "ran").read_text() == (
        "-u|-m|nbp.sweep|s.py|--workdir|my runs/a|--index|2|--of|4|\n"
    )
    alone = make_sweep_stage(tmp_path / "alone", 0)
    assert launch_sweep(alone, "s.py", "w").returncode == 0
    assert (alone.folder / "ran").read_text() == "-u|-m|nbp.sweep|s.py|--workdir|w|\n"


def test_a_preempted_share_is_requeued(tmp_path: Path) -> None:
    stage = make_sweep_stage(tmp_path, 143)
    assert launch_sweep(stage, "s.py", "w", **ARRAY).returncode == 143
    assert stage.verbs() == ["srun bash", "squeue", "scontrol requeue 77_7"]


def test_only_this_task_of_an_array_is_asked_for_and_requeued(tmp_path: Path) -> None:
    """The last task of array 77 is itself job 77, a number that means all tasks of the array."""
    stage = make_sweep_stage(tmp_path, 42)
    launch_sweep(stage, "s.py", "w", **ARRAY)
    _, asked, requeued = stage.calls()
    assert "--jobs=77_7" in asked
    assert requeued == ["scontrol", "requeue", "77_7"]


def test_a_sweep_takes_no_overrides(tmp_path: Path) -> None:
    stage = make_sweep_stage(tmp_path, 0)
    done = launch_sweep(stage, "s.py", "w", "--config.seed=1")
    assert done.returncode == 2
    assert "overrides stand in the file" in done.stderr
    assert not stage.calls()


# Commands that share work ------------------------------------------------------------------------


def test_a_task_of_an_array_has_a_share_of_a_command(tmp_path: Path) -> None:
    """--array=3-9:2 has four tasks, of which 7 is the third. Nothing is checked beforehand."""
    for name, array, end in (("some", ARRAY, "--shard|2/4|"), ("alone", {}, "")):
        stage = make_stage(tmp_path / name, 0)
        python = {"PYTHON": str(stage.folder / "python")}
        command = ("nbp.encode", "--workdir", "my runs/a", "--shard_size", "8")
        done = stage.run("slurm.sbatch", *command, variables={**JOB, **python, **array})
        assert done.returncode == 0, done.stderr
        assert (stage.folder / "ran").read_text() == (
            f"-u|-m|nbp.encode|--workdir|my runs/a|--shard_size|8|{end}\n"
        )


def test_a_preempted_share_of_a_command_is_requeued_and_its_faults_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the folder that it is submitted from has its notes
    stage = make_stage(tmp_path, 143, 42, 42)
    python = {"PYTHON": str(stage.folder / "python")}
    command = ("--restarts", "1", "nbp.evaluate", "--workdir", "w", "--protocol", "p")
    variables = {**JOB, **python, **ARRAY}
    for code, ends in ((143, "requeue 77_7"), (42, "requeue 77_7"), (42, "srun bash")):
        assert stage.run("slurm.sbatch", *command, variables=variables).returncode == code
        assert [verb for verb in stage.verbs() if verb != "squeue"][-1].endswith(ends)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("nbp.encode", "--shard", "0/2"), "--shard comes from the array"),
        (("nbp.encode", "--shard=0/2"), "--shard comes from the array"),
        (("--sweep", "nbp.encode", "--out", "t"), "--sweep takes FILE and WORKDIR, not nbp.encode"),
    ],
)
def test_commands_that_cannot_be_shared(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    stage = make_stage(tmp_path, 0)
    done = stage.run("slurm.sbatch", *arguments, variables={**JOB, **ARRAY})
    assert done.returncode == 2
    assert message in done.stderr
    assert not stage.calls()
