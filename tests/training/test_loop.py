# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
import csv
import dataclasses
import math
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.config import load_config
from nbp.errors import (
    CheckpointError,
    ConfigError,
    NonFiniteError,
    Preempted,
    RestartError,
)
from nbp.parallel.mesh import make_mesh
from nbp.train_plan import make_loop_spec
from nbp.training import loop, preemption
from nbp.training.checkpoint import Checkpointer
from nbp.training.loop import LoopSpec
from nbp.training.task import Evaluator
from tests import tiny
from tests.training.toy import STEPS, ToyTask, to_bytes, train

ROOT = Path(__file__).resolve().parents[2]


def read_csv(directory):
    with (directory / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def list_steps(directory):
    with Checkpointer(directory / "checkpoints", read_only=True) as checkpointer:
        return checkpointer.all_steps()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The final state of a run that nothing happened to, as bytes, and its directory."""
    directory = tmp_path_factory.mktemp("undisturbed")
    return to_bytes(train(directory)), directory


@pytest.fixture
def signals():
    """Puts the signal handlers back: after a stop the loop leaves SIGTERM ignored."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run_toy(directory, kill):
    command = [sys.executable, "-m", "tests.training.toy", str(directory), kill]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_killed_runs_end_in_the_same_bits(tmp_path, undisturbed):
    """Killed in a step, just after a save began, while one was committed; then run to the end."""
    for kill in ("draw:7", "save:10", "seal:15"):
        code, output = run_toy(tmp_path, kill)
        assert code == -signal.SIGKILL, output
    code, output = run_toy(tmp_path, "none:-1")
    assert code == 0, output
    assert "resumes after step 10" in output
    assert (tmp_path / "final.bin").read_bytes() == b"".join(undisturbed[0])
    names = ("step", "loss", "grad_norm", "largest", "learning_rate")
    rows, expected = [
        [[row[name] for name in names] for row in read_csv(directory)]
        for directory in (tmp_path, undisturbed[1])
    ]
    assert rows == expected, "each step is once in the table, with the same numbers"


def test_a_whole_run(undisturbed):
    _, directory = undisturbed
    assert list_steps(directory) == [10, 15, 20]
    rows = read_csv(directory)
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert float(rows[-1]["tokens_per_s"]) == pytest.approx(
        3 * float(rows[-1]["clips_per_s"]), rel=1e-4
    )
    with Checkpointer(directory / "checkpoints", read_only=True) as checkpointer:
        restored = checkpointer.restore(ToyTask().init(jax.random.key(0)))
    assert restored.meta == {"config": "toy"}
    assert restored.data == {"next": STEPS * 8, "fingerprint": "toy-1"}
    assert int(restored.state.extra["seen"]) == STEPS * 8


def test_a_finished_stage_runs_nothing(undisturbed):
    before, directory = undisturbed
    task = ToyTask()

    def refuse(batch):
        raise AssertionError("nothing may be drawn")

    assert to_bytes(train(directory, task=task, at_draw=refuse)) == before
    assert task.traces == 0


def test_the_step_is_compiled_once(tmp_path):
    task = ToyTask()
    train(tmp_path, task=task, log_every=3)
    assert task.traces == 1


def test_rows_are_means_over_the_window(tmp_path, undisturbed):
    train(tmp_path, log_every=6)
    losses = [float(row["loss"]) for row in read_csv(undisturbed[1])]
    rows = {int(row["step"]): float(row["loss"]) for row in read_csv(tmp_path)}
    expected = {6: losses[:6], 12: losses[6:12], 18: losses[12:18], 20: losses[18:]}
    assert rows == pytest.approx({step: np.mean(part) for step, part in expected.items()}, rel=1e-5)


def test_eight_devices_give_the_losses_of_one(tmp_path, undisturbed):
    state = train(tmp_path, mesh=make_mesh())
    assert len(state.params["out"]["bias"].sharding.device_set) == 8
    one, eight = [
        [float(row["loss"]) for row in read_csv(directory)]
        for directory in (undisturbed[1], tmp_path)
    ]
    np.testing.assert_allclose(eight, one, rtol=1e-5)


def test_a_batch_that_does_not_divide_is_refused_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match=r"batch of 8 clips.*3 devices"):
        train(tmp_path, mesh=make_mesh(data=3))
    assert not (tmp_path / "metrics.csv").exists()


@pytest.mark.parametrize("bad", [2, 9])
def test_a_non_finite_loss_stops_and_is_never_saved(tmp_path, bad):
    with pytest.raises(NonFiniteError) as caught:
        train(tmp_path, nan_at=[bad])  # step 10 is a checkpoint step
    message = str(caught.value)
    assert f"grad_norm is nan, loss is nan, largest is nan at step {bad + 1};" in message
    assert f"last good step is {bad}" in message
    expected = "no checkpoint exists" if bad < 5 else "last checkpoint 5."
    assert expected in message
    assert list_steps(tmp_path) == ([] if bad < 5 else [5])


class SignalledCheckpointer(Checkpointer):
    """SIGTERM comes again while the state is being saved."""

    def save(self, step, state, **rest):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().save(step, state, **rest)


@pytest.mark.usefixtures("signals")
def test_sigterm_finishes_the_step_saves_and_resumes_exactly(tmp_path, undisturbed):
    def at_draw(batch):
        if batch == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    checkpointer = SignalledCheckpointer(tmp_path / "checkpoints")
    with pytest.raises(Preempted, match="SIGTERM at step 8: checkpoint 8 is saved"):
        train(tmp_path, at_draw=at_draw, checkpointer=checkpointer, checkpoint_every=100)
    assert list_steps(tmp_path) == [8]
    os.kill(os.getpid(), signal.SIGTERM)  # a late one must not kill the exiting process
    assert to_bytes(train(tmp_path)) == undisturbed[0]


def test_the_end_of_its_time_saves_and_the_rest_has_the_same_bits(
    tmp_path, undisturbed, signals, monkeypatch
):
    clock = types.SimpleNamespace(monotonic=lambda: float(clock.now), now=0)
    monkeypatch.setattr(preemption, "time", clock)

    def at_draw(batch):
        clock.now += batch == 7

    with pytest.raises(Preempted, match=r"max_hours passed at step 8: checkpoint 8 is saved"):
        train(tmp_path, at_draw=at_draw, deadline=1.0)
    assert list_steps(tmp_path)[-1] == 8
    assert to_bytes(train(tmp_path, deadline=2.0)) == undisturbed[0]


def test_hours_are_counted_from_the_start_of_the_run():
    hours = {**tiny.OVERRIDES, "train.max_hours": "1.5"}
    for changes, deadline in ((hours, 5410.0), (tiny.OVERRIDES, math.inf)):
        config = load_config(tiny.CONFIG, changes)
        assert make_loop_spec(config, config.train.tokenizer, began=10.0).deadline == deadline


@pytest.mark.usefixtures("signals")
def test_a_loader_that_dies_of_the_same_signal_does_not_prevent_the_save(tmp_path):
    def at_draw(batch):
        if batch == 7:
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("worker killed")

    with pytest.raises(Preempted, match="checkpoint 7 is saved"):
        train(tmp_path, at_draw=at_draw)
    assert list_steps(tmp_path) == [5, 7]


@pytest.mark.usefixtures("signals")
def test_the_first_interrupt_saves_and_the_second_aborts(tmp_path):
    def once(batch):
        if batch == 3:
            os.kill(os.getpid(), signal.SIGINT)

    def twice(batch):
        if batch == 6:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Preempted, match="SIGINT at step 4"):
        train(tmp_path, at_draw=once)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, at_draw=twice)


def test_an_error_of_the_loader_is_not_hidden(tmp_path):
    def at_draw(batch):
        raise RuntimeError("worker killed")

    with pytest.raises(RuntimeError, match="worker killed"):
        train(tmp_path, at_draw=at_draw)


def test_evaluators_run_when_due_and_at_the_end(tmp_path):
    seen = []

    def evaluate(state):
        seen.append(int(state.step))
        return {"weight": float(state.params["out"]["kernel"][0, 0])}

    evaluators = [Evaluator("validation", 4, evaluate)]
    train(tmp_path, steps=10, evaluators=evaluators)
    assert seen == [4, 8, 10]
    train(tmp_path, steps=14, evaluators=evaluators)
    assert seen == [4, 8, 10, 12, 14], "not again on the restored state"
    rows = {int(row["step"]): row["validation/weight"] for row in read_csv(tmp_path)}
    assert [step for step, value in rows.items() if value] == seen


def test_another_batch_size_must_fit_the_saved_position(tmp_path):
    train(tmp_path, steps=5)
    with pytest.raises(ConfigError, match="stands at example 40, which is no multiple"):
        train_with_batch(tmp_path, 16)


def train_with_batch(directory, batch):
    from nbp.training.loop import run
    from nbp.training.metrics import MetricsWriter
    from tests.training.toy import ToyStream

    with Checkpointer(directory / "checkpoints") as checkpointer:
        return run(
            ToyTask(),
            stream_factory=ToyStream,
            checkpointer=checkpointer,
            spec=LoopSpec(total_steps=STEPS, global_batch=batch),
            mesh=make_mesh(data=1),
            writer=MetricsWriter(directory),
            meta={},
            seed=3,
        )


def test_changed_data_are_refused_unless_accepted(tmp_path, monkeypatch, capsys):
    train(tmp_path, steps=5)
    monkeypatch.setattr("tests.training.toy.ToyStream.fingerprint", "toy-2")
    sides = r"the data differ from those before \(toy-1 then, toy-2 now\)"
    with pytest.raises(CheckpointError, match=rf"{sides}.*train\.changed_data=accept"):
        train(tmp_path, steps=6)
    assert list_steps(tmp_path) == [5]
    train(tmp_path, steps=6, changed_data="accept")
    assert f"warning: {sides}".replace("\\", "") in capsys.readouterr().out
    train(tmp_path, steps=7)  # from now on these are its data


class SlowTask(ToyTask):
    """Its update keeps the device busy for a while."""

    def loss(self, params, batch, key):
        loss, metrics = super().loss(params, batch, key)
        square = jnp.full((256, 256), 1e-3)
        done = jax.lax.fori_loop(0, 100, lambda _, x: x @ square, square)
        return loss + 0 * jnp.sum(done), metrics


def test_the_next_batch_is_drawn_and_placed_while_the_device_works(tmp_path, monkeypatch):
    """The device still computes update N when batch N + 1 is drawn, and after it was placed."""
    newest, drawn, placed = [], [], []
    compile_update, place = loop._compile, loop.place_batch

    def compile_and_watch(*arguments, **options):
        update = compile_update(*arguments, **options)

        def watched(*arguments):
            state, metrics = update(*arguments)
            newest[:] = [metrics["loss"]]
            return state, metrics

        return watched

    def place_and_watch(batch, mesh):
        rows = jax.block_until_ready(place(batch, mesh))
        placed.extend(not loss.is_ready() for loss in newest)
        return rows

    monkeypatch.setattr(loop, "_compile", compile_and_watch)
    monkeypatch.setattr(loop, "place_batch", place_and_watch)
    train(
        tmp_path,
        task=SlowTask(),
        steps=12,
        at_draw=lambda _: drawn.extend(not loss.is_ready() for loss in newest),
        checkpoint_every=100,
    )
    assert len(drawn) == len(placed) == 11
    assert sum(drawn) >= 9
    assert sum(placed) >= 9


def test_another_model_in_the_same_directory_is_refused(tmp_path):
    train(tmp_path, steps=5)
    with pytest.raises(CheckpointError, match="only in the checkpoint: ema/hidden/bias"):
        train(tmp_path, task=ToyTask(ema=0.0))


class FullDisk(Checkpointer):
    """No save ever succeeds."""

    def _check_space(self, trees):
        raise OSError("disk full")


def test_the_final_checkpoint_must_be_written(tmp_path):
    checkpointer = FullDisk(tmp_path / "checkpoints", report=lambda line: None)
    with pytest.raises(RestartError, match="the final checkpoint 4 could not be written"):
        train(tmp_path, steps=4, checkpointer=checkpointer)


@pytest.mark.parametrize("name", ["total_steps", "log_every"])
def test_intervals_must_be_positive(name):
    with pytest.raises(ConfigError, match=f"train.{name} is 0"):
        dataclasses.replace(LoopSpec(total_steps=1, global_batch=1), **{name: 0})
