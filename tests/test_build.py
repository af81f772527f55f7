# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The objective of the tokenizer stage is composed as the configuration says."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp import build
from nbp.config import load_config
from nbp.config.schema import Config
from nbp.errors import CheckpointError, ConfigError
from nbp.models.lpips import LpipsNetwork
from nbp.nn.attention.reference import prefix_attention
from nbp.nn.attention.splash import SplashAttention
from nbp.tasks.adversary import AdversarySettings
from nbp.tasks.tokenizer import Objective
from nbp.training.checkpoint import Checkpointer
from nbp.training.optimizer import make_optimizer, make_schedule
from nbp.training.state import TrainState
from tests import tiny


def load(changes: dict[str, str]) -> Config:
    return load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes})


def test_terms_and_weights_are_those_of_the_configuration() -> None:
    changes = {
        "losses.reconstruction": "l1",
        "losses.reconstruction_weight": "2",
        "losses.perceptual": "structure",
        "losses.perceptual_weight": "0.5",
        "losses.quantizer_weight": "0.25",
    }
    objective = build.make_tokenizer_task(load(changes)).objective
    assert objective == Objective("l1", 2.0, "structure", 0.5, quantizer_weight=0.25)
    plain = build.make_tokenizer_task(load({}))
    assert plain.objective.perceptual == "none"
    assert (plain.adversary, plain.frozen) == (None, {})


def test_the_adversary_is_that_of_the_configuration() -> None:
    changes = {
        "adversarial.weight": "0.3",
        "adversarial.objective": "non_saturating",
        "adversarial.adaptive": "False",
        "adversarial.start": "30",
        "adversarial.warmup": "10",
        "adversarial.regularizer": "r1",
        "adversarial.regularizer_weight": "7",
        "adversarial.widths": "(8, 16)",
        "adversarial.learning_rate": "2e-4",
        "tokenizer.dtype": "bfloat16",
        "train.tokenizer.steps": "100",
        "train.tokenizer.warmup": "5",
        "train.tokenizer.clip_norm": "0.5",
    }
    task = build.make_tokenizer_task(load(changes))
    found = task.adversary
    assert found is not None
    settings = AdversarySettings(
        weight=0.3,
        objective="non_saturating",
        adaptive=False,
        start=30,
        warmup=10,
        regularizer="r1",
        regularizer_weight=7.0,
        widths=(8, 16),
        learning_rate=2e-4,
    )
    assert found.settings == settings
    assert (found.network.spec.widths, found.network.spec.dtype) == ((8, 16), jnp.bfloat16)
    # Its own Adam, with the stage's clipping, over the 80 updates that it makes.
    spec = found.optimizer
    assert (spec.optimizer, spec.b1, spec.b2, spec.weight_decay) == ("adamw", 0.5, 0.9, 0)
    assert (spec.steps, spec.warmup_steps, spec.clip_norm) == (80, 5, 0.5)
    rates = [float(make_schedule(spec)(step)) for step in (4, 79, 80)]
    assert rates[0] == pytest.approx(2e-4)
    assert rates[2] < rates[1] < 1e-6


def test_a_discriminator_that_starts_after_the_end_still_has_an_optimizer() -> None:
    late = load({"adversarial.weight": "1", "adversarial.start": "1000"})
    found = build.make_tokenizer_task(late).adversary
    assert found is not None
    assert (found.optimizer.steps, found.optimizer.warmup_steps) == (1, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tokenizer.quantizer": "lfq", "tokenizer.levels": "()", "tokenizer.codes": "16"},
        {
            "tokenizer.quantizer": "vq",
            "tokenizer.levels": "()",
            "tokenizer.codes": "6",
            "tokenizer.code_channels": "4",
            "train.tokenizer.weight_decay": "0.1",
        },
    ],
    ids=["fsq", "lfq", "vq"],
)
def test_the_optimizer_leaves_a_codebook_alone(changes: dict[str, str]) -> None:
    task = build.make_tokenizer_task(load(changes))
    shapes = jax.eval_shape(task.network.init, jax.random.key(0))
    params = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)
    optimizer = make_optimizer(task.optimizer, params)
    updates, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params)
    moved = {name: any(map(np.any, jax.tree.leaves(part))) for name, part in updates.items()}
    assert moved.pop("quantizer", False) is False
    assert moved == {"encoder": True, "decoder": True}


def test_lpips_comes_from_the_folder_of_the_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbp.models.lpips.STAGES", ((4,), (8,)))
    config = load({"losses.perceptual": "lpips", "losses.lpips_root": str(tmp_path)})
    with pytest.raises(CheckpointError) as caught:
        build.make_tokenizer_task(config)
    assert f"{tmp_path} holds no LPIPS weights" in str(caught.value)
    assert "python -m nbp.convert lpips --source vgg16-397923af.pth" in str(caught.value)
    assert "losses.perceptual=structure" in str(caught.value)
    params = LpipsNetwork().init(jax.random.key(0))
    with Checkpointer(tmp_path / "lpips" / "checkpoints") as checkpointer:
        state = TrainState(np.asarray(0, np.int32), params, ema={}, opt_state={}, extra={})
        checkpointer.save(0, state, data={}, meta={})
        checkpointer.wait()
    task = build.make_tokenizer_task(config)
    assert task.objective.perceptual == "lpips"
    jax.tree.map(np.testing.assert_array_equal, task.frozen, {"lpips": params})


def test_attention_is_chosen_for_the_platform_of_the_program() -> None:
    """By default the one that JAX runs on; `nbp.precompile` names another."""
    config = load({})
    assert config.generator.attention == "auto"
    assert build.make_attention(config) is prefix_attention
    assert build.make_attention(config, "tpu") == SplashAttention()
    task = build.make_generator_task(config, ["a"], {}, platform="tpu")
    assert task.network.recipe.parts.attention == SplashAttention()
    with pytest.raises(ConfigError, match="attention=splash runs on a TPU.*for a CPU"):
        build.make_generator_task(load({"generator.attention": "splash"}), ["a"], {})
