# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""One number against its reference, and readers that notice what nobody read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np


@dataclass(frozen=True)
class Comparison:
    """Largest absolute error of a named array and what is allowed there; NaN never passes."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance


def compare(name: str, ours: Any, theirs: Any, tolerance: Any) -> Comparison:
    """Compares elementwise: |ours - theirs| <= atol + rtol * |theirs|.

    tolerance: "exact", a number (absolute), or {"atol": .., "rtol": ..}.
    The element reported is the one with the largest error relative to its allowance; without rtol
    that is the largest error. Another shape, a NaN or an infinity that is not in both
    is an infinite error; nothing at all to compare is one too.
    """
    atol, rtol = read_tolerance(tolerance)
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        return Comparison(f"{name}: shape {ours.shape}, not {theirs.shape}", math.inf, atol)
    if not theirs.size:
        return Comparison(f"{name}: nothing to compare", math.inf, atol)
    if _is_whole(ours) and _is_whole(theirs) and rtol == 0:
        error = np.abs(ours.astype(np.int64) - theirs.astype(np.int64)).astype(np.float64)
        allowed = np.full(theirs.shape, atol)
    else:
        ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
        with np.errstate(invalid="ignore"):
            error = np.where(ours == theirs, 0.0, np.abs(ours - theirs))
        error = np.where(np.isfinite(error), error, math.inf)
        allowed = atol + rtol * np.where(np.isfinite(theirs), np.abs(theirs), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / allowed)
    worst = int(np.argmax(ratio))
    return Comparison(name, float(error.flat[worst]), float(allowed.flat[worst]))


def read_tolerance(tolerance: Any) -> tuple[float, float]:
    """(atol, rtol) of a tolerance as golden files write it; ValueError for anything else."""
    if tolerance == "exact":
        return 0.0, 0.0
    if isinstance(tolerance, int | float) and not isinstance(tolerance, bool):
        return float(tolerance), 0.0
    if isinstance(tolerance, Mapping) and set(tolerance) == {"atol", "rtol"}:
        return float(tolerance["atol"]), float(tolerance["rtol"])
    raise ValueError(f"unknown tolerance {tolerance!r}")


def _is_whole(x: np.ndarray) -> bool:
    return x.dtype.kind in "biu"


class Reader:
    """A mapping that must be read completely: leaving the `with` block with unread keys fails.

    So a field that this program does not know can never be skipped in silence.
    """

    def __init__(self, what: str, values: Mapping[str, Any]) -> None:
        self.what, self._values, self._unread = what, values, set(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._unread:
            raise ValueError(f"{self.what}: unknown {', '.join(sorted(self._unread))}")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            raise ValueError(f"{self.what}: {key!r} is missing")
        self._unread.discard(key)
        return self._values[key]
