# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Ways of making passes behind one interface: what they draw, count and refuse."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import pytest

from nbp.errors import NonFiniteError
from nbp.layout import LatentGrid, Opening
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.conv3d import taps_conv
from nbp.sampling.sampler import Sampler
from nbp.sampling.settings import SamplingConfig
from nbp.sampling.speculative import Autoregressive, Decoding, RelaxedJacobi, SpeculativeJacobi
from tests.models.toy import draw_params, make_network

TOKENIZER = TokenizerNetwork(
    TokenizerSpec(widths=(4, 4), units=(0, 0), strides=((2, 2, 2),), levels=(4, 3), groups=2),
    taps_conv,
)
LEVELS = (4, 3)
NETWORK = make_network(
    LatentGrid(3, 2, 2), (1, 2, 1), Opening("hybrid", 2), prompt=1, codes=12, layers=1
)
TOKENS = make_network(LatentGrid(1, 1, 3), (1, 1, 1), Opening("bov"), codes=12, layers=1)
DECODINGS = [
    Autoregressive(),
    SpeculativeJacobi(3),
    SpeculativeJacobi(3, coupled=False),
    RelaxedJacobi(LEVELS, 3, delta=0.3),
]
COUNT = 20_000


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    params, tokenizer_params = draw_params(NETWORK), draw_params(TOKENIZER)
    return Sampler(NETWORK, params, TOKENIZER, tokenizer_params, SamplingConfig(batch=2))


@pytest.mark.parametrize("decoding", DECODINGS, ids=repr)
def test_each_draws_clips_and_counts_passes(sampler, decoding):
    assert isinstance(decoding, Decoding)
    chosen = dataclasses.replace(sampler, decoding=decoding)
    samples = chosen.sample(3, seed=5, labels=[0, 4, 2])
    assert samples.videos.shape == (3, 5, 4, 4, 3)
    assert samples.tokens.shape == (3, 3, 2, 2)
    assert samples.passes.shape == (3,)
    assert samples.passes.max() <= NETWORK.plan.passes() == 8
    assert samples.passes.min() >= 3
    if decoding == Autoregressive():
        assert samples.passes.min() == 8


def test_greedy_clips_are_the_same_in_fewer_passes(sampler):
    greedy = dataclasses.replace(sampler, sampling=SamplingConfig(temperature=0.0, batch=2))
    plain = greedy.sample(2, seed=0, labels=[1, 2])
    ahead = dataclasses.replace(greedy, decoding=SpeculativeJacobi(3)).sample(
        2, seed=0, labels=[1, 2]
    )
    np.testing.assert_array_equal(ahead.tokens, plain.tokens)
    assert ahead.passes.sum() < plain.passes.sum()


@pytest.mark.parametrize(
    "decoding, greedy",
    [(Autoregressive(), True), (SpeculativeJacobi(3), False), (RelaxedJacobi(LEVELS, 3), False)],
    ids=repr,
)
def test_weights_that_are_not_finite_are_named_by_every_decoding(sampler, decoding, greedy):
    params = jax.tree.map(np.array, sampler.generator_params)
    leaf = jax.tree.leaves(params)[0]
    leaf.flat[0] = math.nan
    name = jax.tree_util.tree_leaves_with_path(params)[0][0][0].key
    broken = dataclasses.replace(
        sampler,
        generator_params=params,
        decoding=decoding,
        sampling=SamplingConfig(temperature=0.0) if greedy else SamplingConfig(top_p=0.9),
    )
    with pytest.raises(NonFiniteError, match=f"the generator's weights .* in {name}"):
        broken.sample(3, seed=0, labels=[0, 4, 2])


def test_logits_that_overflow_are_told_though_the_weights_are_finite(sampler):
    params = jax.tree.map(lambda p: np.where(p != 0, np.float32(1e30), 0), sampler.generator_params)
    with pytest.raises(NonFiniteError, match="clip 0 has logits .* lower --guidance"):
        dataclasses.replace(sampler, generator_params=params).sample(2, seed=0, labels=[1, 2])


def make_draw(decoding: Decoding, *, count: int = COUNT):
    """Clips of three tokens, one after the other: (parameters, ids) -> (codes, passes)."""

    @jax.jit
    def draw(params: Any, ids: Any) -> Any:
        return decoding(TOKENS.bind(params), jax.random.key(0), ids)

    return lambda params: [np.asarray(x) for x in draw(params, np.arange(count))]


def test_relaxing_by_nothing_is_exact():
    params = draw_params(TOKENS, seed=4)
    exact, passes = make_draw(SpeculativeJacobi(3), count=2_000)(params)
    same, same_passes = make_draw(RelaxedJacobi(LEVELS, 3, delta=0.0), count=2_000)(params)
    # Rounding of the relaxed target may change a draw; one in a thousand would be no rounding.
    assert (exact != same).mean() < 1e-3
    assert (passes != same_passes).mean() < 1e-3


def test_relaxed_clips_stay_within_the_bound():
    """The second token's distribution, given the first, against that of exact draws."""
    params = draw_params(TOKENS, seed=4)
    params["tokens"] *= 3  # what is drawn depends much on what was drawn before
    exact, exact_passes = make_draw(SpeculativeJacobi(3))(params)
    delta = 0.25
    relaxed, passes = make_draw(RelaxedJacobi(LEVELS, 3, radius=1, delta=delta))(params)
    assert passes.mean() < exact_passes.mean() - 0.02

    def tabulate(codes: np.ndarray) -> np.ndarray:
        table = np.zeros((12, 12))
        np.add.at(table, (codes[:, 0], codes[:, 1]), 1)
        return table

    tables = tabulate(exact), tabulate(relaxed)
    # The first token is drawn without a draft: exactly.
    firsts = [table.sum(1) / COUNT for table in tables]
    assert np.abs(firsts[0] - firsts[1]).sum() / 2 < 0.02
    often = np.flatnonzero(tables[0].sum(1) > 1_000)
    assert len(often) >= 3
    shares = [table[often] / table[often].sum(1, keepdims=True) for table in tables]
    distances = np.abs(shares[0] - shares[1]).sum(1) / 2
    noise = 0.05  # of 12 shares of a thousand draws
    assert distances.max() < delta + noise
    assert distances.max() > 0.1, "something was moved"


def test_impossible_decodings_are_refused():
    with pytest.raises(ValueError, match="window 0: a pass looks at 1"):
        SpeculativeJacobi(0)
    with pytest.raises(ValueError, match="window 0"):
        RelaxedJacobi(LEVELS, 0)
    with pytest.raises(ValueError, match="radius 0"):
        RelaxedJacobi(LEVELS, radius=0)
    with pytest.raises(ValueError, match=r"delta 1.5: a share of a distribution, 0 \(exact\) to 1"):
        RelaxedJacobi(LEVELS, delta=1.5)
    params = draw_params(TOKENS)
    with pytest.raises(ValueError, match=r"levels \(4, 4\) give 16 codes, but this model has 12"):
        RelaxedJacobi((4, 4))(TOKENS.bind(params), jax.random.key(0), np.arange(2))
