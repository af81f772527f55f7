# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Attention backends side by side: forward, and forward with backward, of one layer in training.

    python -m benchmarks.attention [--size base 700m 3b] [--batch 8] [--backends prefix dense]

Each backend that this machine can run, on the paper's mask: row blocks of a 5 x 16 x 16 grid after
a prompt of 8. First it must agree with the dense mask, values and gradients; if not, it is not
timed. Useful operations are those of visible pairs of positions: 2 products forward, 4 backward,
whatever a backend computes beside them. Their rate is given alone and as a share of what a large
matrix product of the same type reaches here.
"""

import argparse
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import print_row, time_calls
from nbp.layout import LatentGrid, Opening, SequencePlan
from nbp.nn.attention.choose import PLATFORMS, Name, make_attention_backend
from nbp.nn.attention.reference import AttentionBackend, dense_attention

PLAN = SequencePlan(LatentGrid(5, 16, 16), (1, 1, 16), Opening("hybrid"), 8)
# Heads and width of a head.
SIZES = {"base": (8, 64), "700m": (16, 96), "3b": (32, 96)}
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}  # of the largest value


def main(argv: list[str] | None = None) -> int:
    """Prints a line per size and backend; the number of backends that failed."""
    platform = jax.default_backend()
    here = list_backends(platform)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["base", "700m", "3b"])
    parser.add_argument("--batch", type=int, default=1 if platform == "cpu" else 8)
    parser.add_argument("--backends", nargs="+", choices=here, default=here)
    parser.add_argument("--dtype", choices=TOLERANCE, help="default: by backend")
    parser.add_argument("--repeats", type=int, default=5 if platform == "cpu" else 20)
    arguments = parser.parse_args(argv)
    dtype = arguments.dtype or ("float32" if platform == "cpu" else "bfloat16")
    peak = measure_matmul(dtype, size=1024 if platform == "cpu" else 8192)
    failed = 0
    for size in arguments.size:
        for name in arguments.backends:
            row: dict[str, Any] = {"size": size, "backend_name": name, "dtype": dtype}
            try:
                backend = make_attention_backend(name, platform=platform, dtype=dtype)
                row |= measure(backend, size, dtype, arguments.batch, arguments.repeats, peak)
            except Exception as error:  # the others are measured all the same
                row["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            failed += "failed" in row
            print_row("attention", row)
    return failed


def list_backends(platform: str) -> list[Name]:
    """Those that run on a platform."""
    return [name for name in get_args(Name) if PLATFORMS.get(name, platform) == platform]


def measure(
    backend: AttentionBackend, size: str, dtype: str, batch: int, repeats: int, peak: float
) -> dict[str, Any]:
    """Correctness on one sample, then both times. Raises ValueError where it is wrong."""
    heads, width = SIZES[size]
    error = find_error(backend, make_arrays(1, heads, width, dtype))
    if not error <= TOLERANCE[dtype]:
        raise ValueError(f"differs from the dense mask by {error:.2g} of the largest value")
    arrays = make_arrays(batch, heads, width, dtype)
    n, visible = PLAN.length, int(PLAN.k_end.sum())
    row = {
        "batch": batch,
        "heads": heads,
        "head_width": width,
        "length": n,
        "visible_share": round(visible / n**2, 3),
        "error": float(f"{error:.2g}"),
        "matmul_gflops_per_s": round(peak / 1e9, 1),
    }
    for kind, run, products in (
        ("forward", forward(backend), 2),
        ("both", forward_and_backward(backend), 6),
    ):
        compiled = jax.jit(run).lower(*arrays).compile()
        times = time_calls(lambda call=compiled: call(*arrays), repeats=repeats)
        rate = 2 * products * visible * width * heads * batch / times["seconds_median"]
        memory = compiled.memory_analysis()
        row |= {f"{kind}_{key}": value for key, value in times.items()}
        row[f"{kind}_useful_gflops_per_s"] = round(rate / 1e9, 1)
        row[f"{kind}_share_of_matmul"] = round(rate / peak, 3)
        if memory is not None:
            row[f"{kind}_temporary_mib"] = round(memory.temp_size_in_bytes / 2**20, 1)
    return row


def make_arrays(batch: int, heads: int, width: int, dtype: str) -> list[jax.Array]:
    """Queries, keys, values and the gradient of the result."""
    keys = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(key, (batch, PLAN.length, heads, width), dtype) for key in keys]


def forward(backend: AttentionBackend) -> Callable[..., Any]:
    return lambda q, k, v, _: backend(q, k, v, PLAN.k_end)


def forward_and_backward(backend: AttentionBackend) -> Callable[..., Any]:
    def run(q: Any, k: Any, v: Any, weight: Any) -> Any:
        out, pull = jax.vjp(lambda q, k, v: backend(q, k, v, PLAN.k_end), q, k, v)
        return out, pull(weight)

    return run


def find_error(backend: AttentionBackend, arrays: list[jax.Array]) -> float:
    """Largest difference from the dense mask in float32, values and gradients, as a share."""
    with jax.default_matmul_precision("highest"):
        found = jax.jit(forward_and_backward(backend))(*arrays)
        exact = [x.astype(jnp.float32) for x in arrays]
        expected = jax.jit(forward_and_backward(dense_attention))(*exact)
    errors = jax.tree.map(
        lambda a, b: jnp.max(jnp.abs(a.astype(jnp.float32) - b)) / jnp.max(jnp.abs(b)),
        found,
        expected,
    )
    return float(np.max([float(error) for error in jax.tree.leaves(errors)]))


def measure_matmul(dtype: str, *, size: int) -> float:
    """Operations a second of a product of two square matrices."""
    x = jnp.ones((size, size), dtype)
    product = jax.jit(lambda x: x @ x)
    return 2 * size**3 / time_calls(lambda: product(x), repeats=5)["seconds_min"]


if __name__ == "__main__":
    raise SystemExit(main())
