# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A new workdir goes on from another one's checkpoint."""

import csv
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from nbp import build, train
from nbp.config import load_config
from nbp.errors import CheckpointError
from nbp.training.checkpoint import Checkpointer
from nbp.workdir import resume_from
from tests import tiny

CHANGES = {"stages": "('tokenizer',)", "train.tokenizer.ema": "0.5"}


def run(workdir: Path, *arguments: str) -> None:
    command = ["--config", tiny.CONFIG, "--workdir", str(workdir), *tiny.flags(CHANGES)]
    train.main([*command, *arguments])


def steps(workdir: Path) -> set[str]:
    return {p.name for p in (workdir / "tokenizer" / "checkpoints").iterdir() if p.is_dir()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("trained") / "run"
    run(workdir)
    return workdir


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "source"))


def test_from_an_earlier_step_it_becomes_the_same(trained, tmp_path, capsys):
    other = tmp_path / "other"
    flags = ("--resume_from", str(trained), "--resume_step", "2")
    run(other, *flags)
    assert "resumed from" in capsys.readouterr().out
    compare_arrays(trained, other)
    with (other / "tokenizer" / "metrics.csv").open(encoding="utf8") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [1, 2, 3, 4]
    before = (trained / "tokenizer" / "metrics.csv").read_bytes()
    run(other, *flags)  # the same command again finds everything done
    assert (trained / "tokenizer" / "metrics.csv").read_bytes() == before
    with pytest.raises(CheckpointError, match="was resumed from .*, not from"):
        resume_from(Path(shutil.copytree(trained, tmp_path / "third")), other)


def compare_arrays(first: Path, second: Path) -> None:
    """The final state of both, array by array."""
    config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, **CHANGES})
    task = build.make_tokenizer_task(config)
    template = jax.eval_shape(task.init, jax.random.key(0))
    states = []
    for workdir in (first, second):
        with Checkpointer(workdir / "tokenizer" / "checkpoints", read_only=True) as checkpointer:
            states.append(checkpointer.restore(template, step=4))
    assert states[0].data == states[1].data
    jax.tree.map(np.testing.assert_array_equal, states[0].state, states[1].state)


def test_the_newest_whole_checkpoint_is_taken(copied, tmp_path, capsys):
    damaged = next((copied / "tokenizer" / "checkpoints" / "4" / "model").rglob("*/d/*"))
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    resume_from(copied, tmp_path / "new")
    assert steps(tmp_path / "new") == {"2"}
    assert "checkpoint 4" in capsys.readouterr().err
    assert steps(copied) >= {"2", "4"}, "the source is only read"
    note = json.loads((tmp_path / "new" / "resumed_from.json").read_text())
    assert note["steps"] == {"tokenizer": 2}


def test_what_cannot_be_resumed_is_said(copied, trained, tmp_path):
    with pytest.raises(CheckpointError, match=r"has no tokenizer checkpoint 3: it has \[.*2, 4\]"):
        resume_from(trained, tmp_path / "new", step=3)
    assert not (tmp_path / "new").exists()
    with pytest.raises(CheckpointError, match="is no workdir"):
        resume_from(tmp_path / "absent", tmp_path / "new")
    with pytest.raises(CheckpointError, match="has begun already"):
        resume_from(trained, copied)
    for step in (copied / "tokenizer" / "checkpoints").glob("[0-9]*"):
        shutil.rmtree(step)
    with pytest.raises(CheckpointError, match="nothing is trained there"):
        resume_from(copied, tmp_path / "new")
    assert not (tmp_path / "new" / "config.json").exists()
