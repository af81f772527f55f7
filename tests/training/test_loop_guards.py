# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The loop with guards: what is left out, where it goes back to, and the bits that result."""

import csv
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.errors import DivergedError, NonFiniteError, Preempted
from nbp.report.plots import write_curves_png
from nbp.training.checkpoint import Checkpointer
from nbp.training.guards import GuardSpec
from tests.training.toy import BATCH, STEPS, ToyStream, ToyTask, to_bytes, train

BACK = GuardSpec(non_finite="rollback", divergence="rollback", patience=3)


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def list_steps(directory):
    with Checkpointer(directory / "checkpoints", read_only=True) as checkpointer:
        return checkpointer.all_steps()


@pytest.fixture(scope="module")
def by_hand():
    """Trains on these batches in this order, without the loop; returns the bits of the state."""
    task = ToyTask()
    key = jax.random.key(3)
    init = jax.jit(task.init)

    @jax.jit
    def update(state, batch):
        return task.step(
            state, task.frozen, batch, jax.random.fold_in(jax.random.fold_in(key, 1), state.step)
        )[0]

    def run(batches):
        state = init(jax.random.fold_in(key, 0))
        for batch in batches:
            rows = next(ToyStream(batch))
            state = update(state, {name: rows[name] for name in ("x", "y")})
        return to_bytes(state)

    return run


@pytest.mark.parametrize(
    "guards",
    [
        GuardSpec(non_finite="skip", divergence="rollback"),
        GuardSpec(non_finite="rollback"),
        GuardSpec(non_finite="stop", divergence="ignore"),
    ],
    ids=lambda guards: f"{guards.non_finite}-{guards.divergence}",
)
def test_a_healthy_run_has_the_same_bits_whatever_guards_it(tmp_path, by_hand, guards):
    task = ToyTask()
    assert to_bytes(train(tmp_path, task=task, guards=guards)) == by_hand(range(STEPS))
    assert task.traces == 1
    assert not (tmp_path / "skipped.csv").exists()
    assert not [name for name in read_csv(tmp_path / "metrics.csv")[0] if "alarm" in name]


def test_a_bad_batch_is_left_out_and_named(tmp_path, capsys):
    """Update 8 leaves everything but the step as update 7 made it."""
    skip = GuardSpec(non_finite="skip")
    kept = {}

    def at_draw(batch):
        if batch == 8:  # stops after that update, which saves its state
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "a", nan_at=[7], guards=skip, checkpoint_every=1, at_draw=at_draw)
    with Checkpointer(tmp_path / "a" / "checkpoints", read_only=True) as checkpointer:
        template = ToyTask().init(jax.random.key(0))
        kept = {step: checkpointer.restore(template, step=step).state for step in (7, 8)}
    assert int(kept[8].step) == 8
    assert to_bytes(kept[8])[1:] == to_bytes(kept[7])[1:]

    task = ToyTask()
    state = train(tmp_path / "b", task=task, nan_at=[7], guards=skip)
    assert task.traces == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert int(state.extra["seen"]) == (STEPS - 1) * BATCH
    rows = read_csv(tmp_path / "b" / "metrics.csv")
    assert [row["step"] for row in rows if float(row["skipped"])] == ["8"]
    assert [row["step"] for row in rows if row["alarm/non_finite"]] == ["8"]
    assert not rows[7]["loss"], "it is no part of the means"
    assert read_csv(tmp_path / "b" / "skipped.csv") == [
        {"step": "8", "examples": " ".join(str(7 * BATCH + i) for i in range(BATCH))}
    ]
    output = capsys.readouterr().out
    assert "warning: grad_norm is nan, loss is nan, largest is nan at step 8." in output


def test_skipping_without_end_stops(tmp_path):
    with pytest.raises(NonFiniteError, match=r"3 updates in a row .* the last good step is 7"):
        train(tmp_path, nan_at=range(7, 100), guards=GuardSpec(non_finite="skip", patience=3))


# Bad batch, where it goes back to, the batch it goes on with. Update `bad + 1` is noticed while the
# next one runs, or at once where a checkpoint is due.
@pytest.mark.parametrize(
    "bad,target,resumed",
    [(12, 10, 14), (2, 0, 4), (10, 10, 12), (19, 15, 20)],
)
def test_going_back_from_a_bad_batch(tmp_path, by_hand, bad, target, resumed):
    drawn = []
    task = ToyTask()
    state = train(tmp_path, task=task, nan_at=[bad], at_draw=drawn.append, guards=BACK)
    assert drawn == list(range(resumed + STEPS - target)), "no batch twice"
    assert to_bytes(state) == by_hand([*range(target), *drawn[resumed:]])
    assert task.traces == 1, "compiled once"
    rows = read_csv(tmp_path / "metrics.csv")
    steps = [int(row["step"]) for row in rows if row["loss"]]
    assert steps == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if row["alarm/rollback"]] == [str(target)]
    assert read_csv(tmp_path / "skipped.csv")[0]["step"] == str(bad + 1)


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.mark.parametrize("moment", [13, 14, 18, 19])
def test_killed_around_going_back(tmp_path, by_hand, moment):
    """Before it is noticed, at once after, and around the next checkpoint, 15, at batch 19."""
    killed = []

    def at_draw(batch):
        if batch == moment and not killed:
            killed.append(batch)
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path, nan_at=[12], guards=BACK, at_draw=at_draw)
    drawn = []
    state = train(tmp_path, nan_at=[12], guards=BACK, at_draw=drawn.append)
    assert to_bytes(state) == by_hand([*range(10), *range(14, 24)])
    assert drawn[0] == {13: 10, 19: 19}.get(moment, 14)
    losses = [row["loss"] for row in read_csv(tmp_path / "metrics.csv") if row["loss"]]
    assert len(losses) == STEPS


def test_a_signal_while_it_must_go_back(tmp_path, by_hand):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def at_draw(batch):
        if batch == 13:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        with pytest.raises(Preempted, match="at step 10: checkpoint 10 is saved"):
            train(tmp_path, nan_at=[12], guards=BACK, at_draw=at_draw)
        assert list_steps(tmp_path) == [5, 10]
        state = train(tmp_path, nan_at=[12], guards=BACK)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert to_bytes(state) == by_hand([*range(10), *range(14, 24)])


def test_it_stops_when_going_back_does_not_help(tmp_path):
    for _ in range(2):  # also when it is started again
        with pytest.raises(
            NonFiniteError, match=r"gone back 3 times already.*above suspicion is 5;"
        ):
            train(tmp_path, nan_at=range(9, 1000), guards=BACK)
    assert list_steps(tmp_path) == [5]


class Exploding(ToyTask):
    """The targets of some batches are absurdly large."""

    def __init__(self, *bad):
        super().__init__(steps=60, learning_rate=1e-3)
        self.bad = jnp.asarray(bad)

    def step(self, state, frozen, batch, key):
        exploded = jnp.any(batch["index"][0] // BATCH == self.bad)
        y = batch["y"] * jnp.where(exploded, 1e4, 1.0)
        return super().step(state, frozen, {**batch, "y": y}, key)


def test_an_explosion_is_noticed_within_its_patience_and_undone(tmp_path, capsys):
    drawn = []
    state = train(
        tmp_path,
        task=Exploding(30, 31, 32, 33),
        steps=60,
        guards=BACK,
        at_draw=drawn.append,
        checkpoint_every=25,
    )
    # Updates 31, 32 and 33 are too large; the third is read while update 34 runs.
    assert len(drawn) == 34 + 60 - 25
    assert "Back from step 34 to checkpoint 25" in capsys.readouterr().out
    assert int(state.step) == 60
    rows = {int(row["step"]): row for row in read_csv(tmp_path / "metrics.csv")}
    assert max(float(rows[step]["loss"]) for step in range(20, 61)) < 20
    assert rows[25]["alarm/rollback"] == "34"


def test_an_explosion_is_only_reported_where_nothing_else_is_asked_for(tmp_path, capsys):
    task = Exploding(30, 31, 32, 33)
    train(tmp_path, task=task, steps=40, guards=GuardSpec(patience=3), checkpoint_every=40)
    rows = read_csv(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows if row["alarm/loss"]] == ["33"]
    output = capsys.readouterr().out
    assert "warning: loss is" in output
    assert "for 3 updates at step 33. Lower the learning rate" in output


def test_explosions_without_end_end_the_run(tmp_path):
    with pytest.raises(DivergedError, match="gone back 1 times already"):
        train(
            tmp_path,
            task=Exploding(30, 31, 32, 60, 61, 62),
            steps=80,
            checkpoint_every=25,
            guards=GuardSpec(divergence="rollback", patience=3, rollbacks=1),
        )


@pytest.mark.parametrize("bad,mean", [(7, True), (0, False)])
def test_an_alarm_that_ends_the_run_is_in_its_table_and_curves(tmp_path, capsys, bad, mean):
    """Also before the first row was due, and with what was healthy until then."""
    with pytest.raises(NonFiniteError, match=f"at step {bad + 1};"):
        train(tmp_path, nan_at=[bad], log_every=50)
    (row,) = read_csv(tmp_path / "metrics.csv")
    assert (row["step"], row["alarm/non_finite"]) == (str(bad + 1), "1")
    assert bool(row.get("loss")) is mean
    write_curves_png(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "warning: " in capsys.readouterr().out
    train(tmp_path, log_every=50)
    assert [row["step"] for row in read_csv(tmp_path / "metrics.csv")] == [str(STEPS)]


def test_a_row_that_spans_a_stop_is_that_of_a_run_without(tmp_path):
    def stop(batch):
        if batch == 13:
            raise KeyboardInterrupt

    train(tmp_path / "whole", log_every=8, checkpoint_every=6)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", log_every=8, checkpoint_every=6, at_draw=stop)
    train(tmp_path / "stopped", log_every=8, checkpoint_every=6)
    names = ("step", "loss", "grad_norm", "largest", "learning_rate")
    found, wanted = (
        [[row[name] for name in names] for row in read_csv(tmp_path / run / "metrics.csv")]
        for run in ("stopped", "whole")
    )
    assert found == wanted
    assert [row[0] for row in wanted] == ["8", "16", "20"]


def test_without_a_checkpoint_above_suspicion_none_is_named(tmp_path):
    guards = GuardSpec(non_finite="rollback", rollbacks=1)
    with pytest.raises(NonFiniteError) as caught:
        train(tmp_path, nan_at=range(1000), guards=guards)
    assert "No checkpoint was saved before: change what the alarm names" in str(caught.value)
    assert "None" not in str(caught.value)
    assert [row for row in read_csv(tmp_path / "metrics.csv") if row["alarm/non_finite"]]
