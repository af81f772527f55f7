# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Requests for clips: batches, conditions, given frames, refusals."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from nbp.layout import LatentGrid, Opening
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.conv3d import taps_conv
from nbp.parallel.mesh import make_mesh
from nbp.sampling.sampler import Sampler
from nbp.sampling.settings import SamplingConfig
from tests.models.toy import draw_params, make_network

TOKENIZER = TokenizerNetwork(
    TokenizerSpec(widths=(4, 4), units=(0, 0), strides=((2, 2, 2),), levels=(4, 3), groups=2),
    taps_conv,
)
NETWORK = make_network(LatentGrid(3, 2, 2), (1, 2, 1), Opening("hybrid"), prompt=1, codes=12)
CLIPS = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 4, 3), np.uint8)
LABELS = [0, 4, 2]


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    params = draw_params(NETWORK)
    row = NETWORK.vocabulary.prompt_offset + 3
    params["null_prompt"] = params["tokens"][row][None]  # no condition means label 3
    return Sampler(NETWORK, params, TOKENIZER, draw_params(TOKENIZER), SamplingConfig(batch=2))


@pytest.fixture(scope="module")
def labelled(sampler):
    return sampler.sample(3, seed=5, labels=LABELS)


def test_samples_are_clips_and_their_tokens(sampler, labelled):
    assert labelled.videos.shape == (3, 5, 4, 4, 3)
    assert labelled.videos.dtype == np.uint8
    assert labelled.tokens.shape == (3, 3, 2, 2)
    assert labelled.tokens.dtype == np.int32
    assert labelled.tokens.min() >= 0
    assert labelled.tokens.max() < 12
    decoded = jax.jit(TOKENIZER.decode)(sampler.tokenizer_params, labelled.tokens)
    # Compiled or not, a value next to .5 may round either way.
    assert np.abs(labelled.videos.astype(int) - np.asarray(decoded, int)).max() <= 1


def test_a_clip_depends_on_seed_number_and_condition_alone(sampler, labelled):
    larger = sampler.in_batches(3).sample(3, seed=5, labels=LABELS)
    np.testing.assert_array_equal(larger.tokens, labelled.tokens)
    fewer = sampler.sample(1, seed=5, labels=LABELS[:1])
    np.testing.assert_array_equal(fewer.tokens, labelled.tokens[:1])
    assert np.any(sampler.sample(3, seed=6, labels=LABELS).tokens != labelled.tokens)
    other = sampler.sample(3, seed=5, labels=[0, 1, 2]).tokens
    np.testing.assert_array_equal(other[[0, 2]], labelled.tokens[[0, 2]])
    assert np.any(other[1] != labelled.tokens[1])
    same = sampler.sample(3, seed=5, labels=[0, 0, 0]).tokens
    assert np.any(same[0] != same[1]), "clips of one label differ"


def test_without_labels_the_null_condition_speaks(sampler):
    without = sampler.sample(2, seed=5)
    third = sampler.sample(2, seed=5, labels=[3, 3])
    np.testing.assert_array_equal(without.tokens, third.tokens)


def test_given_frames_are_kept(sampler):
    given = sampler.sample(3, seed=5, labels=LABELS, clips=CLIPS, given_frames=2)
    codes = jax.jit(TOKENIZER.encode)(sampler.tokenizer_params, CLIPS)
    np.testing.assert_array_equal(given.tokens[:, :2], codes[:, :2])
    again = sampler.sample(3, seed=6, labels=LABELS, clips=CLIPS, given_frames=2)
    assert np.any(again.tokens[:, 2] != given.tokens[:, 2]), "the rest is drawn"


def test_other_parameters_for_one_request(sampler, labelled):
    params = draw_params(NETWORK, seed=9)
    other = sampler.sample(3, seed=5, labels=LABELS, params=params)
    assert np.any(other.tokens != labelled.tokens)
    again = sampler.sample(3, seed=5, labels=LABELS)
    np.testing.assert_array_equal(again.tokens, labelled.tokens)


def test_requests_of_any_length_are_one_program(sampler, monkeypatch):
    chex.clear_trace_counter()
    once = chex.assert_max_traces(Sampler.condition, n=1)
    monkeypatch.setattr(Sampler, "condition", once)
    again = dataclasses.replace(sampler)  # with programs of its own
    for seed, labels in ((5, LABELS), (6, [1, 1, 1, 0, 3])):  # the last batch has one clip
        again.sample(len(labels), seed=seed, labels=labels)
    with pytest.raises(AssertionError, match="is traced > 1 times"):
        again.sample(2, seed=5)  # without labels it is another one


def test_impossible_requests_are_refused(sampler):
    with pytest.raises(ValueError, match="2 given latent frames, but no clips"):
        sampler.sample(3, seed=0, labels=LABELS, given_frames=2)
    with pytest.raises(ValueError, match="3 given latent frames do not fit"):
        sampler.sample(3, seed=0, labels=LABELS, clips=CLIPS, given_frames=3)
    for seed in (-1, 2**32, 2**40):  # jax.random.key would take the remainder
        with pytest.raises(ValueError, match=f"seed {seed}: must be from 0 to 4294967295"):
            sampler.sample(3, seed=seed, labels=LABELS)
    with pytest.raises(ValueError, match="3 labels for 4 samples: give one for each"):
        sampler.sample(4, seed=0, labels=LABELS)
    with pytest.raises(ValueError, match="3 clips for 2 samples"):
        sampler.sample(2, seed=0, clips=CLIPS, given_frames=1)
    prefix = make_network(LatentGrid(3, 2, 2), (1, 2, 2), Opening("prefix"), codes=12)
    with pytest.raises(ValueError, match="0 given tokens"):
        dataclasses.replace(sampler, generator=prefix).sample(1, seed=0)


def test_layers_off_their_stack_draw_the_same(sampler, labelled):
    copy = jax.tree.map(lambda leaf: leaf + 0, sampler.generator_params)
    apart = dataclasses.replace(sampler, generator_params=copy).laid_out()
    drawn = apart.sample(3, seed=5, labels=LABELS)
    np.testing.assert_array_equal(drawn.tokens, labelled.tokens)
    assert jax.tree.leaves(copy["transformer"]["layers"])[0].is_deleted()


def test_a_mesh_draws_the_same(sampler, labelled):
    mesh = make_mesh(data=2, tensor=2, devices=jax.devices()[:4])
    copy = jax.tree.map(lambda leaf: leaf + 0, sampler.generator_params)
    split = dataclasses.replace(sampler, generator_params=copy, mesh=mesh).laid_out()
    drawn = split.sample(3, seed=5, labels=LABELS)
    np.testing.assert_array_equal(drawn.tokens, labelled.tokens)


def test_coarse_weights_and_cache_draw_nearly_the_same(sampler):
    fine = sampler.in_batches(40)
    coarse = SamplingConfig(batch=40, weights="int8", cache="int8")
    rough = dataclasses.replace(fine, sampling=coarse)
    one, other = (each.sample(40, seed=5, labels=[2] * 40).tokens for each in (fine, rough))
    assert 0.5 < np.mean(one == other) < 1
