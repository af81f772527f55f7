# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Long videos in chunks: equal to the whole at once, in constant memory, with two programs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec, scale_pixels
from nbp.models.tokenizer_streaming import decode_step, decode_stream, encode_step, encode_stream
from nbp.nn.conv3d import FrameCache, taps_conv
from nbp.nn.fsq import Fsq
from tests.models.toy import draw_params

NETWORK = TokenizerNetwork(
    TokenizerSpec((2, 4, 4, 6), (1, 0, 0, 1), ((1, 2, 2), (2, 2, 2), (2, 2, 2)), (4, 3), 2),
    taps_conv,
)


def draw_video(frames: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, frames, 8, 8, 3), np.uint8)


def draw_codes(frames: int, size: int = 1, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 12, (batch, frames, size, size), np.int32)


def cut(array: np.ndarray, lengths) -> list[np.ndarray]:
    """Pieces of the given lengths along time, then the rest."""
    return np.split(array, np.cumsum(lengths), axis=1)


def run_in_chunks(run, inputs: np.ndarray, length: int) -> np.ndarray:
    """`run(x, cache)` on the first frame, then on `length` frames at a time."""

    @jax.jit
    def step(x, frames):
        cache = FrameCache(frames)
        return run(x, cache), cache.frames

    outputs, frames = [], None
    for part in np.split(inputs, range(1, inputs.shape[1], length), axis=1):
        output, frames = step(part, frames)
        outputs.append(output)
    return np.concatenate(outputs, axis=1)


@pytest.fixture(scope="module")
def params():
    return draw_params(NETWORK)


@pytest.fixture(scope="module")
def whole(params):
    """A clip and its latents, codes and their pixels, all at once."""
    model = NETWORK.bind(params)
    video, codes = draw_video(25), draw_codes(7)
    latents = jax.jit(model.encode_latents)(scale_pixels(video))
    return video, np.asarray(latents), codes, np.asarray(jax.jit(model.decode)(codes))


@pytest.mark.parametrize("strides", [((1, 2, 1),), ((4, 2, 2),)], ids=["no time", "long"])
def test_time_strides_shorter_and_longer_than_the_taps(strides):
    network = TokenizerNetwork(TokenizerSpec((2, 4), (0, 1), strides, (4, 3), 2), taps_conv)
    model = network.bind(draw_params(network))
    stride, height, width = network.spec.stride
    pixels = np.asarray(scale_pixels(draw_video(1 + 4 * stride)))
    rng = np.random.default_rng(2)
    latents = rng.uniform(-1, 1, (2, 5, 8 // height, 8 // width, 2)).astype(np.float32)
    for run, inputs, length in (
        (model.encode_latents, pixels, 2 * stride),
        (model.decode_latents, latents, 2),
    ):
        expected = jax.jit(run)(inputs)
        assert jnp.std(expected) > 0.05
        np.testing.assert_allclose(run_in_chunks(run, inputs, length), expected, atol=1e-5)


def test_257_frames_of_64_pixels(params):
    codes = draw_codes(65, 8, batch=1)
    run = NETWORK.bind(params).decode
    expected = jax.jit(run)(codes)
    assert expected.shape == (1, 257, 64, 64, 3)
    assert jnp.std(expected) > 0.05
    np.testing.assert_allclose(run_in_chunks(run, codes, 8), expected, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("lengths", [(), (1, 4, 3), (7, 0, 2, 2, 13)])
def test_streams_of_any_pieces(params, whole, chunk, lengths):
    video, latents, codes, pixels = whole
    found = list(encode_stream(NETWORK, params, cut(video, lengths), chunk=chunk))
    assert [part.shape[1] for part in found[:-1]] == [1, *(chunk for _ in found[2:])]
    assert_same_codes(np.concatenate(found, 1), latents)

    frames = list(decode_stream(NETWORK, params, cut(codes, lengths[:3]), chunk=chunk))
    assert frames[0].shape == (2, 1, 8, 8, 3)
    assert_same_frames(np.concatenate(frames, 1), pixels)


def assert_same_codes(codes: np.ndarray, latents: np.ndarray) -> None:
    """Codes are those of the latents wherever no channel is at the edge between two levels."""
    quantizer = NETWORK.spec.make_quantizer()
    assert isinstance(quantizer, Fsq)
    expected = np.asarray(quantizer.index(quantizer.quantize(latents)))
    assert codes.shape == expected.shape
    digits = np.asarray(quantizer.bound(latents))
    clear = (np.abs(digits - np.floor(digits) - 0.5) > 1e-4).all(-1)
    assert clear.sum() > 10
    assert len(np.unique(expected)) > 2
    np.testing.assert_array_equal(codes[clear], expected[clear])


def assert_same_frames(frames: np.ndarray, pixels: np.ndarray) -> None:
    """Frames 0..255 are the rounded pixels, if those were off by no more than 1e-5."""
    assert frames.shape == pixels.shape
    assert frames.dtype == np.uint8
    assert pixels.std() > 0.05
    assert np.abs(frames - 255.0 * pixels).max() <= 0.5 + 255e-5


def test_memory_and_programs_do_not_depend_on_the_length(params):
    def held_bytes(outputs) -> list[int]:
        """Bytes of all arrays that are alive after each output."""
        sizes = []
        for output in outputs:
            jax.block_until_ready(output)
            del output
            sizes.append(sum(array.nbytes for array in jax.live_arrays()))
        return sizes

    programs: tuple[Any, ...] = (encode_step, decode_step)
    for program in programs:
        program.clear_cache()
    for latents in (3, 9, 21):
        pieces = (draw_video(1 if i == 0 else 4) for i in range(latents))
        encoding = held_bytes(encode_stream(NETWORK, params, pieces))
        decoding = held_bytes(decode_stream(NETWORK, params, [draw_codes(latents)]))
        for sizes in (encoding, decoding):
            assert len(sizes) == latents
            assert len(set(sizes[1:])) == 1
    assert [program._cache_size() for program in programs] == [2, 2]


def test_codes_are_decoded_while_later_ones_are_still_to_come(params):
    drawn = 0

    def generate():
        nonlocal drawn
        for _ in range(5):
            drawn += 1
            yield draw_codes(1)

    frames = decode_stream(NETWORK, params, generate())
    for expected in range(1, 6):
        next(frames)
        assert drawn == expected


def test_caches_keep_their_shapes_and_are_consumed(params):
    def describe(cache):
        return [(array.shape, array.dtype) for array in cache]

    first, _ = encode_step(NETWORK, params, None, draw_video(1))
    shapes = describe(first)
    assert shapes
    second, _ = encode_step(NETWORK, params, first, draw_video(4))
    assert describe(second) == shapes
    assert all(array.is_deleted() for array in first), "the old cache lives on beside the new one"


def test_what_does_not_fit_is_named(params):
    with pytest.raises(ValueError, match=r"7 frames.*4\*m \+ 1 frames. Use 5 or 9"):
        list(encode_stream(NETWORK, params, [draw_video(7)]))
    with pytest.raises(ValueError, match=r"8x12 px.*multiples of 8 and 8"):
        list(encode_stream(NETWORK, params, [np.zeros((1, 1, 8, 12, 3), np.uint8)]))
    for stream in (encode_stream, decode_stream):
        with pytest.raises(ValueError, match=r"chunk is 0 latent frames. Use 1 or more"):
            next(stream(NETWORK, params, [], chunk=0))
        assert list(stream(NETWORK, params, [])) == []
