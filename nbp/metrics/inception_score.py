# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Inception score (Salimans et al. 2016) from the class probabilities of any classifier.

On UCF101 the published classifier is C3D, trained on Sports-1M and fine-tuned on UCF101 (TGAN,
Saito et al. 2017). With the probabilities of another classifier, or of other weights, the number is
not the published one.

Frames are prepared in one of two ways (`ClassPreparation`):

    cut     scaled to 128 x 171, then the centre of 112 x 112: jfzhang95's, whose ports' weights
            nbp.convert reads. It stretches square clips and cuts off their borders.
    squash  scaled to 112 x 112 with aligned corners: Chainer's, in TGAN2, MAGVIT and StyleGAN-V
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbp.metrics.estimates import Estimate, check_features
from nbp.metrics.fvd import resize_bilinear
from nbp.models.c3d import C3dNetwork, C3dSpec
from nbp.models.network import map_batches
from nbp.protocols.protocol import ClassPreparation, InceptionRule
from nbp.shapes import Array, Clips, Float, PyTree

SPLITS = 10  # parts of the first published form
BOTH_FORMS = InceptionRule()


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


def score_classes(
    rows: Float[Array, "n v"],
    *,
    rule: InceptionRule = BOTH_FORMS,
    name: str = "inception_score",
) -> dict[str, float]:
    """The scores of a rule from the probabilities of the clips in their order, each with `_std`.

    With several numbers of parts the names end in `_parts_P`. `_std` is the deviation (not n - 1)
    over parts, or over loops where there are several. Raises ValueError where there are fewer rows
    than a rule needs.
    """
    rows = np.asarray(rows)
    needed = (rule.clips or 0) * rule.loops
    if len(rows) < needed:
        raise ValueError(f"an inception score of {needed} clips, not of {len(rows)}")
    size = rule.clips or len(rows)
    scores = {}
    for parts in rule.parts:
        ending = f"_parts_{parts}" if len(rule.parts) > 1 else ""
        found = [
            inception_score(_order(rows[i * size : (i + 1) * size], rule), splits=parts)
            for i in range(rule.loops)
        ]
        values = [estimate.value for estimate in found]
        deviation = float(np.std(values)) if rule.loops > 1 else found[0].error
        scores |= {f"{name}{ending}": float(np.mean(values)), f"{name}{ending}_std": deviation}
    return scores


def _order(rows: np.ndarray, rule: InceptionRule) -> np.ndarray:
    """Clips drawn class by class would give parts without most classes."""
    if rule.shuffle is None:
        return rows
    return rows[np.random.RandomState(rule.shuffle).permutation(len(rows))]


@dataclass(frozen=True)
class ClassProbabilities:
    """C3D's class probabilities of clips: the network and its parameters.

    batch: clips at a time. place: puts a batch where the parameters are. preparation: of frames.
    """

    network: C3dNetwork
    params: PyTree
    preparation: ClassPreparation = "cut"
    batch: int = 16
    place: Callable[[Array], Any] = jnp.asarray

    def __call__(self, clips: Clips) -> Float[np.ndarray, "n v"]:
        """Float64 [n classes], from the first frames of each clip; ValueError for fewer."""
        spec = self.network.spec
        if clips.shape[1] < spec.frames:
            raise ValueError(f"C3D: clips of {clips.shape[1]} frames; it needs {spec.frames}")
        extract = functools.partial(_extract, self.network, self.preparation, self.params)
        first = clips[:, : spec.frames]
        found = map_batches(extract, first, size=self.batch, place=self.place)
        return np.concatenate([np.zeros((0, spec.classes)), *found])


def prepare_c3d(
    clips: Array, spec: C3dSpec, preparation: ClassPreparation = "cut"
) -> Float[Array, "b t h2 w2 c"]:
    """RGB bytes [b t h w 3] at the network's size, as numbers of 0..255.

    "cut": bilinear without antialiasing, rounded to whole numbers, and the odd pixel left of the
    crop, as jfzhang95/pytorch-video-recognition does it with OpenCV (whose fixed-point weights are
    not imitated: a pixel may differ by 1). "squash": see `resize_aligned`; not rounded.
    """
    pixels = clips.astype(jnp.float32)
    if preparation == "squash":
        return resize_aligned(pixels, spec.size)
    height, width = spec.resized
    pixels = jnp.round(resize_bilinear(pixels, height, width))
    top, left = (height - spec.size + 1) // 2, (width - spec.size + 1) // 2
    return pixels[:, :, top : top + spec.size, left : left + spec.size]


def resize_aligned(
    pixels: Float[Array, "b t h w c"], size: int
) -> Float[Array, "b t {size} {size} c"]:
    """Bilinear, the first and the last pixel of a side staying where they are, as Chainer does."""

    def weigh(length: int) -> Array:  # [length size]
        places = jnp.linspace(0.0, length - 1.0, size)
        return jnp.maximum(1.0 - jnp.abs(places[None] - jnp.arange(length)[:, None]), 0.0)

    height, width = pixels.shape[2:4]
    exact = jax.lax.Precision.HIGHEST
    rows, columns = weigh(height), weigh(width)
    return jnp.einsum("bthwc,hy,wx->btyxc", pixels, rows, columns, precision=exact)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _extract(
    network: C3dNetwork, preparation: ClassPreparation, params: PyTree, clips: Array
) -> Array:
    return network.probabilities(params, prepare_c3d(clips, network.spec, preparation))


def _entropy(rows: Array) -> Array:
    logs = np.log(np.where(rows > 0, rows, 1.0))
    return -np.sum(rows * logs, axis=-1)
