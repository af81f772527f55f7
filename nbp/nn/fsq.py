# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Finite scalar quantization (Mentzer et al. 2023) as in the official tokenizer (REFERENCE 4.4).

Channel j is bounded to L_j values and rounded; the digits form one code with channel 0 the least
significant. Differs from the paper's code in the shift: tan instead of atanh.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from nbp.nn.quantizer import Quantized
from nbp.shapes import Array, Float, Int, PyTree

EPS = 1e-3  # keeps tanh's range strictly inside the outermost rounding boundaries


@dataclass(frozen=True)
class Fsq:
    """The quantizer of `levels`, e.g. (8, 8, 8, 5, 5, 5) for 64,000 codes. No state, no penalty."""

    levels: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"FSQ levels {self.levels}: need at least one level, each >= 2")

    @property
    def channels(self) -> int:
        return len(self.levels)

    @property
    def codes(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)

    def init(self, key: Array) -> PyTree:
        del key
        return {}

    def apply(self, z: Float[Array, "*b q"], state: PyTree = None) -> Quantized:
        quantized = self.quantize(z)
        penalty = jnp.zeros((), jnp.float32)
        return Quantized(quantized, self.index(quantized), penalty, metrics={}, statistics={})

    def assign(self, z: Float[Array, "*b q"], state: PyTree = None) -> Int[Array, "*b"]:
        """The codes of latents."""
        return self.index(self.quantize(z))

    def update(self, state: PyTree, statistics: PyTree) -> PyTree:
        del statistics
        return state

    def bound(self, z: Float[Array, "*b q"]) -> Float[Array, "*b q"]:
        """Squashes each channel into its range; rounding the result gives the digit minus L//2."""
        levels = np.array(self.levels)
        half = (levels - 1) * (1 - EPS) / 2
        offset = np.where(levels % 2 == 0, 0.5, 0.0)
        shift = np.tan(offset / half)
        z = z.astype(jnp.float32)
        return jnp.tanh(z + shift.astype(np.float32)) * half.astype(np.float32) - offset.astype(
            np.float32
        )

    def quantize(self, z: Float[Array, "*b q"]) -> Float[Array, "*b q"]:
        """Quantized channels in [-1, 1]; gradients pass straight through the rounding."""
        bounded = self.bound(z)
        rounded = bounded + jax.lax.stop_gradient(jnp.round(bounded) - bounded)
        return rounded / self._half_width()

    def index(self, quantized: Float[Array, "*b q"]) -> Int[Array, "*b"]:
        """The code 0..codes-1 of quantized channels."""
        half = self._half_width()
        digits = jnp.round(quantized * half + half).astype(jnp.int32)
        return jnp.sum(digits * jnp.asarray(self._basis()), axis=-1, dtype=jnp.int32)

    def lookup(self, index: Int[Array, "*b"], state: PyTree = None) -> Float[Array, "*b q"]:
        """Quantized channels in [-1, 1] of codes: the inverse of `index`."""
        half = self._half_width()
        digits = (index[..., None] // jnp.asarray(self._basis())) % jnp.asarray(self.levels)
        return (digits.astype(jnp.float32) - half) / half

    def _half_width(self) -> np.ndarray:
        return (np.array(self.levels) // 2).astype(np.float32)

    def _basis(self) -> np.ndarray:
        return np.cumprod([1, *self.levels[:-1]]).astype(np.int32)
