# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Codes of FSQ and LFQ as digits, the least significant first, and logits of all digits in a row.

The digits of a code are those of `nbp.nn.fsq.Fsq` (its channels) and the bits of `nbp.nn.lfq.Lfq`.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbp.shapes import Array, Float, Int


@dataclass(frozen=True)
class Digits:
    """Digits with `levels` values each, such as (8, 5, 5, 5) for 1,000 codes.

    A *column* stands for a value of a digit: there are S = sum(levels) of them, digit by digit.
    """

    levels: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 2:
            raise ValueError(
                f"digits of {self.levels} levels: at least one digit, each of 2 or more"
            )

    @property
    def count(self) -> int:
        """Digits of a code, D."""
        return len(self.levels)

    @property
    def codes(self) -> int:
        return math.prod(self.levels)

    @property
    def columns(self) -> int:
        """S: values of all digits together."""
        return sum(self.levels)

    @property
    def first_columns(self) -> Int[np.ndarray, "D"]:
        """Column of the value 0 of each digit."""
        return np.cumsum([0, *self.levels[:-1]]).astype(np.int32)

    @property
    def table(self) -> Int[np.ndarray, "D V"]:
        """Column of each value of each digit, of V = max(levels); see `exists`."""
        table = self.first_columns[:, None] + np.arange(max(self.levels), dtype=np.int32)
        return np.where(self.exists, table, 0)

    @property
    def exists(self) -> np.ndarray:
        """[D V] whether a digit has this value."""
        return np.arange(max(self.levels)) < np.array(self.levels)[:, None]

    def split(self, codes: Int[Array, "*s"]) -> Int[Array, "*s D"]:
        """The digits of codes."""
        return (codes[..., None] // jnp.asarray(self._basis)) % jnp.asarray(self.levels)

    def join(self, digits: Int[Array, "*s D"]) -> Int[Array, "*s"]:
        """The inverse of `split`."""
        return jnp.sum(digits * jnp.asarray(self._basis), axis=-1, dtype=jnp.int32)

    def one_hot(self, digits: Int[Array, "*s D"], dtype: Any) -> Float[Array, "*s S"]:
        """1 in the column of the value of each digit, 0 elsewhere."""
        parts = [
            jax.nn.one_hot(digits[..., i], level, dtype=dtype)
            for i, level in enumerate(self.levels)
        ]
        return jnp.concatenate(parts, axis=-1)

    def by_digit(self, logits: Float[Array, "*s S"]) -> Float[Array, "*s D V"]:
        """Logits of columns digit by digit; -inf where a digit has no such value."""
        return jnp.where(self.exists, logits[..., self.table], -jnp.inf)

    @property
    def _basis(self) -> Int[np.ndarray, "D"]:
        return np.cumprod([1, *self.levels[:-1]]).astype(np.int32)


def score_digits(
    logits: Float[Array, "*s D V"], digits: Int[Array, "*s D"]
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """Nats of codes, the sum over their digits, and 1 where every digit is the most likely one."""
    picked = jnp.take_along_axis(logits, digits[..., None], axis=-1)
    nats = jax.nn.logsumexp(logits, axis=-1) - picked[..., 0]
    hit = (logits <= picked).all((-2, -1))
    return nats.sum(-1), hit.astype(jnp.float32)
