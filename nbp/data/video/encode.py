# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Video files that are written: of whole clips, and frame by frame where memory is short."""

import contextlib
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from PIL import Image

from nbp.files import open_part
from nbp.shapes import Clip, Clips, UInt8

# The first of these that the installed PyAV has. Every published wheel has libx264.
H264_ENCODERS = ("libx264", "libopenh264")
# Near-transparent: the files are looked at and scored, and clips are small.
X264_OPTIONS = {"crf": "14", "preset": "medium"}
# The side up to which a file is the same every time, at a third of the speed.
_SMALL = 256


def make_x264_options(width: int, height: int, **options: str) -> dict[str, str]:
    """Options with which libx264 makes the same file of the same frames every time.

    Several threads do not. Nor does its vector code (of noise of 128 pixels every other file
    differed), so that frames as small as models make them are encoded without.
    """
    small = min(width, height) <= _SMALL
    return {**options, "threads": "1", **({"x264-params": "asm=0"} if small else {})}


def tag_colours(context: Any) -> None:
    """States what FFmpeg makes of RGB by default, and square pixels: players need not guess.

    Matrix of BT.601 (6) and limited range (1), with primaries and transfer of BT.709 (1), which
    are near those of sRGB; codes of ITU-T H.273.
    """
    context.colorspace, context.color_range = 6, 1
    context.color_primaries = context.color_trc = 1
    context.sample_aspect_ratio = Fraction(1)


W = TypeVar("W", bound="_Writer")


class _Writer:
    """A file that takes its place when the `with` block ends well, and else leaves nothing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __enter__(self: W) -> W:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            self._target = stack.enter_context(open_part(self.path))
            self._open(self._target)
            stack.push(self._finish)
            self._opened = stack.pop_all()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._opened.__exit__(kind, error, trace)

    def _finish(self, kind: Any, error: Any, trace: Any) -> None:
        self._close(complete=kind is None)

    def _open(self, target: Path) -> None:
        raise AssertionError("a kind of file opens its own")

    def _close(self, *, complete: bool) -> None:
        raise AssertionError("a kind of file closes its own")


class VideoWriter(_Writer):
    """H.264 mp4 (yuv420p) of RGB frames of one size; odd sizes get their last row or column twice.

    Raises `OSError` if the place cannot be written.
    """

    def __init__(self, path: str | Path, *, fps: float) -> None:
        super().__init__(path)
        self.fps = fps

    def add(self, frames: Clip) -> None:
        """The next frames [t h w 3]."""
        if self._stream is None:
            self._begin(*frames.shape[1:3])
        stream = self._stream
        assert stream is not None
        odd = ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0))
        for image in np.pad(frames, odd, mode="edge"):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            self._file.mux(stream.encode(frame))

    def _open(self, target: Path) -> None:
        self._stream: Any = None
        options = {"movflags": "+faststart"}
        self._file: Any = av.open(str(target), "w", format="mp4", options=options)

    def _begin(self, height: int, width: int) -> None:
        encoder = next((name for name in H264_ENCODERS if name in av.codecs_available), None)
        if encoder is None:
            raise RuntimeError("this PyAV has no H.264 encoder; install PyAV from its wheel")
        stream = self._file.add_stream(encoder, rate=Fraction(self.fps).limit_denominator(1001))
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt = "yuv420p"
        tag_colours(stream.codec_context)
        if encoder == "libx264":
            stream.options = make_x264_options(stream.width, stream.height, **X264_OPTIONS)
        self._stream = stream

    def _close(self, *, complete: bool) -> None:
        try:
            if complete and self._stream is not None:
                self._file.mux(self._stream.encode())
        finally:
            self._file.close()


class GifWriter(_Writer):
    """An endless GIF, each pixel enlarged to scale x scale.

    Until the end the frames are kept, a byte for each pixel.
    GIF counts time in 10 ms, so rates are rounded, and rates above 50 fps become 50.
    """

    def __init__(self, path: str | Path, *, fps: float, scale: int = 1) -> None:
        super().__init__(path)
        self.fps, self.scale = fps, scale

    def add(self, frames: Clip) -> None:
        """The next frames [t h w 3]."""
        enlarged = frames.repeat(self.scale, axis=1).repeat(self.scale, axis=2)
        # Without dithering still areas stay still.
        none = Image.Dither.NONE
        self._images += [Image.fromarray(image).quantize(256, dither=none) for image in enlarged]

    def _open(self, target: Path) -> None:
        self._images: list[Any] = []

    def _close(self, *, complete: bool) -> None:
        if complete:
            first, *others = self._images
            duration = max(20, 10 * round(100 / self.fps))
            first.save(
                self._target,
                "GIF",
                save_all=True,
                append_images=others,
                duration=duration,
                loop=0,
            )


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
