# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""From a source's record to a training example: frozen, picklable transforms on numpy.

A transform is called with a record (a dict) and the random generator of that example, and returns
a new record. The generator is a function of the seed and the example's index alone, so an example
is the same whichever process makes it. Records start as a source gives them ("path", "info",
"label", or "video" at once) and end with "video" uint8 [t h w 3] and "label".
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, assert_never, runtime_checkable

import numpy as np
from PIL import Image

from nbp.data.video.decode import VideoInfo, choose_frames, read_clip, resample_frames
from nbp.shapes import Clip, UInt8

Record = dict[str, Any]
Fit = Literal["crop", "squash", "random_crop"]
# Of a square, or height and width. Sides are part of fingerprints: a square is a number.
Sides = int | tuple[int, int]
# The official loader's `--resizecrop`: random crops are cut from frames this much larger.
RANDOM_CROP_ZOOM = 1.5


@runtime_checkable
class Transform(Protocol):
    """A step from record to record; `rng` is the example's own generator."""

    def __call__(self, record: Record, rng: np.random.Generator) -> Record: ...


def resize_frame(
    frame: UInt8[np.ndarray, "h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Scales a frame to height x width: bicubic, antialiased when it shrinks."""
    if frame.shape[:2] == (height, width):
        return frame
    image = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


@dataclass(frozen=True)
class ShortSide:
    """Scales so that the short side is `size` pixels; the aspect ratio is kept.

    For (height, width) so that the frame covers both, and no more.
    """

    size: Sides

    def target(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.size, int):
            h, w = self.size
            scale = max(h / height, w / width)
            return max(h, round(height * scale)), max(w, round(width * scale))
        short = min(height, width)
        # The long side never falls below the short one, so that a crop always fits.
        return (
            max(self.size, round(height * self.size / short)),
            max(self.size, round(width * self.size / short)),
        )

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        return _resize_record(record, self)


@dataclass(frozen=True)
class Squash:
    """Scales to size x size without keeping the aspect ratio, as the official loader does."""

    size: Sides

    def target(self, height: int, width: int) -> tuple[int, int]:
        return find_sides(self.size)

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        return _resize_record(record, self)


def _resize_record(record: Record, resize: ShortSide | Squash) -> Record:
    video = record["video"]
    height, width = resize.target(*video.shape[1:3])
    return {**record, "video": np.stack([resize_frame(frame, height, width) for frame in video])}


@dataclass(frozen=True)
class Crop:
    """Cuts a size x size window, the same in all frames: random, else the centre.

    Raises `ValueError` for a smaller clip: resize first.
    """

    size: Sides
    random: bool

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        video = record["video"]
        (height, width), (h, w) = video.shape[1:3], find_sides(self.size)
        spare = height - h, width - w
        if min(spare) < 0:
            raise ValueError(
                f"Crop(size={self.size}) got frames of {height}x{width}; put ShortSide("
                f"{self.size}) before it."
            )
        if self.random:
            top, left = (int(rng.integers(room + 1)) for room in spare)
        else:
            top, left = (room // 2 for room in spare)
        return {**record, "video": video[:, top : top + h, left : left + w]}


@dataclass(frozen=True)
class Flip:
    """Mirrors left and right with the given probability. Wrong for classes with a direction."""

    probability: float = 0.5

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        if rng.random() >= self.probability:
            return record
        return {**record, "video": record["video"][:, :, ::-1]}


class VideoCache:
    """Decoded videos kept in memory up to `capacity` bytes: the first that fit stay.

    What is kept depends on the order of requests, what is returned does not. A pickled copy, as
    a loader worker gets, starts empty.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._videos: dict[str, np.ndarray] = {}
        self._reserved = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.capacity,)

    def get(self, key: str, size: int, load: Callable[[], np.ndarray]) -> np.ndarray | None:
        """The video under `key`, loaded if need be; None if `size` bytes do not fit."""
        with self._lock:
            if key in self._videos:
                return self._videos[key]
            if self._reserved + size > self.capacity:
                return None
            self._reserved += size
        try:
            video = load()
        except BaseException:
            with self._lock:
                self._reserved -= size
            raise
        with self._lock:
            if key in self._videos:  # another thread was as fast
                self._reserved -= size
            return self._videos.setdefault(key, video)


@dataclass(frozen=True)
class DecodeClip:
    """Reads a window of `frames` frames at `fps` from the record's "path" into "video".

    random: a uniformly drawn window, else the one in the centre. resize: applied frame by frame
    while decoding. Videos that fit into `cache_bytes` (in each loader process) are decoded once
    and kept at their reduced size and rate; larger data is decoded clip by clip.
    Raises `VideoError` (a `DataError`) for a file that cannot be decoded or is too short.
    """

    frames: int
    fps: float | None
    random: bool
    resize: ShortSide | Squash | None = None
    # Not in repr: fingerprints are made of it, and the cache changes no clip.
    cache_bytes: int = field(default=2**29, repr=False)
    _cache: VideoCache = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_cache", VideoCache(self.cache_bytes))

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        start = float(rng.random()) if self.random else None
        path, info = record["path"], record["info"]
        video = self._read_cached(path, info, start)
        if video is None:
            video = read_clip(
                path,
                frames=self.frames,
                fps=self.fps,
                start=start,
                info=info,
                resize=self._resize_frame,
            )
        rest = {key: value for key, value in record.items() if key not in ("path", "info")}
        return {**rest, "video": video}

    def _read_cached(self, path: str, info: VideoInfo, start: float | None) -> Clip | None:
        length = len(resample_frames(info.frames, info.fps, self.fps))
        if length < self.frames:
            return None  # the plain path says why
        height, width = info.height, info.width
        if self.resize is not None:
            height, width = self.resize.target(height, width)

        def load() -> np.ndarray:
            return read_clip(
                path, frames=length, fps=self.fps, info=info, resize=self._resize_frame
            )

        video = self._cache.get(path, length * height * width * 3, load)
        if video is None:
            return None
        # The cached video is the resampled one: choose the same window among its frames.
        resampled = VideoInfo(length, info.fps, height, width)
        return video[choose_frames(resampled, frames=self.frames, fps=None, start=start)]

    def _resize_frame(self, frame: np.ndarray) -> np.ndarray:
        if self.resize is None:
            return frame
        return resize_frame(frame, *self.resize.target(*frame.shape[:2]))


def find_sides(size: Sides) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


def choose_spatial(
    fit: Fit, size: Sides, *, training: bool
) -> tuple[ShortSide | Squash, tuple[Crop, ...]]:
    """How frames become size x size: the resize and what cuts the square, if anything does."""
    match fit:
        case "crop":
            return ShortSide(size), (Crop(size, random=training),)
        case "squash":
            return Squash(size), ()
        case "random_crop":
            zoomed = [round(side * RANDOM_CROP_ZOOM) for side in find_sides(size)]
            larger = zoomed[0] if isinstance(size, int) else (zoomed[0], zoomed[1])
            return ShortSide(larger), (Crop(size, random=training),)
        case _:
            assert_never(fit)


def make_clip_transforms(
    *,
    frames: int,
    size: Sides,
    fps: float | None,
    training: bool,
    fit: Fit = "crop",
    flip: bool = False,
    cache_bytes: int = 2**29,
) -> tuple[Transform, ...]:
    """The usual chain from a video file to a clip uint8 [frames size size 3].

    training: random window and crop (and mirroring, if `flip`); else both in the centre.
    fit: "crop" scales the short side to `size` and cuts a square, "squash" scales both sides,
        "random_crop" cuts the square from frames 1.5 times larger.
    """
    resize, cut = choose_spatial(fit, size, training=training)
    decode = DecodeClip(frames, fps, training, resize, cache_bytes)
    return (decode, *cut, *((Flip(),) if flip and training else ()))
