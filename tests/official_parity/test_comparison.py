# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A comparison fails whenever it should."""

import numpy as np
import pytest

from tests.official_parity.comparison import Reader, compare
from tests.official_parity.weights import draw_normal, make_weight

BOTH = {"atol": 0.1, "rtol": 0.01}


@pytest.mark.parametrize(
    "ours, theirs, tolerance, passed",
    [
        ([1.0, 2.0], [1.0, 2.05], 0.1, True),
        ([1.0, 2.0], [1.0, 2.15], 0.1, False),
        ([100.0, 2.0], [101.0, 2.0], BOTH, True),
        ([100.0, 2.0], [100.0, 2.2], BOTH, False),
        ([1, 2], [1, 2], "exact", True),
        ([1, 2], [1, 3], "exact", False),
        ([True, False], [True, True], "exact", False),
        ([2**62 + 1], [2**62], "exact", False),
        ([np.nan], [1.0], 10.0, False),
        ([np.nan], [np.nan], 10.0, False),
        ([1.0], [np.inf], BOTH, False),
        ([-np.inf], [-np.inf], "exact", True),
        ([[1.0]], [1.0], 10.0, False),
        ([], [], 10.0, False),
    ],
)
def test_verdict(ours, theirs, tolerance, passed):
    assert compare("x", ours, theirs, tolerance).passed is passed


def test_reports_the_error_and_what_is_allowed_there():
    result = compare("x", [100.0, 2.5, 0.0], [101.0, 2.0, 0.0], BOTH)
    assert (result.error, result.tolerance) == (0.5, pytest.approx(0.12))


@pytest.mark.parametrize("tolerance", ["about", {"atol": 1.0}, None, True])
def test_unknown_tolerances_are_errors(tolerance):
    with pytest.raises(ValueError, match="unknown tolerance"):
        compare("x", [1.0], [1.0], tolerance)


def test_reader_wants_everything_read():
    with (
        pytest.raises(ValueError, match="thing: unknown b"),
        Reader("thing", {"a": 1, "b": 2}) as r,
    ):
        assert r["a"] == 1
    with pytest.raises(ValueError, match="'c' is missing"), Reader("thing", {"a": 1}) as r:
        _ = r["c"]
    with Reader("thing", {"a": 1}) as r:
        assert "a" in r
        assert r["a"] == 1


def test_weight_rules():
    normal = draw_normal("blocks.0.attn.key.weight", (8, 4))
    linear = make_weight("gpt", "blocks.0.attn.key.weight", (8, 4))
    np.testing.assert_array_equal(linear, normal * np.float32(0.5))
    assert linear.dtype == np.float32
    bias = make_weight("gpt", "blocks.0.attn.key.bias", (8,))
    np.testing.assert_array_equal(
        bias, draw_normal("blocks.0.attn.key.bias", (8,)) * np.float32(0.1)
    )
    conv = make_weight("tokenizer", "encoder_layers.0.conv.weight", (4, 2, 3, 3, 3))
    factor = np.float32(np.sqrt(2 / 54))
    np.testing.assert_array_equal(
        conv, draw_normal("encoder_layers.0.conv.weight", (4, 2, 3, 3, 3)) * factor
    )
    assert make_weight("i3d", "Mixed_3b.b0.bn.running_var", (500,)).min() >= 1
    with pytest.raises(ValueError, match="no rule"):
        make_weight("gpt", "mystery", (3, 3, 3))
