# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Gradient magnitude similarity (Xue, Zhang, Mou and Bovik 2014, arXiv 1308.3052), in float64.

A measure of edges: blur, which PSNR forgives, costs most. It needs no trained weights and shares no
code with the losses, so it can judge a training run that was made for them.
"""

import numpy as np

from nbp.shapes import Float, UInt8

# Luminance of RGB (ITU-R BT.601); the constant is the paper's, for pixels of 0..255.
_LUMINANCE = np.array([0.299, 0.587, 0.114])
_CONSTANT = 170.0
_LEAST = 2  # px: the frame is halved first


def gms_per_frame(
    a: UInt8[np.ndarray, "b t h w c"], b: UInt8[np.ndarray, "b t h w c"]
) -> tuple[Float[np.ndarray, "b t"], Float[np.ndarray, "b t"]]:
    """Mean and deviation of the similarity map of each frame: GMS (1 is perfect), GMSD (0 is).

    As the authors' code: luminance, halved by the mean of 2x2 pixels (an odd last row or column is
    left out), Prewitt gradients with zeros around the frame, (2 m n + T) / (m^2 + n^2 + T). The
    deviation divides by the number of pixels, as the paper does and its code does not.

    Raises ValueError for frames below 2 px.
    """
    if min(a.shape[2:4]) < _LEAST:
        raise ValueError(f"GMS needs frames of at least {_LEAST} px, got {a.shape[2]}x{a.shape[3]}")
    first, second = _gradient(a), _gradient(b)
    similarity = (2 * first * second + _CONSTANT) / (first**2 + second**2 + _CONSTANT)
    return similarity.mean(axis=(2, 3)), similarity.std(axis=(2, 3))


def _gradient(clips: UInt8[np.ndarray, "b t h w c"]) -> Float[np.ndarray, "b t h2 w2"]:
    """Gradient magnitudes of halved luminance."""
    gray = clips @ _LUMINANCE
    height, width = (side // 2 * 2 for side in gray.shape[2:])
    gray = gray[:, :, :height, :width]
    half = (
        gray[..., ::2, ::2] + gray[..., 1::2, ::2] + gray[..., ::2, 1::2] + gray[..., 1::2, 1::2]
    ) / 4
    padded = np.pad(half, ((0, 0), (0, 0), (1, 1), (1, 1)))
    # Each direction: a sum of three along one axis, a difference across the other.
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    columns = padded[..., :, :-2] + padded[..., :, 1:-1] + padded[..., :, 2:]
    across = (rows[..., :, 2:] - rows[..., :, :-2]) / 3
    down = (columns[..., 2:, :] - columns[..., :-2, :]) / 3
    return np.sqrt(across**2 + down**2)
