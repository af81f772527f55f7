# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""PSNR, SSIM and gradient magnitude similarity of clips, in float64 (REFERENCE 5.1)."""

from collections.abc import Callable

import numpy as np

from nbp.shapes import Array, Clips, Float, UInt8

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


# `nbp.metrics.lpips.LpipsScorer`: two sets of clips to a distance per pair.
Lpips = Callable[[Array, Array], Float[np.ndarray, "n"]]


def score_predictions(
    real: Clips, made: UInt8[np.ndarray, "b s t h w c"], *, given: int, lpips: Lpips | None = None
) -> dict[str, Float[np.ndarray, "b s"]]:
    """Each score of each of the s samples of each real clip, over the frames from `given` on.

    `psnr` (dB) is the mean of the frames' own values, each at most 100, as prediction papers have
    it (a reconstruction's is that of the clip's mean error). `ssim` for frames of 11 px or more.
    `lpips` where a scorer is given. Raises ValueError where no frame is left.
    """
    if not 0 <= given < real.shape[1]:
        raise ValueError(f"{given} given frames leave none of {real.shape[1]} to score")
    samples = made.shape[1]
    truth = np.repeat(real[:, given:], samples, axis=0)
    guess = made[:, :, given:].reshape(truth.shape)
    scores = {"psnr": np.minimum(psnr_per_frame(truth, guess), PSNR_LIMIT).mean(axis=1)}
    if min(real.shape[2:4]) >= SSIM_LEAST:
        scores["ssim"] = ssim_per_clip(truth, guess)
    if lpips is not None:
        scores["lpips"] = lpips(truth, guess)
    return {name: values.reshape(len(real), samples) for name, values in scores.items()}


# A clip that is reproduced exactly has no finite PSNR, and one of them would be the mean of all.
# Twelve bits of precision, far more than 8-bit pixels show, are at 72 dB.
PSNR_LIMIT = 100.0
