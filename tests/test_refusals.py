# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A refused command changes nothing: every command, each way in which it is refused.

What lies around is compared before and after, names, bytes and times of change.
"""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from nbp import (
    build,
    build_data,
    convert,
    encode,
    evaluate,
    export,
    fit,
    precompile,
    prepare,
    sample,
    sweep,
    train,
)
from nbp.config import load_config
from nbp.config.schema import Config
from nbp.errors import RestartError, run_main
from nbp.report import __main__ as report
from nbp.stages import adopt_config
from nbp.training.checkpoint import Checkpointer
from nbp.workdir import save_labels
from tests import tiny
from tests.data import videos

COMMANDS = {
    module.__name__.removesuffix(".__main__").rpartition(".")[2]: module.main
    for module in (
        *(train, sample, evaluate, encode, export, prepare, convert, precompile, report),
        *(sweep, fit),
    )
}
SWEEP = "configs/sweeps/blocks.py"
KEYS = {"data.kind": "folder", "data.validation": "0", "generator.prompt": "label"}
STEP, BATCH = 4, 8


def make_videos(root: Path, classes: tuple[str, ...], *, seed: int = 0) -> Path:
    for i, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        clip = videos.make_clip(6, 16, 16, seed=seed + i)
        videos.encode(root / name / "clip.mp4", clip)
    return root


def save_stage(folder: Path, config: Config, stage: str, task: Any, **meta: Any) -> str:
    """A checkpoint as the training of a stage leaves it, of a state before any update."""
    state = jax.jit(task.init)(jax.random.key(0))
    train_clips, _ = build_data.make_data(config)
    data = {
        "next": STEP * BATCH,
        "fingerprint": build_data.find_fingerprint(
            config, getattr(config.train, stage), train_clips
        ),
    }
    with Checkpointer(folder / stage / "checkpoints") as checkpointer:
        for step in (STEP - 2, STEP):
            checkpointer.save(step, state, data=data, meta=meta)
        checkpointer.wait()
        return checkpointer.checkpoint_hash(STEP)


class Place:
    """A folder with a finished run, its data, other data, and places to write to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = make_videos(root / "data", ("a", "b"))
        self.other = make_videos(root / "other", ("cat", "dog"), seed=5)
        make_videos(root / "more", ("a", "b", "c"))
        (root / "nothing").mkdir()
        self.run = root / "run"
        self.run.mkdir()
        config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, **KEYS, "data.root": str(self.data)})
        adopt_config(config, self.run, report=lambda text: None)
        save_labels(self.run, ("a", "b"))
        sha = save_stage(self.run, config, "tokenizer", build.make_tokenizer_task(config))
        task = build.make_generator_task(config, ("a", "b"), {})
        save_stage(self.run, config, "generator", task, tokenizer_sha256=sha)
        (root / "full").mkdir()
        (root / "full" / "mine").write_text("precious")
        (root / "file").write_text("precious")
        os.symlink(self.run, root / "link")
        make_videos(root / "linked", ("a", "b"))
        os.symlink(root / "full", root / "linked" / "c")
        (root / "weights.pt").write_bytes(b"not weights" * 9)

    def fill(self, arguments: tuple[str, ...]) -> list[str]:
        """Arguments with {run}, {data} and the like as paths."""
        return [text.replace("@", f"{self.root}/") for text in arguments]


def damage(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


def look(root: Path) -> dict[str, Any]:
    """Every name below a folder with its kind, contents and time of change."""
    found: dict[str, Any] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        content: Any = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        # A new folder that is taken away again shows in the times of the one it was in.
        time = None if path == root else status.st_mtime_ns
        found[str(path.relative_to(root))] = (status.st_mode, time, content)
    return found


def refuse(
    place: Place, capsys: pytest.CaptureFixture[str], command: str, *arguments: str
) -> tuple[int, str]:
    """Runs a command that must fail with one line and change nothing; its code and line."""
    before = look(place.root)
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run_main(COMMANDS[command], place.fill(arguments))
    after = look(place.root)
    changed = sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
    error = capsys.readouterr().err
    assert not changed, (changed, error)
    code = caught.value.code
    assert isinstance(code, int)
    assert code in (2, 3, 4), error
    lines = [line for line in error.splitlines() if line.startswith("nbp: ")]
    if lines:  # argparse writes its usage
        assert "Traceback" not in error
    return code, error


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture
def copy(place: Place, tmp_path: Path) -> Place:
    """The same, for a test that damages it."""
    shutil.copytree(place.root, tmp_path / "copy", symlinks=True)
    other = object.__new__(Place)
    other.root, other.run = tmp_path / "copy", tmp_path / "copy" / "run"
    return other


def training(workdir: str, **changes: str) -> tuple[str, ...]:
    keys = {**KEYS, "data.root": "@data", **{k.replace("__", "."): v for k, v in changes.items()}}
    return ("--config", tiny.CONFIG, "--workdir", workdir, *tiny.flags(keys))


MORE_STEPS = {"train__generator__steps": "6"}
# What is wrong with the command, whichever workdir it is for.
USAGE: dict[str, tuple[dict[str, str], int, str]] = {
    "unknown_key": ({"generator__blok": "row"}, 2, "did you mean generator.block"),
    "wrong_type": ({"train__keep": "'three'"}, 2, "train.keep"),
    "out_of_range": ({"train__log_every": "0"}, 2, "train.log_every"),
    "misfit": ({"generator__heads": "3"}, 2, "generator.heads"),
    "mesh": ({"mesh__data": "16"}, 2, "mesh"),
    "batch_and_mesh": ({"mesh__data": "8", "train__tokenizer__batch": "3"}, 2, "batch of 3"),
    "guards": ({"train__guards__loss_ratio": "0.5"}, 2, "loss_ratio"),
    "trace": ({"train__profile_steps": "(5, 2)"}, 2, "profile_steps"),
    "no_data": ({"data__root": "@absent"}, 3, "no such folder"),
    "data_is_a_file": ({"data__root": "@file"}, 3, "not a folder"),
    "no_videos": ({"data__root": "@nothing"}, 3, "no video files"),
    "no_images": ({"images__batch": "8", "images__root": "@absent"}, 3, "absent"),
    "home": ({"data__root": "~nobody-of-this-name/x"}, 2, "home folder"),
    "variable": ({"data__root": "$NBP_NOT_SET/x"}, 2, "NBP_NOT_SET"),
    "no_weights": ({"losses__perceptual": "lpips", "losses__lpips_root": "@absent"}, 4, "LPIPS"),
    "no_features": (
        {"evaluation__protocol": "folder", "evaluation__features": "@absent"},
        2,
        "evaluation.features",
    ),
    "protocol": ({"evaluation__protocol": "imaginary"}, 2, "evaluation.protocol"),
    "text_of_no_class": ({"generator__prompt": "text"}, 2, "text"),
    "guidance": ({"generator__prompt": "none", "sampling__guidance": "2"}, 2, "guidance"),
    "given_frames": ({"evaluation__given_frames": "9"}, 2, "given frames"),
}


@pytest.mark.parametrize(
    "workdir", ["@new/deep", pytest.param("@run", marks=pytest.mark.slow)], ids=["new", "run"]
)
@pytest.mark.parametrize("case", USAGE)
def test_training_that_cannot_be(
    place: Place, capsys: pytest.CaptureFixture[str], case: str, workdir: str
) -> None:
    changes, code, text = USAGE[case]
    found, line = refuse(place, capsys, "train", *training(workdir, **changes))
    binding = ("data.", "generator.", "tokenizer.")
    if workdir == "@run" and found == 4 and any(f"{key}" in line for key in binding):
        return  # that this workdir is another one's was found first
    assert found == code, line
    assert text in line


OTHERS: dict[str, tuple[dict[str, str], int, str]] = {
    "tokenizer": ({"tokenizer__levels": "(5, 5)"}, 4, "levels was (4, 4), now (5, 5)"),
    "width": ({"generator__width": "32"}, 4, "generator.width"),
    "optimizer": ({"train__tokenizer__optimizer": "muon"}, 4, "does not fit"),
    "average": ({"train__generator__ema": "0"}, 4, "does not fit"),
    "data": ({"data__root": "@other"}, 4, "data differ"),
    "added_class": ({"data__root": "@more"}, 4, ""),
    "data_of_the_generator": ({"data__root": "@other", "stages": "('generator',)"}, 4, "differ"),
    "accepted_data_other_classes": (
        {"data__root": "@other", "train__changed_data": "accept"},
        4,
        "0 was 'a', now 'cat'",
    ),
    "position": ({"train__generator__batch": "5"}, 2, "no multiple of the batch of 5"),
    "tokenizer_under_the_generator": ({"train__tokenizer__steps": "9"}, 4, "would change it"),
    "above_the_data": ({"data__root": "@", **MORE_STEPS}, 2, "lies in data.root"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_training_that_does_not_fit_the_workdir(
    place: Place, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    changes, code, text = OTHERS[case]
    found, line = refuse(place, capsys, "train", *training("@run", **changes))
    assert (found, text in line) == (code, True), line


@pytest.mark.parametrize(
    "workdir,changes,text",
    [
        ("@data/run", {}, "lies in data.root"),
        ("@data/a/deep/run", {}, "lies in data.root"),
        ("@full/run", {"data__root": "@linked"}, "through the link"),
        ("@new", {"data__root": "@"}, "data.root"),
        ("@elsewhere", {"data__root": "@run"}, "holds the workdir of a run"),
        ("@file", {}, "is a file"),
        ("@file/run", {}, "is a file"),
    ],
)
def test_workdirs_in_places_that_cannot_be(
    place: Place,
    capsys: pytest.CaptureFixture[str],
    workdir: str,
    changes: dict[str, str],
    text: str,
) -> None:
    code, line = refuse(place, capsys, "train", *training(workdir, **changes))
    assert (code, text in line) == (2, True), line


@pytest.mark.parametrize(
    "flags,code,text",
    [
        (("--resume_from", "@absent"), 4, "is no workdir"),
        (("--resume_from", "@nothing"), 4, "is no workdir"),
        (("--resume_from", "@run", "--resume_step", "3"), 4, "no generator checkpoint 3"),
        (("--resume_step", "3"), 2, "--resume_from"),
        (("--resume_from", "@run", "--config.tokenizer.levels=(5, 5)"), 4, "levels was"),
        (("--resume_from", "@run", "--config.data.root=@other"), 4, "data differ"),
        (("--resume_from", "@run", "--config.generator.width=32"), 4, "generator.width"),
        (("--config.train.tokenizer.start_from=@absent",), 4, "is no workdir"),
        (("--config.train.generator.start_from=@nothing",), 4, "is no workdir"),
        (
            ("--config.train.tokenizer.start_from=@run", "--config.tokenizer.widths=(8, 8)"),
            4,
            "other shapes",
        ),
        (("--config.stages=('generator',)",), 4, "holds no trained tokenizer"),
    ],
)
def test_new_workdirs_that_cannot_begin_elsewhere(
    place: Place,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    code: int,
    text: str,
) -> None:
    found, line = refuse(place, capsys, "train", *training("@new/run"), *flags)
    assert (found, text in line) == (code, True), line


def test_a_workdir_that_has_begun_is_not_resumed_from_elsewhere(
    copy: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(copy.run, copy.root / "second")
    arguments = ("--resume_from", "@second")
    code, line = refuse(copy, capsys, "train", *training("@run"), *arguments)
    assert (code, "has begun already" in line) == (4, True)


@pytest.mark.parametrize("lock", ["run", "run/tokenizer/checkpoints/.lock"])
def test_a_second_run_in_a_running_workdir(
    copy: Place, capsys: pytest.CaptureFixture[str], lock: str
) -> None:
    """Also one of an older version, which holds the lock of its stage alone."""
    handle = os.open(copy.root / lock, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        # Whatever else is wrong with it: who else trains there is looked at first.
        for changes in ({}, {"tokenizer__levels": "(5, 5)"}, {"data__root": "@other"}):
            code, line = refuse(copy, capsys, "train", *training("@run", **changes))
            assert (code, "another process trains" in line) == (2, True), line
    finally:
        os.close(handle)


def remove_tokenizer(run: Path) -> None:
    shutil.rmtree(run / "tokenizer")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "all_weights": (
        lambda run: (
            [damage(p) for p in run.glob("generator/checkpoints/*/model/*.json")]
            or [damage(p) for p in run.glob("generator/checkpoints/*/model/**/*") if p.is_file()]
        ),
        "no good checkpoint is left",
    ),
    "configuration": (lambda run: (run / "config.json").write_text("{"), "cannot be read"),
    "labels": (lambda run: (run / "labels.json").write_text("["), "cannot be read"),
    "journal": (
        lambda run: (run / "generator/checkpoints/rollbacks.json").write_text("{"),
        "rollbacks.json is unreadable",
    ),
    "start": (lambda run: (run / "tokenizer/start.json").write_text("{"), "start.json cannot"),
    "another_tokenizer": (
        lambda run: (
            damage(run / f"tokenizer/checkpoints/{STEP}/meta/metadata"),
            shutil.rmtree(run / f"tokenizer/checkpoints/{STEP - 2}"),
        ),
        "no good checkpoint",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_training_on_in_a_damaged_workdir(
    copy: Place, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    change, text = DAMAGES[case]
    change(copy.run)
    root = {"data__root": "@data"}
    code, line = refuse(copy, capsys, "train", *training("@run", **root, **MORE_STEPS))
    assert (code, text in line) == (4, True), line


@pytest.mark.parametrize("folder", ["run", "run/generator", "run/generator/checkpoints"])
def test_folders_without_rights(
    place: Place,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
) -> None:
    """The superuser of a container has all rights, so the answer of the system is replaced."""
    closed, access = str(place.root / folder), os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode, **o: str(path) != closed and access(path, mode, **o)
    )
    code, line = refuse(place, capsys, "train", *training("@run", **MORE_STEPS))
    assert (code, "no right to write" in line) == (2, True), line


def test_places_of_export_and_encode_without_rights(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *arguments, **options: False)
    for command in ("export", "encode"):
        code, line = refuse(place, capsys, command, "--workdir", "@run", "--out", "@nothing/out")
        assert (code, "no right to write" in line) == (2, True), line


OTHER_COMMANDS: list[tuple[str, tuple[str, ...], int, str]] = [
    *(
        ("sample", ("--workdir", "@run", "--out", "@nothing/out", *flags), code, text)
        for flags, code, text in (
            (("--label", "cat"), 2, "no label"),
            (("--num", "0"), 2, "not a whole number from 1"),
            (("--temperature", "0"), 2, "temperature"),
            (("--top_k", "-1"), 2, "top_k"),
            (("--top_p", "0"), 2, "top_p"),
            (("--frames", "@absent.mp4", "--given_frames", "1"), 3, "absent"),
            (("--frames", "@file", "--given_frames", "1"), 3, "file"),
            (("--given_frames", "99"), 2, "given frames"),
            (("--radius", "2"), 2, "radius"),
            (("--decoding", "imaginary"), 2, "decoding"),
            (("--per_class", "0"), 2, "per_class"),
            (("--samples_per_condition", "0"), 2, "samples_per_condition"),
        )
    ),
    ("sample", ("--workdir", "@absent", "--out", "@new"), 4, "is no workdir"),
    (
        "sample",
        (
            "--workdir",
            "@nothing",
        ),
        4,
        "is no workdir",
    ),
    *(
        ("evaluate", ("--workdir", "@run", *flags), code, text)
        for flags, code, text in (
            (("--protocol", "imaginary"), 2, "imaginary"),
            (("--protocol", "folder", "--features", "@absent"), 2, "I3D"),
            (("--protocol", "reconstruction", "--data", "@absent"), 3, "absent"),
            (("--protocol", "reconstruction", "--config.seed=3"), 2, "only keys of data"),
            (("--protocol", "reconstruction", "--config.data.siz=3"), 2, "data.size"),
            (("--protocol", "reconstruction", "--statistics", "x"), 2, "x"),
            (("--protocol", "reconstruction", "--lpips", "@absent"), 4, "LPIPS"),
            ((), 2, "--protocol"),
        )
    ),
    ("evaluate", ("--workdir", "@nothing", "--protocol", "reconstruction"), 4, "is no workdir"),
    *(
        ("encode", ("--workdir", "@run", "--out", "@nothing/out", *flags), code, text)
        for flags, code, text in (
            (("--crops", "0"), 2, "crops"),
            (("--seed", "-1"), 2, "seed"),
            (("--batch", "0"), 2, "batch"),
            (("--shard", "3/2"), 2, "--shard"),
            (("--data", "@absent"), 3, "absent"),
            (("--config.data.siz=3",), 2, "data.size"),
            (("--config.data.siz=3", "--config.seed=1"), 2, "only keys of data"),
            (("--confg.data.size=3",), 2, "unknown argument"),
        )
    ),
    ("encode", ("--workdir", "@absent", "--out", "@new"), 4, "is no workdir"),
    ("encode", ("--workdir", "@run", "--out", "@file"), 2, "is a file"),
    ("encode", ("--workdir", "@run", "--out", "@data/tokens"), 2, "lies in the videos"),
    ("export", ("--workdir", "@run", "--out", "@full"), 4, "is not empty"),
    ("export", ("--workdir", "@run", "--out", "@run"), 4, "is not empty"),
    *(
        ("export", ("--workdir", "@run", *flags), code, text)
        for flags, code, text in (
            (("--out", "@full", "--format", "safetensors"), 4, "is not empty"),
            (("--out", "@file", "--format", "safetensors"), 2, "is a file"),
            (("--out", "@new", "--format", "official"), 2, "use --format safetensors"),
            (("--out", "@new", "--license", "mit"), 2, "--license goes with"),
            (("--out", "@new", "--format", "safetensors", "--license", "my own"), 2, "as hubs do"),
            (("--out", "@new", "--format", "safetensors", "--shard_gb", "0"), 2, "--shard_gb"),
        )
    ),
    ("export", ("--workdir", "@run", "--out", "@file"), 2, "is a file"),
    ("export", ("--workdir", "@run", "--out", "@file/out"), 2, "is a file"),
    ("export", ("--workdir", "@absent", "--out", "@new"), 4, "is no workdir"),
    ("prepare", ("folder", "--videos", "@data", "--out", "@data/out"), 2, "lies in --videos"),
    ("prepare", ("folder", "--videos", "@linked", "--out", "@full/out"), 2, "through the link"),
    ("prepare", ("folder", "--videos", "@data", "--out", "@new", "--size", "x"), 2, "--size"),
    ("prepare", ("folder", "--videos", "@data", "--out", "@new", "--shard", "2/2"), 2, "--shard"),
    ("convert", ("tokenizer", "--source", "@absent", "--out", "@new"), 4, "absent"),
    ("convert", ("tokenizer", "--source", "@weights.pt", "--out", "@new"), 4, "weights.pt"),
    ("convert", ("i3d", "--source", "@weights.pt", "--out", "@full"), 4, "weights.pt"),
    (
        "convert",
        ("tokenizer", "--source", "@weights.pt", "--out", "@new", "--levels", "x"),
        2,
        "--levels",
    ),
    ("precompile", ("--config", tiny.CONFIG, "--topology", "x", "--out", "@new/r.json"), 2, "x"),
    (
        "precompile",
        ("--config", "@absent.py", "--topology", "cpu:2", "--out", "@new/r.json"),
        2,
        "no config file",
    ),
    ("sweep", ("@absent.py", "--workdir", "@new"), 2, "no config file"),
    ("sweep", ("@file", "--workdir", "@new"), 2, "is no Python file"),
    ("sweep", (SWEEP, "--workdir", "@new", "--index", "1"), 2, "--index I and --of N"),
    ("sweep", (SWEEP, "--workdir", "@new", "--index", "2", "--of", "2"), 2, "I from 0 to N - 1"),
    ("sweep", (f"{SWEEP}:large", "--workdir", "@new"), 2, "has no variant 'large'"),
    ("sweep", (SWEEP, "--workdir", "@file/new"), 2, "is a file"),
    ("fit", ("@absent",), 4, "is no workdir"),
    ("fit", ("@file",), 3, "is no table of nbp.sweep"),
    ("fit", ("@run",), 4, "no metrics of a generator"),
    ("fit", ("@run", "--baseline", "row", "--out", "@new"), 2, "give both, or neither"),
    ("fit", ("@run", "--budgets", "1e18,much", "--out", "@new"), 2, "write operations"),
    ("report", ("--workdir", "@absent", "--out", "@new/page.html"), 4, "is no workdir"),
    ("report", ("--workdir", "@run", "--out", "@new/page.html"), 3, "nothing to show"),
    ("report", ("@run", "@file", "--out", "@new/page.html"), 4, "is no workdir"),
    ("report", ("@run", "@absent", "--out", "@new/page.html"), 3, "curves or scores to show"),
    ("report", ("@run", "--gallery", "--out", "@new/page.html"), 3, "no generated clips"),
]


@pytest.mark.parametrize(
    "command,arguments,code,text",
    OTHER_COMMANDS,
    ids=[f"{c}-{i}" for i, (c, *_) in enumerate(OTHER_COMMANDS)],
)
def test_other_commands(
    place: Place,
    capsys: pytest.CaptureFixture[str],
    command: str,
    arguments: tuple[str, ...],
    code: int,
    text: str,
) -> None:
    found, line = refuse(place, capsys, command, *arguments)
    assert (found, text in line) == (code, True), line


def test_a_checkpoint_that_is_damaged_is_left_alone_by_readers(
    copy: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in copy.run.glob("tokenizer/checkpoints/*/*/**/*"):
        if path.is_file() and path.stat().st_size:
            damage(path)
    for command in ("sample", "export", "encode"):
        code, line = refuse(copy, capsys, command, "--workdir", "@run", "--out", "@new")
        assert (code, "no good checkpoint" in line) == (4, True), line


def test_what_would_be_seen(place: Place) -> None:
    """The comparison above is no empty one."""
    assert set(COMMANDS) == {command for command, *_ in OTHER_COMMANDS} | {"train"}
    before = look(place.root)
    assert f"run/tokenizer/checkpoints/{STEP}/INTEGRITY.json" in before
    mark = place.root / "file"
    mark.write_text("preciouS")
    os.utime(mark, ns=(0, before["file"][1]))
    assert {name for name, found in look(place.root).items() if found != before[name]} == {"file"}
    mark.write_text("precious")


def test_a_disk_that_is_full_is_found_before_the_work(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(place.root)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    before = look(place.root)
    for command in ("export", "encode"):
        arguments = ("--workdir", "@run", "--out", "@nothing/out")
        with pytest.raises(RestartError, match="the disk is full"):
            COMMANDS[command](place.fill(arguments))
        with pytest.raises(RestartError, match="the disk is full"):
            train.main(place.fill(training("@new/run")))
    assert look(place.root) == before
