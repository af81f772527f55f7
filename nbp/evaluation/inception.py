# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Inception score (Salimans et al. 2016) from the class probabilities of any classifier.

On UCF101 the published classifier is C3D, trained on Sports-1M and fine-tuned on UCF101 (TGAN,
Saito et al. 2017). With the probabilities of another classifier, or of other weights, the number is
not the published one.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbp.evaluation.batches import map_batches
from nbp.evaluation.estimates import Estimate, check_features
from nbp.evaluation.fvd import resize_bilinear
from nbp.models.c3d import C3dNetwork, C3dSpec
from nbp.shapes import Array, Clips, Float, PyTree

SPLITS = 10  # parts of the published form


def inception_score(probabilities: Float[Array, "n v"], *, splits: int = SPLITS) -> Estimate:
    """exp of the mean KL divergence from p(class | clip) to p(class), between 1 and v.

    The published form: `splits` consecutive parts of n // splits clips, each with its own p(class);
    the value is the mean over parts and `error` their standard deviation (not n - 1), the number
    that stands after +- in papers. Rows must be in random order. Raises ValueError where rows are
    no probabilities or there are fewer rows than parts.
    """
    (rows,) = check_features(probabilities, least=splits, statistic="an inception score")
    if (rows < 0).any() or np.abs(rows.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError("an inception score needs probabilities: rows of 0..1 that sum to 1")
    size = len(rows) // splits
    scores = []
    for part in rows[: size * splits].reshape(splits, size, -1):
        # In this form no class of probability 0 needs a logarithm: its term is 0.
        scores.append(np.exp(_entropy(part.mean(axis=0)) - _entropy(part).mean()))
    return Estimate(float(np.mean(scores)), float(np.std(scores)))


def score_classes(rows: Float[Array, "n v"], *, name: str = "inception_score") -> dict[str, float]:
    """The score and its deviation over ten parts, of probabilities in any order.

    Clips that are drawn class by class would give parts without most classes: rows are shuffled,
    always in the same way.
    """
    order = np.random.default_rng(0).permutation(len(rows))
    found = inception_score(np.asarray(rows)[order])
    return {name: found.value, f"{name}_std": float(found.error)}


@dataclass(frozen=True)
class ClassProbabilities:
    """C3D's class probabilities of clips: the network and its parameters.

    batch: clips at a time. place: puts a batch where the parameters are.
    """

    network: C3dNetwork
    params: PyTree
    batch: int = 16
    place: Callable[[Array], Any] = jnp.asarray

    def __call__(self, clips: Clips) -> Float[np.ndarray, "n v"]:
        """Float64 [n classes], from the first frames of each clip; ValueError for fewer."""
        spec = self.network.spec
        if clips.shape[1] < spec.frames:
            raise ValueError(f"C3D: clips of {clips.shape[1]} frames; it needs {spec.frames}")
        extract = functools.partial(_extract, self.network, self.params)
        first = clips[:, : spec.frames]
        found = map_batches(extract, first, size=self.batch, place=self.place)
        return np.concatenate([np.zeros((0, spec.classes)), *found])


def prepare_c3d(clips: Array, spec: C3dSpec) -> Float[Array, "b t h2 w2 c"]:
    """RGB bytes [b t h w 3] at the network's size: the whole frame scaled, then the centre.

    Bilinear without antialiasing, rounded to whole numbers, and the odd pixel left of the crop, as
    jfzhang95/pytorch-video-recognition does it with OpenCV (whose fixed-point weights are not
    imitated: a pixel may differ by 1).
    """
    height, width = spec.resized
    pixels = jnp.round(resize_bilinear(clips.astype(jnp.float32), height, width))
    top, left = (height - spec.size + 1) // 2, (width - spec.size + 1) // 2
    return pixels[:, :, top : top + spec.size, left : left + spec.size]


@functools.partial(jax.jit, static_argnums=0)
def _extract(network: C3dNetwork, params: PyTree, clips: Array) -> Array:
    return network.probabilities(params, prepare_c3d(clips, network.spec))


def _entropy(rows: Array) -> Array:
    logs = np.log(np.where(rows > 0, rows, 1.0))
    return -np.sum(rows * logs, axis=-1)
