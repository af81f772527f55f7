# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A module without its parameters, as pure functions of them: what `jax.jit` and `grad` take."""

import abc
from typing import Generic, TypeVar

import jax
from flax import nnx

from nbp.parallel.axes import gather_all
from nbp.shapes import Array, PyTree

M = TypeVar("M", bound=nnx.Module)


class Network(abc.ABC, Generic[M]):
    """Base of the frozen descriptions of models; a subclass says how its module is built."""

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
