# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Memory of one update of a tokenizer configuration on one device, by compiling it.

    python -m benchmarks.tokenizer_memory --config configs/ucf101/tokenizer.py --clips 8 --images 2

Nothing is allocated and no data or weights are read: the task of the configuration (discriminator,
LPIPS, average of parameters, optimizers) is lowered for shapes alone. Needs a full installation.

`--topology v5p:2x2x1` compiles for a TPU that need not be there (libtpu has to be installed);
otherwise for the device that JAX finds. Compiling at full size takes minutes to an hour.
XLA computes bfloat16 in float32 on a CPU, so the numbers of that backend are too large.
"""

import argparse
import dataclasses
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from benchmarks.measure import print_row
from nbp import build
from nbp.config import load_config, parse_overrides
from nbp.config.schema import Config
from nbp.models.lpips import LpipsNetwork
from nbp.nn.conv3d import FORMULATIONS
from nbp.tasks.tokenizer import TokenizerTask

GIB = 2**30


def main(argv: list[str] | None = None) -> None:
    """Prints one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/ucf101/tokenizer.py", metavar="FILE[:VARIANT]")
    parser.add_argument("--clips", type=int, default=8, help="of the device's share of a batch")
    parser.add_argument("--images", type=int, default=2, help="likewise; 0 for none")
    parser.add_argument("--formulation", choices=FORMULATIONS, help="default: as nbp.train")
    parser.add_argument("--topology", help="of an absent TPU, e.g. v5p:2x2x1")
    arguments, rest = parser.parse_known_args(argv)

    unread = {"data.root": "unread", "losses.lpips_root": "unread"}
    config = load_config(arguments.config, unread | parse_overrides(rest))
    task = make_task(config, arguments.formulation)
    device = find_device(arguments.topology)
    shapes = describe_arguments(task, config, clips=arguments.clips, images=arguments.images)
    placed = place(shapes, device)
    began = time.perf_counter()
    compiled = jax.jit(task.step, donate_argnums=0).lower(*placed).compile()
    seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()
    if memory is None:
        raise SystemExit(f"no memory analysis for {device.device_kind}")
    sizes = {
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "shared": memory.alias_size_in_bytes,  # outputs that take the place of arguments
        "program": memory.generated_code_size_in_bytes,
    }
    total = sum(sizes.values()) - 2 * sizes["shared"]
    print_row(
        "tokenizer_memory",
        {
            "config": arguments.config,
            "changes": rest,
            "clips": arguments.clips,
            "images": arguments.images,
            "formulation": arguments.formulation or "as nbp.train",
            "perceptual": config.losses.perceptual,
            "adversarial": config.adversarial.weight > 0,
            "remat": config.tokenizer.remat,
            "dtype": config.tokenizer.dtype,
            "compiled_for": device.device_kind,
            "bytes": sizes,
            "gib": round(total / GIB, 2),
            "gigabytes": round(total / 1e9, 2),
            "estimated_cycles": estimate_cycles(compiled.as_text() or ""),
            "compile_seconds": round(seconds, 1),
        },
    )


def make_task(config: Config, formulation: str | None) -> TokenizerTask:
    """The configuration's task, with the shapes of LPIPS in place of its weights."""
    unread = dataclasses.replace(config.losses, perceptual="none")
    task = build.make_tokenizer_task(dataclasses.replace(config, losses=unread))
    task = dataclasses.replace(task, objective=config.losses)
    if config.losses.perceptual == "lpips":
        weights = jax.eval_shape(LpipsNetwork().init, jax.random.key(0))
        task = dataclasses.replace(task, frozen={"lpips": weights})
    if formulation is None:
        return task
    conv = FORMULATIONS[formulation]
    task = dataclasses.replace(task, network=dataclasses.replace(task.network, conv=conv))
    if task.adversary is None:
        return task
    judge = dataclasses.replace(task.adversary.network, conv=conv)
    return dataclasses.replace(task, adversary=dataclasses.replace(task.adversary, network=judge))


def find_device(topology: str | None) -> Any:
    """The device to compile for, real or described."""
    if topology is None:
        return jax.devices()[0]
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]


def describe_arguments(task: TokenizerTask, config: Config, *, clips: int, images: int) -> Any:
    """Shapes of what a step takes: state, frozen arrays, batch, key."""
    size = config.data.size
    batch = {"video": jax.ShapeDtypeStruct((clips, config.data.frames, size, size, 3), jnp.uint8)}
    if images:
        batch["image"] = jax.ShapeDtypeStruct((images, 1, size, size, 3), jnp.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(task.init, key), task.frozen, batch, key


def estimate_cycles(program: str) -> int | None:
    """Sum of the compiler's own estimates of all instructions; TPU programs have them.

    None where it has no idea of one, which it says by the largest integer.
    """
    cycles = [int(count) for count in re.findall(r'"estimated_cycles":"(\d+)"', program)]
    return sum(cycles) if cycles and max(cycles) < 2**62 else None


def place(shapes: Any, device: Any) -> Any:
    """The same shapes, on one device."""
    sharding = SingleDeviceSharding(device)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
    )


if __name__ == "__main__":
    main()
