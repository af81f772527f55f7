# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Given tokens anywhere in a clip: from pixels that are drawn anew to cells that are kept."""

import re

import numpy as np

from nbp.layout import LatentGrid, latent_borders
from nbp.shapes import Bool

_BOX = re.compile(r"(box|outside):(\d+),(\d+),(\d+),(\d+)", re.ASCII)


def parse_box(text: str, *, sides: tuple[int, int]) -> Bool[np.ndarray, "h w"] | None:
    """The pixels that `box:X0,Y0,X1,Y1` draws anew, or `outside:...` around it; None for no box.

    X1 and Y1 are the first ones behind it. Raises ValueError where it does not lie in frames
    of these sides, (height, width).
    """
    found = _BOX.fullmatch(text)
    if found is None:
        return None
    height, width = sides
    kind, (left, top, right, bottom) = found[1], (int(number) for number in found.groups()[1:])
    if not (left < right <= width and top < bottom <= height):
        raise ValueError(
            f"{text}: a box is X0,Y0,X1,Y1 in pixels, 0 <= X0 < X1 <= {width} and 0 <= Y0 < Y1 <= "
            f"{height}"
        )
    inside = np.zeros(sides, bool)
    inside[top:bottom, left:right] = True
    return inside if kind == "box" else ~inside


def keep_cells(
    drawn: Bool[np.ndarray, "t h w"], grid: LatentGrid, *, stride: int
) -> Bool[np.ndarray, "T H W"]:
    """The cells that are kept: those of which no pixel is drawn anew.

    drawn: of a clip's frames. stride: frames of a latent frame, but the first, which has one.
    """
    frames, height, width = drawn.shape
    cells = drawn.reshape(frames, grid.h, height // grid.h, grid.w, width // grid.w).any((2, 4))
    starts = [0, *latent_borders(frames, stride)]
    return ~np.logical_or.reduceat(cells, starts, axis=0)


def keep_ends(grid: LatentGrid, first: int) -> Bool[np.ndarray, "T H W"]:
    """The first latent frames and the last one are kept."""
    kept = np.zeros(grid.shape, bool)
    kept[:first] = kept[-1] = True
    return kept
