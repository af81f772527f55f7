# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A trained generator gets the draft channel, and loses it: same function, nothing else lost."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from nbp import build, train
from nbp.config import load_config
from nbp.config.schema import Config
from nbp.errors import CheckpointError
from nbp.training.checkpoint import Checkpointer
from nbp.trees import flatten_paths
from nbp.workdir import read_config, read_labels
from tests import tiny
from tests.test_end_to_end import read_rows

DRAFT = {"generator.draft": "True"}
LONGER = {"train.generator.steps": "6"}


def run(workdir: Path, changes: dict[str, str], *arguments: str) -> None:
    command = ["--config", tiny.CONFIG, "--workdir", str(workdir), *tiny.flags(changes)]
    train.main([*command, *arguments])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("plain") / "run"
    run(workdir, {})
    return workdir


@pytest.fixture(scope="module")
def drafted(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain run, trained on with the channel in another workdir."""
    workdir = tmp_path_factory.mktemp("drafted") / "run"
    run(workdir, {**DRAFT, **LONGER}, "--resume_from", str(plain))
    return workdir


def load(**changes: str) -> Config:
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(tiny.CONFIG, {**tiny.OVERRIDES, **keys})


def read_state(workdir: Path, config: Config, step: int, report=lambda text: None):
    task = build.make_generator_task(config, read_labels(workdir), {})
    template = jax.eval_shape(task.init, jax.random.key(0))
    folder = workdir / "generator" / "checkpoints"
    options = {"optional": task.network.optional, "report": report}
    with Checkpointer(folder, read_only=True, **options) as checkpointer:
        checkpointer.check(template, step=step)
        return checkpointer.restore(template, step=step).state


def test_a_state_gets_a_table_of_zeros(plain):
    lines: list[str] = []
    before = flatten_paths(read_state(plain, load(), 4))
    after = flatten_paths(read_state(plain, load(generator__draft="True"), 4, lines.append))
    assert any("has no drafts: zero at first" in line for line in lines)
    new = {path for path in after if path.split("/")[-1] == "drafts"}
    assert {path.split("/")[0] for path in new} == {"params", "ema", "opt_state"}
    assert set(after) - new == set(before)
    for path, leaf in after.items():
        assert np.array_equal(leaf, np.zeros_like(leaf) if path in new else before[path])


def test_training_goes_on_with_the_channel(plain, drafted, capsys):
    rows = read_rows(drafted / "generator" / "metrics.csv")
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(float(row["draft_bits_per_token"])) for row in rows[4:])
    state = read_state(drafted, read_config(drafted), 6)
    assert np.any(state.params["drafts"])
    assert np.any(state.ema["drafts"])
    # The first update that knew drafts began where the plain run had ended.
    start = read_state(plain, load(), 4).params
    moved = np.abs(np.asarray(state.params["tokens"]) - np.asarray(start["tokens"])).max()
    assert moved < 0.05


def test_the_table_is_left_out_with_a_line(drafted, tmp_path, capsys):
    workdir = tmp_path / "back"
    run(workdir, {"train.generator.steps": "7"}, "--resume_from", str(drafted))
    assert "drafts, left out here" in capsys.readouterr().err
    rows = read_rows(workdir / "generator" / "metrics.csv")
    assert int(rows[-1]["step"]) == 7
    state = read_state(workdir, load(), 7)
    assert "drafts" not in state.params


def test_a_forgotten_flag_does_not_lose_the_table(drafted):
    before = {path: path.stat().st_mtime_ns for path in drafted.rglob("*")}
    with pytest.raises(CheckpointError, match="generator.draft=True, or train without it"):
        run(drafted, {"train.generator.steps": "9"})
    assert {path: path.stat().st_mtime_ns for path in drafted.rglob("*")} == before


@pytest.mark.parametrize("draft", [True, False])
def test_a_stage_starts_from_either(plain, drafted, tmp_path, capsys, draft):
    source = plain if draft else drafted
    workdir = tmp_path / "run"
    shutil.copytree(source / "tokenizer", workdir / "tokenizer")
    changes = {"train.generator.start_from": str(source), "generator.draft": str(draft)}
    changes["stages"] = "('generator',)"
    run(workdir, {**changes, "train.generator.steps": "1", "train.generator.learning_rate": "1e-9"})
    text = capsys.readouterr().out
    assert ("has no drafts: zero at first" if draft else "has drafts, left out here") in text
    config = read_config(workdir)
    found = flatten_paths(read_state(workdir, config, 1).params)
    expected = flatten_paths(read_state(source, read_config(source), 4 if draft else 6).ema)
    assert ("drafts" in found) == draft
    for path, leaf in found.items():
        wanted = np.zeros_like(leaf) if path == "drafts" and draft else expected[path]
        np.testing.assert_allclose(leaf, wanted, atol=1e-6)


def test_other_parameters_are_still_refused(plain, tmp_path):
    other = load(generator__draft="True", generator__width="32")
    with pytest.raises(CheckpointError, match="does not fit this configuration"):
        read_state(plain, other, 4)
    with pytest.raises(CheckpointError, match="was trained with another configuration"):
        run(tmp_path / "run", {**DRAFT, "generator.block": "frame"}, "--resume_from", str(plain))
