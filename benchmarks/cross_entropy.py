# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The training step with chunked cross-entropy beside the same step with all logits at once.

    python -m benchmarks.cross_entropy [--tokens 158] [--batch 2] [--layers 6] [--width 512]

The default is the official model size for one device, 87 million parameters, on clips of 1,264
predicted tokens. Each variant runs in processes of its own, in turns, so that its largest resident
memory is its own and slow minutes of a shared machine meet both.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import peak_memory_mib, print_row, time_calls
from nbp.layout import LatentGrid, Opening, SequencePlan, Vocabulary
from nbp.models.generator import GeneratorNetwork, paper_recipe
from nbp.models.tokenizer import OFFICIAL_SPEC, TokenizerNetwork
from nbp.nn.attention.reference import prefix_attention
from nbp.nn.conv3d import mixed_conv
from nbp.nn.transformer import TransformerSpec
from nbp.tasks.generator import GeneratorTask, update
from nbp.training.optimizer import OptimizerSpec

CODES = 64_000
VARIANTS = ("plain", "chunked")


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean negative log-likelihood of targets [b n] under logits [b n v], in nats."""
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - picked)


def top_accuracy(logits: jax.Array, targets: jax.Array, *, top: int) -> jax.Array:
    """Share 0..1 of targets whose logit is among the `top` largest (ties count as hits)."""
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    return jnp.mean(jnp.sum(logits > picked, axis=-1) < top)


@dataclass(frozen=True)
class PlainTask(GeneratorTask):
    """The same objective from one array of logits, as a textbook writes it."""

    def step(self, state: Any, frozen: Any, batch: Mapping[str, Any], key: Any) -> Any:
        def loss_fn(params: Any, batch: Mapping[str, Any], key: Any) -> Any:
            model = self.network.bind(params)
            codes = self.network.to_sequence(self.codes(frozen, batch))
            logits, targets = model(codes, key=key), model.targets(codes)
            return cross_entropy(logits, targets), {
                "accuracy": top_accuracy(logits, targets, top=1),
                "accuracy_top5": top_accuracy(logits, targets, top=5),
            }

        return update(self.optimizer, loss_fn, state, batch=batch, key=key)


def main(argv: list[str] | None = None) -> None:
    """Prints a line per variant, then their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=VARIANTS, help="measures one of them, here")
    parser.add_argument("--tokens", type=int, default=158)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--remat", choices=("none", "dots", "full"), default="dots")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of a process")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each variant")
    arguments = parser.parse_args(argv)
    if arguments.variant:
        print_row("cross_entropy", measure(arguments))
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Runs the variants in turns."""
    names = ("tokens", "batch", "layers", "heads", "width", "remat", "repeats")
    flags = [f"--{name}={getattr(arguments, name)}" for name in names]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for _ in range(arguments.rounds):
        for name in VARIANTS:
            command = [sys.executable, "-m", "benchmarks.cross_entropy", f"--variant={name}"]
            done = subprocess.run([*command, *flags], check=True, stdout=subprocess.PIPE, text=True)
            rows[name].append(json.loads(done.stdout))
            print(done.stdout, end="", flush=True)

    def median(key: str, name: str) -> float:
        return statistics.median(row[key] for row in rows[name])

    def ratio(key: str) -> float:
        return round(median(key, "plain") / median(key, "chunked"), 3)

    print_row(
        "cross_entropy_ratio",
        {
            "time_chunked_over_plain": round(1 / ratio("seconds_median"), 3),
            "temporary_memory_plain_over_chunked": ratio("temporary_mib"),
            "step_memory_plain_over_chunked": ratio("step_mib"),
            "peak_memory_plain_over_chunked": ratio("peak_memory_mib"),
            "loss_difference": abs(rows["plain"][0]["loss"] - rows["chunked"][0]["loss"]),
            "seconds_chunked": median("seconds_median", "chunked"),
            "seconds_plain": median("seconds_median", "plain"),
        },
    )


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time and memory of one variant's step."""
    task = make_task(arguments)
    state = jax.jit(task.init)(jax.random.key(0))
    grid = task.network.plan.grid
    rng = np.random.default_rng(0)
    batch = {"codes": rng.integers(0, CODES, (arguments.batch, *grid.shape), np.int32)}
    key = jax.random.key(1)
    began = time.perf_counter()
    compiled = jax.jit(task.step, donate_argnums=0).lower(state, {}, batch, key).compile()
    compile_seconds = time.perf_counter() - began
    parameters = sum(p.size for p in jax.tree.leaves(state.params))
    loss: list[float] = []

    def call() -> None:
        nonlocal state
        state, metrics = compiled(state, {}, batch, key)
        loss.append(float(metrics["loss"]))

    times = time_calls(call, repeats=arguments.repeats)
    memory = compiled.memory_analysis()
    made = memory.temp_size_in_bytes if memory else 0
    held = made + memory.argument_size_in_bytes if memory else 0
    return {
        "variant": arguments.variant,
        "parameters": parameters,
        "batch": arguments.batch,
        "tokens_per_clip": task.network.plan.target_count,
        "tokens_at_a_time": arguments.tokens if arguments.variant == "chunked" else 0,
        **times,
        "loss": loss[0],
        "compile_seconds": round(compile_seconds, 1),
        "temporary_mib": round(made / 2**20, 1),  # without parameters and optimizer
        "step_mib": round(held / 2**20, 1),
        "peak_memory_mib": peak_memory_mib(),
    }


def make_task(arguments: argparse.Namespace) -> GeneratorTask:
    """The generator of the paper at a small size; no tokenizer runs, the batches hold codes."""
    plan = SequencePlan(LatentGrid(5, 16, 16), (1, 1, 16), Opening("prefix"))
    network = GeneratorNetwork(
        TransformerSpec(arguments.layers, arguments.heads, arguments.width, remat=arguments.remat),
        plan,
        Vocabulary(CODES),
        paper_recipe(prefix_attention, context=1280),
    )
    tokenizer = TokenizerNetwork(OFFICIAL_SPEC, mixed_conv)
    task = GeneratorTask(
        network, tokenizer, OptimizerSpec(1e-3, 1000), {}, loss_tokens=arguments.tokens
    )
    if arguments.variant == "chunked":
        return task
    return PlainTask(**{f.name: getattr(task, f.name) for f in dataclasses.fields(task)})


if __name__ == "__main__":
    main()
