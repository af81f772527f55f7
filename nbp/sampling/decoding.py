# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""How the passes of a generation are made: the plan's own, or fewer.

Every `Decoding` is a frozen description that draws clips when it is called like
`nbp.sampling.decode.generate`, and counts the passes.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp

from nbp.models.generator import Generator
from nbp.models.inference import Decoder, find_generator
from nbp.sampling.acceptance import NearCodes
from nbp.sampling.decode import generate_checked
from nbp.sampling.jacobi import Drawn, decode_ahead
from nbp.shapes import Array, Int


@runtime_checkable
class Decoding(Protocol):
    """`(model, key, sample_ids, **options) -> Drawn`; the options are those of `generate`."""

    def __call__(
        self, model: Generator | Decoder, key: Array, sample_ids: Int[Array, "b"], **options: Any
    ) -> Drawn: ...


@dataclass(frozen=True)
class Plain:
    """The passes of the plan."""

    def __call__(
        self, model: Generator | Decoder, key: Array, sample_ids: Int[Array, "b"], **options: Any
    ) -> Drawn:
        codes, finite = generate_checked(model, key, sample_ids, **options)
        passes = find_generator(model).plan.passes(options.get("given", 0))
        return Drawn.of(codes, jnp.full(sample_ids.shape, passes, jnp.int32), finite)


@dataclass(frozen=True)
class Jacobi:
    """Speculative Jacobi decoding: the same distribution as `Plain` (`nbp.sampling.jacobi`).

    window: passes of the plan that one pass looks at. 1 draws as the plan does.
    coupled: see `decode_ahead`; False is the published algorithm (arXiv 2410.01699), slower.
    """

    window: int = 4
    coupled: bool = True

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window {self.window}: a pass looks at 1 pass of the plan or more")

    def __call__(
        self, model: Generator | Decoder, key: Array, sample_ids: Int[Array, "b"], **options: Any
    ) -> Drawn:
        return decode_ahead(
            model, key, sample_ids, window=self.window, coupled=self.coupled, **options
        )


@dataclass(frozen=True)
class Relaxed:
    """`Jacobi` that also keeps drafts for the sake of codes near them (idea: arXiv 2410.03355).

    levels: of the digits of a code (`nbp.sampling.acceptance.NearCodes`). radius: how far, in
    levels, mass may move between codes. delta: the largest share of a token's distribution that may
    move, 0..1: its total-variation distance from the exact one, given what was drawn before.
    """

    levels: tuple[int, ...]
    window: int = 4
    radius: int = 1
    delta: float = 0.1

    def __post_init__(self) -> None:
        Jacobi(self.window)
        NearCodes(self.levels, self.radius)
        if not 0 <= self.delta <= 1:
            raise ValueError(f"delta {self.delta}: a share of a distribution, 0 (exact) to 1")

    def __call__(
        self, model: Generator | Decoder, key: Array, sample_ids: Int[Array, "b"], **options: Any
    ) -> Drawn:
        """Raises ValueError where the levels do not give the model's codes."""
        generator = find_generator(model)
        near, codes = NearCodes(self.levels, self.radius), generator.vocabulary.codes
        if near.codes != codes:
            raise ValueError(
                f"levels {self.levels} give {near.codes} codes, but this model has {codes}"
            )
        first = (
            generator.vocabulary.code_offset - generator.scored.start
        )  # special and prompt ids before

        def relax(target: Array, law: Array) -> Array:
            relaxed = near.relax(target[..., first:], law[..., first:], self.delta)
            return jnp.concatenate([target[..., :first], relaxed], axis=-1)

        return decode_ahead(model, key, sample_ids, window=self.window, relax=relax, **options)


PLAIN_DECODING = Plain()
