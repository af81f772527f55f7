# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The Frechet distance during training: it is there, under its name, and changes nothing else."""

import csv
import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from nbp import build
from nbp.config import load_config
from nbp.config.schema import Config
from nbp.errors import ConfigError
from nbp.evaluation.during_training import PeriodicScore
from nbp.protocols import PROTOCOLS
from nbp.train import train_workdir
from nbp.training.checkpoint import Checkpointer
from tests import tiny
from tests.evaluated import SMALL_SETUP, make_workdir

SHAPES = {"data.frames": "9", "data.size": "16", "generator.prompt": "label"}


def make_config(**changes: str) -> Config:
    keys = {"stages": "('generator',)", "train.tokenizer.ema": "0", "train.generator.ema": "0"}
    return load_config(tiny.CONFIG, {**tiny.OVERRIDES, **SHAPES, **keys, **changes})


def read_params(workdir: Path) -> list[np.ndarray]:
    with Checkpointer(workdir / "generator" / "checkpoints", read_only=True) as checkpointer:
        config = make_config()
        network = build.make_generator_network(config, ["a"] * 36)
        template = jax.eval_shape(network.init, jax.random.key(0))
        params = checkpointer.restore_params(template, use_ema=False)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


@pytest.mark.slow
def test_training_is_scored_and_not_changed(tmp_path: Path) -> None:
    states = []
    for every in (0, 2):
        workdir = make_workdir(tmp_path / str(every), SHAPES)
        keys = {"evaluation.every": str(every), "evaluation.every_clips": "6"}
        train_workdir(make_config(**keys), workdir, setup=SMALL_SETUP)
        states.append(read_params(workdir))
    for plain, scored in zip(*states, strict=True):
        np.testing.assert_array_equal(plain, scored)
    with (workdir / "generator" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    (name,) = [key for key in rows[0] if key.startswith("evaluation/")]
    assert name == "evaluation/fvd_random_features_6"
    found = {int(row["step"]): float(row[name]) for row in rows if row[name]}
    assert set(found) == {2, 4}
    assert all(value > 0 for value in found.values())
    # A later run finds the real clips' features where they are.
    (real,) = (workdir / "report" / "cache").glob("real-*")
    assert len(list(real.glob("*.npz"))) == 1


@pytest.mark.parametrize(
    "keys,message",
    [
        ({"protocol": "reconstruction"}, "generates no clips to score"),
        ({"protocol": "prediction"}, "which are no whole latent frames"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    keys: dict[str, str], message: str, tmp_path: Path
) -> None:
    given = dataclasses.replace(PROTOCOLS["moving-shapes"], name="prediction")
    assert given.generation is not None
    rule = dataclasses.replace(given.generation, given_frames=4)
    prediction = dataclasses.replace(given, generation=rule)
    protocols = {**PROTOCOLS, "prediction": prediction}
    setup = dataclasses.replace(SMALL_SETUP, protocols=protocols)
    config = make_config(**{"evaluation.every": "1"})
    evaluation = dataclasses.replace(config.evaluation, **keys)
    config = dataclasses.replace(config, evaluation=evaluation)
    with pytest.raises(ConfigError, match=message):
        PeriodicScore(config, tmp_path, ("one",), setup=setup)
