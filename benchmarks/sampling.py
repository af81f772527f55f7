# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Row blocks against one-token blocks on the same weights, in one run.

    python -m benchmarks.sampling [--layers 6 --width 512 --heads 8 --codes 64000 --batch 1]

Frame prediction as in the paper's K600 setting: the first latent frames are given (opening
`prefix`), the rest is drawn with top-k and top-p. Frames per second are those of the generator
alone, over the frames that are generated. Compilation is timed apart. The paper reports a ratio of
11 on a GPU; the ratio of passes is the ideal.
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.measure import peak_memory_mib, print_row, time_calls
from nbp.layout import LatentGrid, Opening, SequencePlan, Vocabulary, resolve_block
from nbp.models.decoder import bind_decoder, lay_out_params
from nbp.models.generator import GeneratorNetwork, modern_recipe
from nbp.nn.attention import xla_attention
from nbp.nn.transformer import TransformerSpec
from nbp.sampling.decode import generate
from nbp.sampling.filters import Filter


def main(argv: list[str] | None = None) -> None:
    """Prints a line per block shape, then the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--codes", type=int, default=64_000)
    parser.add_argument("--grid", type=int, nargs=3, default=(5, 16, 16), metavar=("T", "H", "W"))
    parser.add_argument("--given", type=int, default=2, help="latent frames that are given")
    parser.add_argument("--time_stride", type=int, default=4, help="frames per latent frame")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--top_k", type=int, default=16_000)
    parser.add_argument("--top_p", type=float, default=0.9)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--blocks", nargs="+", default=("row", "token"))
    arguments = parser.parse_args(argv)

    grid = LatentGrid(*arguments.grid)
    rows = {block: measure_block(block, grid, arguments) for block in arguments.blocks}
    for row in rows.values():
        print_row("sampling", row)
    if {"row", "token"} <= rows.keys():
        row, token = rows["row"], rows["token"]
        print_row(
            "sampling_ratio",
            {
                "row_over_token": round(row["frames_per_s"] / token["frames_per_s"], 2),
                "ideal_passes": round(token["passes"] / row["passes"], 2),
                "paper_gpu": 11,
            },
        )


def measure_block(block: str, grid: LatentGrid, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compiles and times one block shape; weights depend on the sizes and seed 0 only."""
    plan = SequencePlan(grid, resolve_block(block, grid), Opening("prefix"))
    spec = TransformerSpec(arguments.layers, arguments.heads, arguments.width)
    network = GeneratorNetwork(
        spec,
        plan,
        Vocabulary(arguments.codes),
        modern_recipe(xla_attention, layers=arguments.layers),
    )
    params = lay_out_params(network, jax.jit(network.init)(jax.random.key(0)))
    given = plan.tokens_of_frames(arguments.given)
    filtering = Filter(top_k=min(arguments.top_k, arguments.codes), top_p=arguments.top_p)
    known = jnp.zeros((arguments.batch, grid.size), jnp.int32)

    def draw(params: Any, key: Any) -> Any:
        ids = jnp.arange(arguments.batch)
        decoder = bind_decoder(network, params)
        return generate(decoder, key, ids, known=known, given=given, filtering=filtering)

    began = time.perf_counter()
    compiled = jax.jit(draw).lower(params, jax.random.key(0)).compile()
    compile_seconds = time.perf_counter() - began
    times = time_calls(lambda: compiled(params, jax.random.key(1)), repeats=arguments.repeats)
    frames = (grid.t - arguments.given) * arguments.time_stride * arguments.batch
    return {
        "block": list(plan.block),
        "passes": plan.passes(given),
        "parameters": sum(int(p.size) for p in jax.tree.leaves(params)),
        "batch": arguments.batch,
        "codes": arguments.codes,
        "top_k": filtering.top_k,
        "top_p": filtering.top_p,
        "precision": "float32",
        **times,
        "frames_per_s": round(frames / times["seconds_median"], 4),
        "tokens_per_s": round((grid.size - given) * arguments.batch / times["seconds_median"], 2),
        "ms_per_pass": round(1e3 * times["seconds_median"] / plan.passes(given), 2),
        "compile_seconds": round(compile_seconds, 1),
        "peak_memory_mib": peak_memory_mib(),
    }


if __name__ == "__main__":
    main()
