# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A tokenizer task of the smallest size, and what tests of its updates share."""

import jax
import numpy as np

from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.conv3d import lax_conv
from nbp.tasks.tokenizer import Objective, TokenizerTask
from nbp.training.optimizer import OptimizerSpec

KEY = jax.random.key(0)
NETWORK = TokenizerNetwork(
    TokenizerSpec(widths=(4, 8), units=(1, 0), strides=((2, 2, 2),), levels=(4, 4, 4), groups=2),
    lax_conv,
)
SPEC = OptimizerSpec(learning_rate=1e-2, steps=100, warmup=0, weight_decay=0.0)
TASK = TokenizerTask(NETWORK, SPEC, Objective("l2"))


def draw_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (*shape, 3), np.uint8)


def check_close(found, expected, rtol):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * float(np.abs(other).max()))
