# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""From pixels that are drawn anew to cells that are kept."""

import numpy as np
import pytest

from nbp.data.masks import keep_cells, keep_ends, parse_box
from nbp.layout import LatentGrid


def test_boxes_are_pixels_inside_or_outside():
    inside = parse_box("box:2,0,5,3", sides=(8, 8))
    assert inside is not None
    expected = np.array([[x in (2, 3, 4) and y < 3 for x in range(8)] for y in range(8)])
    np.testing.assert_array_equal(inside, expected)
    np.testing.assert_array_equal(parse_box("outside:2,0,5,3", sides=(8, 8)), ~expected)
    for text in ("mask.png", "box:1,2,3", "box:1,2,3,4.png", "box:-1,0,2,2", "box:１,2,3,4", ""):
        assert parse_box(text, sides=(8, 8)) is None
    for text in ("box:2,0,2,3", "box:0,0,9,3", "outside:0,5,3,4"):
        with pytest.raises(ValueError, match=f"{text}: a box is X0,Y0,X1,Y1 in pixels"):
            parse_box(text, sides=(8, 8))


def test_a_cell_is_kept_if_none_of_its_pixels_is_drawn_anew():
    grid, rng = LatentGrid(3, 2, 4), np.random.default_rng(0)
    drawn = rng.random((9, 8, 12)) < 0.02
    kept = keep_cells(drawn, grid, stride=4)
    frames = [range(1), range(1, 5), range(5, 9)]
    for t in range(3):
        for h in range(2):
            for w in range(4):
                pixels = drawn[list(frames[t]), 4 * h : 4 * h + 4, 3 * w : 3 * w + 3]
                assert kept[t, h, w] == (not pixels.any())
    assert 0 < kept.mean() < 1


def test_ends():
    kept = keep_ends(LatentGrid(5, 2, 3), 2)
    assert kept.shape == (5, 2, 3)
    assert kept.all((1, 2)).tolist() == [True, True, False, False, True]
    assert kept.any((1, 2)).tolist() == [True, True, False, False, True]
