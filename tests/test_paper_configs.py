# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The paper's configurations describe the published networks exactly, to the parameter."""

import math

import jax
import pytest

from nbp.build import GENERATOR_GROUPS, make_generator_network, make_tokenizer_network
from nbp.config import load_config
from nbp.config.schema import Config
from nbp.data.prompts import load_prompts
from nbp.errors import ConfigError
from nbp.stages import adopt_config
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
    roots = {"data.root": "/videos", "losses.lpips_root": "/lpips"}
    return load_config(f"configs/{name}.py", roots)


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


@pytest.mark.parametrize("name", ["ucf101", "k600"])
def test_the_tokenizer_s_recipe_is_whole(name):
    config = load(f"{name}/tokenizer")
    stage, adversarial = config.train.tokenizer, config.adversarial
    assert config.stages == ("tokenizer",)
    assert (config.tokenizer.dtype, config.tokenizer.remat) == ("bfloat16", "units")
    assert config.images.batch / (config.images.batch + stage.batch) == 0.2
    assert 0 < adversarial.warmup < adversarial.start < stage.steps
    assert stage.ema > 0
    assert config.train.guards.divergence == config.train.guards.non_finite == "rollback"
    # eight devices take the same batch in two parts
    halves = {"data.root": "/videos", "losses.lpips_root": "/l", "train.tokenizer.accumulate": "2"}
    load_config(f"configs/{name}/tokenizer.py", halves)
    with pytest.raises(ConfigError, match=r"losses\.lpips_root.*nbp\.convert lpips.*structure"):
        load_config(f"configs/{name}/tokenizer.py", {"data.root": "/videos"})


@pytest.mark.parametrize("name", ["ucf101", "k600"])
def test_a_generator_takes_the_workdir_of_its_tokenizer(tmp_path, name):
    adopt_config(load(f"{name}/tokenizer"), tmp_path, report=print)
    (tmp_path / "tokenizer" / "checkpoints" / "2").mkdir(parents=True)
    told = []
    adopt_config(load(f"{name}/generator_700m"), tmp_path, report=told.append)
    assert "tokenizer.dtype 'bfloat16' -> 'float32'" in told[0]


def test_micro_batches_of_the_release_add_up():
    stage = load("k600/generator_3b").train.generator
    assert stage.steps * stage.accumulate == 4_000_000
    assert stage.warmup * stage.accumulate == 10_000
    assert (stage.schedule, stage.gradients, stage.batch) == ("paper", "sum", 64)
