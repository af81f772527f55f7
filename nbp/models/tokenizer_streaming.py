# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Videos of any length through the tokenizer, a few frames at a time.

The network is causal, so what comes out is what the whole video at once would give, and the memory
that it takes depends on the size of a chunk alone. Each direction compiles two programs: one for
the first frame, one for every chunk after it. A video's last chunk is filled up and the rest of its
output is left out, so that no length needs a program of its own.
"""

import functools
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from nbp.layout import latents_of_frames
from nbp.models.tokenizer import TokenizerNetwork
from nbp.nn.conv3d import FrameCache
from nbp.shapes import Array, Int, PyTree, UInt8

Cache = tuple[Array, ...]


def encode_stream(
    network: TokenizerNetwork,
    params: PyTree,
    video: Iterable[UInt8[Array, "b _ h w c"]],
    *,
    chunk: int = 1,
) -> Iterator[Int[Array, "b _ H W"]]:
    """Codes of a long video, `chunk` latent frames at a time (first one alone).

    `video` yields its frames in order, uint8 0..255, any number of them at a time.

    Raises ValueError for a height or width that the strides do not divide and, at the end of the
    video, for frames that are not stride * m + 1.
    """
    stride = network.spec.stride[0]
    cache, total = None, 0
    for frames, real in _cut(video, _check(chunk) * stride):
        before, total = latents_of_frames(total, stride), total + real
        grid = network.spec.grid(total, *frames.shape[2:4])  # says what does not fit
        cache, codes = encode_step(network, params, cache, frames)
        yield codes[:, : grid.t - before]


def decode_stream(
    network: TokenizerNetwork,
    params: PyTree,
    codes: Iterable[Int[Array, "b _ H W"]],
    *,
    chunk: int = 1,
) -> Iterator[UInt8[Array, "b _ h w c"]]:
    """Frames 0..255 of the codes of a long video, those of `chunk` latent frames at a time.

    `codes` yields latent frames in order, any number of them at a time: they can be decoded while
    later ones are still being generated. The first latent frame gives one frame, every later one
    as many as the time stride.
    """
    stride = network.spec.stride[0]
    cache = None
    for latents, real in _cut(codes, _check(chunk)):
        cache, frames = decode_step(network, params, cache, latents)
        yield frames[:, : real * stride]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def encode_step(
    network: TokenizerNetwork,
    params: PyTree,
    cache: Cache | None,
    video: UInt8[Array, "b t h w c"],
) -> tuple[Cache, Int[Array, "b T H W"]]:
    """Encodes the next frames: s*m + 1 of them with cache None, later s*m for time stride s.

    The cache is consumed; the returned one has the same shapes.
    """
    frames = FrameCache(cache)
    codes = network.encode(params, video, frames)
    return frames.frames, codes


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def decode_step(
    network: TokenizerNetwork,
    params: PyTree,
    cache: Cache | None,
    codes: Int[Array, "b T H W"],
) -> tuple[Cache, UInt8[Array, "b t h w c"]]:
    """Decodes the next latent frames, the first of the video with cache None.

    The cache is consumed; the returned one has the same shapes.
    """
    frames = FrameCache(cache)
    video = network.decode(params, codes, frames)
    return frames.frames, video


def _cut(pieces: Iterable[Array], later: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields one frame, then `later` at a time, and how many of them are real.

    The last piece is filled up with its last frame.
    """
    size, held = 1, None
    for piece in pieces:
        held = np.asarray(piece) if held is None else np.concatenate([held, piece], axis=1)
        while held.shape[1] >= size:
            yield held[:, :size], size
            held, size = held[:, size:], later
    if held is not None and held.shape[1]:
        real = held.shape[1]
        filling = [(0, size - real if axis == 1 else 0) for axis in range(held.ndim)]
        yield np.pad(held, filling, mode="edge"), real


def _check(chunk: int) -> int:
    if chunk < 1:
        raise ValueError(f"chunk is {chunk} latent frames. Use 1 or more.")
    return chunk
