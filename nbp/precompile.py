# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m nbp.precompile --config FILE[:VARIANT] --topology v5e:16x16 [--out FILE.json]`."""

import json
from pathlib import Path

from nbp.errors import run_main
from nbp.files import check_writable_file
from nbp.flags import COUNT, Parser


def make_parser() -> Parser:
    parser = Parser(
        "nbp.precompile",
        main.__doc__,
        examples=(
            "--config configs/quickstart.py --topology cpu:8",
            "--config configs/ucf101/generator_3b.py --topology v5e:16x16\n"
            "--config.data.kind=tokens --config.mesh.fsdp=256 --config.memory.remat=full",
        ),
        overrides="all",
    )
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="what to compile")
    parser.add_argument(
        "--topology", required=True, help="v5e:16x16, v5p:2x4x4 (chips), v6e:8x8, cpu:8 or gpu"
    )
    parser.add_argument("--out", type=Path, help="where to write the report as JSON")
    parser.add_argument("--classes", type=COUNT, default=101, help="labels, for label prompts")
    parser.add_argument("--programs", nargs="*", default=(), help="default: all, by their names")
    parser.add_argument("--no_advice", action="store_true", help="of what would make it fit")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Compiles a configuration for devices that need not be here: memory, operations, collectives.

    No data, weights and workdir are read. TPU topologies need the package libtpu, but no TPU.
    """
    arguments, rest = make_parser().parse_known_args(argv)

    if arguments.out:
        check_writable_file(arguments.out, "Name another with --out FILE.json.")

    from nbp.config import load_config, parse_overrides
    from nbp.parallel.chips import parse_topology

    topology = parse_topology(arguments.topology)
    # Data and weights are described by the configuration; nothing is read from these folders.
    unread = dict.fromkeys(("data.root", "losses.lpips_root", "evaluation.features"), "unread")
    config = load_config(arguments.config, {**unread, **parse_overrides(rest)})

    import jax

    if topology.kind == "cpu":
        jax.config.update("jax_num_cpu_devices", topology.size)
    if topology.kind != "gpu":
        jax.config.update("jax_platforms", "cpu")

    from nbp.jobs.precompile import PrecompileRequest, precompile

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


if __name__ == "__main__":
    run_main(main)
