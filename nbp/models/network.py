# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A module without its parameters, as pure functions of them: what `jax.jit` and `grad` take."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import jax
import numpy as np
from flax import nnx

from nbp.parallel.sharding import gather_all
from nbp.shapes import Array, PyTree

M = TypeVar("M", bound=nnx.Module)


class Network(abc.ABC, Generic[M]):
    """Base of the frozen descriptions of models; a subclass says how its module is built.

    optional: pattern of the paths of parameters that change nothing where they are zero: a
    checkpoint may lack them, or have them for nothing.
    """

    optional: ClassVar[str] = ""

    @abc.abstractmethod
    def build(self, key: Array) -> M:
        """The module with initial parameters."""

    def init(self, key: Array) -> PyTree:
        """Initial parameters as nested pure dicts."""
        return nnx.to_pure_dict(nnx.state(self.build(key)))

    def bind(self, params: PyTree) -> M:
        """The module holding `params`, each made whole where a mesh stores it in pieces."""
        return self.merge(gather_all(params))

    def merge(self, params: PyTree) -> M:
        """The module holding `params` as they are; no arrays are allocated for it."""
        abstract = nnx.eval_shape(lambda: self.build(jax.random.key(0)))
        return nnx.merge(nnx.graphdef(abstract), params)


def fill_batch(rows: Array, size: int) -> Array:
    """At most `size` rows, with the last one repeated up to that number; a full batch as it is."""
    missing = size - len(rows)
    if not missing:
        return rows
    rows = np.asarray(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])


def map_batches(
    function: Callable[..., Array],
    *arrays: Array,
    size: int,
    place: Callable[[Array], Any],
    dtype: Any = np.float64,
) -> list[np.ndarray]:
    """`function` of `size` rows of every array at a time; [] for no rows.

    place: puts a batch where the function computes. dtype: of what it gives; None for its own.
    """
    results = []
    for start in range(0, len(arrays[0]), size):
        pieces = [rows[start : start + size] for rows in arrays]
        values = function(*(place(fill_batch(rows, size)) for rows in pieces))
        results.append(np.asarray(values, dtype)[: len(pieces[0])])
    return results
