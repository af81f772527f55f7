# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""How the originals read and write video files: decord, imageio, torchvision."""

import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np


def read_native(path: Path, numbers: Sequence[int]) -> np.ndarray:
    """decord.VideoReader(path).get_batch(numbers): RGB bytes [t h w 3] at the file's size."""
    return _pull(path, numbers, "format=rgb24")


def read_squashed(path: Path, numbers: Sequence[int], size: int) -> np.ndarray:
    """decord.VideoReader(path, width=size, height=size): squashed by FFmpeg's scale filter.

    It scales the file's own YUV planes, with the filter's bilinear kernel, to RGB in one step. (The
    wheel's FFmpeg is of a time when that kernel was the filter's default.) Equal to decord 0.6.0
    but where one side alone keeps its size: there its older FFmpeg gives other frames, and this
    function is no reference for them.
    """
    return _pull(path, numbers, f"scale={size}:{size}:flags=bilinear,format=rgb24")


def _pull(path: Path, numbers: Sequence[int], chain: str) -> np.ndarray:
    frames: list[np.ndarray] = []
    wanted = set(numbers)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = _make_graph(chain, stream)
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                graph.push(frame)
                frames.append(graph.pull().to_ndarray())
    places = {number: place for place, number in enumerate(sorted(wanted))}
    return np.stack([frames[places[number]] for number in numbers])


def _make_graph(chain: str, stream: av.VideoStream) -> av.filter.Graph:
    graph = av.filter.Graph()
    last = graph.add_buffer(template=stream)
    for step in chain.split(","):
        name, _, arguments = step.partition("=")
        node = graph.add(name, arguments)
        last.link_to(node)
        last = node
    last.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


def count_frames(path: Path) -> int:
    """len(decord.VideoReader(path))."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(container.streams.video[0]))


def write_imageio(path: Path, frames: np.ndarray, *, fps: int, threads: int = 1) -> tuple[int, int]:
    """imageio.mimsave(path, frames, fps=fps) for mp4, without further arguments.

    imageio-ffmpeg pipes RGB into ffmpeg: libx264 with its defaults (crf 23, medium), yuv420p, and
    sides that are no multiples of 16 scaled up to the next (the filter's default, bicubic).
    threads: of the encoder, on which its result depends: half as many again as the machine has
    processors, fewer for few rows. Returns the height and width in the file.
    """
    height, width = (-(-side // 16) * 16 for side in frames.shape[1:3])
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frames.shape[2],
        height=frames.shape[1],
        format=av.VideoFormat("rgb24"),
        time_base=Fraction(1, fps),
    )
    steps = [("scale", f"{width}:{height}:flags=bicubic"), ("format", "yuv420p")]
    nodes = [source, *(graph.add(*step) for step in steps), graph.add("buffersink")]
    for node, following in itertools.pairwise(nodes):
        node.link_to(following)
    graph.configure()
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        # The encoder's vector code does not make the same file every time.
        small = min(height, width) <= 256
        stream.options = {"x264-params": "asm=0"} if small else {}
        stream.codec_context.thread_type, stream.codec_context.thread_count = "FRAME", threads
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            graph.push(frame)
            scaled = graph.pull()
            assert isinstance(scaled, av.VideoFrame)
            container.mux(stream.encode(scaled))
        container.mux(stream.encode())
    return height, width
