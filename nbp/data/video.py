# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Reading and writing video files; with `nbp.data.recording` what touches a codec.

A file from a user is hostile input to a large C library. So only regular files are read, FFmpeg is
told the container format (recognised from the first bytes) and reads from an open file, never from
a name that could be a URL or a playlist, and sizes are capped. Every failure is a `VideoError`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.stream import Disposition

from nbp.data.files import VideoError, open_regular
from nbp.data.recording import GifWriter, VideoWriter
from nbp.errors import DataError
from nbp.shapes import Clip, Clips, Int, UInt8

REASONS = (
    "unreadable",
    "zero bytes",
    "not a video",
    "not an image",
    "no video stream",
    "too large",
    "corrupt",
    "too short",
)

# Above these a file is refused before memory is spent on it.
MAX_BYTES = 16 * 2**30
MAX_PIXELS = 2**26  # 8192 x 8192
MAX_FRAMES = 10**6


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds: frames, average frames per second, and the upright size in pixels."""

    frames: int
    fps: float
    height: int
    width: int


def probe_video(path: str | Path, *, decode: bool = True) -> VideoInfo:
    """Says what the video file holds, and that it is whole.

    With `decode` every frame is decoded once (nothing is kept), so that damage anywhere is found.
    Without, packets are counted but not decoded: much faster, and blind to damage inside them.
    Raises `VideoError`.
    """
    name = os.fspath(path)
    with _open_stream(name) as (container, stream):
        first = None
        frames = 0
        if decode:
            for frame in _decode(name, container, stream):
                first = first or frame
                frames += 1
        else:
            for packet in container.demux(stream):
                frames += packet.size > 0 and not packet.is_discard
                if first is None:
                    first = next(iter(packet.decode()), None)
        if first is None or frames == 0:
            raise VideoError(name, "corrupt", "no frame could be decoded")
        # The header's own count is not compared: trimmed files rightly show fewer frames.
        return VideoInfo(
            frames, _average_fps(name, container, stream, frames), *_upright_size(first)
        )


def resample_frames(frames: int, native_fps: float, fps: float | None) -> Int[np.ndarray, "m"]:
    """Source frame numbers of a video of `frames` frames played at `fps`.

    All of them when `fps` is None or at least the native rate (frames are never repeated), else
    int(frames / native_fps * fps) numbers spread evenly from the first to the last frame and
    truncated, as in the official loader.
    """
    if fps is None or fps >= native_fps:
        return np.arange(frames)
    return np.linspace(0, frames - 1, int(frames / native_fps * fps)).astype(np.int64)


def choose_frames(
    info: VideoInfo, *, frames: int, fps: float | None, start: float | None = None
) -> Int[np.ndarray, "t"]:
    """Source frame numbers of a window of `frames` consecutive resampled frames.

    start: None takes the centre, length // 2 - frames // 2 as in the official loader; a number in
        [0, 1) takes that share of the possible starts, so uniform numbers give uniform windows.
    Returns fewer than `frames` numbers, all there are, for a video that is too short.
    """
    numbers = resample_frames(info.frames, info.fps, fps)
    length = len(numbers)
    window = min(frames, length)
    first = length // 2 - window // 2 if start is None else int(start * (length - window + 1))
    return numbers[first : first + window]


def read_clip(
    path: str | Path,
    *,
    frames: int,
    fps: float | None = None,
    start: float | None = None,
    info: VideoInfo | None = None,
    resize: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Clip:
    """Decodes `frames` frames at `fps` (None: the native rate), uint8 RGB [frames h w 3], upright.

    start: see `choose_frames`. info: from `probe_video`, which is called when it is not given.
    resize: applied to each frame [h w 3] when decoded: large frames are never all in memory.
    Frames are decoded from the first one on (exact in every container) up to the last one needed.
    With a variable frame rate the rule counts frames, not seconds, as the official loader does.
    Raises `VideoError`, also when the video has fewer frames than asked for.
    """
    name = os.fspath(path)
    info = info or probe_video(name)
    numbers = choose_frames(info, frames=frames, fps=fps, start=start)
    if len(numbers) < frames:
        raise too_short(name, info, frames=frames, fps=fps)
    wanted = set(numbers.tolist())
    clip: list[np.ndarray] = []
    decoded = 0
    with _open_stream(name) as (container, stream):
        for frame in _decode(name, container, stream):
            if decoded in wanted:
                image = _upright(frame)
                clip.append(image if resize is None else resize(image))
                if len(clip) == frames:
                    return np.stack(clip)
            decoded += 1
    raise VideoError(
        name, "corrupt", f"ended after {decoded} frames, frame {numbers[-1]} is needed"
    )


def read_frames(
    path: str | Path,
    begin: Callable[[float | None], Callable[[np.ndarray], None]],
    *,
    scale: Callable[[Any, bool], np.ndarray] | None = None,
) -> VideoInfo:
    """Decodes every frame once; the frames of `read_clip`, without keeping them.

    begin: called with the rate that the header states, if any; what it returns is called with each
        frame, uint8 RGB [h w 3], upright.
    scale: makes RGB of another size from the decoded frame, before it is turned, and from whether
        that exchanges its height and width.
    Raises `VideoError`.
    """
    name = os.fspath(path)
    with _open_stream(name) as (container, stream):
        take = begin(float(stream.average_rate or 0) or None)
        frames, first = 0, None
        for frame in _decode(name, container, stream):
            first = first or frame
            take(_upright(frame, scale))
            frames += 1
        if first is None:
            raise VideoError(name, "corrupt", "no frame could be decoded")
        return VideoInfo(
            frames, _average_fps(name, container, stream, frames), *_upright_size(first)
        )


def too_short(path: str, info: VideoInfo, *, frames: int, fps: float | None) -> VideoError:
    """The error for a video with fewer than `frames` frames at `fps`."""
    length = len(resample_frames(info.frames, info.fps, fps))
    rate = "" if fps is None else f" at {fps:g} fps"
    return VideoError(
        path,
        "too short",
        f"{length} frames{rate} ({info.frames} at {info.fps:g} fps); a clip needs {frames}",
    )


def _sniff_format(head: bytes) -> str | None:
    """The FFmpeg demuxer for a file that starts with `head`, None for anything not allowed."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"):
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    return "gif" if head[:6] in (b"GIF87a", b"GIF89a") else None


@contextmanager
def _open_file(name: str) -> Iterator[tuple[BinaryIO, str]]:
    """Opens a regular file of an allowed format; yields it and the demuxer's name."""
    with open_regular(name, MAX_BYTES) as file:
        head = file.read(16)
        file.seek(0)
        demuxer = _sniff_format(head)
        if demuxer is None:
            raise VideoError(name, "not a video", f"it starts with {head[:12]!r}")
        yield file, demuxer


@contextmanager
def _open_stream(name: str) -> Iterator[tuple[Any, Any]]:
    """Yields (container, video stream), and turns what FFmpeg raises into `VideoError`."""
    try:
        with (
            _open_file(name) as (file, demuxer),
            av.open(file, format=demuxer, metadata_errors="ignore") as container,
        ):
            streams = [
                stream
                for stream in container.streams.video
                if not stream.disposition & Disposition.attached_pic  # cover art of a sound file
            ]
            if not streams:
                raise VideoError(name, "no video stream")
            stream = streams[0]
            if stream.codec_context is None:
                raise VideoError(name, "no video stream", "its codec is not supported")
            _check_size(name, stream.codec_context.height, stream.codec_context.width)
            # Parallelism is across clips; one thread also keeps memory per clip small.
            stream.codec_context.thread_count = 1
            yield container, stream
    except DataError:
        raise
    except (av.FFmpegError, OSError, ValueError, MemoryError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        text = " ".join(reason.split()) or type(error).__name__
        raise VideoError(name, "corrupt", text) from None


def _check_size(name: str, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise VideoError(name, "too large", f"{width}x{height}, at most {MAX_PIXELS} pixels")


def _decode(name: str, container: Any, stream: Any) -> Iterator[Any]:
    """Decoded frames in order; raises `VideoError` on damage and on a change of size."""
    size: tuple[int, int] | None = None
    for number, frame in enumerate(container.decode(stream)):
        if number >= MAX_FRAMES:
            raise VideoError(name, "too large", f"more than {MAX_FRAMES} frames")
        if frame.is_corrupt:
            raise VideoError(name, "corrupt", f"frame {number} is damaged")
        size = size or (frame.height, frame.width)
        _check_size(name, frame.height, frame.width)
        if (frame.height, frame.width) != size:
            raise VideoError(name, "corrupt", f"the frame size changes at frame {number}")
        yield frame


def _average_fps(name: str, container: Any, stream: Any, frames: int) -> float:
    """Average rate; files that do not state one get frames / duration."""
    rate = stream.average_rate or stream.guessed_rate
    if not rate and container.duration:
        rate = Fraction(frames * av.time_base, container.duration)
    if not rate or rate <= 0:
        raise VideoError(name, "corrupt", "it states neither a frame rate nor a duration")
    return float(rate)


def _quarter_turns(frame: Any) -> int:
    """Counterclockwise quarter turns that make the frame upright (phones store a rotation)."""
    return round(frame.rotation / 90) % 4


def _upright_size(frame: Any) -> tuple[int, int]:
    sides = (frame.height, frame.width)
    return sides[::-1] if _quarter_turns(frame) % 2 else sides


def _upright(frame: Any, scale: Callable[[Any, bool], np.ndarray] | None = None) -> np.ndarray:
    turns = _quarter_turns(frame)
    image = frame.to_ndarray(format="rgb24") if scale is None else scale(frame, turns % 2 == 1)
    return np.rot90(image, turns)


def write_video(path: str | Path, clip: Clip, *, fps: float) -> None:
    """Writes an RGB clip [t h w 3] as H.264 mp4 (yuv420p), in one step: whole or not at all.

    Odd sizes, which yuv420p cannot hold, get their last row or column twice. Raises `ValueError`
    for an empty clip or a rate that is not positive, `OSError` if the place cannot be written.
    """
    _check_clip(clip, fps)
    with VideoWriter(path, fps=fps) as writer:
        writer.add(clip)


def write_gif(path: str | Path, clip: Clip, *, fps: float, scale: int = 1) -> None:
    """Writes an RGB clip [t h w 3] as an endless GIF, each pixel enlarged to scale x scale.

    GIF counts time in 10 ms, so rates are rounded, and rates above 50 fps become 50.
    """
    _check_clip(clip, fps)
    if scale < 1:
        raise ValueError(f"write_gif: scale is {scale}; it must be 1 or more")
    with GifWriter(path, fps=fps, scale=scale) as writer:
        writer.add(clip)


def tile_clips(
    clips: Clips, *, columns: int, pad: int = 2
) -> UInt8[np.ndarray, "t rows columns c"]:
    """Lays clips [n t h w c] out in a grid of `columns`, row by row, `pad` black pixels between.

    Returns uint8 [t H W c]; cells without a clip are black.
    """
    n, t, h, w, c = clips.shape
    if n == 0 or columns < 1:
        raise ValueError(f"tile_clips: {n} clips in {columns} columns; both must be 1 or more")
    rows = -(-n // columns)
    grid = np.zeros((t, rows * (h + pad) - pad, columns * (w + pad) - pad, c), np.uint8)
    for position, clip in enumerate(clips):
        row, column = divmod(position, columns)
        top, left = row * (h + pad), column * (w + pad)
        grid[:, top : top + h, left : left + w] = clip
    return grid


def _check_clip(clip: Clip, fps: float) -> None:
    if 0 in clip.shape or clip.shape[-1] != 3:
        raise ValueError(f"a clip to write must be [t h w 3] without empty axes, not {clip.shape}")
    if not 0 < fps < float("inf"):
        raise ValueError(f"fps is {fps}; it must be a positive number")
