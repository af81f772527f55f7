# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Values of pixels on their way through published evaluations: floats, bytes, and back."""

from typing import Literal

import numpy as np

from nbp.shapes import Array, UInt8

Passed = Literal["none", "[-0.5, 0.5]", "[-1, 1]"]


def to_bytes(pixels: np.ndarray) -> UInt8[np.ndarray, "..."]:
    """Bytes as they are; floats in [0, 1] as the nearest ones."""
    if pixels.dtype == np.uint8:
        return pixels
    return np.clip(np.rint(pixels * np.float32(255.0)), 0, 255).astype(np.uint8)


def pass_range(pixels: np.ndarray, passed: Passed) -> Array:
    """Pixels (bytes, or float32 in [0, 1]) after float32 has brought them to a range and back.

    Bytes then, cut off as a cast does: 1 to 63 come out one lower. OmniTokenizer (data.py and
    vqgan_eval.py:147) and TATS go through [-0.5, 0.5], SEED-Voken (evaluation_video.py) through
    [-1, 1]. "none" gives the pixels as they are.
    """
    if passed == "none":
        return pixels
    half, one = np.float32(0.5), np.float32(1.0)
    x = pixels if pixels.dtype == np.float32 else pixels.astype(np.float32) / np.float32(255.0)
    back = (x - half) + half if passed == "[-0.5, 0.5]" else ((x - half) / half + one) / 2
    return (np.clip(back, 0, 1).astype(np.float32) * np.float32(255.0)).astype(np.uint8)
