# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Every configuration that is shipped parses, validates, and its networks fit its data."""

import functools
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from nbp import build
from nbp.config import load_config
from nbp.config.schema import Config
from nbp.data.prompts import load_prompts
from nbp.models.lpips import LpipsNetwork
from nbp.models.tokenizer import TokenizerNetwork
from nbp.shapes import PyTree
from nbp.training.optimizer import OptimizerSpec, make_optimizer

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(
    path
    for path in (ROOT / "configs").rglob("*.py")
    if "def get_config(" in path.read_text(encoding="utf8")
)
LABELS = tuple(load_prompts())[:3]  # class names that also have a text prompt


def list_variants() -> list[str]:
    """`FILE` and each `FILE:VARIANT`, read from the comparisons in the file."""
    found = []
    for path in FILES:
        name = str(path.relative_to(ROOT))
        text = path.read_text(encoding="utf8")
        found += [name, *(f"{name}:{v}" for v in re.findall(r'variant == "(\w+)"', text))]
    return found


def load(argument: str, **overrides: str) -> Config:
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    # What a configuration leaves to its user: where videos and the weights of LPIPS are.
    keys |= {"data.root": "videos", "losses.lpips_root": "weights"}
    return load_config(str(ROOT / argument), keys)


def test_files_and_variants_are_found() -> None:
    found = list_variants()
    assert "configs/quickstart.py:smoke" in found
    assert "configs/folder.py" in found


@functools.cache  # many configurations share a tokenizer, and tracing the large one takes long
def trace_tokenizer(network: TokenizerNetwork, frames: int, size: int) -> tuple[PyTree, PyTree]:
    """Shapes of the parameters and of the codes of two clips, which give the clips back."""
    clips = jax.ShapeDtypeStruct((2, frames, size, size, 3), np.uint8)
    params = jax.eval_shape(network.init, jax.random.key(0))
    codes = jax.eval_shape(network.encode, params, clips)
    assert jax.eval_shape(network.decode, params, codes).shape == clips.shape
    return params, codes


@pytest.mark.parametrize("argument", list_variants())
def test_networks_are_built_and_fit_the_clips(argument: str) -> None:
    config = load(argument)
    tokenizer = build.make_tokenizer_network(config)
    params, codes = trace_tokenizer(tokenizer, config.data.frames, config.data.size)
    assert codes.shape == (2, *config.grid.shape)
    task = build.make_generator_task(config, LABELS, params)
    state = jax.eval_shape(task.init, jax.random.key(0))
    batch = {"codes": codes, "label": jax.ShapeDtypeStruct((2,), np.int32)}
    metrics, tokens = jax.eval_shape(task.evaluate, state.params, task.frozen, batch)
    assert metrics["loss"].shape == ()
    assert tokens.shape == codes.shape


# The recipe of configs/k600/tokenizer.py has the shapes of the first.
TOKENIZERS = (
    "configs/ucf101/tokenizer.py",
    "configs/tokenizer_small.py",
    "configs/tokenizer_small.py:clips_reconstruction",
)


@pytest.mark.parametrize("argument", TOKENIZERS)
def test_an_update_of_the_tokenizer_keeps_the_shapes(
    argument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_shapes(root: str) -> PyTree:
        assert root == "weights"
        return jax.eval_shape(LpipsNetwork().init, jax.random.key(0))

    monkeypatch.setattr(build, "load_lpips", find_shapes)
    units = {"tokenizer__units": "(0, 0, 0, 1)"} if argument.endswith("/tokenizer.py") else {}
    config = load(argument, **units)  # tracing all units of the large ones takes long
    task = build.make_tokenizer_task(config)
    size, stage = config.data.size, config.train.tokenizer
    batch = {
        "video": jax.ShapeDtypeStruct((stage.batch, config.data.frames, size, size, 3), np.uint8)
    }
    if config.images.batch:
        batch["image"] = jax.ShapeDtypeStruct((config.images.batch, 1, size, size, 3), np.uint8)
    key = jax.random.key(0)
    state = jax.eval_shape(task.init, key)
    after, metrics = jax.eval_shape(task.step, state, task.frozen, batch, key)
    assert after == state
    assert ("adversarial" in metrics) == ("discriminator" in state.extra)
    assert ("perceptual" in metrics) == (config.losses.perceptual != "none")


@pytest.mark.parametrize("argument", list_variants())
@pytest.mark.parametrize("block", ["row", "frame", "token"])
def test_row_frame_and_token_blocks_are_one_override(argument: str, block: str) -> None:
    config = load(argument, generator__block=block)
    t, h, w = config.grid.shape
    assert config.block == {"row": (1, 1, w), "frame": (1, h, w), "token": (1, 1, 1)}[block]
    first = config.plan.first
    assert sorted(config.plan.order) == list(range(t * h * w))
    assert config.plan.target_count == t * h * w - first


@pytest.mark.parametrize("argument", list_variants())
def test_optimizer_groups_cover_every_parameter(argument: str) -> None:
    config = load(argument)
    key = jax.random.key(0)
    stages = (
        (config.train.tokenizer, build.TOKENIZER_GROUPS, build.make_tokenizer_network(config)),
        (
            config.train.generator,
            build.make_generator_groups(config),
            build.make_generator_network(config, LABELS),
        ),
    )
    for stage, groups, network in stages:
        params = jax.eval_shape(network.init, key)
        make_optimizer(OptimizerSpec.of(stage, groups), params)
