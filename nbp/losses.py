# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Losses and training measures as pure functions of arrays, computed in float32."""

import math

import jax
import jax.numpy as jnp

from nbp.shapes import Array, Float, Int

NATS_PER_BIT = math.log(2.0)


def cross_entropy(logits: Float[Array, "b n v"], targets: Int[Array, "b n"]) -> Float[Array, ""]:
    """Mean negative log-likelihood per target, in nats (official loss: no smoothing, REFERENCE 2).

    `targets` are class indices 0..v-1.
    """
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - picked)


def top_accuracy(
    logits: Float[Array, "b n v"], targets: Int[Array, "b n"], *, top: int = 1
) -> Float[Array, ""]:
    """Share 0..1 of targets whose logit is among the `top` largest (ties count as hits)."""
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    return jnp.mean(jnp.sum(logits > picked, axis=-1) < top)


def l1(a: Float[Array, "*s"], b: Float[Array, "*s"]) -> Float[Array, ""]:
    """Mean absolute difference."""
    return jnp.mean(jnp.abs(a - b))


def l2(a: Float[Array, "*s"], b: Float[Array, "*s"]) -> Float[Array, ""]:
    """Mean squared difference."""
    return jnp.mean(jnp.square(a - b))


def charbonnier(
    a: Float[Array, "*s"], b: Float[Array, "*s"], *, eps: float = 1e-3
) -> Float[Array, ""]:
    """Smooth L1: mean of sqrt(difference^2 + eps^2) - eps (Charbonnier et al. 1994)."""
    return jnp.mean(jnp.sqrt(jnp.square(a - b) + eps**2) - eps)


def psnr(a: Float[Array, "*s"], b: Float[Array, "*s"]) -> Float[Array, ""]:
    """Peak signal-to-noise ratio in dB of the mean squared error of the whole batch, peak 1."""
    return -10.0 * jnp.log10(jnp.maximum(l2(a, b), 1e-10))


def code_histogram(codes: Int[Array, "*s"], size: int) -> Float[Array, "v"]:
    """How often each code 0..size-1 occurs."""
    return jnp.zeros((size,), jnp.float32).at[codes.reshape(-1)].add(1.0)


def perplexity(histogram: Float[Array, "v"]) -> Float[Array, ""]:
    """exp of the entropy of a histogram: 1 for one code, v for uniform use."""
    share = histogram / jnp.maximum(histogram.sum(), 1.0)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share)))
