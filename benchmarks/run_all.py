# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Checks correctness, then measures everything, in one call of a few minutes on one accelerator.

    python -m benchmarks.run_all [--size quickstart|base|700m] > benchmarks/results/NAME.jsonl

Needs only jax, flax, optax and numpy. It stops at the first wrong result: fast and wrong is not a
measurement. On a CPU the default sizes are those of the quickstart, on an accelerator the paper's.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import sampling, tokenizer, train_step
from benchmarks.measure import print_row
from nbp.layout import LatentGrid, Opening, SequencePlan, Vocabulary
from nbp.models.generator import GeneratorNetwork, modern_recipe
from nbp.nn.attention import dense_attention, xla_attention
from nbp.nn.conv3d import FORMULATIONS, lax_conv
from nbp.nn.transformer import TransformerSpec
from nbp.sampling.decode import generate
from nbp.sampling.filters import Filter

SAMPLING = {
    "quickstart": ["--layers", "4", "--heads", "4", "--width", "128", "--codes", "1000",
                   "--grid", "3", "8", "8", "--given", "1"],
    "base": [],
    "700m": ["--layers", "24", "--heads", "16", "--width", "1536"],
}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Runs the checks and every benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    on_cpu = jax.default_backend() == "cpu"
    default = "quickstart" if on_cpu else "700m"
    parser.add_argument("--size", choices=SAMPLING, default=default)
    arguments = parser.parse_args(argv)
    check_backends()
    check_decoding()
    sampling.main(SAMPLING[arguments.size])
    train_step.main(["--size", arguments.size])
    tokenizer.main(["--size", "full" if arguments.size == "700m" else "small"])


def check_backends() -> None:
    """Attention and convolution backends agree with their oracles on this device."""
    plan = SequencePlan(LatentGrid(3, 4, 8), (1, 1, 8), Opening("hybrid"), 1)
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, plan.length, 4, 32), np.float32) for _ in range(3))
    limit = jnp.asarray(plan.k_end)
    with jax.default_matmul_precision("highest"):
        error = jnp.max(jnp.abs(dense_attention(q, k, v, limit) - xla_attention(q, k, v, limit)))
        x = rng.standard_normal((1, 7, 9, 9, 8), np.float32)
        kernel = rng.standard_normal((3, 3, 3, 8, 16), np.float32)
        x, kernel = jnp.asarray(x), jnp.asarray(kernel)
        oracle = lax_conv(x, kernel, (2, 2, 2))
        conv_errors = {
            name: float(jnp.max(jnp.abs(conv(x, kernel, (2, 2, 2)) - oracle)))
            for name, conv in FORMULATIONS.items()
        }
    expect("attention", float(error), 1e-5)
    for name, conv_error in conv_errors.items():
        expect(f"convolution_{name}", conv_error, 1e-4)


def check_decoding() -> None:
    """Cached greedy decoding equals teacher forcing, token for token."""
    plan = SequencePlan(LatentGrid(3, 4, 4), (1, 1, 4), Opening("hybrid"))
    network = GeneratorNetwork(
        TransformerSpec(2, 2, 64),
        plan,
        Vocabulary(64, special=plan.special_count),
        modern_recipe(xla_attention, layers=2),
    )
    params = network.init(jax.random.key(0))
    with jax.default_matmul_precision("highest"):
        model = network.bind(params)
        drawn = generate(model, jax.random.key(1), jnp.arange(2), filtering=Filter(greedy=True))
        logits = model(drawn)
    wrong = jnp.sum(jnp.argmax(logits, axis=-1) != drawn)
    expect("cached_decoding", float(wrong), 0.0)


def expect(name: str, error: float, tolerance: float) -> None:
    """Prints a check's line; stops when it failed."""
    print_row("check", {"name": name, "error": error, "tolerance": tolerance})
    if not error <= tolerance:
        raise SystemExit(f"check {name} failed: error {error} exceeds {tolerance}")


if __name__ == "__main__":
    main()
