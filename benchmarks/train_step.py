# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Step time, tokens/s, MFU and memory of one update of each stage, over mesh shapes.

    python -m benchmarks.train_step [--size quickstart|base|700m] [--stage generator|tokenizer]
    python -m benchmarks.train_step --stage generator --mesh 8,1,1 1,8,1 2,2,2 --virtual 8

`generator` is timed on given codes and, as the training loop runs it, with the frozen tokenizer
encoding the clips in the step. Compilation is timed apart. A mesh is data,fsdp,tensor; `--virtual`
makes that many devices of the processor, which then share its cores. MFU is the operations that
the model needs for its clips (`GeneratorNetwork.flops_per_clip`) over the maker's peak.
"""

import argparse
import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import peak_memory_mib, print_row, time_calls
from nbp.layout import Opening, SequencePlan, Vocabulary, resolve_block
from nbp.models.generator import GeneratorNetwork, modern_recipe
from nbp.models.tokenizer import OFFICIAL_SPEC, TokenizerNetwork, TokenizerSpec
from nbp.nn.attention.choose import Choice, make_attention_backend
from nbp.nn.conv3d import mixed_conv
from nbp.nn.transformer import TransformerSpec
from nbp.parallel.chips import measure_mfu
from nbp.parallel.mesh import make_mesh, make_state_shardings, place_batch, place_state
from nbp.tasks.generator import GeneratorTask
from nbp.tasks.tokenizer import Objective, TokenizerTask
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
    "700m": Size(OFFICIAL_SPEC, TransformerSpec(24, 16, 1536), (17, 128, 128), (8, 8)),
}


def main(argv: list[str] | None = None) -> int:
    """Prints a line per measured step; how many did not fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="quickstart")
    parser.add_argument("--stage", choices=("tokenizer", "generator"), nargs="*")
    parser.add_argument(
        "--batch",
        type=int,
        nargs="+",
        help="clips on all devices, one after another; or the size's",
    )
    parser.add_argument("--block", default="row")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--mesh", nargs="*", default=["1,1,1"], help="data,fsdp,tensor each")
    parser.add_argument("--virtual", type=int, help="devices to make of the processor")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: by backend")
    parser.add_argument("--remat", choices=("none", "dots", "full"), default="none")
    parser.add_argument("--attention", choices=get_args(Choice), default="auto")
    parser.add_argument(
        "--steps", nargs="*", default=("codes", "clips"), choices=("codes", "clips")
    )
    arguments = parser.parse_args(argv)
    if arguments.virtual:
        jax.config.update("jax_num_cpu_devices", arguments.virtual)
    failed = 0
    for mesh in arguments.mesh:
        for stage in arguments.stage or ("tokenizer", "generator"):
            measure = {"tokenizer": measure_tokenizer, "generator": measure_generator}[stage]
            for batch in arguments.batch or [SIZES[arguments.size].batches[stage == "generator"]]:
                try:
                    measure(SIZES[arguments.size], batch, arguments, read_mesh(mesh))
                except jax.errors.JaxRuntimeError as error:  # too large: the others are measured
                    reason = str(error).splitlines()[0][:200]
                    print_row("train_step", {"step": stage, "batch": batch, "failed": reason})
                    failed += 1
    return failed


def read_mesh(text: str) -> Any:
    """The mesh of `data,fsdp,tensor`."""
    data, fsdp, tensor = (int(n) for n in text.split(","))
    return make_mesh(data=data, fsdp=fsdp, tensor=tensor)


def find_dtype(arguments: argparse.Namespace) -> Any:
    """float32 on a CPU, bfloat16 on an accelerator, unless told otherwise."""
    usual = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(arguments.dtype or usual)


def measure_tokenizer(size: Size, batch: int, arguments: argparse.Namespace, mesh: Any) -> None:
    """One reconstruction update."""
    network = make_tokenizer(size)
    task = TokenizerTask(network, OptimizerSpec(1e-3, 1000), Objective("l2"))
    tokens = size.tokenizer.grid(*size.clip).size
    rows = make_batch(size, batch)
    run_step("tokenizer", task, rows, tokens=tokens, arguments=arguments, mesh=mesh)


def measure_generator(size: Size, batch: int, arguments: argparse.Namespace, mesh: Any) -> None:
    """One next-block update, on codes and on clips."""
    grid = size.tokenizer.grid(*size.clip)
    plan = SequencePlan(grid, resolve_block(arguments.block, grid), Opening("hybrid"))
    codes = size.tokenizer.make_quantizer().codes
    spec = dataclasses.replace(size.generator, dtype=find_dtype(arguments), remat=arguments.remat)
    attention = make_attention_backend(
        arguments.attention, platform=jax.default_backend(), dtype=spec.dtype
    )
    network = GeneratorNetwork(
        spec,
        plan,
        Vocabulary(codes, special=plan.special_count),
        modern_recipe(attention, layers=spec.layers),
    )
    tokenizer = make_tokenizer(size)
    frozen = {"tokenizer": jax.jit(tokenizer.init)(jax.random.key(1))}
    task = GeneratorTask(network, tokenizer, OptimizerSpec(1e-3, 1000), frozen)
    rows = make_batch(size, batch)
    encoded = np.random.default_rng(0).integers(0, codes, (batch, *grid.shape), np.int32)
    for name in arguments.steps:
        given = {"codes": encoded, "label": rows["label"]} if name == "codes" else rows
        run_step(
            f"generator_on_{name}",
            dataclasses.replace(task, frozen={}) if name == "codes" else task,
            given,
            tokens=plan.target_count,
            arguments=arguments,
            mesh=mesh,
            flops=batch * network.flops_per_clip,
        )


def make_tokenizer(size: Size) -> TokenizerNetwork:
    return TokenizerNetwork(size.tokenizer, mixed_conv)


def make_batch(size: Size, batch: int) -> dict[str, Any]:
    """Random clips and labels."""
    video = np.random.default_rng(0).integers(0, 256, (batch, *size.clip, 3), np.uint8)
    return {"video": video, "label": np.zeros(batch, np.int32)}


def run_step(
    name: str,
    task: Any,
    batch: Mapping[str, Any],
    *,
    tokens: int,
    arguments: argparse.Namespace,
    mesh: Any,
    flops: float = 0.0,
) -> None:
    """Compiles a step, times it and prints its line."""
    axes = getattr(task, "axes", None)
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(task.init, jax.random.key(0))
        shardings = make_state_shardings(mesh, shapes, axes)
        state = jax.jit(task.init, out_shardings=shardings)(jax.random.key(0))
        parameters = sum(int(p.size) for p in jax.tree.leaves(state.params))
        rows, frozen = place_batch(batch, mesh), place_state(task.frozen, mesh)
        began = time.perf_counter()
        step = jax.jit(task.step, donate_argnums=0, out_shardings=(shardings, None))
        compiled = step.lower(state, frozen, rows, jax.random.key(0)).compile()
        compile_seconds = time.perf_counter() - began
        memory = compiled.memory_analysis()

        def call() -> Any:
            nonlocal state
            state, metrics = compiled(state, frozen, rows, jax.random.key(0))
            return metrics["loss"]

        times = time_calls(call, repeats=arguments.repeats)
    clips = len(next(iter(batch.values())))
    rate = flops / times["seconds_median"] / mesh.size
    print_row(
        "train_step",
        {
            "step": name,
            "size": arguments.size,
            "mesh": dict(mesh.shape),
            "dtype": str(find_dtype(arguments)),
            "remat": arguments.remat,
            "attention": arguments.attention,
            "parameters": parameters,
            "batch": clips,
            **times,
            "clips_per_s": round(clips / times["seconds_median"], 3),
            "tokens_per_s": round(clips * tokens / times["seconds_median"], 1),
            **measure_mfu(rate, jax.devices()[0]),
            "compile_seconds": round(compile_seconds, 1),
            "temporary_mib": round(memory.temp_size_in_bytes / 2**20, 1) if memory else None,
            "peak_memory_mib": peak_memory_mib(),
        },
    )


if __name__ == "__main__":
    raise SystemExit(main())
