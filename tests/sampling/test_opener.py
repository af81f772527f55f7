# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Two generators draw one clip: the first frames by an opener, the rest by the sampler's own."""

import dataclasses

import jax
import numpy as np
import pytest

from nbp.layout import LatentGrid, Opening, SequencePlan
from nbp.models.generator import GeneratorNetwork
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.conv3d import taps_conv
from nbp.parallel.mesh import make_mesh
from nbp.sampling.long_video import Rollout, Slide
from nbp.sampling.sampler import Opener, Sampler
from nbp.sampling.settings import SamplingConfig
from tests.models.toy import draw_params, make_network

TOKENIZER = TokenizerNetwork(
    TokenizerSpec(widths=(4, 4), units=(0, 0), strides=((2, 2, 2),), levels=(4, 3), groups=2),
    taps_conv,
)
GRID = LatentGrid(3, 2, 2)
# Columns, whose tokens come in another order than those of the opener's frames.
SMALL = make_network(GRID, (1, 2, 1), Opening("bov"), prompt=1, codes=12, layers=1)
LARGE = make_network(GRID, (1, 1, 2), Opening("hybrid", 1), prompt=1, codes=12, width=32, layers=1)
LABELS = [0, 4, 2]


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler(
        SMALL,
        draw_params(SMALL),
        TOKENIZER,
        draw_params(TOKENIZER),
        SamplingConfig(batch=2, opener="large"),
        opener=Opener(LARGE, draw_params(LARGE, seed=7)),
    )


@pytest.fixture(scope="module")
def opener_alone(sampler) -> Sampler:
    opener = sampler.opener
    return dataclasses.replace(
        sampler, generator=opener.generator, generator_params=opener.params, opener=None
    )


def most_likely(network: GeneratorNetwork, params, tokens: np.ndarray) -> np.ndarray:
    """The code that a full forward pass finds most likely in each place of grids."""
    codes = network.to_sequence(tokens)
    prompt = np.array(LABELS)[:, None]
    logits = jax.jit(lambda params: network.bind(params)(codes, prompt))(params)
    return np.asarray(network.to_grid(np.asarray(logits).argmax(-1)))


def test_each_model_draws_its_frames_as_a_full_pass_finds_them(sampler):
    greedy = SamplingConfig(temperature=0.0, batch=3, opener="large")
    drawn = dataclasses.replace(sampler, sampling=greedy).sample(3, seed=0, labels=LABELS)
    large = most_likely(LARGE, sampler.opener.params, drawn.tokens)
    small = most_likely(SMALL, sampler.generator_params, drawn.tokens)
    np.testing.assert_array_equal(drawn.tokens[:, :1], large[:, :1])
    np.testing.assert_array_equal(drawn.tokens[:, 1:], small[:, 1:])
    assert np.any(small[:, :1] != large[:, :1])
    assert np.any(small[:, 1:] != large[:, 1:])


def test_the_opening_is_that_of_the_opener_alone(sampler, opener_alone):
    sampling = SamplingConfig(
        batch=3,
        opener="large",
        opener_frames=2,
        guidance=0.8,
        guidance_schedule="linear",
        temperature_end=0.5,
    )
    both, alone = (
        dataclasses.replace(each, sampling=sampling).sample(3, seed=5, labels=LABELS)
        for each in (sampler, opener_alone)
    )
    np.testing.assert_array_equal(both.tokens[:, :2], alone.tokens[:, :2])
    assert np.any(both.tokens[:, 2:] != alone.tokens[:, 2:])
    # Two tokens one by one, then three rows; two columns behind.
    np.testing.assert_array_equal(both.opener_passes, 5)
    np.testing.assert_array_equal(both.passes, 7)
    np.testing.assert_array_equal(alone.opener_passes, 0)


def test_the_rest_is_drawn_with_other_noise_than_the_opening(sampler):
    """An opener that is the model itself does not draw every frame with the same noise."""
    same = Opener(SMALL, sampler.generator_params)
    params = jax.tree.map(lambda leaf: leaf * 0, sampler.generator_params)  # all codes alike
    even = dataclasses.replace(
        sampler, generator_params=params, opener=dataclasses.replace(same, params=params)
    ).in_batches(64)
    tokens = even.sample(64, seed=0, labels=[0] * 64).tokens
    assert (tokens[:, 0] == tokens[:, 1]).mean() < 0.25  # 1 / 12 by chance


def test_given_frames_come_first(sampler):
    clips = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 4, 3), np.uint8)
    drawn = sampler.sample(3, seed=5, labels=LABELS, clips=clips, given_frames=1)
    codes = jax.jit(TOKENIZER.encode)(sampler.tokenizer_params, clips)
    np.testing.assert_array_equal(drawn.tokens[:, :1], codes[:, :1])
    np.testing.assert_array_equal(drawn.opener_passes, 2)
    np.testing.assert_array_equal(drawn.passes, 4)


def test_a_clip_does_not_depend_on_its_batch_or_the_mesh(sampler):
    together = sampler.sample(3, seed=5, labels=LABELS)
    numbers = np.array([2, 1])  # in the program of the same batch size
    others = sampler.sample(2, seed=5, labels=[2, 4], numbers=numbers)
    np.testing.assert_array_equal(others.tokens, together.tokens[[2, 1]])
    mesh = make_mesh(data=4, tensor=2, devices=jax.devices()[:8])
    copy = lambda params: jax.tree.map(lambda leaf: leaf + 0, params)  # noqa: E731
    split = dataclasses.replace(
        sampler,
        generator_params=copy(sampler.generator_params),
        opener=Opener(LARGE, copy(sampler.opener.params)),
        mesh=mesh,
    ).laid_out()
    drawn = split.sample(3, seed=5, labels=LABELS)
    np.testing.assert_array_equal(drawn.tokens, together.tokens)
    np.testing.assert_array_equal(drawn.passes, together.passes)


def test_a_long_video_begins_with_the_clip(sampler):
    clip = sampler.sample(2, seed=5, labels=LABELS[:2])
    pieces = list(Rollout(sampler, Slide(2, "anchor")).sample(2, 7, seed=5, labels=LABELS[:2]))
    tokens = np.concatenate([piece.tokens for piece in pieces], axis=1)
    np.testing.assert_array_equal(tokens[:, :3], clip.tokens)
    assert tokens.shape[1] == 4


def test_openers_that_do_not_fit_are_refused(sampler):
    def draw(**changes):
        sampling = dataclasses.replace(sampler.sampling, **changes)
        return dataclasses.replace(sampler, sampling=sampling)

    with pytest.raises(ValueError, match="opener_frames 3: a clip of 3 latent frames leaves none"):
        draw(opener_frames=3).sample(1, seed=0)
    clips = np.zeros((1, 5, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="opener_frames 2 behind 1 given ones: a clip of 3"):
        draw(opener_frames=2).sample(1, seed=0, clips=clips, given_frames=1)
    with pytest.raises(ValueError, match="no cells can be kept"):
        sampler.sample(1, seed=0, clips=clips, kept=np.zeros((1, 3, 2, 2), bool))
    with pytest.raises(ValueError, match="opener_frames 0"):
        SamplingConfig(opener_frames=0)
    deep = Opener(make_network(GRID, (3, 1, 2), Opening("bov"), prompt=1, codes=12), {})
    with pytest.raises(ValueError, match="drawing 0 to 4 of 12 tokens: in blocks of 6"):
        dataclasses.replace(sampler, opener=deep).sample(1, seed=0)


@pytest.mark.parametrize("opening", [Opening("bov"), Opening("hybrid", 2), Opening("prefix")])
def test_passes_until_a_boundary_are_the_first_ones_of_the_clip(opening):
    plan = SequencePlan(GRID, (1, 1, 2), opening, 1)
    given = plan.first
    whole = plan.schedule(given)

    def list_tokens(schedule):
        """The tokens of each pass."""
        shift = plan.first - plan.prompt_length
        end = schedule.prefill + shift
        found = [range(end - schedule.first_width, end)]
        for phase in schedule.phases:
            starts = range(phase.start, phase.start + phase.width * phase.count, phase.width)
            found += [range(s + shift, s + shift + phase.width) for s in starts]
        return found

    everything = list_tokens(whole)
    assert [token for tokens in everything for token in tokens] == list(range(given, 12))
    ends = {tokens.stop for tokens in everything}
    for until in range(given + 1, 13):
        if until not in ends:
            with pytest.raises(ValueError, match=f"drawing {given} to {until} of 12 tokens"):
                plan.schedule(given, until)
            continue
        cut = plan.schedule(given, until)
        assert list_tokens(cut) == [tokens for tokens in everything if tokens.stop <= until]
        assert cut.planned == whole.planned == whole.passes
        assert cut.passes + cut.left == whole.passes
