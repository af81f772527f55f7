# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The draft channel: explicit formulas, what a draft may influence, nothing while it is zero."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.layout import LatentGrid, Opening, SequencePlan
from tests.models.toy import WIDTH, draw_params, make_network, reference_logits

GRID = LatentGrid(2, 2, 2)
CODES = np.random.default_rng(0).integers(0, 11, (2, GRID.size), np.int32)
PLANS = [
    ((1, 1, 2), Opening("prefix"), 0),
    ((1, 1, 2), Opening("hybrid", 2), 1),
    ((1, 2, 2), Opening("hybrid"), 0),
    ((2, 1, 1), Opening("bov"), 2),
]


def hide(seed: int, hidden: int, codes: np.ndarray = CODES) -> np.ndarray:
    """Drafts of about half of the tokens."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(codes.shape) < 0.5, hidden, codes).astype(np.int32)


@pytest.mark.parametrize("recipe", ["paper", "modern"])
def test_a_query_reads_the_draft_of_what_it_predicts(recipe):
    network = make_network(
        GRID, (1, 1, 2), Opening("hybrid", 2), recipe=recipe, prompt=1, draft=True
    )
    params = draw_params(network)
    prompt, drafts = np.array([[1], [4]], np.int32), hide(1, 11)
    run = jax.jit(lambda drafts: network.bind(params)(CODES, prompt, drafts=drafts))
    ids = CODES + network.vocabulary.code_offset
    expected = reference_logits(network, params, ids, prompt, drafts=drafts)
    np.testing.assert_allclose(run(drafts), expected, atol=2e-4)
    hidden = reference_logits(network, params, ids, prompt)
    np.testing.assert_allclose(run(None), hidden, atol=2e-4)
    assert np.abs(expected - hidden).max() > 0.1


def test_a_new_table_changes_nothing():
    options: dict[str, Any] = {"prompt": 1}
    plain = make_network(GRID, (1, 2, 1), Opening("hybrid"), **options)
    draft = make_network(GRID, (1, 2, 1), Opening("hybrid"), draft=True, **options)
    init = jax.jit(lambda key: (plain.init(key), draft.init(key)))
    ours, theirs = init(jax.random.key(0))
    table = theirs.pop("drafts")
    assert table.shape == (12, WIDTH)
    assert not np.any(table)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    params = draw_params(plain)
    prompt = np.array([[1], [4]], np.int32)
    logits = jax.jit(plain.bind(params).__call__)(CODES, prompt)
    with_zeros = jax.jit(draft.bind(params | {"drafts": table}).__call__)
    for drafts in (None, hide(2, 11), CODES):
        found = with_zeros(CODES, prompt, drafts=drafts)
        np.testing.assert_array_equal(found, logits)


@pytest.mark.parametrize("block, opening, prompt", PLANS)
def test_a_hidden_target_has_no_influence_on_its_block(block, opening, prompt):
    """By gradients: row i of either table is the token i alone, as each has a code of its own."""
    options = {"recipe": "paper", "prompt": prompt, "codes": GRID.size, "layers": 1}
    network = make_network(GRID, block, opening, draft=True, **options)
    params, plan = draw_params(network), network.plan
    codes = np.arange(GRID.size, dtype=np.int32)[None]
    drafts = np.where(codes % 2, codes, GRID.size)  # every other token is shown
    labels = np.arange(prompt, dtype=np.int32)[None] if prompt else None

    def outputs(tables):
        logits = network.bind(params | tables)(codes, labels, drafts=drafts)[0]
        return logits @ jnp.arange(1.0, logits.shape[-1] + 1)

    tables = {"tokens": params["tokens"], "drafts": params["drafts"]}
    gradients = jax.jit(jax.jacrev(outputs))(tables)
    of_tokens, of_drafts = (np.abs(gradients[n]).max(-1) > 0 for n in ("tokens", "drafts"))
    size = plan.block_size
    alone = opening.blocks * size if opening.kind == "hybrid" else 0
    revealed = (drafts[0] < GRID.size) & (np.arange(GRID.size) >= max(alone, plan.first))
    assert revealed.sum() == (GRID.size - max(plan.first, alone)) // 2
    for j, token in enumerate(range(plan.first, GRID.size)):
        read = token if token < alone else token // size * size  # tokens before its block
        inside = token + 1 if token < alone else read + size  # and up to the end of the block
        seen = of_tokens[j, network.vocabulary.code_offset :]
        assert seen.tolist() == [i < read for i in range(GRID.size)]
        shown = of_drafts[j, : GRID.size]
        assert shown.tolist() == [bool(revealed[i]) and i < inside for i in range(GRID.size)]
        assert of_drafts[j, GRID.size], "something of its block is hidden"


def test_a_revealed_draft_reaches_its_own_query_and_a_hidden_one_nothing():
    """The same by finite differences: another target changes no logit where it is hidden."""
    network = make_network(GRID, (1, 2, 2), Opening("bov"), draft=True)
    model = network.bind(draw_params(network))
    run = jax.jit(lambda codes, drafts: model(codes, drafts=drafts))
    hidden = np.full((1, GRID.size), 11, np.int32)
    codes = CODES[:1]
    base = run(codes, hidden)
    for token in range(4):  # of the first block
        changed = codes.copy()
        changed[0, token] = (changed[0, token] + 1) % 11
        np.testing.assert_array_equal(run(changed, hidden)[:, :4], base[:, :4])
        drafts = hidden.copy()
        drafts[0, token] = codes[0, token]
        assert np.all(np.any(run(codes, drafts) != base, axis=-1)), "all of it, and the next block"


def test_first_tokens_that_are_drawn_with_others():
    plans = {
        ("bov", 1, (1, 1, 2)): 0,
        ("prefix", 1, (1, 1, 2)): 2,
        ("hybrid", 2, (1, 1, 2)): 4,
        ("hybrid", 4, (1, 1, 2)): 8,
        ("bov", 1, (1, 1, 1)): 8,
    }
    for (kind, blocks, block), first in plans.items():
        opening = Opening(kind, blocks)  # type: ignore[arg-type]
        assert SequencePlan(GRID, block, opening).first_joint == first


def test_a_model_without_the_channel_takes_no_drafts():
    network = make_network(GRID, (1, 1, 2), Opening("bov"))
    with pytest.raises(ValueError, match="no draft channel: train with generator.draft=True"):
        network.bind(draw_params(network))(CODES, drafts=CODES)
