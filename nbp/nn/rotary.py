# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Rotary positions over time, height and width (RoFormer, arXiv 2104.09864).

A pair of channels of a head is a point of a plane, turned by an angle that grows with one
coordinate. The product of a query and a key then knows the difference of their coordinates alone.
The axes take the pairs in turn, t, h, w, t, ..., so that each has fast and slow ones (the
interleaved 3D frequencies of Lumos-1, arXiv 2507.08801).

Which place counts? A query turns by the place that it predicts. A key offers two: its content is a
token that was *read*, and its state is about the one that it *predicts*. In heads 0, 2, ... keys
turn by the first, so that the score knows how far the read token lies from the wanted one, also
where a row begins and the two places of a key are a frame apart; in heads 1, 3, ... by the second,
so that the queries of a block, and drafts, find their neighbours.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from nbp.layout import SequencePlan
from nbp.shapes import Array, Float

BASE = 100.0  # the slowest pair of an axis turns almost so many times slower than the fastest
TIME = 0  # of the axes t, h, w
FAR = 1024  # latent frames; see `turn_angles`
WAVES = 8  # cosines of each axis of a frame: of eight rows they make any table


class Sinks(NamedTuple):
    """How queries turn towards the first `keys` keys of a cache, where it is another way."""

    keys: int
    query: tuple[Array, Array]


class Rotation(NamedTuple):
    """Cosines and sines of n positions, float32: of queries [n 1 e], of keys [n k e] by head."""

    query: tuple[Array, Array]
    key: tuple[Array, Array]
    sinks: Sinks | None = None

    def turn(
        self, q: Float[Array, "b n k d"], k: Float[Array, "b n k d"]
    ) -> tuple[Float[Array, "b n k d"], Float[Array, "b n k d"]]:
        """Queries and keys as a full pass has them, turned in float32."""
        return turn_pairs(q, *self.query, axis=-1), turn_pairs(k, *self.key, axis=-1)

    def turn_columns(
        self, q: Float[Array, "b k d n"], k: Float[Array, "b k d n"]
    ) -> tuple[Float[Array, "b k d n"], Float[Array, "b k d n"]]:
        """The same as decoding has them."""
        return turn_columns(q, self.query), turn_columns(k, self.key)


def make_frequencies(width: int) -> Float[np.ndarray, "3 e"]:
    """Radians a step by which each of e = width / 2 pairs turns along t, h and w: one of them.

    Raises ValueError for a width of heads whose pairs do not do for three axes.
    """
    if width % 2 or width < 6:
        raise ValueError(f"rotary positions need heads of an even width of 6 or more, not {width}")
    pairs = np.arange(width // 2)
    axis, level = pairs % 3, pairs // 3
    levels = np.bincount(axis)[axis]
    return np.where(axis == np.arange(3)[:, None], BASE ** -(level / levels), 0.0)


def make_rotation(
    angles: Float[Array, "2 n e"], heads: int, *, later: Float[Array, "e"] | None = None
) -> Rotation:
    """The rotation of n positions from the angles of what they predict and what they read.

    later: angles that are added to all.
    """
    angles = angles if later is None else angles + later
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    kinds = np.arange(heads) % 2 == 0  # of what a key reads, in the first head

    def by_head(x: Array) -> Array:
        return jnp.where(kinds[:, None], x[1][:, None], x[0][:, None])

    return Rotation((cos[0][:, None], sin[0][:, None]), (by_head(cos), by_head(sin)))


def turn_angles(frames: Array | int, width: int) -> Float[Array, "e"]:
    """Angles of pairs that are so many latent frames later, 0 to a million.

    float32 does not hold an angle of many turns well, so whole turns of each `FAR` latent frames
    are left out.
    """
    speed = make_frequencies(width)[TIME]
    far, near = jnp.divmod(jnp.asarray(frames), FAR)
    coarse = np.mod(speed * FAR, 2 * math.pi).astype(np.float32)
    return far * coarse + near * speed.astype(np.float32)


def turn_pairs(x: Array, cos: Array, sin: Array, *, axis: int) -> Array:
    """Turns the pairs (i, i + e) of the channels along `axis`; in float32, then x's type."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=axis)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=axis).astype(x.dtype)


def turn_columns(x: Float[Array, "b k d n"], by: tuple[Array, Array]) -> Float[Array, "b k d n"]:
    """`turn_pairs` where positions stand last."""
    cos, sin = (jnp.moveaxis(part, 0, -1) for part in by)
    return turn_pairs(x, cos, sin, axis=2)


class FramePositions(nnx.Module):
    """Of a place in the frame what rotation does not tell: where it lies between the borders.

    A learned linear layer on cos(pi k (h + 1/2) / H) and the same of w, k = 1..8: smooth rows that
    any grid has. Nothing depends on time. Own prompt rows.
    """

    def __init__(self, plan: SequencePlan, width: int, std: float, *, rngs: nnx.Rngs) -> None:
        init, spread = nnx.initializers.normal, std * (2 / WAVES) ** 0.5
        self.plan = plan
        frame = init(spread)(rngs.params(), (2 * WAVES, width), jnp.float32)
        self.frame = nnx.Param(frame, axes=(None, None))
        prompt = init(std)(rngs.params(), (plan.prompt_length, width), jnp.float32)
        self.prompt = nnx.Param(prompt, axes=(None, None)) if plan.prompt_length else None

    def __call__(self) -> Float[Array, "n d"]:
        """Position embeddings of all L queries."""
        place = self.plan.target_coordinates[self.plan.prompt_length :, 1:] + 0.5
        share = place / np.array(self.plan.grid.shape[1:])  # of the frame, 0..1
        waves = np.cos(math.pi * share[:, :, None] * np.arange(1, WAVES + 1))
        rows = jnp.asarray(waves.reshape(len(place), -1), jnp.float32) @ self.frame[...]
        return rows if self.prompt is None else jnp.concatenate([self.prompt[...], rows])
