# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Vector quantization whose codebook is a moving average of the latents (VQ-VAE, arXiv 1711.00937,
appendix A.1), with dead codes restarted.

The state holds moments, and the codebook is their ratio. Everything is in shares of the positions
instead of counts, so neither the batch nor its split over micro-batches and devices matters.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from nbp.nn.quantizer import Quantized
from nbp.shapes import Array, Float, Int, PyTree

SMOOTHING = 1e-5  # added to every share (Laplace), in units of an even share


@dataclass(frozen=True)
class Vq:
    """`codes` vectors of `channels` channels; a latent takes the nearest one.

    State: shares [codes] (how many of the latents took a code) and sums [codes, channels] (of
    those latents, per position), both moving averages.

    decay: of the averages. commitment: weight of the mean squared distance of latents to their
    vectors. dead: a code is restarted when its share falls below this part of an even share,
    1 / codes.
    """

    codes: int
    channels: int
    decay: float = 0.99
    commitment: float = 0.25
    dead: float = 0.1

    def __post_init__(self) -> None:
        if self.codes < 2 or self.channels < 1:
            raise ValueError(
                f"VQ with {self.codes} codes of {self.channels} channels: use at least 2 codes of "
                "at least 1 channel."
            )

    def init(self, key: Array) -> PyTree:
        """Codes on the edge of being dead: the first update moves all of them to the latents."""
        shares = jnp.full((self.codes,), self.dead / self.codes, jnp.float32)
        vectors = jax.random.normal(key, (self.codes, self.channels), jnp.float32)
        return {"shares": shares, "sums": vectors * shares[:, None]}

    def codebook(self, state: PyTree) -> Float[Array, "v q"]:
        """The vectors of all codes, without gradient."""
        shares = state["shares"]
        extra = SMOOTHING / self.codes
        total = jnp.sum(shares)
        smooth = (shares + extra) / (total + self.codes * extra) * total
        return jax.lax.stop_gradient(state["sums"] / smooth[:, None])

    def apply(self, z: Float[Array, "*b q"], state: PyTree) -> Quantized:
        """Metrics: commitment, and dead_codes (share 0..1 of codes the next update restarts if it
        finds them unused)."""
        z = z.astype(jnp.float32)
        index = self.assign(z, state)
        hard = self.lookup(index, state)
        commitment = jnp.mean(jnp.square(z - hard))
        dying = self.decay * state["shares"] < self.dead / self.codes
        return Quantized(
            vectors=z + jax.lax.stop_gradient(hard - z),
            codes=index,
            penalty=self.commitment * commitment,
            metrics={"commitment": commitment, "dead_codes": jnp.mean(dying)},
            statistics=self._measure(jax.lax.stop_gradient(z), index),
        )

    def assign(self, z: Float[Array, "*b q"], state: PyTree) -> Int[Array, "*b"]:
        """The nearest vector's code, the lowest of equally near ones."""
        flat = z.reshape(-1, self.channels).astype(jnp.float32)
        vectors = self.codebook(state)
        # |z - e|^2 without |z|^2, in full float32: codes must not depend on the device.
        products = jnp.matmul(flat, vectors.T, precision=jax.lax.Precision.HIGHEST)
        distance = jnp.sum(jnp.square(vectors), axis=-1) - 2.0 * products
        return jnp.argmin(distance, axis=-1).astype(jnp.int32).reshape(z.shape[:-1])

    def lookup(self, index: Int[Array, "*b"], state: PyTree) -> Float[Array, "*b q"]:
        """Rows of the codebook."""
        return self.codebook(state)[index]

    def update(self, state: PyTree, statistics: PyTree) -> PyTree:
        """Moves the averages; then puts dead codes among the latents of the batch.

        Codes of this batch get dead ones as neighbours in proportion to their share of the squared
        error. A neighbour's place is a draw, fixed by its number, from the normal distribution that
        has mean and variance of the latents that took the code: so moments are all that is needed
        of a batch, and no latents of micro-batches or other devices need to be collected.
        """
        rate = 1.0 - self.decay
        shares = state["shares"] + rate * (statistics["shares"] - state["shares"])
        sums = state["sums"] + rate * (statistics["sums"] - state["sums"])
        dead = shares < self.dead / self.codes

        found = statistics["shares"]
        weight = jnp.maximum(found, jnp.finfo(jnp.float32).tiny)[:, None]
        mean = statistics["sums"] / weight
        variance = jnp.maximum(statistics["squares"] / weight - jnp.square(mean), 0.0)
        # The tiny part decides where every latent lies exactly on its code.
        error = jnp.cumsum(found * (jnp.sum(variance, axis=-1) + 1e-20))
        rank = jnp.cumsum(dead) - 1  # of a dead code among the dead ones
        place = (rank + 0.5) / jnp.maximum(jnp.sum(dead), 1)
        old = jnp.clip(jnp.searchsorted(error, place * error[-1]), 0, self.codes - 1)
        draws = jax.random.normal(jax.random.key(0), sums.shape, jnp.float32)
        reborn = mean[old] + jnp.sqrt(variance[old]) * draws

        even = 1.0 / self.codes
        return {
            "shares": jnp.where(dead, even, shares),
            "sums": jnp.where(dead[:, None], even * reborn, sums),
        }

    def _measure(self, z: Float[Array, "*b q"], index: Int[Array, "*b"]) -> PyTree:
        """Per code: share of positions, and sum of latents and of their squares per position."""
        flat = z.reshape(-1, self.channels)
        # A product with the one-hot codes: unlike a scatter, it adds up in a fixed order.
        taken = jax.nn.one_hot(index.reshape(-1), self.codes, dtype=jnp.float32)

        def add(values: Array) -> Array:
            exact = jax.lax.Precision.HIGHEST
            return jnp.matmul(taken.T, values, precision=exact) / flat.shape[0]

        return {
            "shares": jnp.sum(taken, axis=0) / flat.shape[0],
            "sums": add(flat),
            "squares": add(jnp.square(flat)),
        }
