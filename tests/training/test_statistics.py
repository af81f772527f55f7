# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Norms of layers: what they are, and that training does not notice them."""

import csv
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from nbp.training.layer_norms import layer_norms
from nbp.training.optimizer import apply_gradients, make_optimizer
from nbp.training.state import make_state
from tests.training.toy import ToyTask, make_spec, to_bytes, train

KINDS = ("gradient", "update", "weight")


def read_rows(directory: Path) -> dict[int, dict[str, str]]:
    with (directory / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): row for row in csv.DictReader(file)}


def test_a_layer_is_all_of_its_leaves() -> None:
    rng = np.random.default_rng(0)
    stacked, bias = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 5))
    tree = {
        "transformer": {
            "layers": {"mlp": {"kernel": stacked, "bias": bias}},
            "norm": {"scale": np.full(4, 2.0)},
        },
        "encoder": {"0": {"conv": {"kernel": np.full((2, 2), 3.0)}, "bias": np.array([8.0])}},
        "tokens": np.array([3.0, 4.0]),
    }
    found = {name: float(norm) for name, norm in layer_norms(tree).items()}
    wanted = {
        f"transformer.{i}": np.sqrt((stacked[i] ** 2).sum() + (bias[i] ** 2).sum())
        for i in range(3)
    }
    wanted |= {"transformer.norm": 4.0, "encoder.0": 10.0, "tokens": 5.0}
    assert found.keys() == wanted.keys()
    for name, norm in wanted.items():
        np.testing.assert_allclose(found[name], norm, rtol=1e-5)


def test_norms_of_an_update() -> None:
    spec = make_spec(statistics=True, warmup=0, schedule="constant", clip_norm=0.5)
    params = {"hidden": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(4, 4.0)},
              "out": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}}  # fmt: skip
    gradients = {"hidden": {"kernel": jnp.full((2, 2), 6.0), "bias": jnp.full(4, 8.0)},
                 "out": {"kernel": jnp.zeros((1, 1)), "bias": jnp.full(1, 2.0)}}  # fmt: skip
    optimizer = make_optimizer(spec, params)
    state, found = apply_gradients(
        make_state(params, optimizer), gradients, optimizer=optimizer, spec=spec
    )
    values = {name: float(value) for name, value in found.items() if "/" in name}
    assert values.keys() == {f"{layer}/{kind}_norm" for layer in ("hidden", "out")
                             for kind in KINDS}  # fmt: skip
    assert values["hidden/gradient_norm"] == 20.0, "before clipping"
    assert values["out/gradient_norm"] == 2.0
    assert values["hidden/weight_norm"] == 10.0, "before the update"
    for layer in ("hidden", "out"):
        moved = [np.asarray(state.params[layer][k] - params[layer][k]) for k in params[layer]]
        norm = np.sqrt(sum((part**2).sum() for part in moved))
        np.testing.assert_allclose(values[f"{layer}/update_norm"], norm, rtol=1e-4)


def test_training_has_the_same_bits_with_and_without(tmp_path: Path) -> None:
    plain, task = train(tmp_path / "plain", steps=7), ToyTask()
    measured = train(tmp_path / "measured", steps=7, statistics_every=3, task=task)
    assert to_bytes(plain) == to_bytes(measured)
    assert task.traces == 1, "the compiled update is the one without them"
    rows, before = read_rows(tmp_path / "measured"), read_rows(tmp_path / "plain")
    names = [f"{layer}/{kind}_norm" for layer in ("hidden", "out") for kind in KINDS]
    for step, row in rows.items():
        assert row["loss"] == before[step]["loss"]
        assert all((float(row[name]) > 0) if step in (3, 6) else not row[name] for name in names)
    whole = sum(float(rows[3][f"{layer}/gradient_norm"]) ** 2 for layer in ("hidden", "out"))
    np.testing.assert_allclose(np.sqrt(whole), float(rows[3]["grad_norm"]), rtol=1e-5)
    assert "hidden/weight_norm" not in before[3]
