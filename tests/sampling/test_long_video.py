# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Videos longer than a clip: windows against clips drawn one by one, and the full pass."""

import dataclasses
import functools
import gc
import tracemalloc
from collections.abc import Callable, Iterator

import jax
import numpy as np
import pytest

from nbp.layout import LatentGrid, Opening, SequencePlan
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.conv3d import taps_conv
from nbp.sampling.filtering import guidance_weight
from nbp.sampling.long_video import Piece, Rollout, Slide, SlideKind, choose_slide, window_key
from nbp.sampling.sampler import Sampler
from nbp.sampling.settings import SamplingConfig
from tests.models.toy import draw_params, make_network, reference_logits

TOKENIZER = TokenizerNetwork(
    TokenizerSpec(widths=(4, 4), units=(0, 0), strides=((2, 2, 2),), levels=(4, 3), groups=2),
    taps_conv,
)
NETWORK = make_network(
    LatentGrid(4, 2, 2), (1, 1, 2), Opening("hybrid", 2), prompt=1, codes=12, layers=1
)
LABELS = [0, 4, 2]
WINDOW = 7  # frames of four latent frames


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler(
        NETWORK,
        draw_params(NETWORK),
        TOKENIZER,
        draw_params(TOKENIZER),
        sampling=SamplingConfig(temperature=0.0, batch=3),
    )


@pytest.fixture(scope="module")
def roll(sampler) -> Callable[..., Rollout]:
    """Rollouts by (kept frames, kind), each with what it has compiled for all tests."""

    def make(keep: int, kind: SlideKind = "reencode") -> Rollout:
        return Rollout(sampler, Slide(keep, kind))

    return functools.cache(make)


def join(pieces: Iterator[Piece], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole videos and their tokens; every piece follows the one before."""
    rows: list[tuple[list, list]] = [([], []) for _ in range(count)]
    for piece in pieces:
        for i, (video, tokens) in enumerate(zip(piece.videos, piece.tokens, strict=True)):
            videos, codes = rows[piece.first + i]
            assert piece.frame == sum(map(len, videos))
            assert piece.latent == sum(map(len, codes))
            videos.append(video)
            codes.append(tokens)
    return (
        np.stack([np.concatenate(videos) for videos, _ in rows]),
        np.stack([np.concatenate(tokens) for _, tokens in rows]),
    )


def differ(first: np.ndarray, second: np.ndarray) -> int:
    """The largest difference of pixels; of two programs, one next to .5 may round either way."""
    return int(np.abs(first.astype(int) - second).max())


def test_windows_begin_with_the_frames_before_encoded_again(sampler, roll):
    keep, shown, frames = 2, 3, 16
    videos, tokens = join(roll(keep).sample(3, frames, seed=5, labels=LABELS), 3)
    assert videos.shape == (3, frames, 4, 4, 3)
    assert tokens.shape == (3, 9, 2, 2)
    clip = sampler.sample(3, seed=5, labels=LABELS)
    expected, codes = clip.videos, clip.tokens
    while expected.shape[1] < frames:
        start = np.pad(
            expected[:, -shown:], ((0, 0), (0, WINDOW - shown), *[(0, 0)] * 3), mode="edge"
        )
        clip = sampler.sample(3, seed=5, labels=LABELS, clips=start, given_frames=keep)
        expected = np.concatenate([expected, clip.videos[:, shown:]], axis=1)
        codes = np.concatenate([codes, clip.tokens[:, keep:]], axis=1)
    assert differ(videos, expected[:, :frames]) == 0
    np.testing.assert_array_equal(tokens, codes[:, :9])


@pytest.mark.parametrize("kind, keep", [("codes", 2), ("anchor", 2)])
def test_moved_codes_are_one_stream(sampler, roll, kind, keep):
    frames = 17
    videos, tokens = join(roll(keep, kind).sample(3, frames, seed=5, labels=LABELS), 3)
    assert videos.shape[1] == frames
    clip = sampler.sample(3, seed=5, labels=LABELS)
    codes, last = clip.tokens, clip.tokens
    while codes.shape[1] < 9:
        kept = last[:, -keep:]
        if kind == "anchor":
            kept = np.concatenate([codes[:, :1], last[:, 1 - keep :]], axis=1)
        start = np.pad(kept, ((0, 0), (0, 4 - keep), (0, 0), (0, 0)))
        last = sampler.sample(3, seed=5, labels=LABELS, codes=start, given_frames=keep).tokens
        codes = np.concatenate([codes, last[:, keep:]], axis=1)
    np.testing.assert_array_equal(tokens, codes[:, :9])
    whole = jax.jit(TOKENIZER.decode)(sampler.tokenizer_params, tokens)
    assert differ(videos, np.asarray(whole)) <= 1


RAMP = {"guidance": 0.5, "guidance_schedule": "ramp"}
CASES = [
    (LatentGrid(4, 1, 2), (1, 1, 2), Opening("prefix"), "paper", 0, {}),
    (LatentGrid(6, 1, 2), (2, 1, 1), Opening("bov"), "modern", 1, {}),
    (LatentGrid(3, 2, 1), (1, 1, 1), Opening("hybrid", 1), "paper", 1, RAMP),
]


@pytest.mark.parametrize("grid, block, opening, recipe, prompt, guidance", CASES)
def test_cached_decoding_is_the_full_pass_after_slides(
    grid, block, opening, recipe, prompt, guidance
):
    """The draws of each window, with an anchor in the cache, against a float64 full pass."""
    network = make_network(grid, block, opening, recipe=recipe, prompt=prompt, codes=12)
    params = draw_params(network, seed=1)
    if recipe == "paper":  # codes alone are drawn: what is drawn is then what is read again
        offset = network.vocabulary.code_offset
        params["head"]["kernel"] = params["head"]["kernel"].at[:, :offset].multiply(0.0)
    depth = block[0]
    keep = 2 * depth
    sampler = Sampler(
        network,
        params,
        TOKENIZER,
        draw_params(TOKENIZER),
        sampling=SamplingConfig(temperature=0.0, **guidance),
    )
    labels = [1, 3] if prompt else None
    given = depth if opening.kind == "prefix" else 0
    start = np.random.default_rng(0).integers(0, 12, (2, *grid.shape), np.int32)
    rollout = Rollout(sampler, Slide(keep, "anchor"))
    new = grid.t - keep
    latents = grid.t + 3 * new
    _, tokens = join(
        rollout.sample(
            2, 1 + (latents - 1) * 2, seed=0, labels=labels, codes=start, given_frames=given
        ),
        2,
    )
    prompts = np.array(labels)[:, None] if labels else None
    kept = network.plan.tokens_of_frames(keep)
    for window in (1, 2, 3):
        end = grid.t + window * new
        window_tokens = np.concatenate(
            [tokens[:, :depth], tokens[:, end - grid.t + depth : end]], axis=1
        )
        codes = np.asarray(network.to_sequence(window_tokens))
        ids = codes + network.vocabulary.code_offset
        logits = reference_logits(network, params, ids, prompts)
        if guidance:
            null = reference_logits(network, params, ids, prompts, null=True)
            index = np.zeros(grid.size)
            schedule = network.plan.schedule(kept)
            for number in range(schedule.passes):
                width = network.plan.block_size
                index[kept + number * width : kept + (number + 1) * width] = number
            t = np.array(
                [float(guidance_weight(sampler.sampling, i, schedule.passes)) for i in index]
            )
            t = t[network.plan.first :, None]
            logits = (1 + t) * logits - t * null
        found = logits[:, kept - network.plan.first :].argmax(-1)
        found = found + network.recipe.output_ids(network.vocabulary).start
        expected = np.clip(found - network.vocabulary.code_offset, 0, 11)
        np.testing.assert_array_equal(codes[:, kept:], expected)


def test_a_kept_cache_is_the_one_that_a_fresh_pass_makes(sampler):
    rollout = Rollout(sampler, Slide(3, "anchor"))
    plan = NETWORK.plan
    known = np.random.default_rng(1).integers(0, 12, (2, 2, plan.grid.size), np.int32)
    anchor = plan.tokens_of_frames(1)
    known[1][:, :anchor] = known[0][:, :anchor]
    program = rollout.anchored_program(plan.tokens_of_frames(3))
    fixed = (sampler.generator_params, jax.random.key(0), np.arange(2), np.array([1, 2]))
    _, before, _ = program(*fixed, known[0], None)
    assert plan.settled(anchor) > anchor
    drawn, reused, _ = program(*fixed, known[1], before)
    expected, fresh, _ = program(*fixed, known[1], None)
    np.testing.assert_array_equal(drawn, expected)
    for found, wanted in zip(jax.tree.leaves(reused), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_any_number_of_frames_and_clips(sampler):
    """Lengths between windows, a last batch that is not full, fewer frames than a clip."""
    small = sampler.in_batches(2)
    rollout = Rollout(small, Slide(2))
    whole = join(rollout.sample(3, 12, seed=1, labels=LABELS), 3)
    for frames, latents in ((12, 7), (8, 5), (7, 4), (4, 3), (1, 1)):
        videos, tokens = join(rollout.sample(3, frames, seed=1, labels=LABELS), 3)
        np.testing.assert_array_equal(videos, whole[0][:, :frames])
        np.testing.assert_array_equal(tokens, whole[1][:, :latents])


def test_windows_draw_anew(sampler):
    """Windows that are shown the same draw differently, by other keys than any clip's."""
    key = jax.random.key(3)
    keys = [key, *(jax.random.fold_in(key, i) for i in range(20))]
    keys += [window_key(key, i) for i in range(1, 5)]
    assert len({tuple(np.asarray(jax.random.key_data(k)).tolist()) for k in keys}) == len(keys)
    assert window_key(key, 0) is key
    drawing = dataclasses.replace(sampler, sampling=SamplingConfig(temperature=2.0, batch=3))
    params = jax.tree.map(np.zeros_like, drawing.generator_params)
    uniform = dataclasses.replace(drawing, generator_params=params)
    _, tokens = join(Rollout(uniform, Slide(1, "codes")).sample(1, 31, seed=0, labels=[0]), 1)
    windows = tokens[0, 1:].reshape(5, 3, 2, 2)
    for i in range(5):
        for other in windows[:i]:
            assert np.any(windows[i] != other)


@pytest.mark.parametrize("kind", ["reencode", "anchor"])
def test_memory_does_not_grow_with_the_length(roll, kind):
    rollout = roll(2, kind)

    def most(frames: int) -> tuple[int, int]:
        """Bytes on the device at any piece, and bytes of numpy arrays at the last one."""
        live, host = 0, 0
        arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
        tracemalloc.start()
        for piece in rollout.sample(3, frames, seed=5, labels=LABELS):
            live = max(live, sum(array.nbytes for array in jax.live_arrays()))
            if piece.frame + piece.videos.shape[1] == frames:
                gc.collect()
                traces = tracemalloc.take_snapshot().filter_traces([arrays]).traces
                host = sum(trace.size for trace in traces)
        tracemalloc.stop()
        return live, host

    for _ in rollout.sample(3, 23, seed=5, labels=LABELS):
        pass  # compiles, where nothing watches
    (short, few), (long, many) = most(23), most(63)
    assert few > 0
    assert long <= short
    assert many <= few + 100, "none of the 40 frames of 144 bytes"


def test_slides_that_a_plan_can_take():
    def plan(frames: int, depth: int = 1) -> SequencePlan:
        return SequencePlan(LatentGrid(frames, 2, 2), (depth, 1, 2), Opening("bov"))

    five, deep = plan(5), plan(6, 2)
    assert choose_slide(five, keep=None, kind="reencode") == Slide(3, "reencode")
    assert choose_slide(five, keep=1, kind="codes") == Slide(1, "codes")
    assert choose_slide(five, keep=None, kind="anchor") == Slide(3, "anchor")
    assert choose_slide(deep, keep=None, kind="reencode") == Slide(4, "reencode")
    assert choose_slide(plan(3), keep=None, kind="anchor").keep == 2
    with pytest.raises(ValueError, match=r"0 kept latent frames.*keeps one of 1, 2, 3, 4"):
        choose_slide(five, keep=0, kind="reencode")
    with pytest.raises(ValueError, match=r"1 kept latent frames.*one of 2, 3, 4 by anchor"):
        choose_slide(five, keep=1, kind="anchor")
    with pytest.raises(ValueError, match=r"3 kept latent frames.*depth 2 keeps one of 2, 4"):
        choose_slide(deep, keep=3, kind="reencode")
    with pytest.raises(ValueError, match=r"window of 1 latent frames.*cannot slide"):
        choose_slide(plan(1), keep=None, kind="reencode")
