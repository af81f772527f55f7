# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Encoding and decoding clips with each formulation of the convolution, and long videos in chunks.

    python -m benchmarks.tokenizer [--size small|full] [--formulations lax taps fold mixed]

First the device's matrix multiplication peak in the compute type, then a line per formulation and
pass: clips/s, achieved FLOP/s and their share of that peak. FLOPs are those of the convolutions
(multiplications and additions, work on padded borders included), counted from their shapes; a
gradient counts as three passes. Then streams against one-shot passes: seconds, and the memory that
their programs take beside parameters. `peak_memory_mib` is of the process so far, so streams come
first, the longest last.
"""

import argparse
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import measure_peak, peak_memory_mib, print_row, time_calls
from nbp.layout import frames_of_latents
from nbp.models.tokenizer import OFFICIAL_SPEC, TokenizerNetwork, TokenizerSpec, scale_pixels
from nbp.models.tokenizer_streaming import decode_step, decode_stream, encode_step, encode_stream
from nbp.nn.conv3d import FORMULATIONS, lax_conv, mixed_conv


@dataclass(frozen=True)
class Size:
    """A tokenizer, its clips, and the lengths of its streams in latent frames after the first."""

    spec: TokenizerSpec
    clip: tuple[int, int, int]
    chunk: int
    lengths: tuple[int, ...]


SIZES = {
    "small": Size(  # that of configs/folder.py
        TokenizerSpec((8, 16, 48), (0, 1, 2), ((1, 2, 2), (2, 2, 2)), (5, 5, 5, 5, 5, 5), 4),
        (9, 64, 64),
        chunk=4,
        lengths=(8, 32, 128),
    ),
    "full": Size(OFFICIAL_SPEC, (17, 128, 128), chunk=1, lengths=(4, 16)),
}


def main(argv: list[str] | None = None) -> None:
    """Prints a line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    on_cpu = jax.default_backend() == "cpu"
    parser.add_argument("--size", choices=SIZES, default="small" if on_cpu else "full")
    parser.add_argument("--dtype", default="float32" if on_cpu else "bfloat16")
    parser.add_argument("--formulations", choices=FORMULATIONS, nargs="*", default=[*FORMULATIONS])
    parser.add_argument("--passes", choices=PASSES, nargs="+", default=[*PASSES])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--lengths", type=int, nargs="*", help="latent frames of streams after the first"
    )
    arguments = parser.parse_args(argv)
    size = SIZES[arguments.size]
    size = replace(size, spec=replace(size.spec, dtype=arguments.dtype))
    if arguments.lengths is not None:
        size = replace(size, lengths=tuple(arguments.lengths))

    same = {"size": arguments.size, "dtype": arguments.dtype, "batch": arguments.batch}
    peak = measure_peak(size.spec.dtype)
    print_row("matmul_peak", {"dtype": arguments.dtype, "flops_per_s": peak})
    params = jax.jit(TokenizerNetwork(size.spec, lax_conv).init)(jax.random.key(0))
    for name in arguments.formulations:
        network = TokenizerNetwork(size.spec, FORMULATIONS[name])
        for kind in arguments.passes:
            row = measure_pass(kind, network, params, size, arguments)
            achieved = {
                "flops_per_s": round(row["flops"] / row["seconds_median"]),
                "share_of_peak": round(row["flops"] / row["seconds_median"] / peak, 3),
            }
            print_row("tokenizer", {"pass": kind, "formulation": name, **same, **row, **achieved})
    network = TokenizerNetwork(size.spec, mixed_conv)
    for row in measure_streams(network, params, size, arguments):
        print_row("tokenizer_stream", {**same, **row})


# Passes over clips --------------------------------------------------------------------------------


def differentiate(network: TokenizerNetwork, params: Any, video: Any) -> Any:
    """Gradients of the squared error of a reconstruction."""
    pixels = scale_pixels(video)

    def score(params: Any) -> Any:
        return jnp.mean(jnp.square(network.bind(params).reconstruct(pixels).output - pixels))

    return jax.grad(score)(params)


PASSES: dict[str, Callable[..., Any]] = {
    "encode": TokenizerNetwork.encode,
    "decode": TokenizerNetwork.decode,
    "gradient": differentiate,
}


def measure_pass(
    kind: str, network: TokenizerNetwork, params: Any, size: Size, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Compiles and times one pass over a batch of clips."""
    batch = arguments.batch
    rows = draw_codes(size, batch) if kind == "decode" else draw_video(size, batch)
    began = time.perf_counter()
    run = jax.jit(PASSES[kind], static_argnums=0).lower(network, params, rows).compile()
    compile_seconds = time.perf_counter() - began
    times = time_calls(lambda: run(params, rows), repeats=arguments.repeats)
    return {
        "clip": list(size.clip),
        "flops": count_pass_flops(kind, size.spec, size.clip) * batch,
        **times,
        "clips_per_s": round(batch / times["seconds_median"], 4),
        "compile_seconds": round(compile_seconds, 1),
        "temporary_mib": read_mib(run, "temp"),
    }


def draw_video(size: Size, batch: int, frames: int | None = None) -> np.ndarray:
    shape = (batch, frames or size.clip[0], *size.clip[1:], 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def draw_codes(size: Size, batch: int, frames: int | None = None) -> np.ndarray:
    grid = size.spec.grid(frames or size.clip[0], *size.clip[1:])
    return np.random.default_rng(0).integers(
        0, size.spec.make_quantizer().codes, (batch, *grid.shape), np.int32
    )


def read_mib(compiled: Any, *kinds: str) -> float | None:
    """Sum of some of a program's `memory_analysis` (temp, output, argument); None without one."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    return round(sum(getattr(memory, f"{kind}_size_in_bytes") for kind in kinds) / 2**20, 2)


# Counting -----------------------------------------------------------------------------------------


def count_pass_flops(kind: str, spec: TokenizerSpec, clip: tuple[int, int, int]) -> int:
    """FLOPs of the convolutions of one clip."""
    if kind == "gradient":
        return 3 * sum(count_pass_flops(half, spec, clip) for half in ("encode", "decode"))
    network = TokenizerNetwork(spec, lax_conv)
    params = jax.eval_shape(network.init, jax.random.key(0))
    shapes = {
        "encode": jax.ShapeDtypeStruct((1, *clip, 3), jnp.uint8),
        "decode": jax.ShapeDtypeStruct((1, *spec.grid(*clip).shape), jnp.int32),
    }
    run = PASSES[kind]
    return count_flops(jax.make_jaxpr(lambda *args: run(network, *args))(params, shapes[kind]))


def count_flops(jaxpr: Any) -> int:
    """Multiplications and additions of all convolutions and matrix products of a trace."""
    total = 0
    for equation in jaxpr.eqns:
        out = equation.outvars[0].aval
        if equation.primitive.name == "conv_general_dilated":
            features = equation.params["dimension_numbers"].rhs_spec[0]
            kernel = equation.invars[1].aval
            total += 2 * out.size * (kernel.size // kernel.shape[features])
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * out.size * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
        for inner in equation.params.values():
            if hasattr(inner, "eqns"):
                total += count_flops(inner)
    return total


# Long videos --------------------------------------------------------------------------------------


def measure_streams(
    network: TokenizerNetwork, params: Any, size: Size, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Streams of every length, then the same videos at once."""
    stride, batch = size.spec.stride[0], arguments.batch
    inputs = {"encode": draw_video, "decode": draw_codes}
    ways = [(way, kind) for way in (run_stream, run_at_once) for kind in inputs]
    for way, kind in ways if size.lengths else ():
        for length in size.lengths:
            frames = frames_of_latents(1 + length, stride)
            rows = inputs[kind](size, batch, frames)
            call, memory = way(kind, network, params, rows, size.chunk)
            times = time_calls(call, repeats=arguments.repeats)
            yield {
                "pass": kind,
                "way": "stream" if way is run_stream else "at once",
                "frames": frames,
                "chunk": size.chunk if way is run_stream else None,
                **times,
                "frames_per_s": round(batch * frames / times["seconds_median"], 2),
                "program_mib": memory,
                "peak_memory_mib": peak_memory_mib(),
            }


def run_stream(
    kind: str, network: TokenizerNetwork, params: Any, rows: np.ndarray, chunk: int
) -> tuple[Callable[[], Any], float | None]:
    """A call that streams `rows`, and the memory of the program that each chunk runs, in MiB."""
    step, stream, width = {
        "encode": (encode_step, encode_stream, chunk * network.spec.stride[0]),
        "decode": (decode_step, decode_stream, chunk),
    }[kind]
    cache, _ = jax.eval_shape(lambda params, x: step(network, params, None, x), params, rows[:, :1])
    program = step.lower(network, params, cache, rows[:, :1].repeat(width, axis=1)).compile()
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in cache) / 2**20
    memory = read_mib(program, "temp", "output")

    def call() -> Any:
        return deque(stream(network, params, [rows], chunk=chunk), maxlen=1)[0]

    return call, None if memory is None else round(memory + held, 2)


def run_at_once(
    kind: str, network: TokenizerNetwork, params: Any, rows: np.ndarray, chunk: int
) -> tuple[Callable[[], Any], float | None]:
    """A call that takes `rows` in one piece, and the memory of its program in MiB."""
    del chunk
    program = jax.jit(PASSES[kind], static_argnums=0).lower(network, params, rows).compile()
    return (lambda: program(params, rows)), read_mib(program, "temp", "output")


if __name__ == "__main__":
    main()
