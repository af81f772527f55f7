# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`nbp.sweep`: what it runs, in which order, what it keeps; and whole sweeps that are killed."""

import csv
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from nbp import build, locks, sweep
from nbp.config import load_config, parse_overrides, to_json
from nbp.config.schema import Config
from nbp.errors import CheckpointError, ConfigError, NbpError, Preempted
from nbp.files import write_text
from nbp.lowering import TrainingAmount, measure_training
from nbp.report.sweep_table import read_table
from nbp.runtime import CommandFailed, CommandRunner
from nbp.stages import adopt_config
from nbp.training.metrics import MetricsTable
from nbp.workdir import has_begun, read_config, save_labels
from tests import tiny
from tests.evaluated import make_workdir, save_params

ROOT = Path(__file__).resolve().parent.parent.parent
KEYS = {key: value for key, value in tiny.OVERRIDES.items() if key != "evaluation.protocol"}
VARYING = ("training_seconds", "seconds_per_clip")


def write_sweep(folder: Path, **changes: Any) -> str:
    values: dict[str, Any] = {
        "name": "tiny",
        "config": str(ROOT / tiny.CONFIG),
        "overrides": {**KEYS, "train.tokenizer.ema": 0.0, "train.generator.ema": 0.0},
        "runs": {"row": {"grid": {"generator.width": (8, 16)}}},
        "dials": {"all": {"sampling.top_p": 1.0}},
    }
    path = folder / "sweep.py"
    path.write_text(f"def get_sweep():\n    return { ({**values, **changes})!r}\n")
    return str(path)


class Commands:
    """Stands in for the commands: leaves what they would, or fails as told.

    calls: what was run. failing: exit codes by a part of the workdir's name.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failing: dict[str, int] = {}

    def run(
        self, command: str, words: Sequence[str], log: Path, *, inherited: int | None = None
    ) -> None:
        assert inherited is not None
        workdir = Path(words[words.index("--workdir") + 1])
        self.calls.append(
            f"{command} {'/'.join(workdir.parts[-(1 + 2 * ('dials' in str(workdir))) :])}"
        )
        for name, code in self.failing.items():
            if name in str(workdir):
                raise CommandFailed(code, "nbp: NonFiniteError: the loss is NaN", log)
        if command == "train":
            overrides = [word for word in words if word.startswith("--config.")]
            self.train(workdir, load_config(words[1], parse_overrides(overrides)))
        else:
            top_p = read_config(workdir).sampling.top_p
            report = {
                "scores": {"label_agreement": top_p / 2, "bits_per_token": 1.5},
                "generation": {"passes": 7, "clips": 8, "seconds_per_clip": 0.25},
            }
            write_text(workdir / "report" / "moving-shapes.json", json.dumps(report))

    def train(self, workdir: Path, config: Any) -> None:
        workdir.mkdir(parents=True, exist_ok=True)
        adopt_config(config, workdir, report=lambda text: None)
        save_labels(workdir, ["a"] * 36)
        (stage,) = config.stages
        assert stage == "tokenizer" or has_begun(workdir, "tokenizer")
        params = {"width": np.float32(config.generator.width)}
        if stage == "tokenizer":
            params = build.make_tokenizer_network(config).init(jax.random.key(0))
        save_params(workdir, stage, params)
        metrics = MetricsTable(workdir / stage / "metrics.csv")
        metrics.add(4, {"loss": 2.0, "validation/bits_per_token": 1.4})


MEASURED: dict[tuple[str, int], TrainingAmount] = {}


def measure_once(config: Config, classes: int) -> TrainingAmount:
    """Most sweeps here have the same runs, whose programs need not be traced again."""
    key = to_json(config), classes
    if key not in MEASURED:
        MEASURED[key] = measure_training(config, classes)
    return MEASURED[key]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    found = Commands()
    monkeypatch.setattr(sweep, "measure_training", measure_once)
    monkeypatch.setattr(CommandRunner, "run", lambda self, *a, **o: found.run(*a, **o))
    return found


def read_rows(workdir: Path) -> list[dict[str, Any]]:
    return json.loads((workdir / "sweep.json").read_text())["rows"]


ALL = [
    "train tokenizer",
    *("train row-width=8-s0", "evaluate row-width=8-s0/dials/default"),
    *("evaluate row-width=8-s0/dials/all", "train row-width=16-s0"),
    *("evaluate row-width=16-s0/dials/default", "evaluate row-width=16-s0/dials/all"),
]


def test_a_sweep_trains_the_tokenizer_once_and_scores_every_dial(
    tmp_path: Path, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    sweep.main([write_sweep(tmp_path), "--workdir", str(out)])
    assert commands.calls == ALL
    rows = read_rows(out)
    assert [(row["run"], row["dial"]) for row in rows] == [
        (f"row-width={width}-s0", dial) for width in (8, 16) for dial in ("default", "all")
    ]
    assert [row["scores"]["label_agreement"] for row in rows] == [0.4, 0.5, 0.4, 0.5]
    assert {row["scores"]["bits_per_token"] for row in rows} == {1.5}
    assert rows[1]["dial_overrides"] == {"sampling.top_p": 1.0}
    assert (rows[0]["passes"], rows[0]["seconds_per_clip"], rows[0]["updates"]) == (7, 0.25, 4)
    assert rows[2]["training_flops"] > 1.5 * rows[0]["training_flops"] > 0
    with (out / "sweep.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["generator.width"] for row in table] == ["8", "8", "16", "16"]
    assert [float(row["label_agreement"]) for row in table] == [0.4, 0.5, 0.4, 0.5]
    assert table[1]["dial:sampling.top_p"] == "1.0"
    page = (out / "index.html").read_text()
    assert "row-width=16-s0" in page
    assert page.count("<svg") >= 2
    with Image.open(out / "sweep.png") as image:
        assert image.width > 300
    text = capsys.readouterr().out
    assert "ETA" in text
    assert "3/3 row-width=16-s0  bits_per_token 1.5  label_agreement 0.4" in text
    view = out / rows[1]["workdir"]
    assert read_config(view).sampling.top_p == 1.0
    assert has_begun(view, "generator")
    assert has_begun(view, "tokenizer")


def test_the_time_left_is_that_of_updates_and_of_all_beside_them() -> None:
    """Updates of 10 operations took 2 s in a run of 5 s."""
    one = [(10.0, 2.0, 5.0)]
    assert sweep.estimate_left(one, [10.0, 20.0]) == pytest.approx(5.0 + 7.0)
    resumed = [*one, (10.0, 2.0, 1.0)]  # most of its updates are older than this start
    assert sweep.estimate_left(resumed, [10.0]) == pytest.approx(2.0 + 3.0 / 2)
    assert sweep.estimate_left([(0.0, 0.0, 4.0)], [10.0, 10.0]) == pytest.approx(8.0)
    assert sweep.estimate_left(one, []) == 0


def test_what_is_finished_is_kept_when_the_list_grows(tmp_path: Path, commands: Commands) -> None:
    out = str(tmp_path / "out")
    sweep.main([write_sweep(tmp_path), "--workdir", out])
    commands.calls.clear()
    sweep.main([write_sweep(tmp_path), "--workdir", out])
    assert commands.calls == []
    longer = write_sweep(
        tmp_path,
        runs={"row": {"grid": {"generator.width": (8, 16, 24)}}},
        dials={"all": {"sampling.top_p": 1.0}, "cold": {"sampling.temperature": 0.5}},
    )
    sweep.main([longer, "--workdir", out])
    assert commands.calls == [
        "train tokenizer",  # as it is: see the next assertion
        "evaluate row-width=8-s0/dials/cold",
        "evaluate row-width=16-s0/dials/cold",
        *(f"{verb} row-width=24-s0{rest}" for verb, rest in (
            ("train", ""), ("evaluate", "/dials/default"), ("evaluate", "/dials/all"),
            ("evaluate", "/dials/cold"))),
    ][1:]  # fmt: skip
    assert len(read_rows(tmp_path / "out")) == 9


def test_finished_runs_are_not_trained_again_with_other_settings(
    tmp_path: Path, commands: Commands
) -> None:
    out = tmp_path / "out"
    sweep.main([write_sweep(tmp_path), "--workdir", str(out)])
    record = (out / "runs" / "row-width=8-s0" / "run.json").read_text()
    commands.calls.clear()
    changed = write_sweep(
        tmp_path,
        runs={"row": {"grid": {"generator.width": (8, 16)},
                      "overrides": {"train.generator.steps": 9}}},
    )  # fmt: skip
    with pytest.raises(CheckpointError) as caught:
        sweep.main([changed, "--workdir", str(out)])
    text = str(caught.value)
    assert "row-width=8-s0 is finished, with other settings" in text
    assert "train.generator.steps was 4, now 9" in text
    assert "give the new run another name, or remove" in text
    assert "\n" not in text
    assert not commands.calls
    assert (out / "runs" / "row-width=8-s0" / "run.json").read_text() == record
    quiet = write_sweep(
        tmp_path,
        runs={"row": {"grid": {"generator.width": (8, 16)}, "overrides": {"train.log_every": 2}}},
    )
    sweep.main([quiet, "--workdir", str(out)])
    assert not commands.calls, "how often it is logged makes no other run of it"


def test_records_that_are_older_than_a_key_had_its_default(
    tmp_path: Path, commands: Commands
) -> None:
    out = tmp_path / "out"
    sweep.main([write_sweep(tmp_path), "--workdir", str(out)])
    for path in (out / "runs").glob("*/run.json"):
        record = json.loads(path.read_text())
        del record["config"]["train"]["guards"], record["config"]["sampling"]["cache"]
        for found in record["evaluations"].values():
            del found["settings"]["sampling"]["cache"]
        path.write_text(json.dumps(record))
    commands.calls.clear()
    sweep.main([write_sweep(tmp_path), "--workdir", str(out)])
    assert not commands.calls
    (out / "runs" / "row-width=8-s0" / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"run\.json cannot be read.*Remove it"):
        sweep.main([write_sweep(tmp_path), "--workdir", str(out)])


def test_a_dial_that_has_changed_is_scored_again(
    tmp_path: Path, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    sweep.main([write_sweep(tmp_path), "--workdir", str(out)])
    commands.calls.clear()
    sweep.main(
        [write_sweep(tmp_path, dials={"all": {"sampling.top_p": 0.9}}), "--workdir", str(out)]
    )
    assert commands.calls == [f"evaluate row-width={w}-s0/dials/all" for w in (8, 16)]
    assert "scoring all again, as its settings have changed" in capsys.readouterr().out
    assert [row["scores"]["label_agreement"] for row in read_rows(out)] == [0.4, 0.45] * 2


def test_shares_make_all_runs_and_one_table(tmp_path: Path, commands: Commands) -> None:
    out = str(tmp_path / "out")
    argument = write_sweep(tmp_path, seeds=(0, 1))
    sweep.main([argument, "--workdir", out, "--index", "1", "--of", "3"])
    assert commands.calls[:2] == ["train tokenizer", "train row-width=8-s1"]
    table = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert list(table["missing"]) == ["row-width=8-s0", "row-width=16-s0", "row-width=16-s1"]
    for index in ("0", "2"):
        sweep.main([argument, "--workdir", out, "--index", index, "--of", "3"])
    trained = [call for call in commands.calls if call.startswith("train")]
    assert len(trained) == len(set(trained)) == 5
    assert [row["run"] for row in read_rows(tmp_path / "out")[::2]] == [
        "row-width=8-s0", "row-width=8-s1", "row-width=16-s0", "row-width=16-s1",
    ]  # fmt: skip


def test_a_dry_run_lists_the_work_and_changes_nothing(
    tmp_path: Path, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    sweep.main([write_sweep(tmp_path), "--workdir", str(out), "--dry_run"])
    assert not out.exists()
    assert not commands.calls
    first, *rest = capsys.readouterr().out.splitlines()
    assert re.match(r"tokenizer: train 4 updates; [\d.e+]+ operations, [\d,]+ parameters", first)
    assert "row-width=8-s0: train 4 updates and score default, all; " in rest[0]
    assert re.match(r"2 of 2 runs, [\d.e+]+ operations of training to be done", rest[-1])
    sweep.main([write_sweep(tmp_path), "--workdir", str(out)])
    capsys.readouterr()
    sweep.main([write_sweep(tmp_path), "--workdir", str(out), "--dry_run"])
    assert capsys.readouterr().out.splitlines()[0].startswith("row-width=8-s0: finished; ")


def test_a_run_that_fails_leaves_the_others(
    tmp_path: Path, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    commands.failing = {"width=8": 5}
    with pytest.raises(NbpError, match="1 of 3 runs failed, the first is row-width=8-s0") as caught:
        sweep.main([write_sweep(tmp_path), "--workdir", str(out)])
    assert caught.value.exit_code == 5
    assert "the loss is NaN" in str(caught.value)
    table = json.loads((out / "sweep.json").read_text())
    assert "exit code 5: nbp: NonFiniteError" in table["missing"]["row-width=8-s0"]
    assert {row["run"] for row in table["rows"]} == {"row-width=16-s0"}
    commands.failing.clear()
    sweep.main([write_sweep(tmp_path), "--workdir", str(out)])
    assert len(read_rows(out)) == 4


def test_without_its_tokenizer_nothing_is_trained(tmp_path: Path, commands: Commands) -> None:
    commands.failing = {"out/tokenizer": 3}
    with pytest.raises(NbpError, match="the first is tokenizer") as caught:
        sweep.main([write_sweep(tmp_path), "--workdir", str(tmp_path / "out")])
    assert caught.value.exit_code == 3
    assert commands.calls == ["train tokenizer"]


def test_a_tokenizer_of_another_workdir_is_taken(tmp_path: Path, commands: Commands) -> None:
    first = tmp_path / "first"
    sweep.main([write_sweep(tmp_path), "--workdir", str(first)])
    commands.calls.clear()
    other = write_sweep(tmp_path, tokenizer=str(first / "tokenizer"))
    sweep.main([other, "--workdir", str(tmp_path / "second")])
    assert commands.calls == ALL[1:]
    with pytest.raises(CheckpointError, match="tokenizer was '', now "):
        sweep.main([other, "--workdir", str(first)])
    absent = write_sweep(tmp_path, tokenizer=str(tmp_path / "absent"))
    with pytest.raises(CheckpointError, match="absent is no workdir"):
        sweep.main([absent, "--workdir", str(tmp_path / "third")])


def test_processes_that_would_work_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("COORDINATOR", "h:1"), ("PROCESSES", "2"), ("PROCESS", "0")):
        monkeypatch.setenv(f"NBP_{name}", value)
    with pytest.raises(ConfigError, match="one for each share of the runs"):
        sweep.main([write_sweep(tmp_path), "--workdir", str(tmp_path / "out")])


# The children --------------------------------------------------------------------------------


def run_python(runner: CommandRunner, folder: Path, code: str) -> None:
    """Runs code in place of a command."""
    package = folder / "nbp"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    (package / "stand_in.py").write_text(code)
    runner.run("stand_in", ["a b"], folder / "log.txt")


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandRunner:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    return CommandRunner(tmp_path / "compiled", lambda text: None, restarts=2)


def test_children_share_what_is_compiled_and_log(tmp_path: Path, runner: CommandRunner) -> None:
    code = "import os, sys; print(os.environ['JAX_COMPILATION_CACHE_DIR'], sys.argv[1:])"
    with runner:
        run_python(runner, tmp_path, code)
    text = (tmp_path / "log.txt").read_text()
    assert text.startswith(str(tmp_path / "compiled"))
    assert "['a b']" in text


@pytest.mark.parametrize("code, starts", [(3, 1), (42, 3), (-9, 3), (1, 1)])
def test_what_a_restart_cures_is_restarted(
    tmp_path: Path, runner: CommandRunner, code: int, starts: int
) -> None:
    end = "os.kill(os.getpid(), 9)" if code < 0 else f"sys.exit({code})"
    with runner, pytest.raises(CommandFailed, match=f"exit code {code}: last words") as caught:
        run_python(runner, tmp_path, f"import os, sys; print('last words'); {end}")
    assert caught.value.code == code
    assert (tmp_path / "log.txt").read_text().count("last words") == starts


def test_a_signal_reaches_the_child_which_saves(tmp_path: Path, runner: CommandRunner) -> None:
    """The child tells its parent that it is ready by the very signal that ends both."""
    code = (
        "import os, signal, sys, time\n"
        "def save(*_):\n"
        "    open('saved', 'w').close()\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )
    before = signal.getsignal(signal.SIGTERM)
    with runner, pytest.raises(Preempted, match="the same command goes on"):
        run_python(runner, tmp_path, code)
    assert (tmp_path / "saved").exists()
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(Preempted):
        runner.check()


def test_a_child_that_was_told_to_stop_stops_the_sweep(
    tmp_path: Path, runner: CommandRunner
) -> None:
    with runner, pytest.raises(Preempted, match=r"nbp\.stand_in was told to stop"):
        run_python(runner, tmp_path, "import sys; sys.exit(143)")


def test_a_child_holds_the_lock_of_a_parent_that_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "a.lock"
    lock = locks.lock_file(file)
    assert lock.handle is not None
    child = subprocess.Popen(["sleep", "60"], pass_fds=(lock.handle,))
    lock.close()
    with pytest.raises(locks.Held):
        locks.lock_file(file)
    child.kill()
    child.wait()
    locks.lock_file(file).close()


# Whole sweeps --------------------------------------------------------------------------------


def start(argument: str, workdir: Path) -> subprocess.Popen[str]:
    environment = tiny.make_environment(JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT))
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return subprocess.Popen(
        [sys.executable, "-m", "nbp.sweep", argument, "--workdir", str(workdir)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_results(workdir: Path) -> list[dict[str, Any]]:
    """The table without times."""
    return [
        {name: value for name, value in vars(row).items() if name not in VARYING}
        for row in read_table(workdir / "sweep.json")
    ]


def test_killed_sweeps_end_with_the_same_table(tmp_path: Path) -> None:
    """Killed while a run is trained, and while it is scored: the child goes on alone."""
    trained = make_workdir(tmp_path / "tokenizer", {})
    quick: dict[str, Any] = {
        "sampling.guidance": 0.0,
        "sampling.top_p": 1.0,
        "generator.block": "frame",
    }
    quick |= {"generator.opening_blocks": 1, "train.tokenizer.ema": 0.0, "train.generator.ema": 0.0}
    overrides = {**KEYS, **quick}
    argument = write_sweep(
        tmp_path, tokenizer=str(trained), runs={"row": {}}, dials={}, overrides=overrides
    )
    whole = start(argument, tmp_path / "whole")
    killed = tmp_path / "killed"
    for word in ("training", "scoring"):
        process = start(argument, killed)
        assert process.stdout is not None
        assert any(word in line for line in process.stdout)
        time.sleep(1.0)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (killed / "sweep.csv").exists()
    for process in (whole, start(argument, killed)):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    results = read_results(killed)
    assert results == read_results(tmp_path / "whole")
    assert [row["dial"] for row in results] == ["default"]
    assert results[0]["passes"] > 1
    assert 0 < results[0]["scores"]["bits_per_token"] < 20
