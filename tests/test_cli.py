# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Bad input to the mains: one line on stderr, its exit code, nothing lost or half made."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nbp import evaluate, sample, train
from nbp.config import load_config
from nbp.errors import EXIT_CHECKPOINT, EXIT_DATA, EXIT_USAGE, run_main
from nbp.stages import adopt_config
from nbp.workdir import save_labels
from tests import tiny

Main = Callable[[list[str] | None], None]


def run(main: Main, *arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and the one line on stderr of a command that must fail."""
    with pytest.raises(SystemExit) as caught:
        run_main(main, [str(a) for a in arguments])
    assert isinstance(caught.value.code, int)
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("nbp: ")]
    assert len(lines) == 1, error
    assert error.rstrip().endswith(lines[0])  # nothing after it
    assert "Traceback" not in error
    return caught.value.code, lines[0]


def list_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# Training --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments,message",
    [
        (("--config.generator.blok=row",), "did you mean generator.block?"),
        (("--config.generator.block=(1,3,4)",), "Use one of 1, 2, 4."),
        (("--config.train.keep=three",), "train.keep: 'three' is not int"),
        (("--confg.seed=1",), "unknown argument '--confg.seed'"),
        (("--config.seed",), "needs a value"),
    ],
)
def test_usage_errors_of_train_make_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    workdir = tmp_path / "run"
    code, line = run(
        train.main,
        *("--config", tiny.CONFIG, "--workdir", workdir, *tiny.flags(), *arguments),
        capsys=capsys,
    )
    assert code == EXIT_USAGE
    assert message in line
    assert not workdir.exists()


def test_missing_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--config", "configs/quikstart.py", "--workdir", tmp_path / "run")
    code, line = run(train.main, *arguments, capsys=capsys)
    assert code == EXIT_USAGE
    assert "did you mean configs/quickstart.py?" in line
    assert not (tmp_path / "run").exists()


def test_a_file_in_place_of_the_workdir(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("precious")
    arguments = ("--config", tiny.CONFIG, "--workdir", tmp_path / "run", *tiny.flags())
    code, line = run(train.main, *arguments, capsys=capsys)
    assert code == EXIT_USAGE
    assert "cannot make the folder" in line
    assert (tmp_path / "run").read_text() == "precious"


@pytest.mark.parametrize("kind", ["missing", "empty", "unreadable", "file"])
def test_folders_without_a_usable_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    root, workdir = tmp_path / "videos", tmp_path / "run"
    if kind in ("empty", "unreadable"):
        (root / "class").mkdir(parents=True)
    if kind == "unreadable":
        (root / "class" / "noise.mp4").write_bytes(b"not a video" * 100)
        (root / "class" / "nothing.avi").write_bytes(b"")
    if kind == "file":
        root.write_bytes(b"x")
    before = list_files(tmp_path)
    arguments = ("--config", "configs/folder.py", "--workdir", workdir)
    code, line = run(train.main, *arguments, f"--config.data.root={root}", capsys=capsys)
    assert code == EXIT_DATA
    assert str(root) in line
    assert list_files(tmp_path) == before, "a refused command makes nothing"
    if kind == "unreadable":
        assert "2 video files" in line
        assert "noise.mp4" in line or "nothing.avi" in line


def test_a_failing_folder_leaves_the_old_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = load_config("configs/folder.py", {"data.root": "somewhere"})
    adopt_config(old, tmp_path, report=print)
    kept = (tmp_path / "config.json").read_bytes()
    arguments = ("--config", "configs/folder.py", "--workdir", tmp_path)
    code, _ = run(train.main, *arguments, "--config.data.root=/absent/folder", capsys=capsys)
    assert code == EXIT_DATA
    assert (tmp_path / "config.json").read_bytes() == kept


def test_other_weights_are_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adopt_config(load_config(tiny.CONFIG, tiny.OVERRIDES), tmp_path, report=print)
    (tmp_path / "tokenizer" / "checkpoints" / "2").mkdir(parents=True)
    before = list_files(tmp_path)
    changed = tiny.flags({"tokenizer.levels": "(5, 5)"})
    arguments = ("--config", tiny.CONFIG, "--workdir", tmp_path, *changed)
    code, line = run(train.main, *arguments, capsys=capsys)
    assert code == EXIT_CHECKPOINT
    assert "tokenizer.levels was (4, 4), now (5, 5)" in line
    assert list_files(tmp_path) == before


# Sampling and evaluation -----------------------------------------------------------------------


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """A workdir as it is before its first checkpoint."""
    folder = tmp_path / "run"
    folder.mkdir()
    adopt_config(load_config(tiny.CONFIG, tiny.OVERRIDES), folder, report=print)
    save_labels(folder, ("red square right", "red square left"))
    return folder


@pytest.mark.parametrize(
    "arguments,code,message",
    [
        (("--label", "pink cube"), EXIT_USAGE, "no label 'pink cube'; use 0..1 or one of"),
        (("--label", "2"), EXIT_USAGE, "no label '2'"),
        (("--num", "0"), EXIT_USAGE, "--num: 0 is not a whole number from 1"),
        (("--temperature", "0"), EXIT_USAGE, "--temperature: 0 is not a number from 0.001 to 1000"),
        (("--temperature", "nan"), EXIT_USAGE, "--temperature: 'nan' is not a number"),
        (("--top_k", "-1"), EXIT_USAGE, "--top_k: -1 is not"),
        (("--top_p", "0"), EXIT_USAGE, "--top_p: 0 is not"),
        (("--given_frames", "99"), EXIT_USAGE, "given frames"),
        (("--frames", "/absent/video.mp4"), EXIT_DATA, "/absent/video.mp4"),
        ((), EXIT_CHECKPOINT, "holds no trained tokenizer"),
    ],
)
def test_bad_requests_to_sample(
    workdir: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    before = list_files(workdir)
    found, line = run(sample.main, "--workdir", workdir, *arguments, capsys=capsys)
    assert found == code
    assert message in line
    assert list_files(workdir) == before


def test_frames_that_are_no_video(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = workdir.parent / "text.mp4"
    video.write_text("no video")
    code, line = run(sample.main, "--workdir", workdir, "--frames", video, capsys=capsys)
    assert code == EXIT_DATA
    assert "text.mp4" in line


@pytest.mark.parametrize(
    "arguments,code,message",
    [
        (("--protocol", "fvd-2099"), EXIT_USAGE, "unknown protocol 'fvd-2099'; known: moving-"),
        (("--protocol", "folder"), EXIT_USAGE, "scores models of folder or records data"),
        (("--protocol", "moving-shapes", "--clips", "0"), EXIT_USAGE, "--clips: 0 is not"),
        (("--protocol", "moving-shapes"), EXIT_CHECKPOINT, "holds no trained tokenizer"),
    ],
)
def test_bad_requests_to_evaluate(
    workdir: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    before = list_files(workdir)
    found, line = run(evaluate.main, "--workdir", workdir, *arguments, capsys=capsys)
    assert found == code
    assert message in line
    assert list_files(workdir) == before


@pytest.mark.parametrize("main", [sample.main, evaluate.main], ids=["sample", "evaluate"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_is_no_workdir(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], main: Main, exists: bool
) -> None:
    folder = tmp_path / "empty"
    if exists:
        folder.mkdir()
    extra = ("--protocol", "moving-shapes") if main is evaluate.main else ()
    code, line = run(main, "--workdir", folder, *extra, capsys=capsys)
    assert code == EXIT_CHECKPOINT
    assert "is no workdir" in line
    assert folder.exists() == exists


@pytest.mark.parametrize("main", [train.main, sample.main, evaluate.main])
def test_missing_flags_end_with_usage(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_main(main, [])
    assert caught.value.code == EXIT_USAGE
    assert "usage: python -m nbp." in capsys.readouterr().err
