# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A clip as one still picture, its frames in a grid: a page shows any frame of it exactly.

A video element needs a codec that not every browser has, and cannot step by single frames.
"""

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from nbp.shapes import Clip

MAX_SIDE = 16_383  # of a WebP picture


@dataclass(frozen=True)
class Sheet:
    """A WebP picture of `frames` frames, row by row, `columns` in a row, and its data URI."""

    uri: str
    frames: int
    columns: int
    height: int
    width: int


def make_sheet(clip: Clip, *, quality: int | None) -> Sheet:
    """Lays out an RGB clip [t h w 3].

    quality: 1 to 100; None keeps every pixel. Raises ValueError for an empty clip, or one that
    makes a picture larger than WebP can hold.
    """
    if 0 in clip.shape or clip.shape[-1] != 3:
        raise ValueError(f"a clip must be [t h w 3] without empty axes, not {clip.shape}")
    frames, height, width, _ = clip.shape
    columns = math.ceil(math.sqrt(frames * height / width))  # nearly square
    columns = min(frames, max(1, columns))
    rows = -(-frames // columns)
    if max(rows * height, columns * width) > MAX_SIDE:
        raise ValueError(f"{frames} frames of {width}x{height} px are too much for one picture")
    padded = np.zeros((rows * columns, height, width, 3), np.uint8)
    padded[:frames] = clip
    grid = padded.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    picture = Image.fromarray(grid.reshape(rows * height, columns * width, 3))
    buffer = io.BytesIO()
    if quality is None:
        picture.save(buffer, "WEBP", lossless=True, quality=50, method=4)
    else:
        picture.save(buffer, "WEBP", quality=quality, method=4)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Sheet(f"data:image/webp;base64,{text}", frames, columns, height, width)
