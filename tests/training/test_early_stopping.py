# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The best checkpoint is kept, and a run that does not improve ends, the same after a restart."""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from nbp.config import load_config
from nbp.errors import CheckpointError, ConfigError
from nbp.training.checkpoint import Checkpointer
from nbp.training.early_stopping import BestSpec, ScoreHistory
from nbp.training.state import TrainState
from nbp.training.task import Evaluator
from tests import tiny
from tests.training.toy import ToyTask, to_bytes, train

LOSS = BestSpec("validation/loss", "min", patience=3)
# Evaluated every two updates: the best is at step 6, so the third one without a better is at 12.
CURVE = {2: 5.0, 4: 3.0, 6: 1.0, 8: 2.0, 10: 1.0, 12: math.nan, 14: 0.5}


class Killed(Exception):
    pass


def run(
    directory: Path, spec: BestSpec = LOSS, *, stop_at: int | None = None, **options: Any
) -> TrainState:
    """Trains the toy with the scores of CURVE; at batch `stop_at` it dies."""

    def at_draw(batch: int) -> None:
        if batch == stop_at:
            raise Killed

    def measure(state: TrainState) -> dict[str, float]:
        return {"loss": CURVE.get(int(state.step), 9.0), "other": 0.0}

    evaluators = [Evaluator("validation", 2, measure), *options.pop("evaluators", ())]
    checkpointer = Checkpointer(
        directory / "checkpoints", keep=2, keep_best=spec.score, best_mode=spec.mode
    )
    options |= {"checkpointer": checkpointer, "evaluators": evaluators, "best": spec}
    return train(directory, at_draw=at_draw, checkpoint_every=5, **options)


def list_steps(directory: Path) -> list[int]:
    with Checkpointer(directory / "checkpoints", read_only=True) as reader:
        return reader.all_steps()


def test_the_best_checkpoint_stays_and_training_ends_when_patience_does(tmp_path: Path) -> None:
    ended: list[int] = []
    last = Evaluator("preview", 7, lambda state: ended.append(int(state.step)) or {})
    state = run(tmp_path, evaluators=[last])
    assert int(state.step) == 12
    assert list_steps(tmp_path) == [6, 10, 12], "two newest, and the best between regular ones"
    assert ended == [7, 12], "what is made after the last update is made"
    with Checkpointer(tmp_path / "checkpoints", read_only=True) as reader:
        assert reader.find_best() == 6
        template = jax.eval_shape(ToyTask().init, jax.random.key(0))
        best = reader.restore_params(template.params, use_ema=False, step=6)
    short = train(tmp_path / "short", steps=6)
    for ours, theirs in zip(jax.tree.leaves(best), jax.tree.leaves(short.params), strict=True):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def test_without_patience_all_steps_are_trained(tmp_path: Path) -> None:
    state = run(tmp_path, BestSpec("validation/loss", "min"))
    assert int(state.step) == 20
    assert list_steps(tmp_path) == [14, 15, 20]


@pytest.mark.parametrize("stop_at", [3, 7, 9, 11])
def test_a_run_that_was_killed_decides_as_one_that_was_not(tmp_path: Path, stop_at: int) -> None:
    with pytest.raises(Killed):
        run(tmp_path, stop_at=stop_at)
    state = run(tmp_path)
    assert int(state.step) == 12
    assert 6 in list_steps(tmp_path)
    assert to_bytes(state) == to_bytes(train(tmp_path / "plain", steps=12, checkpoint_every=5))


def test_an_ended_run_stays_ended_unless_patience_grows(tmp_path: Path, capsys: Any) -> None:
    run(tmp_path)
    told = capsys.readouterr().out
    assert "ends early: validation/loss was 1 at step 6 and not better in 3 evaluations" in told
    assert int(run(tmp_path).step) == 12
    assert "already trained for 12 of 20 steps: validation/loss was 1" in capsys.readouterr().out
    assert int(run(tmp_path, BestSpec("validation/loss", "min", 4)).step) == 20
    assert list_steps(tmp_path) == [14, 15, 20]


def test_another_score_begins_anew(tmp_path: Path) -> None:
    run(tmp_path)
    state = run(tmp_path, BestSpec("validation/other", "max", 2))
    assert int(state.step) == 18, "better at 14, the first one, then twice not"
    with Checkpointer(tmp_path / "checkpoints", read_only=True) as reader:
        assert reader.find_best() == 14


def test_without_scores_there_is_no_best(tmp_path: Path) -> None:
    train(tmp_path, steps=2)
    with (
        Checkpointer(tmp_path / "checkpoints", read_only=True) as reader,
        pytest.raises(CheckpointError, match=r"no checkpoint in .* has a score\. Train with"),
    ):
        reader.find_best()


def test_histories() -> None:
    history = ScoreHistory(BestSpec("evaluation/fvd", "min", 2))
    assert history.save() == {}
    assert history.observe(1, {"evaluation/fvd_random_features_64": 3.0, "other/fvd": 1.0})
    assert not history.observe(2, {"validation/loss": 0.0})
    assert not history.observe(3, {"evaluation/fvd": math.inf})
    assert not history.is_over
    assert not history.observe(5, {"evaluation/fvd": 3.0}), "the first of equal ones is the best"
    assert history.is_over
    assert history.best_step == 1
    again = ScoreHistory(history.spec, history.save())
    assert again.is_over
    assert again.save() == history.save()
    again.forget(4)
    assert not again.is_over
    assert again.metrics(1) == {"evaluation/fvd": 3.0}
    assert again.metrics(5) == {}
    assert ScoreHistory(BestSpec("evaluation/fvd_2", "min", 1), history.save()).save() == {}
    assert ScoreHistory(None, history.save()).best_step is None


def test_scores_that_were_never_finite_end_too() -> None:
    history = ScoreHistory(BestSpec("a/b", "max", 2))
    for step in (1, 2):
        history.observe(step, {"a/b": math.nan})
    assert history.is_over
    assert history.describe() == "a/b was not finite in 2 evaluations"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"keep_best": "validation/los"}, r"keep_best: validation/los is not measured; use one of "
         r"validation/loss, "),
        ({"keep_best": "validation/psnr"}, r"validation/psnr is not measured"),
        ({"keep_best": "evaluation/fvd"}, r"evaluation/fvd is not measured"),
        ({"early_stop": "3"}, r"early_stop: name the score that must improve: "
         r"--config\.train\.generator\.keep_best=validation/loss"),
        ({"keep_best": "validation/loss", "evaluate": "0"}, r"nothing is measured"),
    ],
)  # fmt: skip
def test_scores_that_are_not_measured_are_refused(changes: dict[str, str], message: str) -> None:
    keys = {f"train.generator.{k}": v for k, v in changes.items() if k != "evaluate"}
    every = changes.get("evaluate", "2")
    with pytest.raises(ConfigError, match=message):
        load_config(tiny.CONFIG, {**tiny.OVERRIDES, **keys, "train.evaluate_every": every})
