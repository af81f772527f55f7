# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The first updates of a generator that began with other weights: is a loss that falls believed?"""

import csv
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbp.config import load_config
from nbp.evaluation import during_training
from nbp.evaluation.during_training import EarlyCheck, EarlyScore, StageEvaluators
from nbp.train import train_workdir
from nbp.training.metrics import MetricsWriter
from nbp.training.state import TrainState
from nbp.training.task import Evaluator
from tests import tiny
from tests.evaluated import add_generator, make_workdir

STEPS = (15, 30, 45, 60, 75, 90)


def watch(
    bits: np.ndarray, scores: np.ndarray, *, rises: bool = False, steps: Any = STEPS
) -> list[str]:
    """The lines that are printed where these are measured at the looks."""
    lines: list[str] = []
    found = dict(zip(steps, zip(bits, scores, strict=True), strict=True))
    check = EarlyCheck(
        lambda state: {"bits_per_token": found[int(state.step)][0]},
        EarlyScore("likeness", rises, lambda state, measured: found[int(state.step)][1]),
        note=lines.append,
    )
    for step in steps:
        state = TrainState(np.asarray(step, np.int32), {}, {}, {}, {})
        expected = {"bits_per_token": found[step][0], "likeness": found[step][1]}
        assert check(state) == expected
    return lines


FALLS, STAYS = np.linspace(3.0, 2.0, 6), np.full(6, 3.0)


@pytest.mark.parametrize("rises", [True, False])
def test_it_warns_where_the_loss_falls_and_clips_do_not_improve(rises):
    worse = np.linspace(0.5, 0.3, 6) if rises else np.linspace(0.3, 0.5, 6)
    for scores in (worse, np.full(6, 0.4)):
        (line,) = watch(FALLS, scores, rises=rises)
        assert line.startswith("warning: by step 90 bits per token fell from 2.8 to 2.2, but")
        assert "(likeness 0." in line
        assert "\n" not in line
    assert not watch(FALLS, worse[::-1], rises=rises)
    assert not watch(STAYS, worse, rises=rises)
    assert not watch(FALLS[::-1], worse, rises=rises)


def test_what_is_good_already_need_not_improve():
    assert not watch(FALLS, np.full(6, 0.95), rises=True)
    assert watch(FALLS, np.full(6, 0.95), rises=False)


def test_a_single_look_says_nothing():
    assert not watch(FALLS[:1], STAYS[:1], steps=(90,))
    assert watch(FALLS[:2], STAYS[:2], steps=(75, 90))
    assert not watch(FALLS[:5], STAYS[:5], steps=STEPS[:5])  # it judges at the end


def test_it_looks_at_the_first_updates_alone():
    early = Evaluator("early", 15, lambda state: {}, until=90)
    due = [step for step in range(1, 200) if early.is_due(step, final=step == 199)]
    assert due == list(STEPS)
    assert not early.is_due(7, final=True)
    always = Evaluator("validation", 50, lambda state: {})
    assert [step for step in range(1, 170) if always.is_due(step, final=step == 169)] == [
        50,
        100,
        150,
        169,
    ]


def test_it_is_made_for_runs_that_start_from_other_weights(tmp_path):
    config = load_config(tiny.CONFIG, tiny.OVERRIDES)
    writer = MetricsWriter(tmp_path)

    def list_names(*, started: bool, clips: int = 8) -> list[str]:
        evaluation = dataclasses.replace(config.evaluation, early_clips=clips)
        changed = dataclasses.replace(config, evaluation=evaluation)
        stage = StageEvaluators(changed, lambda state: {}, None)
        stage.early = EarlyScore("likeness", True, lambda state, found: 0.0)
        return [evaluator.name for evaluator in stage.make(writer, started=started)]

    assert config.evaluation.early_clips == 8
    assert list_names(started=True) == ["early"]
    assert list_names(started=False) == list_names(started=True, clips=0) == []


@pytest.mark.slow
def test_a_training_from_other_weights_is_watched(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(during_training, "EARLY_EVERY", 1)
    monkeypatch.setattr(during_training, "EARLY_LAST", 2)
    monkeypatch.setattr(during_training, "FALLEN", -10.0)  # any loss has fallen
    monkeypatch.setattr(during_training, "label_agreement", lambda tracker, clips, names: CHANCE)
    keys = {"generator.block": "frame", "generator.opening": "bov", "generator.opening_blocks": "1"}
    source = add_generator(make_workdir(tmp_path / "source", keys))
    workdir = tmp_path / "run"
    workdir.mkdir()
    shutil.copytree(source / "tokenizer", workdir / "tokenizer")
    keys |= {"stages": "('generator',)", "train.generator.start_from": str(source)}
    keys |= {"train.tokenizer.ema": "0", "train.generator.ema": "0", "evaluation.early_clips": "2"}
    config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, **keys})
    train_workdir(config, workdir)
    assert "warning: by step 2 bits per token fell" in capsys.readouterr().out
    with (workdir / "generator" / "metrics.csv").open() as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    found = {step: row["early/agreement"] for step, row in rows.items() if row["early/agreement"]}
    assert found == {1: "0.25", 2: "0.25"}


CHANCE = {f"{part}_agreement": 0.25 for part in ("colour", "shape", "motion")}
