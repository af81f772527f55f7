# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks count, and that they compare like with like."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.naive_sampling import draw_naively, draw_token
from benchmarks.tokenizer import count_pass_flops
from nbp.layout import LatentGrid, Opening
from nbp.models.tokenizer import TokenizerSpec
from nbp.sampling.decode import generate_ids
from nbp.sampling.filters import Filter
from tests.models.toy import draw_params, make_network


@pytest.mark.parametrize(
    "kind, clip, expected",
    [
        ("encode", (17, 128, 128), 4_470_771_023_872),
        ("decode", (17, 128, 128), 6_190_875_017_216),
        ("encode", (1, 128, 128), 318_672_207_872),
        ("decode", (5, 128, 128), 1_888_750_665_728),
    ],
)
def test_flops_of_the_official_tokenizer(kind, clip, expected):
    """Counted from the released PyTorch model (official/REFERENCE.md 4.6)."""
    assert count_pass_flops(kind, TokenizerSpec(), clip) == expected


def test_a_gradient_counts_as_three_passes():
    spec, clip = TokenizerSpec((8, 8), (0, 1), ((1, 2, 2),), (4, 4), 4), (3, 8, 8)
    both = count_pass_flops("encode", spec, clip) + count_pass_flops("decode", spec, clip)
    assert count_pass_flops("gradient", spec, clip) == 3 * both


def test_the_naive_sampler_draws_what_ours_does():
    network = make_network(LatentGrid(3, 2, 2), (1, 1, 2), Opening("prefix"), codes=12)
    params = draw_params(network)
    known = np.random.default_rng(0).integers(0, 12, (2, 12), np.int32)
    naive = draw_naively(network, params, known, 4, top_k=1, top_p=1.0)
    ours = generate_ids(
        network.bind(params),
        jax.random.key(0),
        jnp.arange(2),
        known=known,
        given=4,
        filtering=Filter(greedy=True),
    )
    np.testing.assert_array_equal(naive, ours)


def test_the_naive_draw_has_the_filters():
    logits = jnp.log(jnp.array([[0.1, 0.4, 0.2, 0.3]]))
    keys = jax.random.split(jax.random.key(0), 200)

    def draw(**filters) -> set[int]:
        return set(
            np.asarray(jax.vmap(lambda k: draw_token(k, logits, **filters)[0])(keys)).tolist()
        )

    assert draw(top_k=4, top_p=1.0) == {0, 1, 2, 3}
    assert draw(top_k=3, top_p=1.0) == {1, 2, 3}
    assert draw(top_k=4, top_p=0.5) == {1, 3}
