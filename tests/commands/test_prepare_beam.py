# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""nbp.prepare --runner: the bytes of the plain command, whoever writes the shards.

Where Apache Beam is not installed (requirements-beam.txt), a stand-in calls the work.
"""

import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from nbp import prepare
from nbp.data.prepare import beam
from nbp.errors import ConfigError, DataError, NbpError, RestartError
from nbp.prepare import main, prepare_dataset
from tests.commands.test_prepare import hash_tree, request
from tests.data.trees import build_tree

ROOT = Path(__file__).resolve().parents[2]
needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="Apache Beam is not installed"
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree") / "videos"
    build_tree(root, good=8, bad=4)
    return root


@pytest.fixture(scope="module")
def plain(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of what the command without a runner makes, in shards of two files."""
    out = tmp_path_factory.mktemp("plain")
    prepare_dataset(request(tree, out, shard_size=2), print)
    return hash_tree(out)


def flags(tree: Path, out: Path, *options: str) -> list[str]:
    shared = ["folder", "--videos", str(tree), "--out", str(out), "--shard_size", "2"]
    return [*shared, "--runner", "DirectRunner", *options]


# Without Beam ------------------------------------------------------------------------------------


def stand_in(monkeypatch: pytest.MonkeyPatch, left_out: Sequence[int] = ()) -> list[int]:
    """In place of Beam: the work comes back from a pickle, each number twice; returns them."""
    done: list[int] = []

    def run(pipeline: Any, work: Callable[[int], None], numbers: Sequence[int]) -> None:
        assert pipeline == "pipeline"
        for number in reversed([n for n in numbers if n not in left_out]):
            for _ in range(2):
                pickle.loads(pickle.dumps(work))(number)
            done.append(number)

    monkeypatch.setattr(beam, "open_pipeline", lambda runner, options: "pipeline")
    monkeypatch.setattr(beam, "run_for_each", run)
    return done


def test_shards_that_workers_have_written_become_the_same_dataset(
    tree: Path, plain: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = stand_in(monkeypatch, left_out=(1, 3))
    monkeypatch.chdir(tmp_path)  # workers may have other working folders
    with pytest.raises(RestartError, match=r"2 of \d shards are not in .*workers must see the"):
        main(flags(tree, Path("out")))
    assert not (tmp_path / "out" / "folder").exists()
    before = len(done)
    done = stand_in(monkeypatch)
    main(flags(tree, Path("out")))
    assert sorted(done) == [1, 3]
    assert before > 2
    assert hash_tree(tmp_path / "out") == plain
    # --restart discards once, not in each worker.
    main(flags(tree, Path("out"), "--restart"))
    assert len(done) == before + 4
    assert hash_tree(tmp_path / "out") == plain


def test_errors_of_workers_keep_their_kind() -> None:
    """What FnApiRunner and portable runners raise: the traceback of the worker as text."""
    text = (
        'Traceback (most recent call last):\n  File "x.py", line 1, in y\n'
        "nbp.errors.DataError: shard.json: damaged (a: b). Delete it [while running 'Map(work)']\n"
    )
    found = beam.find_cause(RuntimeError(text))
    assert type(found) is DataError
    assert str(found) == "shard.json: damaged (a: b). Delete it"
    lost = beam.find_cause(RuntimeError("job failed:\nconnection refused"))
    assert isinstance(lost, RestartError)
    assert "(connection refused). Finished shards are kept" in str(lost)
    here = beam.find_cause(ConfigError("number [7] cannot be [while running 'Map(work)']"))
    assert (type(here), str(here)) == (ConfigError, "number [7] cannot be")


def test_without_the_package_the_command_to_install_it_is_told(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ConfigError, match=r"--runner DirectRunner needs Apache.*pip install '\.\["):
        main(flags(tree, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [("--runner", "DirectRunner", "--shard", "0/2"), ("--sise=3",)])
def test_flags_that_mean_nothing_are_refused(
    tree: Path, tmp_path: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((ConfigError, SystemExit)) as caught:
        main(["folder", "--videos", str(tree), "--out", str(tmp_path / "out"), *options])
    told = str(caught.value) + capsys.readouterr().err
    assert "--shard and --runner" in told or "unrecognized arguments: --sise=3" in told
    assert not (tmp_path / "out").exists()


# With Beam ---------------------------------------------------------------------------------------


def start(tree: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nbp.prepare", *flags(tree, out, *options)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@needs_beam
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--direct_num_workers=2", "--direct_running_mode=multi_threading"),
        ("--direct_num_workers=2", "--direct_running_mode=multi_processing"),
    ],
)
def test_the_direct_runner_makes_the_same_bytes(
    tree: Path, plain: dict[str, str], tmp_path: Path, options: tuple[str, ...]
) -> None:
    process = start(tree, tmp_path, *options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "shards, 0 bad" in out  # progress
    assert hash_tree(tmp_path) == plain


@needs_beam
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_killed_pipelines_go_on(
    tree: Path, plain: dict[str, str], tmp_path: Path, sent: signal.Signals
) -> None:
    process = start(tree, tmp_path)
    work, began = tmp_path / ".incomplete-folder", time.monotonic()
    while not list(work.glob("*-*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < 120
        time.sleep(0.01)
    process.send_signal(sent)
    _, err = process.communicate(timeout=180)
    if sent == signal.SIGTERM:
        assert process.returncode == 143
        assert err.splitlines()[-1].startswith("nbp: Preempted: stopped; the same command resumes")
    assert not (tmp_path / "folder").exists()
    kept = {path: path.stat().st_mtime_ns for path in work.glob("*-*.json")}
    again = start(tree, tmp_path)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert f"resuming: {len(kept)} of" in out
    assert hash_tree(tmp_path) == plain


@needs_beam
def test_errors_of_the_work_come_back_as_they_were() -> None:
    def fail(number: int) -> None:
        raise DataError(f"number {number} cannot be")

    with pytest.raises(NbpError, match="^number 7 cannot be$") as caught:
        beam.run_for_each(beam.open_pipeline("DirectRunner", []), fail, [7])
    assert type(caught.value) is DataError


@needs_beam
@pytest.mark.parametrize(
    "runner, options, message",
    [
        ("Nowhere", [], "--runner Nowhere: Unexpected pipeline runner"),
        ("DirectRunner", ["--sise", "7"], "neither nbp.prepare nor Beam knows --sise 7"),
        ("DirectRunner", ["--direct_num_workers=few"], "direct_num_workers: invalid int value"),
        ("DataflowRunner", [], "--runner DataflowRunner: .*(required|not available|GCS)"),
    ],
)
def test_what_beam_does_not_know_is_refused_beforehand(
    tree: Path, tmp_path: Path, runner: str, options: list[str], message: str
) -> None:
    command = ["folder", "--videos", str(tree), "--out", str(tmp_path / "out")]
    with pytest.raises(ConfigError, match=message):
        main([*command, "--runner", runner, *options])
    assert not (tmp_path / "out").exists()


def test_a_runner_leaves_the_cores_to_beam(monkeypatch: pytest.MonkeyPatch, tree: Path) -> None:
    """One process a task, unless --workers asks for more; all cores without a runner."""
    stand_in(monkeypatch)
    seen: list[int] = []
    monkeypatch.setattr(prepare, "prepare_dataset", lambda asked, run: seen.append(asked.workers))
    for options in ([], ["--workers", "3"]):
        main([*flags(tree, tree.parent / "out"), *options])
    main(["folder", "--videos", str(tree), "--out", "out"])
    assert seen == [1, 3, os.cpu_count()]
