# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""LPIPS between clips and their reconstructions: the mean distance of their frames."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbp.models.lpips import VGG16, LpipsNetwork
from nbp.models.network import map_batches
from nbp.shapes import Array, Float, PyTree


@dataclass(frozen=True)
class LpipsScorer:
    """Distances of pairs of clips, as LPIPS's authors compute them, on all frames in float32.

    The release of NBP looks at frame 5 alone, and its normalisations cancel, so that VGG sees raw
    pixels of [0, 1] (docs/official_parity.md); LARP and SEED-Voken do it as here.

    batch: clips at a time. place: puts a batch where the parameters are. network: whose they are.
    """

    params: PyTree
    network: LpipsNetwork = VGG16
    batch: int = 16
    place: Callable[[Array], Any] = jnp.asarray

    def __call__(self, first: Array, second: Array) -> Float[np.ndarray, "n"]:
        """One distance per pair of clips [n t h w 3] of bytes 0..255, sides of 16 px or more."""
        measure = functools.partial(_measure, self.network, self.params)
        found = map_batches(measure, first, second, size=self.batch, place=self.place)
        return np.concatenate([np.zeros(0), *found])


@functools.partial(jax.jit, static_argnums=0)
def _measure(network: LpipsNetwork, params: PyTree, first: Array, second: Array) -> Array:
    def compare(pair: tuple[Array, Array]) -> Array:
        # One frame of every clip: VGG's first maps of all frames at once would not fit.
        a, b = (frames[:, None].astype(jnp.float32) / 255.0 for frames in pair)
        return network.distance(params, a, b)

    frames = [jnp.moveaxis(clips, 1, 0) for clips in (first, second)]
    with jax.default_matmul_precision("highest"):
        return jax.lax.map(compare, tuple(frames)).mean(axis=0)
