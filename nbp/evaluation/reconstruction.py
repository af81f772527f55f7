# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""PSNR and SSIM of clips as the official evaluation defines them (REFERENCE 5.1), in float64."""

import numpy as np

from nbp.shapes import Float, UInt8

_SIGMA, _WINDOW = 1.5, 11
SSIM_LEAST = _WINDOW  # px
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr_per_clip(
    a: UInt8[np.ndarray, "b t h w c"], b: UInt8[np.ndarray, "b t h w c"]
) -> Float[np.ndarray, "b"]:
    """20 log10(255 / rmse) in dB over all frames, pixels and channels of each clip.

    Identical clips give infinity.
    """
    return _psnr(squared_error_per_frame(a, b).mean(axis=1))


def psnr_per_frame(
    a: UInt8[np.ndarray, "b t h w c"], b: UInt8[np.ndarray, "b t h w c"]
) -> Float[np.ndarray, "b t"]:
    """The same of each frame for itself. Not what the clip's is the mean of."""
    return _psnr(squared_error_per_frame(a, b))


def squared_error_per_frame(
    a: UInt8[np.ndarray, "b t h w c"], b: UInt8[np.ndarray, "b t h w c"]
) -> Float[np.ndarray, "b t"]:
    """Mean squared difference of the pixels (0..255) of each frame."""
    difference = a.astype(np.float64) - b.astype(np.float64)
    return np.mean(np.square(difference), axis=(2, 3, 4))


def _psnr(mse: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return 20.0 * np.log10(255.0 / np.sqrt(mse))


def ssim_per_clip(
    a: UInt8[np.ndarray, "b t h w c"], b: UInt8[np.ndarray, "b t h w c"]
) -> Float[np.ndarray, "b"]:
    """Structural similarity, at most 1, averaged over frames, channels and positions of each clip.

    Gaussian window 11 x 11 with sigma 1.5, K = (0.01, 0.03), data range 255, no padding (Wang et
    al. 2004). Raises ValueError for frames smaller than the window.
    """
    if min(a.shape[2:4]) < _WINDOW:
        raise ValueError(
            f"SSIM needs frames of at least {_WINDOW} px, got {a.shape[2]}x{a.shape[3]}"
        )
    return np.array([_ssim_clip(x, y) for x, y in zip(a, b, strict=True)])


def _ssim_clip(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x**2
    var_y = _blur(y * y) - mean_y**2
    cov = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * cov + _C2) / (var_x + var_y + _C2)
    return float(np.mean(luminance * structure))


def _blur(x: np.ndarray) -> np.ndarray:
    """Valid separable Gaussian filter over the height and width of [t h w c]."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    kernel = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    kernel /= kernel.sum()
    for axis in (1, 2):
        windows = np.lib.stride_tricks.sliding_window_view(x, _WINDOW, axis=axis)
        x = windows @ kernel
    return x
