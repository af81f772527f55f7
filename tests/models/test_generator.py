# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Both recipes against float64 numpy; causality by gradient; official parameter counts."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.layout import LatentGrid, Opening, SequencePlan, Vocabulary
from nbp.models.generator import GeneratorNetwork, paper_recipe
from nbp.nn.attention.reference import dense_attention, xla_attention
from nbp.nn.transformer import TransformerSpec
from tests.models.toy import (
    LABELS,
    WIDTH,
    abstract_params,
    draw_params,
    make_network,
    reference_logits,
)

GRID = LatentGrid(2, 2, 2)
CODES = np.random.default_rng(0).integers(0, 11, (2, GRID.size), np.int32)
PROMPT = np.array([[1], [4]], np.int32)


@pytest.mark.parametrize("recipe", ["paper", "modern"])
def test_logits_are_those_of_the_explicit_formulas(recipe):
    network = make_network(GRID, (1, 2, 1), Opening("hybrid", 2), recipe=recipe, prompt=1)
    params = draw_params(network)
    model = network.bind(params)
    logits = np.asarray(jax.jit(model.__call__)(CODES, PROMPT))
    shift = network.vocabulary.code_offset
    expected = reference_logits(network, params, CODES + shift, PROMPT)
    np.testing.assert_allclose(logits, expected, atol=2e-4)
    outputs = {"paper": network.vocabulary.size, "modern": 11}[recipe]
    assert logits.shape == (2, GRID.size, outputs)
    # The class of a target is the place of its code among the outputs.
    shift = {"paper": 2 + LABELS, "modern": 0}[recipe]
    np.testing.assert_array_equal(model.targets(CODES), CODES + shift)


# One length, so that all of them run through one compiled function.
SAME_LENGTH = [
    ((1, 1, 1), Opening("bov"), 1),
    ((1, 1, 2), Opening("prefix"), 3),
    ((1, 1, 2), Opening("bov"), 1),
    ((1, 1, 2), Opening("hybrid"), 1),
    ((1, 1, 2), Opening("hybrid", 2), 1),
    ((1, 2, 2), Opening("prefix"), 5),
    ((1, 2, 2), Opening("bov"), 1),
    ((1, 2, 2), Opening("hybrid"), 1),
    ((2, 1, 2), Opening("bov"), 1),
    ((2, 1, 1), Opening("hybrid"), 1),
]


@pytest.fixture(scope="module")
def influence_of_positions():
    network = make_network(GRID, (1, 1, 1), Opening("bov"), prompt=1)
    model = network.bind(draw_params(network))

    def outputs(x, k_end):
        logits = model.predict(model.transformer(x[None], k_end))[0]
        return logits @ jnp.arange(1.0, 12.0)  # one number per query

    return jax.jit(jax.jacrev(outputs))


@pytest.mark.parametrize("block, opening, prompt", SAME_LENGTH)
def test_no_influence_beyond_the_attention_limit(influence_of_positions, block, opening, prompt):
    plan = SequencePlan(GRID, block, opening, prompt)
    x = np.random.default_rng(1).normal(size=(9, WIDTH)).astype(np.float32)
    gradient = influence_of_positions(x, plan.k_end)  # [query, position, channel]
    influence = np.abs(gradient).max(axis=-1)
    np.testing.assert_array_equal(influence > 0, plan.mask)


PLANS = [
    ((1, 1, 2), Opening("prefix"), 0),
    ((1, 1, 2), Opening("hybrid", 2), 1),
    ((1, 2, 2), Opening("hybrid"), 0),
    ((2, 1, 1), Opening("bov"), 2),
]


@pytest.mark.parametrize("block, opening, prompt", PLANS)
def test_a_logit_depends_on_exactly_the_tokens_before_its_block(block, opening, prompt):
    # Every token of the clip gets its own code, so row i of the table is the token i alone.
    network = make_network(GRID, block, opening, recipe="paper", prompt=prompt, codes=8, layers=1)
    params, plan = draw_params(network), network.plan
    codes = np.arange(GRID.size, dtype=np.int32)[None]
    labels = np.arange(prompt, dtype=np.int32)[None] if prompt else None

    def outputs(table):
        logits = network.bind(params | {"tokens": table})(codes, labels)[0]
        return logits @ jnp.arange(1.0, logits.shape[-1] + 1)

    influence = np.abs(jax.jit(jax.jacrev(outputs))(params["tokens"])).max(axis=-1) > 0
    of_tokens = influence[:, network.vocabulary.code_offset :]
    size = math.prod(block)
    one_by_one = opening.blocks * size if opening.kind == "hybrid" else 0
    for row, token in zip(of_tokens, range(plan.first, GRID.size), strict=True):
        seen = token if token < one_by_one else token // size * size
        assert row.tolist() == [True] * seen + [False] * (GRID.size - seen)
    if prompt:
        first = network.vocabulary.prompt_offset
        assert influence[:, first : first + prompt].all()
    if opening.kind != "prefix":
        assert influence[:, 0].all()  # begin-of-video


@pytest.fixture(scope="module")
def prompted():
    network = make_network(GRID, (1, 1, 2), Opening("bov"), prompt=1)
    params = draw_params(network)
    run = jax.jit(lambda params, prompt, null: network.bind(params)(CODES, prompt, null=null))
    return network, params, run


def test_the_null_condition_replaces_the_prompt(prompted):
    network, params, run = prompted
    one, other = np.array([[0], [1]], np.int32), np.array([[3], [4]], np.int32)
    none, both = np.zeros(2, bool), np.ones(2, bool)
    np.testing.assert_array_equal(run(params, one, both), run(params, other, both))
    assert np.all(run(params, one, none) != run(params, other, none))
    mixed = run(params, one, np.array([False, True]))
    np.testing.assert_allclose(mixed[0], run(params, one, none)[0], atol=1e-5)
    np.testing.assert_allclose(mixed[1], run(params, one, both)[1], atol=1e-5)
    # A null row that equals the embedding of label 3 is label 3.
    row = params["tokens"][network.vocabulary.prompt_offset + 3][None]
    same = run(params | {"null_prompt": row}, one, both)
    np.testing.assert_allclose(same, run(params, np.array([[3], [3]], np.int32), none), atol=1e-5)


def test_padding_of_a_prompt_is_not_seen():
    network = make_network(GRID, (1, 1, 2), Opening("hybrid"), prompt=3, padding=2)
    params = draw_params(network)
    prompt = np.array([[1, 2, 2], [4, 0, 2]], np.int32)
    run = jax.jit(lambda p, null: network.bind(p)(CODES, prompt, null=null))
    shown, null = np.zeros(2, bool), np.array([False, True])
    ids = CODES + network.vocabulary.code_offset
    logits = run(params, shown)
    np.testing.assert_allclose(logits, reference_logits(network, params, ids, prompt), atol=2e-4)
    row = network.vocabulary.prompt_offset + 2
    changed = params | {"tokens": params["tokens"].at[row].set(9.0)}
    np.testing.assert_array_equal(run(changed, shown), logits)
    # The null condition fills all rows, those of pads too.
    expected = reference_logits(network, params, ids, prompt, null=True)[1]
    np.testing.assert_allclose(run(params, null)[1], expected, atol=2e-4)


def test_only_the_null_condition_is_trained_by_null_samples(prompted):
    _, params, run = prompted

    def loss(params, null):
        return jnp.sum(jnp.sin(run(params, PROMPT, null)))

    gradient = jax.jit(jax.grad(loss))
    for null in (False, True):
        found = gradient(params, np.full(2, null))
        prompt_rows = found["tokens"][1 : 1 + LABELS]
        assert np.any(found["null_prompt"] != 0) == null
        assert np.any(prompt_rows != 0) != null


def test_dense_and_xla_attention_give_the_same_model(prompted):
    network, params, run = prompted
    dense = make_network(GRID, (1, 1, 2), Opening("bov"), prompt=1, attention=dense_attention)
    logits = dense.bind(params)(CODES, PROMPT)
    np.testing.assert_allclose(logits, run(params, PROMPT, None), atol=5e-5)
    assert network.bind(params).plan == dense.plan


def test_dropout_only_with_a_key():
    network = make_network(GRID, (1, 1, 2), Opening("bov"), dropout=0.5, layers=1)
    model = network.bind(draw_params(network))
    run = jax.jit(lambda key: model(CODES, key=key))
    once = run(jax.random.key(0))
    np.testing.assert_array_equal(once, run(jax.random.key(0)))
    assert np.any(once != run(jax.random.key(1)))
    np.testing.assert_array_equal(run(None), run(None))


def test_initial_parameters_of_the_recipes():
    block, opening = (1, 2, 2), Opening("bov")
    paper = make_network(GRID, block, opening, recipe="paper", prompt=2, codes=300, width=64)
    modern = make_network(GRID, block, opening, prompt=2, codes=300, width=64)
    init = jax.jit(lambda key: (paper.init(key), modern.init(key)))
    params, modern_params = init(jax.random.key(0))
    assert params["positions"]["table"].shape == (64, 64)
    assert not np.any(params["positions"]["table"])
    assert np.std(params["tokens"]) == pytest.approx(0.02, rel=0.05)
    assert np.std(params["head"]["kernel"]) == pytest.approx(0.02, rel=0.05)
    assert np.std(params["null_prompt"]) == pytest.approx(64**-0.5, rel=0.25)
    params = modern_params
    assert np.std(params["tokens"]) == pytest.approx(0.2, rel=0.05)
    assert np.std(params["positions"]["prompt"]) == pytest.approx(0.2, rel=0.25)
    assert "null_prompt" not in abstract_params(make_network(GRID, block, opening))


@pytest.mark.parametrize("block", [(1, 1, 2), (2, 1, 2), (1, 2, 1)])
def test_arrange_and_restore_grid(block):
    network = make_network(GRID, block, Opening("bov"))
    grids = np.random.default_rng(2).integers(0, 11, (3, *GRID.shape))
    arranged = network.to_sequence(grids)
    for i, flat in enumerate(network.plan.order):
        t, h, w = np.unravel_index(flat, GRID.shape)
        np.testing.assert_array_equal(arranged[:, i], grids[:, t, h, w])
    np.testing.assert_array_equal(network.to_grid(arranged), grids)


def test_wrong_prompts_and_lengths_are_refused(prompted):
    network, params, _ = prompted
    model = network.bind(params)
    with pytest.raises(ValueError, match=r"prompt of 0 ids and 8 tokens.* prompt of 1 and 8"):
        model(CODES)
    with pytest.raises(ValueError, match="prompt of 2 ids"):
        model(CODES, np.zeros((2, 2), np.int32))
    with pytest.raises(ValueError, match="7 tokens"):
        model(CODES[:, :7], PROMPT)
    with pytest.raises(ValueError, match="128 positions exceeds the table of 64"):
        abstract_params(
            make_network(LatentGrid(2, 8, 8), (1, 1, 1), Opening("bov"), recipe="paper")
        )


def test_prompt_of_a_batch(prompted):
    batch = {"label": np.array([3, 1])}
    np.testing.assert_array_equal(prompted[0].prompt(batch), [[3], [1]])
    assert make_network(GRID, (1, 1, 2), Opening("bov")).prompt(batch) is None
    texts = ((1, 9, 2), (1, 5, 6), (1, 7, 2), (1, 8, 8))
    network = dataclasses.replace(
        make_network(GRID, (1, 1, 2), Opening("bov"), prompt=3), texts=texts
    )
    np.testing.assert_array_equal(network.prompt(batch), [texts[3], texts[1]])


@pytest.mark.parametrize(
    "layers, heads, width, plain, text",
    [
        (24, 16, 1536, 884_431_872, 982_785_024),
        (24, 32, 2048, 1_481_232_384, 1_612_369_920),
        (32, 32, 3072, 4_034_107_392, 4_230_813_696),
    ],
    ids=["base", "xl", "3b"],
)
def test_official_parameter_counts(layers, heads, width, plain, text):
    spec = TransformerSpec(layers, heads, width, dropout=0.1)
    grid, row = LatentGrid(5, 16, 16), (1, 1, 16)
    models = {
        plain: (SequencePlan(grid, row, Opening("prefix")), Vocabulary(64000)),
        text: (SequencePlan(grid, row, Opening("hybrid"), 8), Vocabulary(64000, 32000, 16)),
    }
    for expected, (plan, vocabulary) in models.items():
        network = GeneratorNetwork(spec, plan, vocabulary, paper_recipe(xla_attention))
        params = abstract_params(network)  # shapes only: nothing is allocated
        # The official null condition is a buffer, not a parameter.
        buffer = params.pop("null_prompt", None)
        assert (buffer is not None) == (plan.prompt_length > 0)
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
