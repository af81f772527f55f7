# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Norms and activations of layers: what they are, and that training does not notice them."""

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp import train as train_command
from nbp.layout import LatentGrid, Opening, SequencePlan
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.conv3d import lax_conv
from nbp.tasks.generator import GeneratorTask
from nbp.tasks.tokenizer import Objective, TokenizerTask
from nbp.training.layer_norms import layer_norms
from nbp.training.optimizer import OptimizerSpec, apply_gradients, make_optimizer
from nbp.training.state import make_state
from tests import tiny
from tests.models.toy import draw_params, make_network, reference_logits
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


# Activations -------------------------------------------------------------------------------------

GRID = LatentGrid(2, 2, 2)
SPEC = OptimizerSpec(learning_rate=1e-2, steps=100, warmup=0)


def measure(task: Any, params: Any, batch: Mapping[str, Any]) -> dict[str, float]:
    """The activations that the update of a task tells, by layer."""
    state = dataclasses.replace(task.init(jax.random.key(0)), params=params)
    plain, metrics = jax.jit(task.step)(state, task.frozen, batch, jax.random.key(1))
    assert not [name for name in metrics if "/" in name]
    after, found = jax.jit(task.with_statistics().step)(
        state, task.frozen, batch, jax.random.key(1)
    )
    assert metrics.keys() < found.keys()
    assert float(found["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-5)
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    ending = "/activation_rms"
    return {name.removesuffix(ending): float(v) for name, v in found.items() if ending in name}


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


@pytest.mark.parametrize("accumulate, further", [(1, False), (2, True)])
def test_outputs_of_blocks_are_those_of_the_explicit_formulas(
    accumulate: int, further: bool
) -> None:
    network = make_network(GRID, (1, 2, 1), Opening("hybrid", 2), prompt=1, layers=3)
    trained = network.plan
    task = GeneratorTask(
        network, draw_nothing(), dataclasses.replace(SPEC, accumulate=accumulate), frozen={}
    )
    if further:  # each update is of the other block, which knows the prompt as the only one does
        trained = SequencePlan(GRID, (1, 1, 1), Opening("hybrid"), 1)
        task = dataclasses.replace(task, further=(trained,), further_share=1.0)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 11, (4, *GRID.shape), np.int32)
    labels = np.array([0, 4, 2, 2], np.int32)
    params = draw_params(network)
    found = measure(task, params, {"codes": codes, "label": labels})
    outputs: list[np.ndarray] = []
    known = dataclasses.replace(network, plan=trained)
    ids = np.asarray(known.to_sequence(codes)) + network.vocabulary.code_offset
    reference_logits(known, params, ids, labels[:, None], outputs=outputs)
    wanted = {f"transformer.{i}": rms(x) for i, x in enumerate(outputs)}
    assert found == pytest.approx(wanted, rel=1e-4)
    assert wanted["transformer.0"] != pytest.approx(wanted["transformer.2"], rel=1e-2)


def draw_nothing() -> TokenizerNetwork:
    """A tokenizer that is not asked: batches hold codes."""
    return TokenizerNetwork(
        TokenizerSpec(widths=(4,), units=(0,), strides=(), levels=(4, 3), groups=2), lax_conv
    )


def convolve(x: np.ndarray, layer: Mapping[str, np.ndarray]) -> np.ndarray:
    """Causal convolution without strides of [b t h w c]; ends are repeated."""
    kernel = np.asarray(layer["kernel"], np.float64)
    if kernel.shape[:3] == (3, 3, 3):
        x = np.pad(x, ((0, 0), (2, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3, 3), axis=(1, 2, 3))
        return np.einsum("bthwcijk,ijkco->bthwo", windows, kernel) + np.asarray(layer["bias"])
    return x @ kernel[0, 0, 0] + np.asarray(layer["bias"])


def activate(x: np.ndarray, norm: Mapping[str, Any], swish: Mapping[str, Any]) -> np.ndarray:
    """Norm over pixels and pairs of channels of each frame, then swish."""
    pairs = x.reshape(*x.shape[:-1], 2, -1)
    centred = pairs - pairs.mean((2, 3, 5), keepdims=True)
    normal = centred / np.sqrt((centred**2).mean((2, 3, 5), keepdims=True) + 1e-5)
    x = normal.reshape(x.shape) * np.asarray(norm["scale"]) + np.asarray(norm["bias"])
    return x / (1 + np.exp(-np.asarray(swish["beta"]) * x))


def test_outputs_of_the_tokenizer_are_those_of_the_explicit_formulas() -> None:
    network = draw_nothing()
    params = draw_params(network)
    rng = np.random.default_rng(0)
    batch = {
        "video": rng.integers(0, 256, (4, 3, 4, 6, 3), np.uint8),
        "image": rng.integers(0, 256, (2, 1, 4, 6, 3), np.uint8),
    }
    task = TokenizerTask(network, dataclasses.replace(SPEC, accumulate=2), Objective("l2"))
    found = measure(task, params, batch)
    squares: dict[str, list[float]] = {}
    for clips in batch.values():
        x = convolve(clips / 255, params["encoder"][0])
        sizes = {"encoder.0": x}
        x = activate(x, params["encoder"][1], params["encoder"][2])
        x = sizes["encoder.3"] = convolve(x, params["encoder"][3])
        quantized = network.spec.make_quantizer().apply(jnp.float32(x), {}).vectors
        x = sizes["decoder.0"] = convolve(np.asarray(quantized, np.float64), params["decoder"][0])
        x = activate(x, params["decoder"][1], params["decoder"][2])
        sizes["decoder.3"] = convolve(x, params["decoder"][3])
        for layer, output in sizes.items():  # each clip and each image counts once
            squares.setdefault(layer, []).extend(rms(one) ** 2 for one in output)
    wanted = {layer: np.sqrt(np.mean(of_clips)) for layer, of_clips in squares.items()}
    assert found == pytest.approx(wanted, rel=1e-3)


@pytest.mark.slow
def test_a_run_tells_them_at_its_interval_with_the_same_bits(tmp_path: Path) -> None:
    """Both stages, with draft channel, corruption, dropout and micro-batches in the generator."""
    changes = {
        "train.tokenizer.steps": "3",
        "train.generator.steps": "3",
        "generator.draft": "True",
        "generator.corruption.share": "0.3",
        "generator.dropout": "0.1",
        "train.generator.accumulate": "2",
    }
    for name, every in (("plain", "0"), ("measured", "2")):
        more = {f"train.{stage}.statistics_every": every for stage in ("tokenizer", "generator")}
        arguments = ["--config", tiny.CONFIG, "--workdir", str(tmp_path / name)]
        train_command.main([*arguments, *tiny.flags(changes | more)])
    for stage, layer in (("tokenizer", "decoder.0"), ("generator", "transformer.0")):
        measured, plain = (read_rows(tmp_path / name / stage) for name in ("measured", "plain"))
        assert [bool(measured[step][f"{layer}/activation_rms"]) for step in (1, 2, 3)] == [
            False,
            True,
            False,
        ]
        assert float(measured[2][f"{layer}/activation_rms"]) > 0
        assert [row["loss"] for row in plain.values()] == [row["loss"] for row in measured.values()]
        assert not [name for name in plain[2] if "activation" in name]
