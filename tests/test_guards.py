# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Faults put into the training of a real tokenizer with a discriminator: noticed in time, undone.

One tiny network on real batches of moving shapes. The faults lie in the batches, so all runs but
those that skip or have another learning rate share one compiled program.
"""

import csv
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nbp.evaluation.during_training
import nbp.tasks.tokenizer
import nbp.train
from nbp import build, build_data
from nbp.config import load_config
from nbp.errors import ConfigError, DivergedError
from nbp.models.tokenizer import scale_pixels
from nbp.parallel.mesh import make_mesh
from nbp.tasks.tokenizer import TokenizerTask
from nbp.training.checkpoint import Checkpointer
from nbp.training.guards import GuardSpec
from nbp.training.loop import LoopSpec, run
from nbp.training.metrics import MetricsWriter
from tests import tiny
from tests.training.toy import to_bytes

BATCH, EVERY, PATIENCE = 2, 5, 5
CHANGES = {
    **tiny.OVERRIDES,
    "data.frames": "3",
    "tokenizer.widths": "(4, 4)",
    "tokenizer.levels": "(8, 8)",
    "train.tokenizer.optimizer": "adamw",
    "train.tokenizer.steps": "40",
    "train.tokenizer.batch": str(BATCH),
    "train.tokenizer.ema": "0.9",
    "adversarial.weight": "0.1",
    "adversarial.widths": "(8,)",
    "adversarial.learning_rate": "1e-3",
    "adversarial.regularizer": "none",
    "adversarial.start": "8",
}
MARK = 7  # the value of all pixels of a clip that is read as NaN


class Faulty(TokenizerTask):
    """Cuts the encoder's output off in the batches `frozen["collapse"]`: one code is left."""

    def step(self, state, frozen, batch, key):
        off = jnp.any(batch["index"][0] // BATCH == frozen["collapse"])
        encoder = state.params["encoder"]
        last = max(encoder, key=int)
        cut = jax.tree.map(lambda leaf: jnp.where(off, 0.0, leaf), encoder[last])
        params = {**state.params, "encoder": {**encoder, last: cut}}
        state = type(state)(state.step, params, state.ema, state.opt_state, state.extra)
        return super().step(state, frozen, batch, key)


class Marked:
    """Real batches, some of them marked."""

    def __init__(self, stream, nan_at, at_draw):
        self.stream, self.nan_at, self.at_draw = stream, nan_at, at_draw
        self.fingerprint = stream.fingerprint

    @property
    def position(self):
        return self.stream.position

    def __next__(self):
        number = self.position
        self.at_draw(number)
        batch = next(self.stream)
        if number in self.nan_at:
            batch["video"][:] = MARK
        return batch

    def close(self):
        self.stream.close()


@pytest.fixture
def train(monkeypatch):
    def scale(video):
        return jnp.where(jnp.all(video == MARK), jnp.nan, scale_pixels(video))

    monkeypatch.setattr(nbp.tasks.tokenizer, "scale_pixels", scale)

    def train(directory, guards, *, nan_at=(), collapse=(), steps=16, at_draw=None, **changes):
        config = load_config(tiny.CONFIG, {**CHANGES, **changes})
        task = build.make_tokenizer_task(config)
        off = np.full((PATIENCE + 1,), -1, np.int32)
        off[: len(collapse)] = collapse
        task = Faulty(**{**vars(task), "frozen": {"collapse": off}})
        data, _ = build_data.make_data(config)

        def make_stream(start):
            stream = build_data.make_training_stream(
                config, config.train.tokenizer, data=data, start_batch=start
            )
            return Marked(stream, nan_at, at_draw or (lambda number: None))

        with (
            Checkpointer(directory / "checkpoints") as checkpointer,
            MetricsWriter(directory) as writer,
        ):
            return run(
                task,
                stream_factory=make_stream,
                checkpointer=checkpointer,
                spec=LoopSpec(
                    total_steps=steps,
                    global_batch=BATCH,
                    log_every=1,
                    checkpoint_every=EVERY,
                    guards=guards,
                ),
                mesh=make_mesh(data=1),
                writer=writer,
                meta={},
                seed=5,
            )

    return train


def read_column(directory, name):
    with (directory / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row[name]}


def is_finite(state):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


class Killed(BaseException):
    """Stands for kill -9."""


def killing(number, drawn):
    def at_draw(batch):
        drawn.append(batch)
        if batch == number:
            raise Killed

    return at_draw


BACK = GuardSpec(
    non_finite="rollback",
    divergence="rollback",
    code_warmup=0,
    patience=PATIENCE,
    rollbacks=1,
)


@pytest.fixture
def optimized(monkeypatch):
    """Steps compiled as a user has them: without optimization the last bits are another matter."""
    compile_lowered = jax.stages.Lowered.compile
    options: Any = {"xla_backend_optimization_level": 3}
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self: compile_lowered(self, options))


@pytest.mark.slow
def test_guards_change_no_bit_of_a_healthy_run(tmp_path, train, optimized):
    plain = train(tmp_path / "plain", GuardSpec(divergence="ignore"))
    skip = train(tmp_path / "skip", GuardSpec(non_finite="skip", divergence="rollback", patience=2))
    assert to_bytes(plain) == to_bytes(skip)
    assert read_column(tmp_path / "plain", "loss") == read_column(tmp_path / "skip", "loss")


def test_a_nan_batch_is_left_out_in_both_networks(tmp_path, train):
    """The tokenizer, its average, the discriminator and the optimizers stay; the step goes on."""
    guards = GuardSpec(non_finite="skip")
    state = train(tmp_path, guards, nan_at=[10], steps=11)
    assert is_finite(state)
    with Checkpointer(tmp_path / "checkpoints", read_only=True) as checkpointer:
        before = checkpointer.restore(state, step=10).state
    assert (int(before.step), int(state.step)) == (10, 11)
    assert to_bytes(state)[1:] == to_bytes(before)[1:]
    assert [step for step, v in read_column(tmp_path, "skipped").items() if v] == [11]
    assert (tmp_path / "skipped.csv").read_text() == "step,examples\n11,20 21\n"


@pytest.mark.slow
def test_a_nan_batch_is_undone(tmp_path, train):
    drawn = []
    state = train(tmp_path, BACK, nan_at=[12], at_draw=drawn.append)
    assert drawn == [*range(14), *range(14, 14 + 6)], "noticed while the next update ran"
    assert is_finite(state)
    assert float(state.extra["scale"]) == 0.5
    assert read_column(tmp_path, "alarm/rollback") == {10: 14.0}


@pytest.mark.slow
def test_a_discriminator_learning_a_hundred_times_too_fast(tmp_path, train):
    """Noticed in time, with an adaptive weight as well, which hides it from the tokenizer's losses.

    Going back does not help; a lower rate does.
    """
    drawn = []
    with pytest.raises(
        DivergedError, match=r"discriminator_loss is .* gone back 1 times.*suspicion is 5;"
    ):
        train(
            tmp_path,
            BACK,
            steps=40,
            at_draw=drawn.append,
            **{"adversarial.learning_rate": "1e-1"},
        )
    # It learns in update 9, which update 10 is the first to show. The last of `PATIENCE` updates
    # is read while one more runs. Then it goes back to 5, and all comes again.
    noticed = 9 + PATIENCE + 1
    assert len(drawn) == noticed + (noticed - 5)
    with Checkpointer(tmp_path / "checkpoints", read_only=True) as checkpointer:
        assert checkpointer.all_steps() == [5, 10]
    shutil.rmtree(tmp_path / "checkpoints" / "10")  # as the message says
    state = train(tmp_path, BACK, steps=40)
    assert int(state.step) == 40
    assert is_finite(state)
    assert max(read_column(tmp_path, "discriminator_loss").values()) < 10


@pytest.mark.slow
def test_collapsed_codes(tmp_path, train):
    """From batch 22 on a single code is used: noticed after `patience` updates, and undone."""
    drawn = []
    collapse = range(22, 22 + PATIENCE + 1)
    state = train(tmp_path / "a", BACK, collapse=collapse, steps=30, at_draw=drawn.append)
    # Updates 23 to 27, the last of which is read while update 28 runs; then from 20 on.
    assert drawn == list(range(28 + 10))
    assert read_column(tmp_path / "a", "alarm/rollback") == {20: 28.0}
    assert min(read_column(tmp_path / "a", "code_usage").values()) > 2 / 64

    # Killed between going back and the next checkpoint, 25, which batch 33 follows.
    drawn = []
    with pytest.raises(Killed):
        train(tmp_path / "b", BACK, collapse=collapse, steps=30, at_draw=killing(31, drawn))
    again = train(tmp_path / "b", BACK, collapse=collapse, steps=30, at_draw=drawn.append)
    assert drawn == [*range(32), *range(28, 38)], "the data go on where they went on"
    assert to_bytes(again) == to_bytes(state)


def test_the_configuration_decides(tmp_path, monkeypatch):
    changes = {
        "non_finite": "rollback",
        "divergence": "rollback",
        "loss_ratio": "5.0",
        "gradient_ratio": "50.0",
        "code_usage": "0.2",
        "code_warmup": "9",
        "accuracy": "0.02",
        "patience": "7",
        "rollbacks": "2",
        "soften": "0.25",
    }
    changes = {f"train.guards.{name}": value for name, value in changes.items()}
    config = load_config(tiny.CONFIG, {**CHANGES, **changes})
    seen = []

    def capture(task, *, spec, **_):
        seen.append(spec.guards)
        raise Killed

    monkeypatch.setattr(nbp.train, "run", capture)
    with pytest.raises(Killed):
        nbp.train.train_stage(
            config,
            tmp_path,
            task=build.make_tokenizer_task(config),
            data=build_data.make_data(config)[0],
            evaluators=nbp.evaluation.during_training.StageEvaluators(config, None, None),
            origin={},
        )
    assert seen == [
        GuardSpec(
            "rollback", "rollback", 5.0, 50.0, 0.2, 9, 0.02, patience=7, rollbacks=2, soften=0.25
        )
    ]


@pytest.mark.parametrize(
    "name,value,allowed",
    [
        ("accuracy", "0.5", "at least 0 and below 0.5"),
        ("soften", "1.5", "above 0 and at most 1"),
        ("non_finite", "warn", "stop"),
        ("divergence", "skip", "warn"),
    ],
)
def test_settings_are_checked_with_the_configuration(name, value, allowed):
    with pytest.raises(ConfigError, match=rf"train\.guards\.{name}.*{allowed}"):
        load_config(tiny.CONFIG, {**CHANGES, f"train.guards.{name}": value})
