# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A rolling cache against one float64 pass over the whole stream, with what each query sees."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.config import load_config
from nbp.errors import ConfigError
from nbp.layout import LatentGrid, Opening, SequencePlan
from nbp.models.generator import GeneratorNetwork
from nbp.models.inference import make_inference_model
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.conv3d import taps_conv
from nbp.sample import print_remainder
from nbp.sampling.generate import make_generation
from nbp.sampling.long_video import Piece, Rollout, Slide, choose_rolling, plan_slide
from nbp.sampling.request import DecodingRequest, LongRequest, SampleRequest
from nbp.sampling.rolling import RollingWindow, list_sinks, roll
from nbp.sampling.sampler import Sampler
from nbp.sampling.settings import SamplingConfig
from tests import tiny
from tests.models.toy import (
    draw_params,
    make_network,
    reference_logits,
    reference_transformer,
    rotary_places,
)

TOKENIZER = TokenizerNetwork(
    TokenizerSpec(widths=(4, 4), units=(0, 0), strides=((2, 2, 2),), levels=(4, 3), groups=2),
    taps_conv,
)
GREEDY = SamplingConfig(temperature=0.0)


def make_sampler(network: GeneratorNetwork, sampling: SamplingConfig = GREEDY) -> Sampler:
    params = draw_params(network, seed=3)
    return Sampler(network, params, TOKENIZER, draw_params(TOKENIZER), sampling=sampling)


def join(pieces: Iterator[Piece]) -> tuple[np.ndarray, np.ndarray]:
    found = list(pieces)
    for name, at in (("videos", "frame"), ("tokens", "latent")):
        ends = np.cumsum([0] + [getattr(piece, name).shape[1] for piece in found])
        assert [getattr(piece, at) for piece in found] == ends[:-1].tolist()
    videos = np.concatenate([piece.videos for piece in found], axis=1)
    return videos, np.concatenate([piece.tokens for piece in found], axis=1)


def stream_logits(
    network: GeneratorNetwork,
    params: Any,
    tokens: np.ndarray,
    prompt: np.ndarray | None,
    sinks: int,
) -> np.ndarray:
    """Logits of all codes behind the trained clip, [b n v], in generation order.

    One pass over the whole stream [b T H W]: every query of every frame is there, each sees what
    its window would hold, and places are differences that are written out.
    """
    plan, (depth, *_) = network.plan, network.plan.block
    params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float64), params)
    window, per = plan.grid.t, depth * plan.grid.frame
    long = dataclasses.replace(plan, grid=LatentGrid(tokens.shape[1], *plan.grid.shape[1:]))
    wanted, read = rotary_places(long)
    # The frames (as many as a block is deep) of what is predicted, and read; of specials: none.
    target = long.target_index
    token = long.input_index - plan.prompt_length - plan.special_count
    frame, read_frame = target // per, np.where(token >= 0, token // per, -1)
    frames, held = window // depth, sinks // depth
    stays = read_frame < held
    seen, times = long.mask.copy(), np.zeros(long.mask.shape)
    for q in range(long.length):
        late = max(0, frame[q] - (frames - 1))
        if late:
            oldest = frame[q] - (frames - held) + 1
            seen[q] &= stays | (read_frame >= oldest)
            times[q] = np.where(stays, late * depth, 0)
    apart = []
    for keys in (read, wanted):
        places = wanted[:, None] - keys[None]
        places[..., 0] -= times
        apart.append(places)
    batch = len(tokens)
    codes = tokens.reshape(batch, -1)[:, long.order] + network.vocabulary.code_offset
    rows = [np.tile(np.arange(plan.special_count), (batch, 1)), codes]
    if prompt is not None:
        rows.insert(0, prompt + network.vocabulary.special)
    x = params["tokens"][np.concatenate(rows, axis=1)[:, long.input_index]]
    for q in range(long.length):
        if q < plan.prompt_length:
            x[:, q] += params["positions"]["prompt"][q]
            continue
        for i, (at, size) in enumerate(zip(wanted[q, 1:], plan.grid.shape[1:], strict=True)):
            waves = np.cos(np.pi * np.arange(1, 9) * (at + 0.5) / size)
            x[:, q] += waves @ params["positions"]["frame"][8 * i : 8 * i + 8]
    hidden = np.zeros(x.shape[:2], bool)
    if network.padding is not None:
        hidden[:, : plan.prompt_length] = prompt == network.padding
    apart = (apart[0], apart[1])
    x = reference_transformer(
        params["transformer"], x, seen, network.spec.heads, hidden=hidden, apart=apart
    )
    later = (target >= frames * per).nonzero()[0]
    return x[:, later] @ params["head"]["kernel"]


CASES = [
    (LatentGrid(3, 2, 2), (1, 1, 2), Opening("hybrid", 2), 1, 1, {}),
    (LatentGrid(4, 1, 2), (1, 1, 1), Opening("prefix"), 0, 0, {}),
    (LatentGrid(6, 1, 2), (2, 1, 1), Opening("bov"), 2, 2, {"padding": 2}),
    (LatentGrid(4, 2, 2), (1, 2, 2), Opening("bov"), 1, 2, {"guidance": 1.5}),
    (LatentGrid(4, 2, 1), (1, 1, 1), Opening("hybrid"), 0, 1, {"cache": "int8"}),
]


@pytest.mark.parametrize("grid, block, opening, prompt, sinks, options", CASES)
def test_logits_are_those_of_one_pass_over_what_each_window_holds(
    grid, block, opening, prompt, sinks, options
):
    padding = options.get("padding")
    sizes: dict[str, Any] = {"prompt": prompt, "codes": 12, "padding": padding}
    network = make_network(grid, block, opening, positions="rotary", **sizes)
    params, plan = draw_params(network, seed=3), network.plan
    prompts = np.array([[1, 2], [4, 0]])[:, :prompt] if prompt else None
    rng, size, offset = np.random.default_rng(0), plan.block_size, network.vocabulary.code_offset
    latents = grid.t + 4 * block[0]
    tokens = rng.integers(0, 12, (2, latents, grid.h, grid.w))
    window, guidance = RollingWindow(plan, sinks), options.get("guidance", 0.0)
    decoder = make_inference_model(network.bind(params), stored=options.get("cache", "compute"))
    run = make_generation(
        decoder,
        jax.random.key(0),
        jnp.arange(2),
        prompt=None if prompts is None else jnp.asarray(prompts),
        null=None,
        given=plan.first,
        sampling=SamplingConfig(guidance=guidance),
    )

    @jax.jit
    def fill(ids):
        cache, limits = (
            decoder.make_cache(4 if guidance else 2, plan.length),
            jnp.asarray(plan.k_end),
        )
        return run.look(ids, cache, 0, fed=plan.length, drawn=1, k_end=limits, index=0)[1]

    @jax.jit
    def look(ids, cache, number, index):
        start = window.newest + index * size
        rolling, limits = roll(run, window, number), jnp.zeros(size, int)
        return rolling.look(ids, cache, start, fed=size, drawn=size, k_end=limits, index=0)

    found, cache = [], fill(network.to_sequence(tokens[:, : grid.t]) + offset)
    for number in range(grid.t // block[0], latents // block[0]):
        end = (number + 1) * block[0]
        ids = network.to_sequence(tokens[:, end - grid.t : end]) + offset
        for index in range(window.passes):
            unknown = grid.size - (window.passes - index) * size  # codes from here on are not read
            ids_now = np.array(ids)
            ids_now[:, unknown:] = offset + rng.integers(0, 12, ids_now[:, unknown:].shape)
            logits, cache = look(ids_now, cache, number, index)
            found.append(logits)
    expected = stream_logits(network, params, tokens, prompts, sinks)
    if guidance:
        row = network.vocabulary.special + 1  # no condition in the place of label 1
        null = params | {"tokens": params["tokens"].at[row].set(params["null_prompt"][0])}
        empty = stream_logits(network, null, tokens, np.ones((2, 1), int), sinks)
        expected = (1 + guidance) * expected - guidance * empty
    error = np.abs(np.concatenate(found, axis=1) - expected).max()
    assert error < np.abs(expected).max() * (0.05 if "cache" in options else 1e-5)


def test_one_layer_after_a_slide_is_a_clip_of_sinks_and_the_latest_frames():
    """Where states know nothing of older frames, the plan itself is the reference."""
    grid = LatentGrid(4, 2, 2)
    options = {"codes": 12, "positions": "rotary", "layers": 1, "prompt": 1}
    network = make_network(grid, (1, 1, 2), Opening("hybrid", 2), **options)
    sampler = make_sampler(network)
    rollout = Rollout(sampler, choose_rolling(network.plan, sinks=1))
    _, tokens = join(rollout.sample(2, 15, seed=0, labels=[1, 3]))
    for last in range(4, 8):
        held = np.concatenate([tokens[:, :1], tokens[:, last - 2 : last + 1]], axis=1)
        codes = np.asarray(network.to_sequence(held))
        ids, prompt = codes + network.vocabulary.code_offset, np.array([[1], [3]])
        logits = reference_logits(network, sampler.generator_params, ids, prompt)
        np.testing.assert_array_equal(logits[:, -4:].argmax(-1), codes[:, -4:])


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    options = {"codes": 12, "positions": "rotary", "prompt": 1}
    network = make_network(LatentGrid(3, 2, 2), (1, 1, 2), Opening("hybrid", 2), **options)
    sampler = make_sampler(network, SamplingConfig(batch=3))
    return Rollout(sampler, choose_rolling(network.plan, sinks=None))


def test_any_length_is_one_stream_without_a_seam(rollout):
    labels = [0, 4, 2]
    videos, tokens = join(rollout.sample(3, 60, seed=5, labels=labels))
    assert videos.shape == (3, 60, 4, 4, 3)
    assert tokens.shape == (3, 31, 2, 2)
    whole = jax.jit(TOKENIZER.decode)(rollout.sampler.tokenizer_params, tokens)
    assert np.abs(videos.astype(int) - np.asarray(whole, int)[:, :60]).max() <= 1
    assert len(np.unique(tokens[0].reshape(31, -1), axis=0)) > 10, "noise of its own in each frame"
    for frames in (1, 2, 5, 6, 18, 31):
        shorter, codes = join(rollout.sample(3, frames, seed=5, labels=labels))
        np.testing.assert_array_equal(shorter, videos[:, :frames])
        np.testing.assert_array_equal(codes, tokens[:, : codes.shape[1]])
    single, _ = join(rollout.sample(1, 18, seed=5, labels=labels[:1]))
    assert np.abs(single.astype(int) - videos[:1, :18]).max() <= 1


def test_one_program_for_any_length(rollout):
    labels = [0, 4, 2]
    join(rollout.sample(3, 30, seed=1, labels=labels))
    program = rollout.sampler.keep_program(("rolling", 0, 1), lambda: None)
    programs = program._cache_size()  # one for each size of a batch
    join(rollout.sample(3, 90, seed=2, labels=labels))
    assert program._cache_size() == programs


@pytest.mark.parametrize(
    "grid, block, opening, prompt, allowed",
    [
        (LatentGrid(3, 2, 2), (1, 1, 2), Opening("hybrid", 2), 1, [1]),
        (LatentGrid(5, 2, 2), (1, 2, 2), Opening("bov"), 0, [0, 1, 2, 3]),
        (LatentGrid(5, 2, 2), (1, 1, 2), Opening("hybrid", 3), 2, [2, 3]),
        (LatentGrid(8, 2, 2), (2, 1, 1), Opening("prefix"), 0, [0, 2, 4]),
        (LatentGrid(2, 2, 2), (1, 1, 2), Opening("hybrid"), 1, []),
        (LatentGrid(4, 2, 2), (4, 1, 1), Opening("bov"), 1, []),
    ],
)
def test_slots_that_stay_and_slots_that_roll(grid, block, opening, prompt, allowed):
    """Each query of a stream writes into its own slot and sees what is read of the right frames."""
    plan = SequencePlan(grid, block, opening, prompt)
    assert list_sinks(plan) == allowed
    if not allowed:
        with pytest.raises(ValueError, match="cannot roll"):
            RollingWindow(plan, 0)
        return
    with pytest.raises(ValueError, match=f"{allowed[-1] + 1} latent frames as sinks: a window of"):
        RollingWindow(plan, allowed[-1] + 1)
    size, (depth, *_) = plan.block_size, block
    for sinks in allowed:
        window = RollingWindow(plan, sinks)
        if sinks or opening.kind == "bov":
            assert window.base == plan.settled(sinks * grid.frame)
        frames, held = grid.t // depth, sinks // depth
        reads = [-1] * window.base  # the frame of what is read at a slot, by block
        blocks = np.arange(window.ring) + held * window.passes
        reads += np.repeat(blocks // window.passes, size).tolist()
        assert len(reads) == plan.length, "the ring is full when the clip is"
        for number in range(frames, frames + 7):
            for index in range(window.passes):
                slot = window.slot(number, index)
                assert slot >= window.base
                written = (number * window.passes + index - 1) // window.passes
                oldest = number - (frames - held) + 1
                assert reads[slot] < oldest, "what makes room has left the window"
                reads[slot : slot + size] = [written] * size
                seen = [i for i, of in enumerate(reads) if of == -1 or of >= oldest]
                assert np.flatnonzero(window.visible(number, index)).tolist() == seen
            assert window.later(number) == (number - frames + 1) * depth


def load(positions: str = "rotary", **changes: str):
    keys = {f"generator.{name}": value for name, value in changes.items()}
    options = {**tiny.OVERRIDES, "generator.positions": positions, **keys}
    return load_config(tiny.CONFIG, options)


def plan_window(config, asked: SampleRequest) -> Slide | None:
    rotary = config.generator.positions == "rotary"
    return plan_slide(asked, config.plan, clip=config.data.frames, rotary=rotary)


def test_which_window_a_request_gets():
    rotary, learned = load(), load("learned")

    def plan(config, **options):
        return plan_window(config, SampleRequest(1, long=LongRequest(**options)))

    assert plan(rotary, num_frames=9) == Slide(2, "rolling", 1)
    assert plan(rotary, num_frames=9, slide="codes") == Slide(2, "codes")
    assert plan(rotary, num_frames=9, anchor=True) == Slide(2, "anchor")
    assert plan(rotary, num_frames=5) is None
    assert plan(learned, num_frames=9) == Slide(2, "reencode")


@pytest.mark.parametrize(
    "changes, options, decoding, message",
    [
        ({"positions": "learned"}, {"slide": "rolling"}, "plain", "learned positions, which end"),
        ({}, {"keep_frames": 2}, "plain", "--keep_frames 2: a rolling window keeps all but"),
        ({}, {"sinks": 2}, "plain", "2 latent frames as sinks: a window of 3 .* keeps 1. Use"),
        ({}, {"sinks": 1, "slide": "codes"}, "plain", "--sinks 1: codes has none"),
        ({}, {"anchor": True, "slide": "rolling"}, "plain", "--anchor keeps codes as they are"),
        ({}, {}, "jacobi", "--decoding jacobi: a rolling window is drawn pass by pass"),
        ({"block": "(3, 1, 1)", "opening": "bov"}, {}, "plain", "cannot roll.* Use --slide reenc"),
    ],
)
def test_windows_that_cannot_be(changes, options, decoding, message):
    long, decoder = LongRequest(num_frames=9, **options), DecodingRequest(decoding)
    with pytest.raises(ConfigError, match=message):
        plan_window(load(**changes), SampleRequest(1, long=long, decoder=decoder))


def test_a_remainder_is_told(capsys):
    for frames in (1, 5, 6, 18):
        print_remainder(frames, 4)
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "6 frames end inside a latent frame of 4: 3 frames are drawn and cut off",
        "18 frames end inside a latent frame of 4: 3 frames are drawn and cut off",
    ]
