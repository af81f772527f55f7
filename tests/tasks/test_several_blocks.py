# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""One set of weights that draws in several blocks: training, measures, sampling, adaptation."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from nbp.build import make_generator_network, make_generator_task
from nbp.config import load_config
from nbp.errors import ConfigError
from nbp.init_from import fit_ids
from nbp.layout import LatentGrid, Opening, SequencePlan, Vocabulary
from nbp.parallel.mesh import make_mesh
from nbp.sampling.generate import generate
from nbp.sampling.settings import SamplingConfig
from nbp.tasks.generator import GeneratorTask
from tests import tiny
from tests.models.toy import draw_params, make_network, reference_logits
from tests.parallel.test_sharded_training import BATCH, TASK, compare, take_step

GRID = LatentGrid(2, 2, 2)
ROWS = TASK.network
FRAMES = SequencePlan(GRID, (1, 2, 2), Opening("hybrid"), 1)
TOKENS = SequencePlan(GRID, (1, 1, 1), Opening("hybrid"), 1)
# The special ids of the largest block stand before those of prompt and codes.
NETWORK = dataclasses.replace(ROWS, vocabulary=Vocabulary(24, 5, FRAMES.special_count))
SEVERAL = dataclasses.replace(TASK, network=NETWORK, further=(FRAMES, TOKENS), further_share=0.5)


def alone(plan: SequencePlan) -> GeneratorTask:
    network = dataclasses.replace(NETWORK, plan=plan)
    return dataclasses.replace(SEVERAL, network=network, further=())


def test_updates_are_of_each_block_with_its_chance():
    keys = jax.random.split(jax.random.key(0), 4000)
    chosen = np.bincount(np.asarray(jax.vmap(SEVERAL.choose_block)(keys)), minlength=3) / 4000
    np.testing.assert_allclose(chosen, [0.5, 0.25, 0.25], atol=0.03)
    rare = dataclasses.replace(SEVERAL, further_share=0.1)
    assert np.asarray(jax.vmap(rare.choose_block)(keys) > 0).mean() == pytest.approx(0.1, abs=0.02)


def test_a_step_is_one_of_the_chosen_block():
    """Loss, gradients and state are those of a task that knows that block alone."""
    params = draw_params(NETWORK, seed=1)
    state = dataclasses.replace(SEVERAL.init(jax.random.key(0)), params=params)
    step = jax.jit(SEVERAL.step)
    tasks = [alone(plan) for plan in (NETWORK.plan, FRAMES, TOKENS)]
    steps = [jax.jit(task.step) for task in tasks]
    seen = set()
    for number in range(14):
        key = jax.random.key(number)
        after, metrics = step(state, {}, BATCH, key)
        losses = [float(one(state, {}, BATCH, key)[1]["loss"]) for one in steps]
        assert len(set(losses)) == 3
        which = int(np.argmin(np.abs(np.array(losses) - float(metrics["loss"]))))
        assert float(metrics["loss"]) == pytest.approx(losses[which], rel=1e-5)
        expected, _ = steps[which](state, {}, BATCH, key)
        for a, b in zip(*(jax.tree.leaves(s.params) for s in (after, expected)), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)
        seen.add(which)
    assert seen == {0, 1, 2}


def test_bits_of_each_block_are_those_of_a_numpy_transformer():
    params = draw_params(NETWORK, seed=2)
    metrics, grids = jax.jit(SEVERAL.evaluate)(params, {}, BATCH)
    for name, plan in (("frame", FRAMES), ("token", TOKENS)):
        network = dataclasses.replace(NETWORK, plan=plan)
        codes = np.asarray(network.to_sequence(grids))
        ids = codes + NETWORK.vocabulary.code_offset
        logits = reference_logits(network, params, ids, BATCH["label"][:, None])
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        bits = -np.take_along_axis(logs, codes[..., None], -1).mean() / math.log(2)
        assert float(metrics[f"bits_{name}_blocks"]) == pytest.approx(bits, rel=1e-4)


def test_further_blocks_change_no_measure_of_the_first():
    """Blocks whose tokens come in another order, and a network with the draft channel."""
    rows = SequencePlan(GRID, (1, 1, 2), Opening("hybrid"), 1)
    assert rows.order.tolist() != NETWORK.plan.order.tolist()
    network = dataclasses.replace(NETWORK, draft=True)
    params = draw_params(network, seed=6)
    one = dataclasses.replace(SEVERAL, network=network, further=())
    expected, _ = jax.jit(one.evaluate)(params, {}, BATCH)
    two = dataclasses.replace(one, further=(rows,))
    found, _ = jax.jit(two.evaluate)(params, {}, BATCH)
    assert set(found) - set(expected) == {"bits_row_blocks"}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("plan", [FRAMES, TOKENS], ids=["frame", "token"])
def test_cached_decoding_in_another_block_is_the_full_pass(plan):
    """Greedy clips are what a pass over the whole clip finds most likely, token by token."""
    network = dataclasses.replace(NETWORK, plan=plan)
    params = draw_params(NETWORK, seed=4)
    prompt = np.arange(4)[:, None] % 5
    greedy = SamplingConfig(temperature=0.0)

    def draw(params, prompt):
        model = network.bind(params)
        key = jax.random.key(0)
        codes = generate(model, key, np.arange(4), prompt=prompt, sampling=greedy)
        return codes, model(codes, prompt)

    codes, logits = jax.jit(draw)(params, prompt)
    np.testing.assert_array_equal(np.asarray(logits).argmax(-1), codes)


def test_a_mesh_computes_what_one_device_computes():
    params = draw_params(NETWORK, seed=1)
    task = dataclasses.replace(SEVERAL, further=(FRAMES,))
    expected = take_step(task, params, BATCH, make_mesh(devices=jax.devices()[:1]))
    compare(take_step(task, params, BATCH, make_mesh(data=2, fsdp=2, tensor=2)), expected)


@pytest.mark.parametrize("recipe", ["modern", "paper"])
def test_adapted_weights_are_the_same_function_of_the_old_block(recipe):
    """From tokens to rows and back: the model of tokens is not changed, nor lost."""
    options = {"recipe": recipe, "prompt": 1, "codes": 12, "layers": 1}
    source = make_network(GRID, (1, 1, 1), Opening("hybrid"), **options)
    target = make_network(GRID, (1, 2, 2), Opening("hybrid"), **options)
    assert (source.vocabulary.special, target.vocabulary.special) == (1, 4)
    params = draw_params(source, seed=5)
    wide = fit_ids(params, source, target)
    shapes = jax.eval_shape(target.init, jax.random.key(0))
    assert jax.tree.map(np.shape, wide) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    codes = np.random.default_rng(0).integers(0, 12, (3, 8)).astype(np.int32)
    prompt = np.arange(3, dtype=np.int32)[:, None]
    tokens = dataclasses.replace(target, plan=source.plan)
    before = np.asarray(source.bind(params)(codes, prompt))
    after = np.asarray(tokens.bind(wide)(codes, prompt))
    shift = after.shape[-1] - 12
    np.testing.assert_allclose(after[..., shift:], before[..., -12:], rtol=1e-5, atol=1e-6)
    back = fit_ids(wide, target, source)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)
    other = make_network(GRID, (1, 2, 2), Opening("hybrid"), **{**options, "codes": 13})
    assert fit_ids(params, source, other) is params, "other codes are no matter of blocks"


def load(**keys: str):
    changes = {name.replace("__", "."): value for name, value in keys.items()}
    return load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes})


def test_configurations():
    config = load(generator__blocks="('frame', (1, 2, 2), 'token')")
    assert [plan.name for plan in config.further_plans] == ["frame", "1x2x2", "token"]
    assert config.plan.name == "row"
    network = make_generator_network(config, ["a", "b"])
    assert network.vocabulary.special == config.grid.frame, "the largest block has the most"
    task = make_generator_task(config, ["a", "b"], {})
    assert [one.network.plan.name for one in task.each_block()][1:] == ["frame", "1x2x2", "token"]
    frames = config.with_block("frame")
    assert frames.plan == config.further_plans[0]
    assert frames.with_block((1, 1, 4)) == dataclasses.replace(
        config,
        generator=dataclasses.replace(config.generator, blocks=("frame", (1, 2, 2), "token")),
    )
    same = make_generator_network(frames, ["a", "b"])
    assert same.vocabulary == network.vocabulary
    assert load().with_block("row") == load()
    corrupted = load(generator__blocks="('frame',)", generator__corruption__share="0.2")
    found = make_generator_task(corrupted, ["a"], {}).each_block()[1].corruption
    assert found is not None
    assert found.plan == corrupted.further_plans[0]


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"generator__blocks": "('row',)"}, "generator.blocks: row, row: name each block once"),
        ({"generator__blocks": "('pixel',)"}, "generator.blocks: block 'pixel'"),
        ({"generator__blocks": "((1, 3, 4),)"}, "generator.blocks: block .* does not divide"),
        ({"sampling__block": "frame"}, "sampling.block: .* trained with blocks row"),
        (
            {"generator__blocks": "('token',)", "generator__draft": "True"},
            "a block of one token has nothing to refine",
        ),
    ],
)
def test_configurations_that_cannot_be(keys, message):
    with pytest.raises(ConfigError, match=message):
        load(**keys)
