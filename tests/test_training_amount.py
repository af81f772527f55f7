# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What a training takes, counted another way."""

import jax
import numpy as np
import pytest

from nbp import build
from nbp.config import load_config
from nbp.config.schema import Config
from nbp.lowering import generator_cases, measure_training
from nbp.parallel.mesh import make_mesh
from tests import tiny

CLASSES = 3


def load(**changes: str) -> Config:
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(tiny.CONFIG, {**tiny.OVERRIDES, **keys})


def test_a_generator_takes_what_its_updates_take() -> None:
    config = load(stages="('generator',)", train__generator__steps="7")
    amount = measure_training(config, CLASSES)
    update, *_ = generator_cases(config, make_mesh(devices=jax.devices()[:1]), CLASSES)
    assert amount.flops == pytest.approx(7 * update.flops)
    assert (amount.updates, amount.clips) == (7, 7 * config.train.generator.batch)
    assert amount.tokens == amount.clips * int(np.prod(config.grid.shape))
    network = build.make_generator_network(config, ["a", "b", "c"])
    params = network.init(jax.random.key(0))
    assert amount.parameters == sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    assert amount.parameters > measure_training(config, 0).parameters


def test_twice_the_updates_take_twice_as_much_and_wider_models_more() -> None:
    amounts = [
        measure_training(load(stages="('generator',)", **keys), CLASSES)
        for keys in ({}, {"train__generator__steps": "8"}, {"generator__width": "32"})
    ]
    assert amounts[1].flops == pytest.approx(2 * amounts[0].flops)
    assert amounts[2].flops > 1.5 * amounts[0].flops
    assert amounts[1].parameters == amounts[0].parameters < amounts[2].parameters


def test_a_tokenizer_counts_beside_its_generator_or_alone() -> None:
    alone = measure_training(load(stages="('tokenizer',)"), CLASSES)
    generator = measure_training(load(stages="('generator',)"), CLASSES)
    both = measure_training(load(), CLASSES)
    assert both.flops == pytest.approx(alone.flops + generator.flops)
    assert (both.parameters, both.updates) == (generator.parameters, generator.updates)
    longer = measure_training(load(stages="('tokenizer',)", train__tokenizer__steps="12"), CLASSES)
    assert alone.flops > 0
    assert longer.flops == pytest.approx(3 * alone.flops)
    assert alone.tokens == 0


def test_kernels_of_other_devices_compute_the_same() -> None:
    """A CPU counts for a machine whose attention it does not have."""
    config = load(stages="('generator',)", generator__attention="splash")
    assert measure_training(config, CLASSES) == measure_training(
        load(stages="('generator',)"), CLASSES
    )
