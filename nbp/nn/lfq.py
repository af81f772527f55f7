# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Lookup-free quantization of MAGVIT-v2 (arXiv 2310.05737, section 3.1): one bit per channel.

Differs from the paper in the entropy of the mean assignment: the paper sums over all codes, here
the bits count as independent. For one latent they are, so its entropy is exact; for the mean it is
an upper bound (BSQ, arXiv 2406.07548, section 4), at the cost of `channels` numbers, not `codes`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from nbp.nn.quantizer import Quantized
from nbp.shapes import Array, Float, Int, PyTree

MOST_CODES = 2**24
EDGE = 1e-6  # keeps the logarithms of the mean assignment, and their gradients, finite


@dataclass(frozen=True)
class Lfq:
    """Every channel becomes -1 or 1; channel 0 is the lowest bit of the code. No state.

    codes: a power of two. entropy: weight of H = mean entropy of the assignments of single latents
    minus entropy of the mean assignment, in nats: latents should be sure of their code, and all
    codes be used. commitment: weight of the mean squared distance of latents to their vectors.
    temperature: a latent z takes vector c with probability ~ exp(-|z - c|^2 / temperature).
    """

    codes: int
    entropy: float = 0.1
    commitment: float = 0.25
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 2 <= self.codes <= MOST_CODES or self.codes & (self.codes - 1):
            below = 2 ** max(1, min(self.codes, MOST_CODES).bit_length() - 1)
            raise ValueError(
                f"LFQ with {self.codes} codes: every channel is one bit, so there is a power of two"
                f" of them, 2 to {MOST_CODES}. Use {below} or {min(2 * below, MOST_CODES)}."
            )

    @property
    def channels(self) -> int:
        return self.codes.bit_length() - 1

    def init(self, key: Array) -> PyTree:
        del key
        return {}

    def apply(self, z: Float[Array, "*b q"], state: PyTree = None) -> Quantized:
        """Metrics: code_certainty (nats, mean entropy of a latent's assignment; 0 is sure),
        code_entropy (nats, of the mean assignment; log(codes) is uniform), commitment."""
        z = z.astype(jnp.float32)
        index = self.assign(z)
        hard = self.lookup(index)
        single, mean = self.entropies(z)
        commitment = jnp.mean(jnp.square(z - hard))
        return Quantized(
            vectors=z + jax.lax.stop_gradient(hard - z),
            codes=index,
            penalty=self.entropy * (single - mean) + self.commitment * commitment,
            metrics={"code_certainty": single, "code_entropy": mean, "commitment": commitment},
            statistics={},
        )

    def entropies(self, z: Float[Array, "*b q"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Mean entropy of the assignments, and entropy of their mean, in nats, summed over bits."""
        # (|z + 1|^2 - |z - 1|^2) / temperature: the log odds of a 1.
        odds = 4.0 * z.reshape(-1, self.channels) / self.temperature
        ones = jax.nn.sigmoid(odds)
        single = jax.nn.softplus(odds) - odds * ones
        mean = jnp.clip(jnp.mean(ones, axis=0), EDGE, 1.0 - EDGE)
        of_mean = -mean * jnp.log(mean) - (1.0 - mean) * jnp.log1p(-mean)
        return jnp.sum(jnp.mean(single, axis=0)), jnp.sum(of_mean)

    def assign(self, z: Float[Array, "*b q"], state: PyTree = None) -> Int[Array, "*b"]:
        """A channel above 0 is a 1."""
        return jnp.sum((z > 0) * jnp.asarray(self._bits()), axis=-1, dtype=jnp.int32)

    def lookup(self, index: Int[Array, "*b"], state: PyTree = None) -> Float[Array, "*b q"]:
        """Vectors of -1 and 1."""
        bits = (index[..., None] // jnp.asarray(self._bits())) % 2
        return bits.astype(jnp.float32) * 2.0 - 1.0

    def update(self, state: PyTree, statistics: PyTree) -> PyTree:
        del statistics
        return state

    def _bits(self) -> np.ndarray:
        return 2 ** np.arange(self.channels, dtype=np.int32)
