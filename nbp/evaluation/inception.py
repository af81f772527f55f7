# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Inception score (Salimans et al. 2016) from the class probabilities of any classifier.

On UCF101 the published classifier is C3D, trained on Sports-1M and fine-tuned on UCF101 (TGAN,
Saito et al. 2017). No such network is part of this package: the probabilities come from outside,
and with those of another classifier the number is not the published one.
"""

import numpy as np

from nbp.evaluation.estimates import Estimate, check_features
from nbp.shapes import Array, Float


def inception_score(probabilities: Float[Array, "n v"], *, splits: int = 10) -> Estimate:
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


def _entropy(rows: Array) -> Array:
    logs = np.log(np.where(rows > 0, rows, 1.0))
    return -np.sum(rows * logs, axis=-1)
