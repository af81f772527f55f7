# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Sampling: row blocks, one-token blocks and a naive sampler on the same weights, in one run.

    python -m benchmarks.sampling [--size 87m|700m|quickstart] [--batches 1 64]

Frame prediction as in the paper's K600 setting: the first latent frames are given (opening
`prefix`), the rest is drawn with top-k and top-p. A line for each way:

* `frames_per_s` of the transformer alone, and with the decoding of its codes by the tokenizer;
* `prefill_seconds` of the first pass, over what is given, and `decode_seconds` of all others;
* `share_of_bandwidth`: of the time that reading weights and filled cache once a pass takes at the
  speed of a large copy; `share_of_compute`: of the time that its multiplications take at the speed
  of large matrix products, both measured here. A pass cannot be faster than the longer of the two;
* `memory_over_least`: memory of the program and what it holds, over weights and cache;
  `peak_memory_mib`: of the whole process while it samples.

Compilation is timed apart. The naive sampler (`benchmarks/naive_sampling.py`) runs `--naive_passes`
passes after its prefill, and its time for all is extrapolated. The paper reports 11 times as many
frames for rows as for tokens on a GPU; the ratio of passes is the ideal.
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.measure import (
    forget_peak_memory,
    measure_bandwidth,
    measure_peak,
    peak_device_mib,
    peak_memory_mib,
    print_row,
    time_calls,
)
from benchmarks.naive_sampling import draw_naively
from nbp.layout import LatentGrid, Opening, SequencePlan, Vocabulary, resolve_block
from nbp.models.generator import GeneratorNetwork, modern_recipe
from nbp.models.inference import PackedParams, bind_inference_model, pack_params
from nbp.models.tokenizer import OFFICIAL_SPEC, TokenizerNetwork
from nbp.nn.attention.reference import xla_attention
from nbp.nn.conv3d import mixed_conv
from nbp.nn.transformer import TransformerSpec
from nbp.sampling.generate import generate
from nbp.sampling.settings import SamplingConfig

# Layers, heads, width, codes, latent grid, latent frames that are given.
SIZES: dict[str, tuple[int, int, int, int, tuple[int, int, int], int]] = {
    "quickstart": (4, 4, 128, 1_000, (3, 8, 8), 1),
    "87m": (6, 8, 512, 64_000, (5, 16, 16), 2),
    "700m": (24, 16, 1536, 64_000, (5, 16, 16), 2),
}
TIME_STRIDE = 4  # frames of a latent frame


def main(argv: list[str] | None = None) -> None:
    """Prints the peaks of the machine, a line per way, then ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="87m")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=(1,), help="the naive sampler has the first"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--weights", choices=("compute", "int8"), default="compute")
    parser.add_argument("--cache", choices=("compute", "bfloat16", "int8"), default="compute")
    parser.add_argument("--top_k", type=int, default=16_000)
    parser.add_argument("--top_p", type=float, default=0.9)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=("row", "token", "naive"))
    parser.add_argument("--naive_passes", type=int, default=3)
    parser.add_argument("--tokenizer", action="store_true", help="time its decoding as well")
    arguments = parser.parse_args(argv)

    peaks = (measure_bandwidth(), measure_peak(jnp.dtype(arguments.dtype)))
    print_row("peaks", {"copy_bytes_per_s": peaks[0], "matmul_flops_per_s": peaks[1]})
    for i, batch in enumerate(arguments.batches):
        arguments.batch = batch
        ways = [way for way in arguments.ways if i == 0 or way != "naive"]
        compare(arguments, ways, peaks)


def compare(arguments: argparse.Namespace, ways: Sequence[str], peaks: tuple[float, float]) -> None:
    """Prints a line per way, then how many times as many frames row blocks give."""
    decoding = measure_tokenizer(arguments) if arguments.tokenizer else None
    rows = {}
    for way in ways:
        naive = way == "naive"
        row = measure_naive(arguments) if naive else measure_block(way, arguments, peaks)
        frames = row["frames"]
        if decoding is not None:
            whole = row["seconds_median"] + decoding
            row["frames_per_s_with_tokenizer"] = round(frames / whole, 4)
        rows[way] = row
        print_row("sampling", row)
    if "row" in rows and len(rows) > 1:
        speed = {way: row["frames_per_s"] for way, row in rows.items()}
        ratios = {f"row_over_{way}": round(speed["row"] / speed[way], 2) for way in rows}
        ratios.pop("row_over_row")
        if "token" in rows:
            ratios["ideal_over_token"] = round(rows["token"]["passes"] / rows["row"]["passes"], 2)
        print_row("sampling_ratio", {**ratios, "paper_gpu_over_token": 11})


def make_network(block: str, arguments: argparse.Namespace) -> tuple[GeneratorNetwork, int]:
    """A generator and how many tokens are given."""
    layers, heads, width, codes, shape, given = SIZES[arguments.size]
    grid = LatentGrid(*shape)
    plan = SequencePlan(grid, resolve_block(block, grid), Opening("prefix"))
    spec = TransformerSpec(layers, heads, width, dtype=jnp.dtype(arguments.dtype))
    recipe = modern_recipe(xla_attention, layers=layers)
    return GeneratorNetwork(spec, plan, Vocabulary(codes), recipe), plan.tokens_of_frames(given)


def draw_laid_out(network: GeneratorNetwork, weights: Any) -> PackedParams:
    """Random parameters laid out for decoding, a layer at a time so that no stack takes memory."""
    single = dataclasses.replace(network, spec=dataclasses.replace(network.spec, layers=1))
    init = jax.jit(single.init)
    first = pack_params(single, init(jax.random.key(0)), weights=weights)
    layers = list(first.layers)
    for i in range(1, network.spec.layers):
        layers += pack_params(single, init(jax.random.key(i)), weights=weights).layers
    return first._replace(layers=layers)


def describe(
    network: GeneratorNetwork, given: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """What a line is about. `frames`: that a call generates."""
    grid = network.plan.grid
    return {
        "size": arguments.size,
        "block": list(network.plan.block),
        "passes": network.plan.passes(given),
        "batch": arguments.batch,
        "codes": network.vocabulary.codes,
        "top_k": min(arguments.top_k, network.vocabulary.codes),
        "top_p": arguments.top_p,
        "precision": arguments.dtype,
        "weights": arguments.weights,
        "cache": arguments.cache,
        "frames": (grid.size - given) // grid.frame * TIME_STRIDE * arguments.batch,
    }


def measure_block(
    block: str, arguments: argparse.Namespace, peaks: tuple[float, float]
) -> dict[str, Any]:
    """Compiles and times one block shape; weights depend on the sizes alone."""
    network, given = make_network(block, arguments)
    plan = network.plan
    params = draw_laid_out(network, arguments.weights)
    known = jnp.zeros((arguments.batch, plan.grid.size), jnp.int32)
    sampling = SamplingConfig(
        top_k=min(arguments.top_k, network.vocabulary.codes), top_p=arguments.top_p
    )

    def draw(params: PackedParams, key: Any) -> Any:
        decoder = bind_inference_model(network, params, stored=arguments.cache)
        ids = jnp.arange(arguments.batch)
        return generate(decoder, key, ids, known=known, given=given, sampling=sampling)

    def prefill(params: PackedParams) -> Any:
        decoder = bind_inference_model(network, params, stored=arguments.cache)
        model, fed = decoder.model, plan.schedule(given).prefill
        x = model.embed(model.input_table(known, None), 0, fed)
        cache = decoder.make_cache(arguments.batch, fed)
        x, cache = decoder.forward_cached(x, cache, start=0, k_end=jnp.asarray(plan.k_end[:fed]))
        return decoder.predict(x[:, -plan.block_size :]), cache

    began = time.perf_counter()
    compiled = jax.jit(draw).lower(params, jax.random.key(0)).compile()
    compile_seconds = time.perf_counter() - began
    forget_peak_memory()
    times = time_calls(lambda: compiled(params, jax.random.key(1)), repeats=arguments.repeats)
    peak = peak_memory_mib()
    first = jax.jit(prefill).lower(params).compile()
    prefill_seconds = time_calls(lambda: first(params), repeats=3)["seconds_median"]
    decode_seconds = times["seconds_median"] - prefill_seconds
    row = describe(network, given, arguments)
    passes = row["passes"] - 1
    cost = count_pass(network, params, given, arguments)
    memory = compiled.memory_analysis()
    held = cost["weight_bytes"] + cost["cache_bytes"]
    least = {
        "bandwidth": passes * cost["bytes_read"] / peaks[0],
        "compute": passes * cost["flops"] / peaks[1],
    }
    return {
        **row,
        "parameters": sum(int(p.size) for p in jax.tree.leaves(params)),
        **times,
        "prefill_seconds": prefill_seconds,
        "decode_seconds": round(decode_seconds, 5),
        "ms_per_pass": round(1e3 * decode_seconds / passes, 3),
        "frames_per_s": round(row["frames"] / times["seconds_median"], 4),
        "share_of_bandwidth": round(least["bandwidth"] / decode_seconds, 3),
        "share_of_compute": round(least["compute"] / decode_seconds, 3),
        "weight_mib": round(cost["weight_bytes"] / 2**20, 1),
        "cache_mib": round(cost["cache_bytes"] / 2**20, 1),
        "temporary_mib": round(memory.temp_size_in_bytes / 2**20, 1) if memory else None,
        "memory_over_least": round(
            (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / held, 3
        )
        if memory
        else None,
        "compile_seconds": round(compile_seconds, 1),
        "peak_memory_mib": peak,
        "peak_device_mib": peak_device_mib(),
    }


def count_pass(
    network: GeneratorNetwork, params: PackedParams, given: int, arguments: argparse.Namespace
) -> dict[str, float]:
    """Bytes that lie there, bytes that a pass reads on average, its multiplications and additions.

    A pass reads the layers, the head and the filled part of the cache once.
    """
    spec, plan, batch = network.spec, network.plan, arguments.batch
    read = sum(int(p.nbytes) for p in jax.tree.leaves((params.layers, params.head)))
    weights = sum(int(p.nbytes) for p in jax.tree.leaves(params))
    shapes = jax.eval_shape(
        lambda: bind_inference_model(network, params, stored=arguments.cache).make_cache(
            batch, plan.length
        )
    )
    cache = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    filled = (plan.schedule(given).prefill + plan.length) / 2
    n = plan.block_size * batch
    matrices = sum(
        matrix.rows.size
        for layer in params.layers
        for matrix in (layer.qkv, layer.proj, layer.up, layer.down)
    )
    assert params.head is not None  # these sizes have the head of all codes
    products = matrices + params.head.rows.size
    return {
        "weight_bytes": weights,
        "cache_bytes": cache,
        "bytes_read": read + cache * filled / plan.length,
        "flops": 2 * n * products + 4 * spec.layers * spec.width * n * filled,
    }


def measure_naive(arguments: argparse.Namespace) -> dict[str, Any]:
    """The naive sampler on row blocks: a first pass, then some passes, the rest extrapolated."""
    network, given = make_network("row", arguments)
    params = jax.jit(network.init)(jax.random.key(0))
    known = jnp.zeros((arguments.batch, network.plan.grid.size), jnp.int32)
    row = describe(network, given, arguments)
    row.update(weights="compute", cache="compute")

    def run(passes: int) -> float:
        began = time.perf_counter()
        draw_naively(
            network,
            params,
            known,
            given,
            top_k=row["top_k"],
            top_p=row["top_p"],
            passes=passes,
        )
        return time.perf_counter() - began

    most = 1 + arguments.naive_passes
    run(most)  # compiles each operation
    first, several = run(1), run(most)
    each = (several - first) / arguments.naive_passes
    seconds = first + each * (row["passes"] - 1)
    return {
        **row,
        "way": "naive",
        "seconds_median": round(seconds, 4),
        "prefill_seconds": round(first, 4),
        "ms_per_pass": round(1e3 * each, 2),
        "measured_passes": most,
        "frames_per_s": round(row["frames"] / seconds, 4),
    }


def measure_tokenizer(arguments: argparse.Namespace) -> float:
    """Seconds in which the paper's tokenizer decodes a batch of clips of 17x128x128."""
    network = TokenizerNetwork(
        dataclasses.replace(OFFICIAL_SPEC, dtype=arguments.dtype), mixed_conv
    )
    params = jax.jit(network.init)(jax.random.key(0))
    codes = jnp.zeros((arguments.batch, *SIZES["700m"][4]), jnp.int32)
    decode = jax.jit(network.decode).lower(params, codes).compile()
    times = time_calls(lambda: decode(params, codes), repeats=arguments.repeats)
    print_row("tokenizer_decode", {"batch": arguments.batch, "precision": arguments.dtype, **times})
    return times["seconds_median"]


if __name__ == "__main__":
    main()
