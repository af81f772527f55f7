# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What becomes of a drafted token once its distribution is known better.

A draft x was drawn from `law`; the token is to have the distribution `target`. It is kept with
probability min(1, target(x) / law(x)) and otherwise drawn from what is left of the target,
max(0, target - law) (Leviathan et al. 2023, arXiv 2211.17192). The result has the distribution
`target` exactly, and no procedure keeps more drafts: all but the total-variation distance of the
two. A law of all zeros stands for "no draft": nothing is kept, and the token is drawn from the
target.

`NearCodes.relax` moves the target towards the law first, between codes that are near each other.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from nbp.sampling.brackets import COLUMNS, Rows, pick, sum_columns
from nbp.shapes import Array, Bool, Float, Int

LEAST = 1e-20  # a mass below it is none


def accept(
    uniform: Float[Array, "b n"],
    target: Float[Array, "b n v"],
    law: Float[Array, "b n v"],
    tokens: Int[Array, "b n"],
) -> Bool[Array, "b n"]:
    """Which drafts are kept. `uniform` in [0, 1); `target` and `law` sum to 1 over v."""

    def read(probabilities: Array) -> Array:
        return jnp.take_along_axis(probabilities, tokens[..., None], axis=-1)[..., 0]

    drafted = read(law)
    return (drafted > 0) & (uniform * drafted < read(target))


def find_rest(target: Float[Array, "b n v"], law: Float[Array, "b n v"]) -> Float[Array, "b n v"]:
    """Weights that a token is drawn from when its draft was not kept; they need not sum to 1."""
    rest = jnp.maximum(target - law, 0.0)
    # Equal distributions reject by rounding alone; then any draw from the target will do.
    return jnp.where(rest.sum(-1, keepdims=True) > 0, rest, target)


def draw_weighted(
    uniform: Float[Array, "b n"], weights: Float[Array, "b n v"]
) -> Int[Array, "b n"]:
    """The token at `uniform` of the cumulated weight; never one of weight 0."""
    b, n, v = weights.shape
    depth = -(-v // COLUMNS)
    padded = jnp.pad(weights.reshape(b * n, v), ((0, 0), (0, depth * COLUMNS - v)))
    columns = padded.reshape(b * n, depth, COLUMNS)
    rows = Rows(columns, columns, jnp.ones(b * n, columns.dtype))
    allowed = columns > 0
    index, _ = pick(rows, allowed, sum_columns(rows, allowed), uniform.reshape(b * n))
    return index.reshape(b, n)


@dataclass(frozen=True)
class NearCodes:
    """Neighbourhoods of codes whose digits are levels: those of FSQ, or bits (LFQ).

    levels: values of each digit; digit 0 of a code is the least significant (`nbp.nn.fsq`).
    radius: two codes are near when the differences of their digits sum to at most this. Radius 1
      is one level of one channel: 12 neighbours among the 64,000 codes of six channels.
    """

    levels: tuple[int, ...]
    radius: int

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"levels {self.levels}: near codes need at least one level, each >= 2")
        if self.radius < 1:
            raise ValueError(f"radius {self.radius}: must be at least 1 level")

    @property
    def codes(self) -> int:
        return math.prod(self.levels)

    def sum_near(self, mass: Float[Array, "*b v"]) -> Float[Array, "*b v"]:
        """For each code the mass of the codes near it, itself among them.

        One digit after the other; `rings[r]` holds the sums over all codes at distance r in the
        digits so far. No table of pairs of codes is made.
        """
        rings = [mass] + [jnp.zeros_like(mass)] * self.radius
        basis = 1
        for levels in self.levels:
            digits = np.arange(self.codes) // basis % levels
            spread = list(rings)
            for step in range(1, min(self.radius, levels - 1) + 1):
                for ring in range(self.radius - step + 1):
                    moved = _shift(rings[ring], digits, levels, basis, step)
                    spread[ring + step] = spread[ring + step] + moved
            rings, basis = spread, basis * levels
        return sum(rings[1:], rings[0])

    def relax(
        self, target: Float[Array, "*b v"], law: Float[Array, "*b v"], delta: float
    ) -> Float[Array, "*b v"]:
        """A distribution nearer to `law`: at most `delta` of the target's mass has moved.

        Each piece of it moves from a code of which the law has too little to a code, near that one,
        of which the law has too much. So the total-variation distance between the result and
        `target` is at most `delta`, and exactly the mass that moved. See docs/sampling.md.
        """
        wanted = jnp.maximum(law - target, 0.0)  # codes drafted too often
        spare = jnp.maximum(target - law, 0.0)  # codes drafted too rarely; disjoint from those
        reach = self.sum_near(wanted)
        # A code offers its spare mass to the wanted codes near it in proportion to what they want.
        share = jnp.where(reach > LEAST, spare / jnp.maximum(reach, LEAST), 0.0)
        offered = self.sum_near(share)  # to a wanted code, per unit of what it wants
        taken = wanted / jnp.maximum(offered, 1.0)  # no code takes more than it wants
        gain, loss = taken * offered, share * self.sum_near(taken)
        moved = gain.sum(-1, keepdims=True)
        scale = jnp.minimum(1.0, delta / jnp.maximum(moved, LEAST))
        return jnp.maximum(target + scale * (gain - loss), 0.0)


def _shift(mass: Array, digits: np.ndarray, levels: int, basis: int, step: int) -> Array:
    """Sum of the masses `step` levels below and above in one digit."""
    move = step * basis
    padded = jnp.pad(mass, [(0, 0)] * (mass.ndim - 1) + [(move, move)])
    below = jnp.where(digits >= step, padded[..., : -2 * move], 0.0)
    above = jnp.where(digits < levels - step, padded[..., 2 * move :], 0.0)
    return below + above
