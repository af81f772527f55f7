# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The layers of a transformer, which are one stack, one by one."""

import jax
from flax import nnx

from nbp.nn.transformer import Block, Transformer


def unstack(transformer: Transformer) -> list[Block]:
    """Layer i holds slice i of every parameter of the stack."""
    graph, stacked = nnx.split(transformer.layers)
    return [
        nnx.merge(graph, jax.tree.map(lambda p, i=i: p[i], stacked))
        for i in range(transformer.spec.layers)
    ]
