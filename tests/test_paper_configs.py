# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The paper's configurations describe the published networks exactly, to the parameter."""

import math

import jax
import pytest

from nbp.build import GENERATOR_GROUPS, make_generator_network, make_tokenizer_network
from nbp.config import Config, load_config
from nbp.data.prompts import load_prompts
from nbp.training.optimizer import assign_groups

# all trained parameters, and those of them with weight decay
GENERATORS = {
    "k600/generator_700m": (884_431_872, 777_781_248),
    "k600/generator_1b": (1_481_232_384, 1_339_031_552),
    "k600/generator_3b": (4_034_107_392, 3_820_486_656),
    "ucf101/generator_700m": (982_785_024, 826_957_824),
    "ucf101/generator_1b": (1_612_369_920, 1_404_600_320),
    "ucf101/generator_3b": (4_230_813_696, 3_918_839_808),
}


def load(name: str) -> Config:
    return load_config(f"configs/{name}.py", {"data.root": "/videos"})


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_generator_parameter_counts(name):
    config = load(name)
    network = make_generator_network(config, list(load_prompts()))
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    # The release keeps the null condition in a buffer, which its counts leave out.
    shapes.pop("null_prompt", None)
    groups = assign_groups(GENERATOR_GROUPS, shapes)
    pairs = list(zip(jax.tree.leaves(shapes), jax.tree.leaves(groups), strict=True))
    decayed = sum(math.prod(leaf.shape) for leaf, i in pairs if GENERATOR_GROUPS[i].decay)
    assert (sum(math.prod(leaf.shape) for leaf, _ in pairs), decayed) == GENERATORS[name]


@pytest.mark.parametrize("name", ["ucf101/tokenizer", "k600/tokenizer"])
def test_tokenizer_parameter_count(name):
    shapes = jax.eval_shape(make_tokenizer_network(load(name)).init, jax.random.key(0))
    sizes = {
        half: sum(math.prod(x.shape) for x in jax.tree.leaves(shapes[half])) for half in shapes
    }
    assert sizes == {"encoder": 144_886_790, "decoder": 225_485_315}


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_sequences_are_the_published_ones(name):
    config = load(name)
    network = make_generator_network(config, list(load_prompts()))
    text = name.startswith("ucf101")
    assert config.grid.shape == (5, 16, 16)
    assert network.vocabulary.size == (96_016 if text else 64_000)
    assert network.plan.length == (1288 if text else 1264)
    assert network.plan.target_count == (1280 if text else 1264)
    given = network.plan.tokens_of_frames(config.evaluation.given_frames)
    assert network.plan.passes(given) == (95 if text else 48)


def test_micro_batches_of_the_release_add_up():
    stage = load("k600/generator_3b").train.generator
    assert stage.steps * stage.accumulate == 4_000_000
    assert stage.warmup * stage.accumulate == 10_000
    assert (stage.schedule, stage.gradients, stage.batch) == ("paper", "sum", 64)
