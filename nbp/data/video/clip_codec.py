# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""How prepared clips are stored: encoding, and decoding at a random position (see `records`).

A stored clip is an ordinary mp4 (H.264) or mov (JPEG frames) that any player opens. Decoding does
not go through FFmpeg's demuxer: the sample table of our own files is small and regular, and with it
only the packets that a window depends on are decoded. What makes H.264 fast and exact here:

* closed groups of `group` frames that each start with a key frame: frame i is never further away;
* B-frames that nothing refers to: those outside the window are skipped unread;
* CAVLC instead of CABAC: at these bit rates entropy decoding is most of the time, and CAVLC takes
  half of it for 4 to 8% more bytes;
* 4:4:4 chroma: halving the chroma of a frame already scaled to 128 pixels costs 3 to 6 dB, while
  keeping it costs no measurable bytes;
* no psycho-visual tuning nor adaptive quantisation, which trade PSNR for looks, and one thread,
  which makes bytes the same wherever the clip is encoded.
"""

import io
import itertools
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, assert_never

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from nbp.data.video.decode import MAX_FRAMES
from nbp.data.video.encode import tag_colours
from nbp.errors import ConfigError
from nbp.files import VideoError
from nbp.shapes import Int, UInt8

Codec = Literal["h264", "jpeg"]
# H.264: constant rate factor, 0 (lossless) .. 51. JPEG: quality, 1 .. 95.
QUALITY = {"h264": 12, "jpeg": 90}
_RANGE = {"h264": (0, 51), "jpeg": (1, 95)}
_X264 = (
    "open-gop=0:scenecut=0:b-adapt=0:b-pyramid=none:no-psy=1:aq-mode=0:mbtree=0:"
    # A sixth of the decoding time, and no bytes at this quality.
    "cabac=0:no-deblock=1:8x8dct=0:weightp=0:weightb=0:ref=1"
)
_FALLBACK_RATE = 25.0


@dataclass(frozen=True)
class Coding:
    """How a clip is stored. quality: None for the codec's default in `QUALITY`.

    group: frames from one H.264 key frame to the next; shorter is faster to decode and larger.
    """

    codec: Codec = "h264"
    quality: int | None = None
    group: int = 24

    def __post_init__(self) -> None:
        if self.codec not in QUALITY:
            raise ConfigError(f"codec {self.codec!r}; allowed: {', '.join(QUALITY)}")
        low, high = _RANGE[self.codec]
        if not low <= self.level <= high:
            raise ConfigError(f"quality {self.level} for {self.codec}; allowed: {low} .. {high}")
        if not 1 <= self.group <= 250:
            raise ConfigError(f"group {self.group}; allowed: 1 .. 250")

    @property
    def level(self) -> int:
        return QUALITY[self.codec] if self.quality is None else self.quality


class ClipEncoder:
    """Encodes frames [h w 3] uint8 RGB, one size per clip, into the bytes of a stored clip.

    rate: frames per second that a player shows; None where unknown. It does not enter decoding.
    """

    def __init__(self, coding: Coding, rate: float | None = None):
        self.coding = coding
        self._rate = Fraction(rate or _FALLBACK_RATE).limit_denominator(1001) or Fraction(1)
        self._buffer = io.BytesIO()
        self._container: Any
        self._stream: Any
        self._reformat = VideoReformatter()
        self.frames = 0
        self.size = (0, 0)

    def add(self, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        if self.frames == 0:
            self._open(frame)
        match self.coding.codec:
            case "h264":
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                picture = self._reformat.reformat(picture, format="yuv444p", threads=1)
                picture.pts = self.frames
                picture.time_base = 1 / self._rate
                self._container.mux(self._stream.encode(picture))
            case "jpeg":
                data = io.BytesIO()
                image = Image.fromarray(frame)
                image.save(data, "JPEG", quality=self.coding.level, subsampling=0)
                packet = av.Packet(data.getvalue())
                packet.stream, packet.time_base = self._stream, 1 / self._rate
                packet.pts = packet.dts = self.frames
                packet.is_keyframe = True
                self._container.mux(packet)
            case _:
                assert_never(self.coding.codec)
        self.frames += 1

    def finish(self) -> bytes:
        """The stored clip; ValueError if no frame was added."""
        if self.frames == 0:
            raise ValueError("ClipEncoder.finish: no frame was added")
        if self.coding.codec == "h264":
            self._container.mux(self._stream.encode())
        self._container.close()
        return self._buffer.getvalue()

    def _open(self, frame: np.ndarray) -> None:
        self.size = (frame.shape[0], frame.shape[1])
        jpeg = self.coding.codec == "jpeg"
        # bitexact leaves out the muxer's version, so that bytes depend on the encoder alone.
        self._container = av.open(
            self._buffer, "w", format="mov" if jpeg else "mp4", options={"fflags": "+bitexact"}
        )
        if jpeg:
            height, width = self.size
            self._stream = self._container.add_mux_stream(
                "mjpeg", self._rate, width=width, height=height, time_base=1 / self._rate
            )
            return
        stream = self._container.add_stream("libx264", rate=self._rate)
        stream.height, stream.width = self.size
        stream.pix_fmt = "yuv444p"
        tag_colours(stream.codec_context)
        stream.codec_context.thread_count = 1
        stream.options = {
            "crf": str(self.coding.level),
            "preset": "medium",
            "g": str(self.coding.group),
            "bf": "2",
            "x264-params": _X264,
        }
        self._stream = stream


@dataclass(frozen=True)
class SampleTable:
    """Where the packets of a stored clip are, in decoding order, and which frame each shows."""

    codec: Codec
    extradata: bytes
    offsets: Int[np.ndarray, "n"]
    sizes: Int[np.ndarray, "n"]
    shown: Int[np.ndarray, "n"]  # frame number of each packet
    keys: Int[np.ndarray, "k"]  # packets that start a group

    def __len__(self) -> int:
        return len(self.offsets)


def decode_clip(
    data: bytes,
    numbers: Int[np.ndarray, "t"],
    *,
    name: str,
    scale: Callable[[Any], np.ndarray] | None = None,
) -> np.ndarray:
    """The frames `numbers` (ascending) of a stored clip, uint8 RGB [t h w 3].

    scale: makes these frames instead, of PyAV's frame (H.264) or RGB [h w 3] (JPEG).
    Raises `VideoError` (corrupt), which names `name`, for bytes that are no stored clip or lack
    one of the frames.
    """
    try:
        table = read_samples(data)
        if not 0 <= int(numbers[0]) <= int(numbers[-1]) < len(table):
            raise ValueError(f"frames {numbers[0]} .. {numbers[-1]} of {len(table)}")
        match table.codec:
            case "h264":
                found = _decode_h264(data, table, numbers, scale)
            case "jpeg":
                found = _decode_jpeg(data, table, numbers)
                if scale is not None:
                    found = {number: scale(frame) for number, frame in found.items()}
            case _:
                assert_never(table.codec)
        return np.stack([found[number] for number in numbers.tolist()])
    except (av.FFmpegError, OSError, ValueError, KeyError, IndexError, struct.error) as error:
        text = f"frame {error} is missing" if isinstance(error, KeyError) else str(error)
        raise VideoError(name, "corrupt", f"stored clip: {text}") from None


class _Decoders(threading.local):
    """Opened H.264 decoders of this thread: opening one costs as much as a few frames."""

    def __init__(self) -> None:
        self.open: dict[bytes, Any] = {}
        self.reformat = VideoReformatter()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


_DECODERS = _Decoders()
_MAX_DECODERS = 8


def _take_decoder(extradata: bytes) -> Any:
    """A decoder for streams with these headers; it is out of the pool until it is put back."""
    context = _DECODERS.open.pop(extradata, None)
    if context is None:
        context = av.CodecContext.create("h264", "r")
        context.extradata = extradata
        context.thread_count = 1  # parallelism is across clips
        return context
    context.flush_buffers()
    return context


def _decode_h264(
    data: bytes,
    table: SampleTable,
    numbers: Int[np.ndarray, "t"],
    scale: Callable[[Any], np.ndarray] | None,
) -> dict[int, np.ndarray]:
    wanted = set(numbers.tolist())
    shown = table.shown.tolist()
    found: dict[int, np.ndarray] = {}

    def take(frames: list[Any]) -> None:
        for frame in frames:
            if frame.pts in wanted and scale is not None:
                found[frame.pts] = scale(frame)
            elif frame.pts in wanted:
                picture = _DECODERS.reformat.reformat(frame, format="rgb24", threads=1)
                found[frame.pts] = picture.to_ndarray()

    context = _take_decoder(table.extradata)
    for place in _choose_packets(data, table, wanted):
        start = int(table.offsets[place])
        packet = av.Packet(data[start : start + int(table.sizes[place])])
        packet.pts = shown[place]
        take(context.decode(packet))
    take(context.decode(None))
    # After an error the decoder is dropped instead.
    while len(_DECODERS.open) >= _MAX_DECODERS:
        _DECODERS.open.pop(next(iter(_DECODERS.open)))
    _DECODERS.open[table.extradata] = context
    return found


def _choose_packets(data: bytes, table: SampleTable, wanted: set[int]) -> list[int]:
    """Packets to decode for the wanted frames: of each group up to the last one wanted, without
    the frames that are neither wanted nor referred to.
    """
    chosen: list[int] = []
    bounds = [*table.keys.tolist(), len(table)]
    shown = table.shown.tolist()
    first, last = min(wanted), max(wanted)
    for start, stop in itertools.pairwise(bounds):
        # Closed groups: packets start .. stop - 1 show frames start .. stop - 1.
        if stop <= first or start > last:
            continue
        needed = [place for place in range(start, stop) if shown[place] in wanted]
        if needed:
            chosen += [
                place
                for place in range(start, needed[-1] + 1)
                if shown[place] in wanted or _is_reference(data, int(table.offsets[place]))
            ]
    return chosen


def _is_reference(data: bytes, place: int) -> bool:
    """Whether other frames may refer to the one whose packet starts at `place`."""
    while data[place + 4] & 31 not in (1, 5):  # skip what comes before the picture's first slice
        place += 4 + int.from_bytes(data[place : place + 4], "big")
    return data[place + 4] >> 5 & 3 != 0


def _decode_jpeg(
    data: bytes, table: SampleTable, numbers: Int[np.ndarray, "t"]
) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}
    for number in numbers.tolist():
        start = int(table.offsets[number])
        image = Image.open(
            io.BytesIO(data[start : start + int(table.sizes[number])]), formats=["JPEG"]
        )
        found[number] = np.asarray(image.convert("RGB"))
    return found


def read_samples(data: bytes) -> SampleTable:
    """Parses the boxes of a file that `ClipEncoder` wrote; ValueError for another one.

    ISO/IEC 14496-12, 8.5 to 8.7; one video track, tables in the moov box.
    """
    boxes = _find_box(data, (0, len(data)), "moov", "trak", "mdia", "minf", "stbl")
    (entry,) = _find_box(data, boxes, "stsd")[:1]
    kind = data[entry + 12 : entry + 16]
    if kind not in (b"avc1", b"jpeg"):
        raise ValueError(f"coded as {kind!r}, not by nbp.prepare")
    codec: Codec = "h264" if kind == b"avc1" else "jpeg"
    extradata = b""
    if codec == "h264":  # 16 bytes of box header, 78 of the sample entry, then its own boxes
        place, end = _find_box(data, (entry + 94, _find_box(data, boxes, "stsd")[1]), "avcC")
        extradata = data[place:end]
    sizes = _read_sizes(data, boxes)
    count = len(sizes)
    if not 1 <= count <= MAX_FRAMES:
        raise ValueError(f"{count} frames")
    deltas = _read_runs(data, boxes, "stts")
    times = np.cumsum(deltas) - deltas
    if _has_box(data, boxes, "ctts"):
        times = times + _read_runs(data, boxes, "ctts").astype(np.int32)
    shown = np.empty(count, np.int64)
    shown[np.argsort(times[:count], kind="stable")] = np.arange(count)
    if _has_box(data, boxes, "stss"):
        keys = _read_table(data, boxes, "stss", 1)[:, 0] - 1
    else:
        keys = np.arange(count)
    table = SampleTable(codec, extradata, _read_offsets(data, boxes, sizes), sizes, shown, keys)
    if len(times) != count or table.offsets[-1] + sizes[-1] > len(data) or keys[0] != 0:
        raise ValueError("its sample table is damaged")
    return table


def _walk_boxes(data: bytes, span: tuple[int, int], kind: str) -> tuple[int, int] | None:
    place, end = span
    while place + 8 <= end:
        size, header = int.from_bytes(data[place : place + 4], "big"), 8
        if size == 1:
            size, header = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        if size < header or place + size > end:
            raise ValueError("it is cut off")
        if data[place + 4 : place + 8] == kind.encode():
            return place + header, place + size
        place += size
    return None


def _find_box(data: bytes, span: tuple[int, int], *kinds: str) -> tuple[int, int]:
    """Start and end of the content of the box reached by descending through `kinds`."""
    for kind in kinds:
        found = _walk_boxes(data, span, kind)
        if found is None:
            raise ValueError(f"it has no {kind} box")
        span = found
    return span


def _has_box(data: bytes, span: tuple[int, int], kind: str) -> bool:
    return _walk_boxes(data, span, kind) is not None


def _read_table(
    data: bytes, boxes: tuple[int, int], kind: str, columns: int, wide: bool = False
) -> Int[np.ndarray, "rows columns"]:
    """The rows of a table box: 4 bytes of version and flags, a count, big-endian integers."""
    start, end = _find_box(data, boxes, kind)
    rows = int.from_bytes(data[start + 4 : start + 8], "big")
    if start + 8 + rows * columns * (8 if wide else 4) > end:
        raise ValueError(f"its {kind} box is cut off")
    numbers = np.frombuffer(data, ">u8" if wide else ">u4", rows * columns, start + 8)
    return numbers.astype(np.int64).reshape(rows, columns)


def _read_runs(data: bytes, boxes: tuple[int, int], kind: str) -> Int[np.ndarray, "n"]:
    runs = _read_table(data, boxes, kind, 2)
    if runs[:, 0].sum() > MAX_FRAMES:
        raise ValueError(f"its {kind} box is damaged")
    return np.repeat(runs[:, 1], runs[:, 0])


def _read_sizes(data: bytes, boxes: tuple[int, int]) -> Int[np.ndarray, "n"]:
    start, end = _find_box(data, boxes, "stsz")
    size, count = struct.unpack_from(">II", data, start + 4)
    if count > MAX_FRAMES or (size == 0 and start + 12 + 4 * count > end):
        raise ValueError("its stsz box is damaged")
    if size:
        return np.full(count, size, np.int64)
    return np.frombuffer(data, ">u4", count, start + 12).astype(np.int64)


def _read_offsets(
    data: bytes, boxes: tuple[int, int], sizes: Int[np.ndarray, "n"]
) -> Int[np.ndarray, "n"]:
    """Samples follow each other within a chunk; stsc says how many each chunk holds."""
    wide = _has_box(data, boxes, "co64")
    chunks = _read_table(data, boxes, "co64" if wide else "stco", 1, wide)[:, 0]
    runs = _read_table(data, boxes, "stsc", 3)
    lengths = np.diff(np.append(runs[:, 0], len(chunks) + 1))
    if (lengths < 0).any() or lengths.sum() != len(chunks):
        raise ValueError("its stsc box is damaged")
    per_chunk = np.repeat(runs[:, 1], lengths)
    if per_chunk.sum() != len(sizes):
        raise ValueError("its stsc box is damaged")
    first = np.cumsum(per_chunk) - per_chunk
    before = np.cumsum(sizes) - sizes  # bytes before each sample if all lay together
    return np.repeat(chunks - before[first], per_chunk) + before
