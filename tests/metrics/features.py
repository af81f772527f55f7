# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Shared by tests of feature distances."""

import numpy as np

from nbp.metrics.frechet import Moments, frechet_distance


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Frechet distance of two sets of features."""
    return frechet_distance(Moments.of(first), Moments.of(second))
