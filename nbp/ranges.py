# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Types of settings with the range that a configuration is held to: `Annotated[int, Range(1.0)]`.

A dataclass of the library that is a section of the configuration says so in its annotations.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal


@dataclass(frozen=True)
class Range:
    """From `low` to `high`; `above` leaves out the low end, `below` the high end.

    Infinity is in no range, nor is NaN.
    """

    low: float = 0.0
    above: bool = False
    high: float = math.inf
    below: bool = False

    def __contains__(self, value: int | float) -> bool:
        over = value > self.low if self.above else value >= self.low
        finite = value < math.inf  # whole numbers may be larger than any float
        return finite and over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        text = f"{'above' if self.above else 'at least'} {self.low:g}"
        if self.high == math.inf:
            return f"{text} and finite" if self.low > -math.inf else "finite"
        high = int(self.high) if self.high == self.high // 1 else self.high
        return f"{text} and {'below' if self.below else 'at most'} {high}"


MOST = 2.0**31 - 1  # what an index of 32 bits can count
Count = Annotated[int, Range(1.0, high=MOST)]
Natural = Annotated[int, Range(0.0, high=MOST)]
# `jax.random.key` takes a seed modulo 2**32: larger ones would repeat smaller ones.
Seed = Annotated[int, Range(0.0, high=2.0**32 - 1)]
Positive = Annotated[float, Range(0.0, above=True)]
NonNegative = Annotated[float, Range(0.0)]
Share = Annotated[float, Range(0.0, high=1.0, below=True)]

DType = Literal["float32", "bfloat16"]  # what a network computes in
# What decoding keeps weights and the cache in: the type of the computation, or a coarser one.
WeightType = Literal["compute", "int8"]
CacheType = Literal["compute", "bfloat16", "int8"]
Checkpoint = int | Literal["best"]  # the step of one, or the one with the best score
