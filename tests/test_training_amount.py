# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What a training takes, counted another way."""

import jax
import numpy as np
import pytest

from nbp import build
from nbp.config import load_config
from nbp.config.schema import Config
from nbp.lowering import generator_cases, measure_training, tokenizer_cases
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


def test_several_grids_take_their_shares() -> None:
    keys = {"stages": "('generator',)", "generator__positions": "rotary"}
    grids = {"data__grids": "((3, 16, 24), (5, 32, 32))", "data__grid_shares": "(0.25, 0.25)"}
    ids = {"generator__special_ids": "8"}  # as many for all
    amount = measure_training(load(**keys, **grids), CLASSES)
    parts = []
    for frames, size, width, batch in ((5, 16, 0, 8), (3, 16, 24, 8), (5, 32, 0, 2)):
        clips = {"data__frames": str(frames), "data__size": str(size), "data__width": str(width)}
        clips["train__generator__batch"] = str(batch)
        parts.append(measure_training(load(**keys, **ids, **clips), CLASSES))
    for name in ("clips", "tokens", "flops"):
        values = [getattr(part, name) for part in parts]
        wanted = 0.5 * values[0] + 0.25 * values[1] + 0.25 * values[2]
        assert getattr(amount, name) == pytest.approx(wanted, rel=1e-6), name
    assert {part.parameters for part in parts} == {amount.parameters}


def test_an_update_of_each_grid_is_lowered() -> None:
    config = load(data__grids="((3, 16, 24),)", generator__positions="rotary")
    mesh = make_mesh(devices=jax.devices()[:1])
    cases = [*tokenizer_cases(config, mesh, CLASSES), *generator_cases(config, mesh, CLASSES)]
    assert [case.name for case in cases] == [
        "tokenizer.update",
        "tokenizer.update.3x16x24",
        "generator.update",
        "generator.update.3x16x24",
        "generator.evaluate",
        "generator.sample",
    ]
    assert cases[3].flops != cases[2].flops
    with jax.set_mesh(mesh):
        assert "8x3x16x24x3xui8" in cases[3].lower()[0].as_text()
