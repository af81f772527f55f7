# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Values of pixels after a way through floats."""

import numpy as np
import pytest

from nbp.protocols.pixels import Passed, pass_range, to_bytes

BYTES = np.arange(256, dtype=np.uint8)
# Those that torch 2.14 makes one lower, `x = torch.arange(256).float() / 255` being the bytes:
# ((x - .5 + .5) * 255).byte(), and with y = (x - .5) / .5 also ((y + 1) / 2 * 255).byte().
LOWERED = np.arange(1, 64)


@pytest.mark.parametrize("passed", ["[-0.5, 0.5]", "[-1, 1]"])
def test_a_range_of_floats_lowers_the_bytes_that_torch_lowers(passed: Passed) -> None:
    found = pass_range(BYTES, passed)
    np.testing.assert_array_equal(np.flatnonzero(found != BYTES), LOWERED)
    np.testing.assert_array_equal(BYTES[LOWERED] - found[LOWERED], 1)
    floats = BYTES.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(pass_range(floats, passed), found)


def test_bytes_pass_nothing_unchanged() -> None:
    assert pass_range(BYTES, "none") is BYTES
    np.testing.assert_array_equal(to_bytes(BYTES.astype(np.float32) / np.float32(255)), BYTES)
    assert to_bytes(BYTES) is BYTES
    np.testing.assert_array_equal(to_bytes(np.array([-0.1, 0.5, 1.1], np.float32)), [0, 128, 255])
