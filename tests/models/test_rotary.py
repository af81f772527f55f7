# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Generators with rotary positions: explicit formulas, the cache, time, meshes, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp import build
from nbp.config import load_config, to_json
from nbp.errors import CheckpointError, ConfigError
from nbp.layout import LatentGrid, Opening
from nbp.models.inference import make_inference_model
from nbp.nn.attention.reference import dense_attention, prefix_attention
from nbp.parallel.mesh import make_mesh
from nbp.sampling.generate import generate
from nbp.sampling.settings import SamplingConfig
from nbp.stages import compare_config
from tests import tiny
from tests.models.toy import abstract_params, draw_params, make_network, reference_logits

GRID = LatentGrid(3, 2, 2)
CODES = np.random.default_rng(0).integers(0, 11, (2, GRID.size), np.int32)
ROTARY = {"generator.positions": "rotary"}
CASES = [
    ((1, 1, 2), Opening("hybrid", 2), 1, prefix_attention),
    ((1, 2, 1), Opening("bov"), 2, dense_attention),
    ((1, 1, 2), Opening("prefix"), 0, prefix_attention),
]


@pytest.mark.parametrize("block, opening, prompt, attention", CASES)
def test_full_pass_and_cache_are_the_explicit_formulas(block, opening, prompt, attention):
    """Teacher forcing, and greedy clips through the cache, against a float64 oracle."""
    network = make_network(
        GRID, block, opening, prompt=prompt, positions="rotary", attention=attention
    )
    params = draw_params(network, seed=1)
    prompts = np.array([[1, 3], [4, 0]], np.int32)[:, :prompt] if prompt else None
    offset, first = network.vocabulary.code_offset, network.plan.first
    expected = reference_logits(network, params, CODES + offset, prompts)

    @jax.jit
    def run(params):
        model = network.bind(params)
        options = {"prompt": prompts, "known": CODES, "given": first}
        drawn = generate(
            model, jax.random.key(0), jnp.arange(2), sampling=SamplingConfig(0.0), **options
        )
        return model(CODES, prompts), drawn

    logits, drawn = run(params)
    np.testing.assert_allclose(logits, expected, atol=2e-4)
    drawn = np.asarray(drawn)
    expected = reference_logits(network, params, drawn + offset, prompts)
    np.testing.assert_array_equal(expected.argmax(-1), drawn[:, first:])


@pytest.mark.parametrize("stored, most", [("compute", 1e-5), ("bfloat16", 0.02), ("int8", 0.03)])
def test_a_cache_of_any_type_keeps_turned_keys(stored, most):
    network = make_network(GRID, (1, 1, 2), Opening("bov"), positions="rotary")
    model = network.bind(draw_params(network))
    plan, decoder = network.plan, make_inference_model(model, stored=stored)
    table = model.input_table(jnp.asarray(CODES) + network.vocabulary.code_offset, None)
    expected = jax.jit(model.__call__)(CODES)

    @jax.jit
    def advance(cache, start):
        x = model.embed(table, start, 2)
        limits = jnp.full(2, start + 2)
        x, cache = decoder.forward_cached(x, cache, start=start, k_end=limits)
        return decoder.predict(x), cache

    cache, found = decoder.make_cache(2, plan.length), []
    for start in range(0, plan.length, 2):
        logits, cache = advance(cache, start)
        found.append(logits)
    error = np.abs(np.concatenate(found, 1) - expected).max() / np.abs(expected).max()
    assert error < most


@pytest.fixture(scope="module")
def small():
    network = make_network(GRID, (1, 1, 2), Opening("hybrid"), prompt=1, positions="rotary")
    return network, draw_params(network)


def test_time_has_no_beginning(small):
    """Frames and prompt at any other time give the same states: a clip may begin anywhere."""
    network, params = small
    model, x = network.bind(params), np.random.default_rng(1).normal(size=(2, 13, 16))
    assert network.plan.length == 13

    @jax.jit
    def run(later):
        rotation = model.rotation(0, 13, later=later)
        return model.transformer(x.astype(np.float32), network.plan.k_end, rotation=rotation)

    first = np.asarray(run(0))
    for later in (1, 700, 12_345):
        np.testing.assert_allclose(run(later), first, atol=1e-3)
    still = model.transformer(x.astype(np.float32), network.plan.k_end)
    assert np.abs(still - first).max() > 0.1, "positions matter"


def test_no_parameter_is_of_one_grid():
    shapes = [
        jax.tree.map(jnp.shape, abstract_params(network))
        for network in (
            make_network(grid, (1, 1, grid.w), Opening("bov"), prompt=1, positions="rotary")
            for grid in (GRID, LatentGrid(7, 5, 3))
        )
    ]
    assert shapes[0] == shapes[1]
    assert shapes[0]["positions"] == {"frame": (16, 16), "prompt": (1, 16)}


def test_eight_waves_make_any_table_of_eight_rows():
    network = make_network(LatentGrid(1, 8, 2), (1, 1, 2), Opening("bov"), positions="rotary")
    table = np.random.default_rng(0).normal(size=8)
    table -= table.mean()  # a constant is in every token's embedding
    waves = np.cos(np.pi * (np.arange(8)[:, None] + 0.5) / 8 * np.arange(1, 9))
    weights, *_ = np.linalg.lstsq(waves, table, rcond=None)
    params = draw_params(network)
    frame = np.zeros((16, 16), np.float32)
    frame[:8] = weights[:, None]
    params["positions"]["frame"] = jnp.asarray(frame)
    found = network.bind(params).positions()[:, 0]
    np.testing.assert_allclose(found, np.repeat(table, 2), atol=1e-5)


def test_recomputed_layers_and_split_heads_give_the_same():
    options = {"prompt": 1, "codes": 12, "positions": "rotary", "layers": 1}
    network = make_network(GRID, (1, 1, 2), Opening("hybrid"), **options)
    dots = make_network(GRID, (1, 1, 2), Opening("hybrid"), remat="dots", **options)
    params = draw_params(network)
    codes, prompt = np.tile(CODES, (2, 1)), np.array([[1], [4], [0], [2]], np.int32)

    def gradients(network, params):
        return jax.grad(lambda p: (network.bind(p)(codes, prompt) ** 2).mean())(params)

    expected = jax.jit(gradients, static_argnums=0)(network, params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(expected["positions"]))
    with jax.set_mesh(make_mesh(data=2, tensor=2, devices=jax.devices()[:4])):
        found = jax.jit(gradients, static_argnums=0)(dots, params)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), found, expected
    )


def load(changes):
    return load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes})


def test_what_is_refused(tmp_path):
    assert load({}).generator.positions == "learned"
    with pytest.raises(ConfigError, match="positions: the paper recipe has a learned row"):
        load({**ROTARY, "generator.recipe": "paper"})
    with pytest.raises(ConfigError, match="heads: rotary positions need heads"):
        load({**ROTARY, "generator.heads": "4"})
    (tmp_path / "config.json").write_text(to_json(load({})))
    (tmp_path / "generator" / "checkpoints" / "4").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="generator.positions was 'learned', now 'rotary'"):
        compare_config(load(ROTARY), tmp_path)


def test_the_network_of_a_configuration():
    network = build.make_generator_network(load(ROTARY), ["a", "b"])
    assert network.recipe.rotary
    assert set(abstract_params(network)["positions"]) == {"frame", "prompt"}
    learned = build.make_generator_network(load({}), ["a", "b"])
    assert not learned.recipe.rotary
    assert learned.bind(draw_params(learned)).rotation(0, 1) is None
