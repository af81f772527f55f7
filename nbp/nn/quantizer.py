# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What the tokenizer asks of a quantizer: latents to codes, codes to vectors, and how it learns.

A quantizer is a frozen description. Arrays that it learns, if any, are its state: a dict that lies
under `quantizer/` in the tokenizer's parameters, `{}` where there is nothing to learn.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax

from nbp.shapes import Array, Float, Int, PyTree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Quantized:
    """Latents after quantization, with all that training needs.

    vectors: what the decoder sees; gradients pass straight through to the latents.
    penalty: the quantizer's own loss, 0 where it has none. metrics: scalars.
    statistics: what `Quantizer.update` moves the state by, {} where there is none. Every leaf is a
      mean over positions: the mean of those of two batches of equal size is that of both together.
    """

    vectors: Float[Array, "*b q"]
    codes: Int[Array, "*b"]
    penalty: Float[Array, ""]
    metrics: dict[str, Array]
    statistics: PyTree


@runtime_checkable
class Quantizer(Protocol):
    """Maps latents of `channels` channels to `codes` codes, each position by itself."""

    @property
    def channels(self) -> int: ...

    @property
    def codes(self) -> int: ...

    def init(self, key: Array) -> PyTree:
        """The state before training, {} for a quantizer without one."""
        ...

    def apply(self, z: Float[Array, "*b q"], state: PyTree) -> Quantized:
        """Quantizes latents for training."""
        ...

    def assign(self, z: Float[Array, "*b q"], state: PyTree) -> Int[Array, "*b"]:
        """The codes 0..codes-1 of latents: those of `apply`."""
        ...

    def lookup(self, index: Int[Array, "*b"], state: PyTree) -> Float[Array, "*b q"]:
        """The vectors of codes: those of `apply`."""
        ...

    def update(self, state: PyTree, statistics: PyTree) -> PyTree:
        """The state after an update whose latents had these statistics."""
        ...
