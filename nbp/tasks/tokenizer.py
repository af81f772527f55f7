# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Objective of the tokenizer stage: reproduce clips through the quantizer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from nbp import losses
from nbp.models.tokenizer import TokenizerNetwork, scale_pixels
from nbp.shapes import Array, PyTree
from nbp.training.optimizer import (
    OptimizerSpec,
    accumulate_gradients,
    apply_gradients,
    make_optimizer,
)
from nbp.training.state import TrainState, make_state


@dataclass(frozen=True)
class TokenizerTask:
    """Trains a `TokenizerNetwork`. `reconstruction` compares (output, input), both in [0, 1]."""

    network: TokenizerNetwork
    optimizer: OptimizerSpec
    reconstruction: Callable[[Array, Array], Array]
    name: str = "tokenizer"

    @property
    def frozen(self) -> PyTree:
        return {}

    def init(self, key: Array) -> TrainState:
        return start_state(self.network.init(key), self.optimizer)

    def step(
        self, state: TrainState, frozen: PyTree, batch: Mapping[str, Array], key: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        """One update. Metrics: loss, psnr (dB), code_usage (share 0..1), code_perplexity."""
        del frozen

        def loss_fn(
            params: PyTree, batch: Mapping[str, Array], key: Array
        ) -> tuple[Array, dict[str, Array]]:
            del key
            pixels = scale_pixels(batch["video"])
            output, codes = self.network.bind(params).reconstruct(pixels)
            histogram = losses.code_histogram(codes, self.network.spec.quantizer.codes)
            return self.reconstruction(output, pixels), {
                "psnr": losses.psnr(jnp.clip(output, 0.0, 1.0), pixels),
                "code_usage": jnp.mean(histogram > 0),
                "code_perplexity": losses.perplexity(histogram),
            }

        return update(self.optimizer, loss_fn, state, batch=batch, key=key)


def start_state(params: PyTree, optimizer: OptimizerSpec) -> TrainState:
    """The state before the first update."""
    return make_state(params, make_optimizer(optimizer, params), with_ema=optimizer.ema_decay > 0)


def update(
    optimizer: OptimizerSpec,
    loss_fn: Callable[..., tuple[Array, dict[str, Array]]],
    state: TrainState,
    *,
    batch: Mapping[str, Any],
    key: Array,
) -> tuple[TrainState, dict[str, Array]]:
    """Accumulates gradients of `loss_fn(params, batch, key)` and applies one update."""
    loss, metrics, gradients = accumulate_gradients(
        loss_fn, state.params, batch=batch, key=key, accumulate=optimizer.accumulate
    )
    transform = make_optimizer(optimizer, state.params)
    state, norms = apply_gradients(state, gradients, optimizer=transform, spec=optimizer)
    return state, {"loss": loss, **metrics, **norms}
