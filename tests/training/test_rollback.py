# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Going back: where to, and that a kill at any moment of it changes nothing."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.errors import CheckpointError, DivergedError, NonFiniteError
from nbp.parallel.mesh import make_mesh
from nbp.training.checkpoint import Checkpointer
from nbp.training.guards import Alarm, GuardSpec
from nbp.training.metrics import MetricsWriter
from nbp.training.rollback import JOURNAL, RollbackManager, list_examples
from nbp.training.state import TrainState


class Softened:
    """A task whose state is one number per part; `soften` scales `extra`."""

    name = "softened"

    @property
    def frozen(self):
        return {}

    def init(self, key):
        del key
        one = jnp.ones(())
        return TrainState(jnp.zeros((), jnp.int32), {"w": one}, {}, {}, {"scale": jnp.ones(())})

    def step(self, state, frozen, batch, key):
        raise AssertionError("nothing is trained here")

    def soften(self, state, factor):
        return dataclasses.replace(state, extra={"scale": state.extra["scale"] * factor})


class Killed(BaseException):
    """Stands for kill -9."""


def make_alarm(since, kind="loss"):
    return Alarm(kind, "rollback", step=since + 4, since=since, what="loss is 9", remedy="Wait.")


def make_recovery(checkpointer, *, task=None, first_save=10, **spec):
    return RollbackManager(
        task or Softened(),
        checkpointer,
        writer=MetricsWriter(checkpointer.directory.parent),
        spec=GuardSpec(**spec),
        mesh=make_mesh(data=1),
        key=jax.random.key(0),
        first_save=first_save,
    )


@pytest.fixture
def checkpointer(tmp_path):
    with Checkpointer(tmp_path / "checkpoints", keep=10) as checkpointer:
        yield checkpointer


def save(checkpointer, *steps, position=None, scale=1.0):
    """Steps whose weight is their number, saved at the example of the same number."""
    for step in steps:
        state = dataclasses.replace(
            Softened().init(jax.random.key(0)),
            step=jnp.int32(step),
            params={"w": jnp.float32(step)},
            extra={"scale": jnp.float32(scale)},
        )
        data = {"next": step if position is None else position, "fingerprint": "f"}
        checkpointer.save(step, state, data=data, meta={})
    checkpointer.wait()


def damage(checkpointer, step):
    for file in (checkpointer.directory / str(step)).glob("model/**/d/*"):
        file.write_bytes(bytes(file.stat().st_size))


@pytest.mark.parametrize(
    "since,expected",
    [(100, 30), (32, 30), (31, 20), (22, 20), (21, 10), (12, 10), (11, 0), (1, 0)],
)
def test_the_newest_state_above_suspicion(checkpointer, since, expected):
    """Update `since` measured the state of step `since - 1`: that one is suspect as well, ..."""
    save(checkpointer, 10, 20, 30)
    state, step = make_recovery(checkpointer).go_back(make_alarm(since), step=36, position=36)
    assert (step, int(state.step)) == (expected, expected)
    assert float(state.params["w"]) == (expected or 1)
    assert float(state.extra["scale"]) == 0.5
    assert checkpointer.all_steps() == [s for s in (10, 20, 30) if s <= expected]


def test_a_bad_batch_says_nothing_about_the_state_it_met(checkpointer):
    save(checkpointer, 10, 20, 30)
    alarm = make_alarm(31, "non_finite")
    assert make_recovery(checkpointer).go_back(alarm, step=32, position=32)[1] == 30
    assert checkpointer.all_steps() == [10, 20, 30], "no number of bad batches takes it away"


def test_without_checkpoints_it_is_the_first_state(checkpointer):
    state, step = make_recovery(checkpointer).go_back(make_alarm(5), step=9, position=9)
    assert (step, int(state.step), float(state.params["w"])) == (0, 0, 1.0)


def test_if_older_ones_were_deleted_the_oldest_is_taken_and_said(checkpointer, capsys):
    save(checkpointer, 40, 50)
    _, step = make_recovery(checkpointer).go_back(make_alarm(25), step=59, position=59)
    assert step == 40
    output = capsys.readouterr().out
    assert (
        "warning: the first sign of trouble, after step 23, is older than all checkpoints" in output
    )
    assert checkpointer.all_steps() == [40]


def test_a_damaged_checkpoint_is_passed_over(checkpointer, capsys):
    save(checkpointer, 10, 20, 30)
    damage(checkpointer, 20)
    _, step = make_recovery(checkpointer).go_back(make_alarm(28), step=36, position=36)
    assert step == 10
    assert "20 is damaged" in capsys.readouterr().out
    assert checkpointer.all_steps() == [10], "20 will be made again"


def test_nothing_is_removed_if_nothing_is_whole(checkpointer):
    save(checkpointer, 40, 50)
    damage(checkpointer, 40)
    recovery = make_recovery(checkpointer)
    with pytest.raises(CheckpointError, match="40 is damaged"):
        recovery.go_back(make_alarm(45), step=59, position=59)
    assert checkpointer.all_steps() == [40, 50]
    assert not recovery.entries


def test_each_time_softens_once_more_also_from_the_same_checkpoint(checkpointer):
    save(checkpointer, 10, scale=0.8)
    recovery = make_recovery(checkpointer)
    scales = []
    for position in (30, 60, 90):
        state, step = recovery.go_back(make_alarm(20), step=24, position=position)
        assert step == 10
        scales.append(float(state.extra["scale"]))
    np.testing.assert_allclose(scales, [0.4, 0.2, 0.1], rtol=1e-6)
    state, step, data = make_recovery(checkpointer).resume()
    assert (step, data) == (10, {"next": 90, "fingerprint": "f"})
    assert float(state.extra["scale"]) == scales[-1]


def test_a_checkpoint_made_afterwards_is_taken_as_it_is(checkpointer):
    save(checkpointer, 10)
    recovery = make_recovery(checkpointer)
    recovery.go_back(make_alarm(20), step=24, position=25)
    save(checkpointer, 12, position=27, scale=0.5)
    state, step, data = make_recovery(checkpointer).resume()
    assert (step, data["next"], float(state.extra["scale"])) == (12, 27, 0.5)
    # If that one is damaged, the older one is amended again.
    damage(checkpointer, 12)
    state, step, data = make_recovery(checkpointer).resume()
    assert (step, data["next"], float(state.extra["scale"])) == (10, 25, 0.5)


@pytest.mark.parametrize("kind,error", [("non_finite", NonFiniteError), ("loss", DivergedError)])
def test_it_goes_back_only_so_often_also_over_restarts(checkpointer, kind, error):
    save(checkpointer, 10)
    for position in (30, 60):
        recovery = make_recovery(checkpointer, rollbacks=2)
        recovery.go_back(make_alarm(20), step=24, position=position)
    with pytest.raises(
        error, match="has gone back 2 times already.*above suspicion is 10"
    ) as caught:
        make_recovery(checkpointer, rollbacks=2).go_back(make_alarm(20, kind), step=24, position=90)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("moment", ["restored", "written", "renamed", "removed", "noted"])
def test_killed_at_any_moment_of_going_back(tmp_path, monkeypatch, moment):
    """Before the journal is written nothing has happened, after that everything has."""
    with Checkpointer(tmp_path / "checkpoints", keep=10) as checkpointer:
        save(checkpointer, 10, 20, 30)
        recovery = make_recovery(checkpointer)
        write, count = recovery._write_journal, []

        def write_and_die():
            if moment == "restored":
                raise Killed
            write()
            count.append(1)
            if moment == "written" or (moment == "noted" and len(count) == 2):
                raise Killed

        def die(*_, **__):
            raise Killed

        monkeypatch.setattr(recovery, "_write_journal", write_and_die)
        if moment == "renamed":
            monkeypatch.setattr("nbp.training.integrity.remove_unfinished", die)
        if moment == "removed":
            monkeypatch.setattr(checkpointer._manager, "reload", die)
        with pytest.raises(Killed):
            recovery.go_back(make_alarm(25), step=36, position=36)
        monkeypatch.undo()
    with Checkpointer(tmp_path / "checkpoints", keep=10) as checkpointer:
        state, step, data = make_recovery(checkpointer).resume()
        if moment == "restored":
            assert checkpointer.all_steps() == [10, 20, 30]
            assert (step, data["next"], float(state.extra["scale"])) == (30, 30, 1.0)
        else:
            assert checkpointer.all_steps() == [10, 20]
            assert (step, data["next"], float(state.extra["scale"])) == (20, 36, 0.5)
            assert json.loads((checkpointer.directory / JOURNAL).read_text())[0]["discard"] == []
        assert not list(checkpointer.directory.glob("discarded-*"))
        save(checkpointer, 25, 30, position=50)
        assert checkpointer.latest_step() == 30


def test_a_task_without_an_adversary_is_not_softened(checkpointer, capsys):
    class Plain(Softened):
        def soften(self, state, factor):
            return state

    save(checkpointer, 10)
    state, _ = make_recovery(checkpointer, task=Plain()).go_back(
        make_alarm(20), step=24, position=30
    )
    assert float(state.extra["scale"]) == 1.0
    output = capsys.readouterr().out
    assert "Back from step 24 to checkpoint 10, with other data (time 1 of 3)." in output


@pytest.mark.parametrize("text", ["[{", '[{"step": 1}]', "3"])
def test_an_unreadable_journal_is_refused(checkpointer, text):
    (checkpointer.directory / JOURNAL).write_text(text)
    with pytest.raises(CheckpointError, match=rf"{JOURNAL} is unreadable .*remove it"):
        make_recovery(checkpointer)


def test_examples_are_listed_once(tmp_path):
    for step, examples in ((7, [3, 1]), (9, []), (7, [3, 1]), (7, [4])):
        list_examples(tmp_path / "skipped.csv", step, examples)
    assert (tmp_path / "skipped.csv").read_text() == "step,examples\n7,3 1\n9,\n7,4\n"
