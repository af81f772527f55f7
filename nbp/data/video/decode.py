# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Reading and writing video files; with `nbp.data.video.encode` what touches a codec.

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
from typing import Any

import av
import numpy as np

from nbp.data.video import containers
from nbp.data.video.notes import NOTES
from nbp.data.video.picture import PictureReader, Scale
from nbp.data.video.timeline import Timeline, lay_out, slow_down
from nbp.errors import DataError
from nbp.files import VideoError, open_regular
from nbp.shapes import Clip, Int

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
# Marks of a file that are no UTF-8 do not matter. PyAV reads them since version 19, raised before.
LENIENT: dict[str, Any] = (
    {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
)


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds: frames, frames per second, and the upright size in square pixels.

    Frames are those that a player shows at the even rate `fps`. shown: the stored frame of each,
    where the file's own rate is uneven (see `timeline`); None where each stored frame is shown
    once. notes: keys of `notes.NOTES`, what is peculiar about the file.
    """

    frames: int
    fps: float
    height: int
    width: int
    shown: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()

    def find_stored(self, numbers: Int[np.ndarray, "t"]) -> list[int]:
        """Which stored frames the shown frames `numbers` are."""
        found = numbers.tolist()
        return found if self.shown is None else [self.shown[number] for number in found]


def probe_video(path: str | Path, *, decode: bool = True) -> VideoInfo:
    """Says what the video file holds, and that it is whole.

    With `decode` every frame is decoded once (nothing is kept), so that damage anywhere is found.
    Without, only the time stamps of the packets are read: much faster, and blind to damage inside
    them; files where packets may not be frames (interlaced, an uneven rate, no time stamps) are
    decoded anyway.
    Raises `VideoError`.
    """
    name = os.fspath(path)
    if not decode:
        info = _probe_packets(name)
        if info is not None:
            return info
    with _open_track(name) as track:
        first, stamps = None, []
        for frame in track.decode():
            first = first or frame
            stamps.append(frame.pts)
            track.pictures.look(frame)
        return track.describe(first, stamps)


def _probe_packets(name: str) -> "VideoInfo | None":
    """Of a file whose packets are frames, without decoding more than one; else None."""
    with _open_track(name) as track:
        first, stamps = None, []
        avi = track.container.format.name == "avi"  # counts packets, in their order
        for packet in track.container.demux(track.stream):
            if packet.size > 0 and not packet.is_discard:
                stamps.append(packet.dts if avi else packet.pts)
            if first is None:
                first = next(iter(track.decode_packet(packet)), None)
        if first is None or first.interlaced_frame or (None in stamps and not avi):
            return None
        track.pictures.look(first)
        info = track.describe(first, sorted(stamps))
        return info if info.shown is None else None


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
    Raises `VideoError`, also when the video has fewer frames than asked for.
    """
    name = os.fspath(path)
    info = info or probe_video(name)
    numbers = choose_frames(info, frames=frames, fps=fps, start=start)
    if len(numbers) < frames:
        raise too_short(name, info, frames=frames, fps=fps)
    stored = info.find_stored(numbers)
    wanted = set(stored)
    found: dict[int, np.ndarray] = {}
    decoded = 0
    with _open_track(name) as track:
        for frame in track.decode():
            if decoded in wanted:
                image = track.pictures.read(frame)
                found[decoded] = image if resize is None else resize(image)
                if len(found) == len(wanted):
                    return np.stack([found[number] for number in stored])
            decoded += 1
    raise VideoError(name, "corrupt", f"ended after {decoded} frames, frame {stored[-1]} is needed")


def read_frames(
    path: str | Path,
    begin: Callable[[float], Callable[[np.ndarray], None]],
    *,
    scale: Scale | None = None,
) -> VideoInfo:
    """Decodes every frame once; the frames of `read_clip`, without keeping them.

    begin: called with the rate at which they are shown; what it returns is called with each shown
        frame, uint8 RGB [h w 3], upright.
    scale: makes RGB of another size straight from the decoded frame; see `PictureReader.read`.
    Returns what was given: its frames are shown once each. Raises `VideoError`.
    """
    name = os.fspath(path)
    info = probe_video(name, decode=False)  # the rate is wanted before the first frame
    repeats = None if info.shown is None else np.bincount(info.shown).tolist()
    with _open_track(name) as track:
        take = begin(info.fps)
        frames, first = 0, None
        for number, frame in enumerate(track.decode()):
            first = first or frame
            track.pictures.look(frame)
            times = 1 if repeats is None else repeats[number] if number < len(repeats) else 0
            if times:
                image = track.pictures.read(frame, scale)
                for _ in range(times):
                    take(image)
                frames += times
        if first is None:
            raise VideoError(name, "corrupt", "no frame could be decoded")
        met = {*info.notes, *track.notes}
        notes = tuple(note for note in NOTES if note in met)
        return VideoInfo(frames, info.fps, *track.pictures.measure(first), notes=notes)


def too_short(path: str, info: VideoInfo, *, frames: int, fps: float | None) -> VideoError:
    """The error for a video with fewer than `frames` frames at `fps`."""
    length = len(resample_frames(info.frames, info.fps, fps))
    rate = "" if fps is None else f" at {fps:g} fps"
    return VideoError(
        path,
        "too short",
        f"{length} frames{rate} ({info.frames} at {info.fps:g} fps); a clip needs {frames}",
    )


class _Track:
    """The video track of an open file."""

    def __init__(self, name: str, container: Any, stream: Any):
        self.name, self.container, self.stream = name, container, stream
        # The fourth byte of uncompressed pixels is unused in AVI (BI_RGB), and mostly 0.
        opaque = container.format.name == "avi" and stream.codec_context.name == "rawvideo"
        self.pictures = PictureReader(_read_ratio(stream.sample_aspect_ratio), opaque=opaque)
        several = containers.count_tracks(container.streams.video) > 1
        self._notes = ("several tracks",) if several else ()
        self._decoder = _open_alpha_decoder(stream)

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self._notes, *self.pictures.notes)

    def decode_packet(self, packet: Any) -> list[Any]:
        return packet.decode() if self._decoder is None else self._decoder.decode(packet)

    def decode(self) -> Iterator[Any]:
        """Decoded frames in order; raises `VideoError` on damage and on a change of size."""
        size: tuple[int, int] | None = None
        number = 0
        for packet in self.container.demux(self.stream):
            for frame in self.decode_packet(packet):
                if number >= MAX_FRAMES:
                    raise VideoError(self.name, "too large", f"more than {MAX_FRAMES} frames")
                if frame.is_corrupt:
                    raise VideoError(self.name, "corrupt", f"frame {number} is damaged")
                size = size or (frame.height, frame.width)
                if (frame.height, frame.width) != size:
                    text = f"the frame size changes at frame {number}"
                    raise VideoError(self.name, "corrupt", text)
                if number == 0:
                    _check_size(self.name, frame.height, frame.width)
                    _check_size(self.name, *self.pictures.measure(frame))
                number += 1
                yield frame

    def describe(self, first: Any, stamps: list[int | None]) -> VideoInfo:
        """The info for frames with these time stamps, of which `first` is one."""
        if first is None or not stamps:
            raise VideoError(self.name, "corrupt", "no frame could be decoded")
        timeline = self._lay_out(stamps)
        shown = None if timeline.shown is None else tuple(timeline.shown.tolist())
        met = {*self.notes, *timeline.notes}
        if self.container.format.name == "avi":  # a format without them, at a fixed rate
            met.discard("no time stamps")
        # The header's own count is not compared: trimmed files rightly show fewer frames.
        return VideoInfo(
            len(stamps) if shown is None else len(shown),
            timeline.rate,
            *self.pictures.measure(first),
            shown=shown,
            notes=tuple(note for note in NOTES if note in met),
        )

    def _lay_out(self, stamps: list[int | None]) -> Timeline:
        """The timeline; files without a rate and without time stamps get frames / duration."""
        rate = _read_ratio(self.stream.average_rate)
        if not rate and len(stamps) > 1 and self.container.duration:
            rate = Fraction(len(stamps) * av.time_base, self.container.duration)
        base = _read_ratio(self.stream.time_base) or Fraction(1)
        stated = float(rate) if rate and rate > 0 else None
        if self.container.format.name == "gif":  # what it states is a mean of the stored delays
            stamps, stated = slow_down(stamps, base), None
        try:
            timeline = lay_out(stamps, base, stated=stated, limit=MAX_FRAMES)
        except ValueError as error:
            raise VideoError(self.name, "too large", f"{error}, at most {MAX_FRAMES}") from None
        if timeline is None:
            text = "it states neither a frame rate nor a duration"
            raise VideoError(self.name, "corrupt", text)
        return timeline


def _read_ratio(ratio: Any) -> Fraction | None:
    """A rational number of PyAV: a `Fraction` or None, since version 19 a class that has both."""
    return Fraction(ratio.numerator, ratio.denominator) if ratio else None


def _open_alpha_decoder(stream: Any) -> Any | None:
    """A decoder of a transparent webm's second layer, which FFmpeg's own decoders leave out."""
    wrapped = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    marked = any(
        key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items()
    )
    if wrapped is None or not marked or wrapped not in av.codecs_available:
        return None
    decoder = av.CodecContext.create(wrapped, "r")
    decoder.thread_count = 1
    return decoder


@contextmanager
def _open_track(name: str) -> Iterator[_Track]:
    """Yields the video track, and turns what FFmpeg raises into `VideoError`."""
    head = b""
    try:
        with open_regular(name, MAX_BYTES) as file:
            head = file.read(containers.HEAD)
            file.seek(0)
            demuxer = containers.recognize(head)
            if demuxer is None:
                raise VideoError(name, "not a video", containers.explain_refusal(head))
            with av.open(file, format=demuxer, **LENIENT) as container:
                stream = containers.choose_track(container.streams.video)
                if stream is None:
                    raise VideoError(name, "no video stream")
                if stream.codec_context is None:
                    raise VideoError(name, "no video stream", "its codec is not supported")
                _check_size(name, stream.codec_context.height, stream.codec_context.width)
                # Parallelism is across clips; one thread also keeps memory per clip small.
                stream.codec_context.thread_count = 1
                yield _Track(name, container, stream)
    except DataError:
        raise
    except (av.FFmpegError, OSError, ValueError, MemoryError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        text = " ".join(reason.split()) or type(error).__name__
        if containers.is_segment(head):
            text += "; it starts as a segment of a stream: join it with its initialisation segment"
        raise VideoError(name, "corrupt", text) from None


def _check_size(name: str, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise VideoError(name, "too large", f"{width}x{height}, at most {MAX_PIXELS} pixels")
