# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Whether this device computes right what the benchmarks time; a line per check.

    python -m benchmarks.checks

Every attention backend of this device at a small size; `benchmarks.attention` does it again at each
size that it times.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.attention import TOLERANCE, find_error, list_backends, make_arrays
from benchmarks.measure import print_row
from nbp.errors import ConfigError
from nbp.layout import LatentGrid, Opening, SequencePlan, Vocabulary
from nbp.models.generator import GeneratorNetwork, modern_recipe
from nbp.nn.attention.choose import make_attention_backend
from nbp.nn.attention.reference import xla_attention
from nbp.nn.conv3d import FORMULATIONS, lax_conv
from nbp.nn.transformer import TransformerSpec
from nbp.sampling.generate import generate
from nbp.sampling.settings import SamplingConfig


def main() -> int:
    """Prints every check; how many failed."""
    errors = {**check_convolutions(), "cached_decoding": (check_decoding(), 0.0)}
    rows = [{"name": n, "error": e, "tolerance": t} for n, (e, t) in errors.items()]
    failed = 0
    for row in itertools.chain(rows, check_attention()):
        print_row("check", row)
        failed += not row.get("error", math.inf) <= row["tolerance"]
    return failed


def check_attention() -> Iterator[dict[str, Any]]:
    """Each backend and type that it takes: error as a share of the largest value."""
    platform = jax.default_backend()
    for name in list_backends(platform):
        for dtype in TOLERANCE:
            row: dict[str, Any] = {"name": f"attention_{name}", "dtype": dtype}
            row["tolerance"] = TOLERANCE[dtype]
            try:
                backend = make_attention_backend(name, platform=platform, dtype=dtype)
                row["error"] = find_error(backend, make_arrays(1, 2, 64, dtype))
            except ConfigError:  # it says that it does not serve here
                continue
            except Exception as error:  # the others are checked all the same
                row["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            yield row


def check_convolutions() -> dict[str, tuple[float, float]]:
    """Error and tolerance of each formulation of a strided 3D convolution."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((1, 7, 9, 9, 8), np.float32))
    kernel = jnp.asarray(rng.standard_normal((3, 3, 3, 8, 16), np.float32))
    with jax.default_matmul_precision("highest"):
        oracle = lax_conv(x, kernel, (2, 2, 2))
        return {
            f"convolution_{name}": (
                float(jnp.max(jnp.abs(conv(x, kernel, (2, 2, 2)) - oracle))),
                1e-4,
            )
            for name, conv in FORMULATIONS.items()
        }


def check_decoding() -> float:
    """Tokens in which cached greedy decoding differs from teacher forcing."""
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
        drawn = generate(
            model, jax.random.key(1), jnp.arange(2), sampling=SamplingConfig(temperature=0.0)
        )
        logits = model(drawn)
    return float(jnp.sum(jnp.argmax(logits, axis=-1) != drawn))


if __name__ == "__main__":
    raise SystemExit(main())
