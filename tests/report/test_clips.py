# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0

import base64
import io

import numpy as np
import pytest
from PIL import Image

from nbp.report.clips import Sheet, make_sheet


def cut(sheet: Sheet) -> np.ndarray:
    """The clip of a sheet, cut as the page's script does."""
    head, _, text = sheet.uri.partition(",")
    assert head == "data:image/webp;base64"
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))
    frames = []
    for frame in range(sheet.frames):
        left = (frame % sheet.columns) * sheet.width
        top = frame // sheet.columns * sheet.height
        frames.append(picture[top : top + sheet.height, left : left + sheet.width])
    return np.stack(frames)


@pytest.mark.parametrize("shape", [(1, 8, 8), (9, 32, 32), (5, 6, 20), (7, 40, 4)])
def test_every_frame_comes_back(shape):
    clip = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    np.testing.assert_array_equal(cut(make_sheet(clip, quality=None)), clip)


def test_lower_quality_is_smaller_and_near():
    x, y, t = np.meshgrid(np.arange(32), np.arange(32), np.arange(9))
    wave = 127 + 120 * np.sin((x + 2 * y + 3 * t) / 9)
    clip = np.repeat(wave.transpose(2, 0, 1)[..., None], 3, axis=3).astype(np.uint8)
    clip += np.random.default_rng(0).integers(0, 4, clip.shape, np.uint8)
    exact, good, poor = (make_sheet(clip, quality=quality) for quality in (None, 90, 30))
    assert len(exact.uri) > len(good.uri) > len(poor.uri)
    assert np.abs(cut(good).astype(int) - clip).mean() < 3


def test_what_cannot_be_a_picture():
    with pytest.raises(ValueError, match="must be"):
        make_sheet(np.zeros((0, 4, 4, 3), np.uint8), quality=None)
    with pytest.raises(ValueError, match="too much"):
        make_sheet(np.zeros((1, 2, 16_384, 3), np.uint8), quality=None)
