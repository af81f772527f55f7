# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""From a decoded frame to the picture that a player shows: RGB, upright, with square pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from nbp.shapes import UInt8

# (decoded frame, its width with square pixels, whether height and width are exchanged later) -> RGB
Scale = Callable[[Any, int, bool], np.ndarray]

# Pixels further from square are a mistake of the file: the widest in use are 2:1.
_WIDEST = 4
# Pixels this close to square stay: encoders round the sides of scaled videos to whole pixels.
_SQUARE = 0.01
# Codes of ITU-T H.273: PQ and HLG.
_HDR_TRANSFERS = (16, 18)
_BT2020 = 9


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to turn and mirror a picture: transposed first, then flipped."""

    transposed: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @property
    def changes(self) -> bool:
        return self != Orientation()

    def apply(self, image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "H W c"]:
        if self.transposed:
            image = image.swapaxes(0, 1)
        rows = slice(None, None, -1 if self.flip_rows else None)
        columns = slice(None, None, -1 if self.flip_columns else None)
        return image[rows, columns]


def read_orientation(frame: Any) -> Orientation:
    """That of the frame's display matrix; oblique angles become the nearest quarter turn.

    The matrix (a b u, c d v, x y w) maps the place (x, y) to (ax + cy, bx + dy), y downwards
    (ISO/IEC 14496-12, 8.3.2); translation is a matter of layout and left out.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None or len(bytes(data)) < 36:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(data), "=i4", 5).astype(int).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, flip_rows=b < 0, flip_columns=c < 0)
    return Orientation(False, flip_rows=d < 0, flip_columns=a < 0)


def has_alpha(frame: Any) -> bool:
    """Whether the frame's format holds transparency (a palette counts as opaque)."""
    return any(component.is_alpha for component in frame.format.components)


def blend_on_white(
    image: UInt8[np.ndarray, "h w 4"],
) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of straight RGBA as it looks on white, rounded to nearest."""
    alpha = image[..., 3:].astype(np.uint32)
    colour = image[..., :3]
    if alpha.min() == 255:
        return colour
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


class PictureReader:
    """Pictures of one track, all of one size.

    aspect: width of a stored pixel over its height, as container or stream states it; None or 0
        where neither does. opaque: a fourth channel, if there is one, means nothing. Of what it
        meets, `notes` keeps the keys of `nbp.data.video.notes.NOTES`.
    """

    def __init__(self, aspect: Fraction | None, *, opaque: bool = False):
        self._opaque = opaque
        self._notes: dict[str, None] = {}
        self._aspect = Fraction(1)
        if aspect and not 1 / _WIDEST <= aspect <= _WIDEST:
            self._notes["absurd pixel aspect"] = None
        elif aspect and abs(aspect - 1) >= _SQUARE:
            self._aspect = aspect
            self._notes["pixel aspect"] = None
        self._orientation: Orientation | None = None
        self._scale, self._convert = VideoReformatter(), VideoReformatter()

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    def measure(self, frame: Any) -> tuple[int, int]:
        """Height and width of the frame's picture."""
        height, width = frame.height, self._widen(frame)
        return (width, height) if self._orient(frame).transposed else (height, width)

    def look(self, frame: Any) -> None:
        """Notes what the frame is, without making its picture unless it may be transparent."""
        self._orient(frame)
        if frame.interlaced_frame:
            self._notes["interlaced"] = None
        if frame.color_trc in _HDR_TRANSFERS or frame.color_primaries == _BT2020:
            self._notes["HDR"] = None
        if "transparent" not in self._notes and self._is_layered(frame):
            self.read(frame)

    def read(self, frame: Any, scale: Scale | None = None) -> UInt8[np.ndarray, "h w 3"]:
        """The frame's picture. YUV becomes RGB by the matrix and range that the file states, and
        by BT.601, limited range, where it states none, as FFmpeg does.

        scale: makes RGB of another size in one step from the decoded frame, the width that it has
        with square pixels, and whether it is turned afterwards. Transparency is not looked at.
        """
        alpha, orientation = self._is_layered(frame), self._orient(frame)
        if scale is not None:
            return orientation.apply(scale(frame, self._widen(frame), orientation.transposed))
        # One thread, as parallelism is across clips. Scaled first, as FFmpeg's scale filter does.
        options: Any = {"interpolation": Interpolation.BICUBIC, "threads": 1}
        if self._aspect != 1:
            frame = self._scale.reformat(frame, width=self._widen(frame), **options)
        colours = "rgba" if alpha else "rgb24"
        image = self._convert.reformat(frame, format=colours, **options).to_ndarray()
        if alpha:
            if image[..., 3].min() < 255:
                self._notes["transparent"] = None
            image = blend_on_white(image)
        return orientation.apply(image)

    def _is_layered(self, frame: Any) -> bool:
        return not self._opaque and has_alpha(frame)

    def _widen(self, frame: Any) -> int:
        return max(1, round(frame.width * self._aspect))

    def _orient(self, frame: Any) -> Orientation:
        # The mark is the track's; once for all frames, so that their size cannot change.
        if self._orientation is None:
            self._orientation = read_orientation(frame)
            if self._orientation.changes:
                self._notes["turned"] = None
        return self._orientation
