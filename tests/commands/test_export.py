# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters alone, averaged ones by default, in a workdir that sampling reads."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from nbp import build, build_sampling, export, locks, progress
from nbp.config import load_config, to_json
from nbp.errors import CheckpointError, ConfigError
from nbp.export import PARTIAL
from nbp.files import write_text
from nbp.sampling.settings import SamplingConfig
from nbp.training.checkpoint import Checkpointer
from nbp.workdir import read_config, read_labels, save_labels
from tests import tiny

LABELS = ("left", "right")
CONFIG = load_config(
    tiny.CONFIG,
    {**tiny.OVERRIDES, "train.tokenizer.ema": "0.9", "memory.parameters": "float32"},
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As training leaves it; the average is twice the parameters."""
    folder = tmp_path_factory.mktemp("export") / "run"
    params, digest = {}, ""
    for stage in ("tokenizer", "generator"):
        if stage == "tokenizer":
            task = build.make_tokenizer_task(CONFIG)
        else:
            task = build.make_generator_task(CONFIG, LABELS, params["tokenizer"])
        state = jax.jit(task.init)(jax.random.key(1))
        params[stage] = state.params
        if jax.tree.leaves(state.ema):
            state = dataclasses.replace(state, ema=jax.tree.map(lambda x: 2 * x, state.params))
        meta = {"tokenizer_sha256": digest} if stage == "generator" else {}
        with Checkpointer(folder / stage / "checkpoints") as checkpointer:
            checkpointer.save(7, state, data={"batch": 7}, meta=meta)
            checkpointer.wait()
            digest = checkpointer.checkpoint_hash(7)
    write_text(folder / "config.json", to_json(CONFIG))
    save_labels(folder, LABELS)
    return folder


def read(folder: Path, stage: Any, *, ema: bool) -> list[np.ndarray]:
    network = (
        build.make_tokenizer_network(CONFIG)
        if stage == "tokenizer"
        else build.make_generator_network(CONFIG, LABELS)
    )
    trained = build.load_trained(folder, stage, network=network, ema=ema)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(trained.params)]


def test_the_average_becomes_the_parameters(workdir, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(progress, "QUIET", -1.0)
    export.main(["--workdir", str(workdir), "--out", str(out)])
    told = capsys.readouterr().out
    assert "averaged parameters of step 7" in told
    assert "[export] 2/2 stages read" in told
    count = sum(
        leaf.size for stage in ("tokenizer", "generator") for leaf in read(out, stage, ema=False)
    )
    assert f"[export] {count}/{count} parameters written" in told
    for stage in ("tokenizer", "generator"):
        kept = getattr(CONFIG.train, stage).ema > 0
        for a, b in zip(read(out, stage, ema=False), read(workdir, stage, ema=kept), strict=True):
            np.testing.assert_array_equal(a, b)
    for stage in ("tokenizer", "generator"):
        items = {p.name for p in (out / stage / "checkpoints" / "7").iterdir() if p.is_dir()}
        assert items == {"model", "opt", "data", "meta"}  # of the optimizer nothing but the step
    # What reads workdirs reads this one, the generator with its tokenizer.
    config = read_config(out)
    assert config.train.tokenizer.ema == 0
    sampler, origin = build_sampling.load_sampler(
        config, out, labels=read_labels(out), sampling=SamplingConfig()
    )
    assert origin["generator_step"] == 7
    assert sampler.sample(1, seed=0, labels=[1]).videos.shape == (1, 5, 16, 16, 3)


def test_current_parameters_on_request(workdir, tmp_path):
    export.main(["--workdir", str(workdir), "--out", str(tmp_path / "out"), "--current"])
    found = read(tmp_path / "out", "tokenizer", ema=False)
    for a, b in zip(found, read(workdir, "tokenizer", ema=False), strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_is_overwritten_or_half_made(workdir, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="is not empty"):
        export.main(["--workdir", str(workdir), "--out", str(tmp_path / "full")])
    assert (tmp_path / "full" / "file").read_text() == "mine"
    empty = tmp_path / "empty"
    write_text(empty / "config.json", to_json(CONFIG))
    with pytest.raises(CheckpointError, match="nothing that is trained"):
        export.main(["--workdir", str(empty), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


STAGES = ("tokenizer", "generator")


@pytest.mark.parametrize(
    "moved",
    [(), ("generator",), ("generator", "labels.json", "tokenizer"), (*STAGES, "config.json")],
)
def test_a_killed_export_begins_anew(workdir, tmp_path, moved):
    """Whatever was moved to its place when it was killed; SIGKILL leaves no time to tidy up."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    export.main(["--workdir", str(workdir), "--out", str(whole)])
    (out / PARTIAL / "tokenizer").mkdir(parents=True)
    for name in moved:
        copy = shutil.copytree if (whole / name).is_dir() else shutil.copy
        copy(whole / name, out / name)
    if "tokenizer" in moved:
        (out / PARTIAL / "tokenizer").rmdir()
    export.main(["--workdir", str(workdir), "--out", str(out)])
    assert {p.name for p in out.iterdir()} == {*STAGES, "labels.json", "config.json"}
    for stage in STAGES:
        for a, b in zip(read(out, stage, ema=False), read(whole, stage, ema=False), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_killed_export_does_not_make_other_files_ours(workdir, tmp_path):
    out = tmp_path / "out"
    (out / PARTIAL).mkdir(parents=True)
    (out / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="is not empty"):
        export.main(["--workdir", str(workdir), "--out", str(out)])
    assert sorted(path.name for path in out.iterdir()) == [PARTIAL, "file"]


def snapshot(folder: Path) -> dict[str, tuple[bytes | None, int]]:
    """Bytes and time of every file, and the time of every folder."""
    return {
        str(path.relative_to(folder)): (
            path.read_bytes() if path.is_file() else None,
            path.stat().st_mtime_ns,
        )
        for path in (folder, *folder.rglob("*"))
    }


def refuses(
    workdir: Path, out: Path, *flags: str, match: str = "is not empty: use another --out"
) -> None:
    before = snapshot(out)
    with pytest.raises(CheckpointError, match=match):
        export.main(["--workdir", str(workdir), "--out", str(out), *flags])
    assert snapshot(out) == before


@pytest.mark.parametrize("flags", [(), ("--current",)])
def test_a_whole_export_is_done_already(workdir, tmp_path, capsys, flags):
    """A job that is started again after it ended, or was killed while it ended."""
    out, moved = tmp_path / "out", tmp_path / "moved"
    export.main(["--workdir", str(workdir), "--out", str(out), *flags])
    (out / "samples").mkdir()  # what was made with it since
    before = snapshot(out)
    shutil.copytree(workdir, moved)
    for source in (workdir, moved):
        capsys.readouterr()
        export.main(["--workdir", str(source), "--out", str(out), *flags])
        lines = capsys.readouterr().out.splitlines()
        assert lines == [
            f"[export] already exported: tokenizer of step 7, generator of step 7 in {out}"
        ]
        assert snapshot(out) == before
    refuses(workdir, out, *(() if flags else ("--current",)))


def test_another_export_is_not_taken_for_this_one(workdir, tmp_path):
    out, source = tmp_path / "out", tmp_path / "source"
    export.main(["--workdir", str(workdir), "--out", str(out)])

    def change(name: str) -> Path:
        shutil.rmtree(source, ignore_errors=True)
        shutil.copytree(workdir, source)
        if name == "labels":
            save_labels(source, ("up", "down"))
        elif name == "config":
            sampling = dataclasses.replace(CONFIG.sampling, batch=CONFIG.sampling.batch + 1)
            write_text(
                source / "config.json", to_json(dataclasses.replace(CONFIG, sampling=sampling))
            )
        elif name == "stage":
            shutil.rmtree(source / "generator")
        else:  # later, or at the same step after another training
            folder = source / "tokenizer" / "checkpoints"
            if name == "other":
                shutil.rmtree(folder / "7")
            state = build.make_tokenizer_task(CONFIG).init(jax.random.key(2))
            with Checkpointer(folder) as checkpointer:
                checkpointer.save(7 if name == "other" else 8, state, data={}, meta={})
        return source

    for name in ("labels", "config", "stage"):
        refuses(change(name), out)
    for name in ("other", "later"):  # nor is it an export of its own: codes of two tokenizers
        refuses(change(name), out, match="was trained on the tokenizer")
    export.main(["--workdir", str(change("stage")), "--out", str(tmp_path / "one")])
    refuses(workdir, tmp_path / "one")  # lacks the generator
    # Damaged, trained on, or without a part of it: nothing that can be counted on.
    whole = tmp_path / "whole"
    out.rename(whole)
    for name in ("INTEGRITY.json", "bytes", "labels.json", "config.json", "8"):
        shutil.copytree(whole, out)
        if name == "INTEGRITY.json":
            (out / "tokenizer" / "checkpoints" / "7" / name).write_text('{"files": {"model/x": 1}}')
        elif name == "bytes":
            files = (out / "generator" / "checkpoints" / "7" / "model").rglob("*")
            largest = max((p for p in files if p.is_file()), key=lambda p: p.stat().st_size)
            largest.write_bytes(bytes(largest.stat().st_size))
        elif name == "8":
            shutil.copytree(*(out / "tokenizer" / "checkpoints" / step for step in ("7", "8")))
        else:
            (out / name).unlink()
        refuses(workdir, out)
        shutil.rmtree(out)


def test_two_exports_into_one_folder(workdir, tmp_path):
    (tmp_path / "out").mkdir()
    with (
        locks.lock_folder(tmp_path / "out"),
        pytest.raises(ConfigError, match="another process exports"),
    ):
        export.main(["--workdir", str(workdir), "--out", str(tmp_path / "out")])
    assert not list((tmp_path / "out").iterdir())
