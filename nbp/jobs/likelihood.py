# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What a generator gives to the codes of real clips: bits per token, accuracy, loss."""

from collections.abc import Mapping

import jax
import numpy as np

from nbp import build
from nbp.config import Config
from nbp.sampling.sampler import Sampler
from nbp.tasks.generator import GeneratorTask


class Likelihood:
    """Means over clips of a generator's measures on their codes."""

    def __init__(self, config: Config, sampler: Sampler, labels: tuple[str, ...]) -> None:
        task = GeneratorTask(
            network=sampler.generator,
            tokenizer=sampler.tokenizer,
            optimizer=build.make_generator_task(config, labels, {}).optimizer,
            frozen={},  # the codes are there already
        )
        self._evaluate = jax.jit(task.evaluate)
        self._params = sampler.generator_params
        self._sums: dict[str, float] = {}
        self._count = 0

    def __call__(self, batch: Mapping[str, np.ndarray]) -> None:
        """Takes "codes" and "label" of a batch."""
        metrics, _ = self._evaluate(self._params, {}, batch)
        count = len(batch["codes"])
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value) * count
        self._count += count

    def result(self) -> dict[str, float]:
        """Means over clips."""
        return {name: total / self._count for name, total in self._sums.items()}
