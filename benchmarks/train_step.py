# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Step time, tokens/s and memory of one update of each stage.

    python -m benchmarks.train_step [--size quickstart|base|700m] [--stage generator|tokenizer]

`generator` is timed on given codes and, as the training loop runs it, with the frozen tokenizer
encoding the clips in the step. Compilation is timed apart.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import peak_memory_mib, print_row, time_calls
from nbp import losses
from nbp.layout import Opening, SequencePlan, Vocabulary, resolve_block
from nbp.models.generator import GeneratorNetwork, modern_recipe
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.attention import xla_attention
from nbp.nn.conv3d import mixed_conv
from nbp.nn.transformer import TransformerSpec
from nbp.tasks.generator import GeneratorTask, score, update
from nbp.tasks.tokenizer import Objective, TokenizerTask, start_state
from nbp.training.optimizer import OptimizerSpec


@dataclass(frozen=True)
class Size:
    """A pair of models, their clips and batches (tokenizer, generator)."""

    tokenizer: TokenizerSpec
    generator: TransformerSpec
    clip: tuple[int, int, int]
    batches: tuple[int, int]


SIZES = {
    "quickstart": Size(
        TokenizerSpec((8, 16, 48), (0, 1, 1), ((2, 2, 2), (2, 2, 2)), (8, 5, 5, 5), 4),
        TransformerSpec(4, 4, 128),
        (9, 32, 32),
        (4, 8),
    ),
    "base": Size(
        TokenizerSpec((32, 64, 128), (1, 1, 2), ((1, 4, 4), (4, 2, 2)), (8, 8, 8, 5, 5, 5), 32),
        TransformerSpec(6, 8, 512),
        (17, 128, 128),
        (1, 2),
    ),
    "700m": Size(TokenizerSpec(), TransformerSpec(24, 16, 1536), (17, 128, 128), (8, 8)),
}


def main(argv: list[str] | None = None) -> None:
    """Prints a line per measured step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="quickstart")
    parser.add_argument("--stage", choices=("tokenizer", "generator"), nargs="*")
    parser.add_argument("--batch", type=int, help="default: that of the size")
    parser.add_argument("--block", default="row")
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args(argv)
    for stage in arguments.stage or ("tokenizer", "generator"):
        measure = {"tokenizer": measure_tokenizer, "generator": measure_generator}[stage]
        measure(SIZES[arguments.size], arguments)


def measure_tokenizer(size: Size, arguments: argparse.Namespace) -> None:
    """One reconstruction update."""
    network = make_tokenizer(size)
    task = TokenizerTask(network, OptimizerSpec(1e-3, 1000), Objective(losses.l2))
    batch = arguments.batch or size.batches[0]
    tokens = size.tokenizer.grid(*size.clip).size
    run_step("tokenizer", task, make_batch(size, batch), tokens=tokens, arguments=arguments)


def measure_generator(size: Size, arguments: argparse.Namespace) -> None:
    """One next-block update, on codes and on clips."""
    grid = size.tokenizer.grid(*size.clip)
    plan = SequencePlan(grid, resolve_block(arguments.block, grid), Opening("hybrid"))
    codes = size.tokenizer.quantizer.codes
    network = GeneratorNetwork(
        size.generator,
        plan,
        Vocabulary(codes, special=plan.special_count),
        modern_recipe(xla_attention, layers=size.generator.layers),
    )
    tokenizer = make_tokenizer(size)
    frozen = {"tokenizer": jax.jit(tokenizer.init)(jax.random.key(1))}
    task = GeneratorTask(network, tokenizer, OptimizerSpec(1e-3, 1000), frozen)
    batch = arguments.batch or size.batches[1]
    rows = make_batch(size, batch)
    rows["codes"] = np.random.default_rng(0).integers(0, codes, (batch, grid.size), np.int32)
    tokens = plan.target_count
    run_step("generator_on_codes", CodesTask(task), rows, tokens=tokens, arguments=arguments)
    run_step("generator_on_clips", task, rows, tokens=tokens, arguments=arguments)


@dataclass(frozen=True)
class CodesTask:
    """A generator task whose codes come with the batch."""

    task: GeneratorTask

    @property
    def frozen(self) -> Any:
        return {}

    def init(self, key: Any) -> Any:
        return start_state(self.task.network.init(key), self.task.optimizer)

    def step(self, state: Any, frozen: Any, batch: Mapping[str, Any], key: Any) -> Any:
        def loss_fn(params: Any, batch: Mapping[str, Any], key: Any) -> Any:
            del key
            return score(self.task.network.bind(params), batch["codes"], None)

        return update(self.task.optimizer, loss_fn, state, batch=batch, key=key)


def make_tokenizer(size: Size) -> TokenizerNetwork:
    return TokenizerNetwork(size.tokenizer, mixed_conv)


def make_batch(size: Size, batch: int) -> dict[str, Any]:
    """Random clips and labels."""
    video = np.random.default_rng(0).integers(0, 256, (batch, *size.clip, 3), np.uint8)
    return {"video": video, "label": np.zeros(batch, np.int32)}


def run_step(
    name: str, task: Any, batch: dict[str, Any], *, tokens: int, arguments: argparse.Namespace
) -> None:
    """Compiles a step, times it and prints its line."""
    state = jax.jit(task.init)(jax.random.key(0))
    parameters = sum(int(p.size) for p in jax.tree.leaves(state.params))
    rows = {key: jnp.asarray(value) for key, value in batch.items()}
    frozen = task.frozen
    began = time.perf_counter()
    step = jax.jit(task.step, donate_argnums=0)
    compiled = step.lower(state, frozen, rows, jax.random.key(0)).compile()
    compile_seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()

    def call() -> Any:
        nonlocal state
        state, metrics = compiled(state, frozen, rows, jax.random.key(0))
        return metrics["loss"]

    times = time_calls(call, repeats=arguments.repeats)
    clips = len(batch["video"])
    print_row(
        "train_step",
        {
            "step": name,
            "size": arguments.size,
            "parameters": parameters,
            "batch": clips,
            **times,
            "clips_per_s": round(clips / times["seconds_median"], 3),
            "tokens_per_s": round(clips * tokens / times["seconds_median"], 1),
            "compile_seconds": round(compile_seconds, 1),
            "temporary_mib": round(memory.temp_size_in_bytes / 2**20, 1) if memory else None,
            "peak_memory_mib": peak_memory_mib(),
        },
    )


if __name__ == "__main__":
    main()
