# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Losses and training measures as pure functions of arrays, computed in float32 at least.

Of the generator: `cross_entropy`. Of the tokenizer, on pixels in [0, 1]: differences (`l1`, `l2`,
`charbonnier`), a perceptual distance without weights (`structure`), and the adversarial terms, on
the logits of a discriminator (above 0 says "real").
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from nbp.shapes import Array, Float, Int, PyTree

NATS_PER_BIT = math.log(2.0)

# `structure`: side of SSIM's window, its constants for pixels in [0, 1], and the scales.
WINDOW = 7
C1, C2 = 0.01**2, 0.03**2
LEAST_SIZE = 8  # px: smaller images are not compared
MOST_SCALES = 4

LECAM_DECAY = 0.99  # of the average logits, as the authors use it
LARGEST_WEIGHT, EPSILON = 1e4, 1e-6  # bound of the adaptive weight, and what its divisor is above


# Pixels ------------------------------------------------------------------------------------------


def l1(a: Float[Array, "*s"], b: Float[Array, "*s"]) -> Float[Array, ""]:
    """Mean absolute difference."""
    return jnp.mean(jnp.abs(_widen(a) - _widen(b)))


def l2(a: Float[Array, "*s"], b: Float[Array, "*s"]) -> Float[Array, ""]:
    """Mean squared difference."""
    return jnp.mean(jnp.square(_widen(a) - _widen(b)))


def charbonnier(
    a: Float[Array, "*s"], b: Float[Array, "*s"], *, eps: float = 1e-3
) -> Float[Array, ""]:
    """Smooth L1: mean of sqrt(difference^2 + eps^2) - eps (Charbonnier et al. 1994)."""
    return jnp.mean(jnp.sqrt(jnp.square(_widen(a) - _widen(b)) + eps**2) - eps)


def psnr(a: Float[Array, "*s"], b: Float[Array, "*s"]) -> Float[Array, ""]:
    """Peak signal-to-noise ratio in dB of the mean squared error of the whole batch, peak 1."""
    return psnr_of_error(l2(a, b))


def psnr_of_error(squared: Float[Array, ""]) -> Float[Array, ""]:
    """The same of a mean squared error, such as one averaged over micro-batches; at most 100 dB."""
    return -10.0 * jnp.log10(jnp.maximum(squared, 1e-10))


def structure(a: Float[Array, "b t h w c"], b: Float[Array, "b t h w c"]) -> Float[Array, ""]:
    """Perceptual distance that needs no weights: edges and local structure on several scales.

    The mean over scales of

        mean |d/dx a - d/dx b| + mean |d/dy a - d/dy b| + 1 - mean SSIM(a, b)

    with differences of neighbouring pixels and SSIM over windows of 7x7 pixels (Wang et al. 2004,
    uniform weights), both frame by frame and channel by channel. The first scale is the frame
    itself; each further one averages 2x2 pixels of the one before, as long as 8 px are left of both
    sides, and four of them at most (multi-scale SSIM: Wang et al. 2003). 0 for equal clips.

    Pixels in [0, 1] (a reconstruction may leave that range). Raises ValueError below 8 px.
    """
    if min(a.shape[2:4]) < LEAST_SIZE:
        raise ValueError(
            f"structure needs frames of at least {LEAST_SIZE} px, got {a.shape[2]}x{a.shape[3]}"
        )
    a, b = _widen(a), _widen(b)
    scales = sum(min(a.shape[2:4]) >> scale >= LEAST_SIZE for scale in range(MOST_SCALES))
    total = jnp.zeros((), a.dtype)
    for scale in range(scales):
        if scale:
            a, b = _halve(a), _halve(b)
        total += _edges(a - b) + 1.0 - jnp.mean(_ssim(a, b))
    return total / scales


def _edges(x: Float[Array, "b t h w c"]) -> Float[Array, ""]:
    """Mean absolute difference of pixels beside, plus that of pixels above each other."""
    across = jnp.abs(x[:, :, :, 1:] - x[:, :, :, :-1])
    down = jnp.abs(x[:, :, 1:] - x[:, :, :-1])
    return jnp.mean(across) + jnp.mean(down)


def _ssim(a: Float[Array, "b t h w c"], b: Float[Array, "b t h w c"]) -> Array:
    """Structural similarity, at most 1, of every window inside the frame."""
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    squares = jnp.square(mean_a) + jnp.square(mean_b)
    variances = _window_mean(jnp.square(a) + jnp.square(b)) - squares
    product = mean_a * mean_b
    covariance = _window_mean(a * b) - product
    luminance = (2.0 * product + C1) / (squares + C1)
    return luminance * (2.0 * covariance + C2) / (variances + C2)


def _window_mean(x: Float[Array, "b t h w c"]) -> Array:
    """Means over all 7x7 windows inside the frame."""
    columns = _add_windows(x, (1, 1, WINDOW, 1, 1), stride=(1, 1, 1, 1, 1))
    return _add_windows(columns, (1, 1, 1, WINDOW, 1), stride=(1, 1, 1, 1, 1)) / WINDOW**2


def _halve(x: Float[Array, "b t h w c"]) -> Array:
    """Means of 2x2 pixels; an odd last row or column is left out."""
    return _add_windows(x, (1, 1, 2, 2, 1), stride=(1, 1, 2, 2, 1)) / 4.0


def _add_windows(x: Array, window: tuple[int, ...], *, stride: tuple[int, ...]) -> Array:
    # Sums of slices or of a reshaped array give the same values, but programs that XLA's CPU
    # backend compiles for minutes or runs 30 times slower.
    return jax.lax.reduce_window(x, x.dtype.type(0), jax.lax.add, window, stride, "VALID")


# Adversarial terms -------------------------------------------------------------------------------


@dataclass(frozen=True)
class AdversarialObjective:
    """What the two sides of a game minimize.

    discriminator: of (logits of real clips, logits of outputs). generator: of the logits of
    outputs. Both are means over positions.
    """

    discriminator: Callable[[Array, Array], Array]
    generator: Callable[[Array], Array]


def hinge_discriminator(real: Float[Array, "*s"], fake: Float[Array, "*r"]) -> Float[Array, ""]:
    """Half of mean max(0, 1 - real) + mean max(0, 1 + fake): 1 where all logits are 0."""
    real_part = jnp.mean(jax.nn.relu(1.0 - _widen(real)))
    return 0.5 * (real_part + jnp.mean(jax.nn.relu(1.0 + _widen(fake))))


def hinge_generator(fake: Float[Array, "*s"]) -> Float[Array, ""]:
    """Minus the mean logit (Lim and Ye 2017, arXiv 1705.02894)."""
    return -jnp.mean(_widen(fake))


def logistic_discriminator(real: Float[Array, "*s"], fake: Float[Array, "*r"]) -> Float[Array, ""]:
    """Half of the cross-entropies of calling real real and output output: ln 2 at logits 0."""
    real_part = jnp.mean(jax.nn.softplus(-_widen(real)))
    return 0.5 * (real_part + jnp.mean(jax.nn.softplus(_widen(fake))))


def non_saturating_generator(fake: Float[Array, "*s"]) -> Float[Array, ""]:
    """Cross-entropy of calling outputs real (Goodfellow et al. 2014, arXiv 1406.2661)."""
    return jnp.mean(jax.nn.softplus(-_widen(fake)))


HINGE = AdversarialObjective(hinge_discriminator, hinge_generator)
NON_SATURATING = AdversarialObjective(logistic_discriminator, non_saturating_generator)


def lecam(
    real: Float[Array, "*s"], fake: Float[Array, "*r"], averages: Mapping[str, Array]
) -> Float[Array, ""]:
    """Pulls the logits of either kind towards the average logit of the other (arXiv 2104.03310).

    mean max(0, real - average fake)^2 + mean max(0, average real - fake)^2, as in the authors'
    code: only the side beyond the other's average is pulled. `averages` are those of
    `update_lecam`, from before this update.
    """
    above = jax.nn.relu(_widen(real) - averages["fake"])
    below = jax.nn.relu(averages["real"] - _widen(fake))
    return jnp.mean(jnp.square(above)) + jnp.mean(jnp.square(below))


def update_lecam(
    averages: Mapping[str, Array], means: Mapping[str, Array]
) -> dict[str, Float[Array, ""]]:
    """Moves the averages {"real", "fake"} towards the mean logits of an update, decay 0.99."""
    return {
        name: LECAM_DECAY * averages[name] + (1.0 - LECAM_DECAY) * means[name]
        for name in ("real", "fake")
    }


def r1(
    verdict: Callable[[Array], Float[Array, "b"]], real: Float[Array, "b t h w c"]
) -> Float[Array, ""]:
    """Half of the mean over real clips of the squared length of a clip's gradient.

    The gradient is that of `verdict`, one number per clip, with respect to the clip's pixels
    (Mescheder et al. 2018, arXiv 1801.04406, eq. 9, without gamma).
    """
    gradient = _widen(jax.grad(lambda clips: jnp.sum(verdict(clips)))(real))
    return 0.5 * jnp.sum(jnp.square(gradient)) / real.shape[0]


def adaptive_weight(reconstruction: PyTree, adversarial: PyTree) -> Float[Array, ""]:
    """The factor that makes the adversarial gradient as long as the one of reconstruction.

    Both are gradients at the last layer (Esser et al. 2021, arXiv 2012.09841, eq. 7). At most
    10,000, and a constant for differentiation.
    """
    ratio = _length(reconstruction) / (_length(adversarial) + EPSILON)
    return jax.lax.stop_gradient(jnp.clip(ratio, 0.0, LARGEST_WEIGHT))


def _length(tree: PyTree) -> Array:
    return jnp.sqrt(sum(jnp.sum(jnp.square(_widen(leaf))) for leaf in jax.tree.leaves(tree)))


def discriminator_accuracy(real: Float[Array, "*s"], fake: Float[Array, "*r"]) -> Float[Array, ""]:
    """Share 0..1 of right verdicts, both kinds counting alike: real above 0, output below 0.

    A logit of exactly 0 is wrong for both.
    """
    return 0.5 * (jnp.mean(real > 0) + jnp.mean(fake < 0))


# Codes -------------------------------------------------------------------------------------------


def code_histogram(codes: Int[Array, "*s"], size: int) -> Float[Array, "v"]:
    """How often each code 0..size-1 occurs."""
    return jnp.zeros((size,), jnp.float32).at[codes.reshape(-1)].add(1.0)


def perplexity(histogram: Float[Array, "v"]) -> Float[Array, ""]:
    """exp of the entropy of a histogram: 1 for one code, v for uniform use."""
    share = histogram / jnp.maximum(histogram.sum(), 1.0)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share)))


def _widen(x: Array) -> Array:
    """Narrow types as float32; float64 stays."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
