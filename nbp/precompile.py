# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Compiles a configuration for devices that need not be here: memory, operations, collectives.

No data, weights and workdir are read. TPU topologies need the package libtpu, but no TPU.

    python -m nbp.precompile --config FILE[:VARIANT] --topology v5e:16x16 [--out FILE.json]
"""

from pathlib import Path

from nbp.errors import run_command
from nbp.flags import COUNT, Parser


def make_parser() -> Parser:
    parser = Parser(
        "nbp.precompile",
        __doc__,
        examples=(
            "--config configs/quickstart.py --topology cpu:8",
            "--config configs/ucf101/generator_3b.py --topology v5e:16x16\n"
            "--config.data.kind=tokens --config.mesh.fsdp=256 --config.memory.remat=full",
        ),
        overrides="all",
    )
    add = parser.add_argument_group("what is compiled").add_argument
    add("--config", required=True, metavar="FILE[:VARIANT]", help="what to compile")
    add("--topology", required=True, help="v5e:16x16, v5p:2x4x4 (chips), v6e:8x8, cpu:8 or gpu")
    add = parser.add_argument_group("programs, and what is said of them").add_argument
    add("--out", type=Path, help="where to write the report as JSON")
    add("--classes", type=COUNT, default=101, help="labels, for label prompts")
    add("--programs", nargs="*", default=(), help="default: all, by their names")
    add("--no_advice", action="store_true", help="of what would make it fit")
    return parser


if __name__ == "__main__":
    run_command("nbp.precompile", make_parser)  # help and mistakes end there, before the imports


import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from nbp import __version__, build
from nbp.config import load_config, parse_overrides
from nbp.config.schema import Config, StageName
from nbp.errors import ConfigError
from nbp.files import check_writable_file
from nbp.lowering import Case
from nbp.nn.attention.choose import choose_attention
from nbp.parallel.chips import Chip, Topology, find_chip, parse_topology
from nbp.parallel.compiler_messages import (
    describe_installation,
    explain_failure,
    explain_mismatch,
    find_libtpu,
    is_exhausted,
    read_exhausted,
)
from nbp.parallel.hlo import count_flops, measure_program, sum_collectives
from nbp.progress import Progress
from nbp.stages import STAGES, make_cases
from nbp.train_plan import check_batches


def main(argv: list[str] | None = None) -> None:
    """The command. argv: its arguments; default: those of the process."""
    arguments, rest = make_parser().parse_known_args(argv)

    if arguments.out:
        check_writable_file(arguments.out, "Name another with --out FILE.json.")

    topology = parse_topology(arguments.topology)
    # Data and weights are described by the configuration; nothing is read from these folders.
    unread = dict.fromkeys(("data.root", "losses.lpips_root", "evaluation.features"), "unread")
    config = load_config(arguments.config, {**unread, **parse_overrides(rest)})

    if topology.kind == "cpu":
        jax.config.update("jax_num_cpu_devices", topology.size)
    if topology.kind != "gpu":
        jax.config.update("jax_platforms", "cpu")

    request = PrecompileRequest(
        config,
        topology,
        classes=arguments.classes,
        programs=tuple(arguments.programs),
        advise=not arguments.no_advice,
    )
    found = precompile(request, lambda text: print(f"[precompile] {text}", flush=True))
    text = json.dumps(found, indent=2) + "\n"
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text, encoding="utf8")
        print(f"written to {arguments.out}")
    else:
        print(text, end="")


Report = dict[str, Any]


@dataclass(frozen=True)
class PrecompileRequest:
    """What the command line asks for.

    classes: labels of the data, for label prompts. programs: names to compile, all if empty.
    advise: whether to look for what would make an update fit that does not.
    """

    config: Config
    topology: Topology
    classes: int = 101
    programs: tuple[str, ...] = ()
    advise: bool = True


def precompile(request: PrecompileRequest, report: Callable[[str], None] = print) -> Report:
    """Compiles and measures; the result is plain JSON.

    Raises ConfigError where the devices cannot be described or the configuration does not fit them.
    """
    config = request.config
    if request.topology.kind not in ("cpu", "gpu") and (mismatch := explain_mismatch()):
        report(mismatch)
    devices = find_devices(request.topology)
    chip = find_chip(request.topology, devices[0])
    programs: dict[str, Report] = {}
    cases = list_cases(request, config, devices)
    with Progress(len(cases), "programs", report) as progress:
        for case, mesh in cases:
            found = programs[case.name] = measure_case(case, mesh, chip)
            progress.note(describe(case.name, found))
            if not found["fits"] and ".update" in case.name and request.advise:
                found["advice"] = seek_fit(request, case.name, devices, chip, progress.note)
            progress.step()
    return {
        "config": config.name,
        "topology": request.topology.text,
        "devices": len(devices),
        "chip": dataclasses.asdict(chip),
        "mesh": dict(cases[0][1].shape),
        "settings": list_settings(config, devices[0].platform),
        "programs": programs,
        "versions": {"nbp": __version__, "jax": jax.__version__, **find_compiler(request.topology)},
    }


def list_settings(config: Config, platform: str) -> Report:
    """What decides memory and time, beside the network; attention as the platform computes it."""
    stages = {
        name: {"batch": stage.batch, "accumulate": stage.accumulate}
        for name in config.stages
        for stage in [getattr(config.train, name)]
    }
    network = {key: getattr(config.generator, key) for key in ("layers", "heads", "width", "dtype")}
    network["attention"] = choose_attention(
        config.generator.attention, platform, config.generator.dtype
    )
    return {
        **stages,
        "network": network,
        "memory": dataclasses.asdict(config.memory),
        "data": config.data.kind,
    }


def list_cases(
    request: PrecompileRequest, config: Config, devices: list[Any]
) -> list[tuple[Case, Mesh]]:
    """The programs to compile, each with its stage's mesh."""
    found = []
    for stage in config.stages:
        mesh = build.make_mesh(config, stage, devices)
        check_batches(config, stage, mesh)
        single = dataclasses.replace(config, stages=(stage,))
        found += [(case, mesh) for case in make_cases(single, mesh, request.classes)]
    wanted = [(c, m) for c, m in found if not request.programs or c.name in request.programs]
    if not wanted:
        known = ", ".join(case.name for case, _ in found)
        raise ConfigError(f"--programs {' '.join(request.programs)}: this config has {known}")
    return wanted


def find_devices(topology: Topology) -> list[Any]:
    """The devices of a topology, described by their compiler or present.

    Raises ConfigError where neither is possible.
    """
    if topology.kind in ("cpu", "gpu"):
        try:
            here = jax.devices(topology.kind)
        except RuntimeError as error:
            raise ConfigError(f"--topology {topology.text}: no such device is here") from error
        if topology.size > len(here):
            raise ConfigError(
                f"--topology {topology.text}: {len(here)} devices are here, the number was fixed "
                "before"
            )
        return here[: topology.size or None]
    # The compiler needs no chip, and must not look for one on the network.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is shared
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    try:
        return list(
            topologies.get_topology_desc(platform="tpu", topology_name=topology.text).devices
        )
    except RuntimeError as error:
        raise ConfigError(
            f"--topology {topology.text}: the TPU compiler says: {str(error).splitlines()[0]} "
            f"It comes with {describe_installation()} (package libtpu); a TPU is not needed."
        ) from error


def find_compiler(topology: Topology) -> Report:
    """The version of what compiled."""
    if topology.kind in ("cpu", "gpu"):
        return {"platform": jax.devices(topology.kind)[0].client.platform_version}
    return {"libtpu": find_libtpu() or "unknown"}  # named by TPU_LIBRARY_PATH


def measure_case(case: Case, mesh: Mesh, chip: Chip) -> Report:
    """Compiles a program and reads it; a program that does not fit has no more than its size.

    The size is None where the compiler does not tell it. Raises ConfigError for a compiler that
    does not go with this JAX.
    """
    began = time.perf_counter()
    flops = None
    with jax.set_mesh(mesh):
        try:
            lowered, jaxpr = case.lower()
            flops = count_flops(jaxpr) / mesh.size
            compiled = lowered.compile()
        except RuntimeError as error:  # JaxRuntimeError is one
            if flops is not None and is_exhausted(str(error)):
                sizes = {**case.held, "peak": read_exhausted(str(error), chip.memory)}
                return {"clips": case.clips, "bytes": sizes, "fits": False, "flops": flops}
            if is_tpu(mesh) and (explained := explain_failure(error)) is not None:
                raise explained from error
            raise
    sizes, program = measure_program(compiled, mesh.size)
    collectives = program.collectives()
    wire = sum(collective.wire_bytes for collective in collectives)
    seconds = bound_seconds(chip, flops=flops, moved=program.memory_traffic(), wire=wire)
    step = max(seconds.values(), default=0.0)
    found: Report = {
        "clips": case.clips,
        "bytes": {**case.held, "activations": sizes["temporaries"], **sizes},
        "fits": sizes["peak"] <= chip.memory,
        "flops": flops,
        "memory_traffic": round(program.memory_traffic()),
        "collectives": sum_collectives(collectives),
        "wire_bytes": round(wire),
        "collectives_in_attention": sum("attention" in c.source for c in collectives),
        "seconds": {**seconds, "step": step},
        "compile_seconds": round(time.perf_counter() - began, 1),
    }
    if case.flops:
        found["model_flops"] = case.flops / mesh.size
    if case.flops and step:
        found["mfu_bound"] = case.flops / mesh.size / step / chip.flops
    return found


def is_tpu(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == "tpu"


def bound_seconds(chip: Chip, *, flops: float, moved: float, wire: float) -> dict[str, float]:
    """Seconds that each of compute, memory and network needs at its peak; the step takes longer."""
    pairs = {
        "compute": (flops, chip.flops),
        "memory": (moved, chip.bandwidth),
        "network": (wire, chip.network),
    }
    return {name: amount / speed for name, (amount, speed) in pairs.items() if speed}


def seek_fit(
    request: PrecompileRequest,
    name: str,
    devices: list[Any],
    chip: Chip,
    report: Callable[[str], None],
) -> list[Report]:
    """Tries each single change that saves memory until it fits; then all of them together."""
    tried: list[Report] = []
    best: dict[str, Any] = {}
    stage: Any = name.split(".")[0]
    for changes in list_changes(request.config, stage, len(devices)):
        for change in changes:
            found = _try(request, change, name, devices, chip)
            tried.append(found)
            report(f"  with {_spell(change)}: {_spell_found(found)}")
            if found["fits"]:
                break
        best |= changes[-1] if changes else {}
    if not any(found["fits"] for found in tried):
        found = _try(request, best, name, devices, chip)
        report(f"  with {_spell(best)}: {_spell_found(found)}")
        tried.append(found)
    return tried


def list_changes(config: Config, stage: StageName, devices: int) -> list[list[dict[str, Any]]]:
    """Overrides to try, by kind (remat, micro-batches, fsdp, tensor), from mild to drastic."""
    chosen, mesh = getattr(config.train, stage), config.mesh
    transformer = STAGES[stage].transformer
    order = ("none", "dots", "full")
    current = config.memory.remat
    remat = order[order.index(current) + 1 :] if current in order and transformer else ()
    parts = [n for n in (2, 4, 8) if chosen.batch % (chosen.accumulate * n) == 0]
    halves = [n for n in (2, 4, 8) if devices % n == 0]
    heads = [n for n in halves if transformer and config.generator.heads % n == 0]
    return [
        [{"memory.remat": name} for name in remat],
        [{f"train.{stage}.accumulate": chosen.accumulate * n} for n in parts],
        [{"mesh.data": 1, "mesh.fsdp": devices // mesh.tensor}] if mesh.data != 1 else [],
        [{"mesh.data": 0, "mesh.fsdp": 0, "mesh.tensor": n} for n in heads if n > mesh.tensor],
    ]


def _try(
    request: PrecompileRequest,
    change: Mapping[str, Any],
    name: str,
    devices: list[Any],
    chip: Chip,
) -> Report:
    config = request.config
    for key, value in change.items():
        config = replace_key(config, key.split("."), value)
    try:
        cases = list_cases(request, config, devices)
        case, mesh = next((case, mesh) for case, mesh in cases if case.name == name)
        found = measure_case(case, mesh, chip)
    except ConfigError as error:  # e.g. an axis that does not divide
        return {"change": dict(change), "fits": False, "refused": str(error)}
    return {"change": dict(change), "fits": found["fits"], "peak": found["bytes"]["peak"]}


def replace_key(config: Any, path: list[str], value: Any) -> Any:
    """A copy of a nested dataclass with one field changed."""
    first, *rest = path
    inner = replace_key(getattr(config, first), rest, value) if rest else value
    return dataclasses.replace(config, **{first: inner})


def describe(name: str, found: Report) -> str:
    """A program's line."""
    text = f"{name}: {_spell_size(found['bytes']['peak'], found['fits'])}"
    if found.get("seconds", {}).get("step"):
        longest = max(("compute", "memory", "network"), key=found["seconds"].__getitem__)
        text += f"; at best {found['seconds']['step'] * 1e3:.1f} ms, bound by {longest}"
    if "mfu_bound" in found:
        text += f", MFU at most {found['mfu_bound']:.0%}"
    return text


def _spell(change: Mapping[str, Any]) -> str:
    return " ".join(f"--config.{key}={value}" for key, value in change.items())


def _spell_found(found: Report) -> str:
    if "refused" in found:
        return found["refused"]
    return _spell_size(found["peak"], found["fits"])


def _spell_size(peak: int | None, fits: bool) -> str:
    if peak is None:
        return "does not fit (the compiler does not tell how much it needs)"
    return f"{peak / 2**30:.2f} GiB a device, {'fits' if fits else 'does not fit'}"
