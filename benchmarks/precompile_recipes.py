# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Compiles the paper's recipes for TPU slices that are not here; writes a JSON file for each.

    python -m benchmarks.precompile_recipes [--only NAME ...] [--out benchmarks/results/precompile]

Needs libtpu (see docs/scaling.md), no TPU. Each takes minutes; what is already there is left alone.
Batches are those of the paper; the generators read codes (`nbp.encode`), so that the tokenizer is
not part of their update.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """A configuration on a slice, and the mesh chosen for it (data, fsdp, tensor)."""

    config: str
    topology: str
    mesh: tuple[int, int, int]
    programs: tuple[str, ...]
    overrides: dict[str, str] = field(default_factory=dict)


UPDATE = ("generator.update",)
ALL = (*UPDATE, "generator.evaluate", "generator.sample")
FULL = {"memory.remat": "full"}


def list_runs() -> dict[str, Run]:
    """The runs by name."""
    runs = {}
    # Slices by their number of chips (v5e, v6e) or cores (v5p, two a chip).
    slices = {"v5e-256": "v5e:16x16", "v5p-64": "v5p:2x4x4", "v6e-64": "v6e:8x8"}
    # UCF101: 256 clips. K600: 64 clips in two micro-batches, 32 at a time.
    meshes = {
        ("ucf101", "v5e-256"): (4, 64, 1),
        ("ucf101", "v5p-64"): (1, 32, 1),
        ("ucf101", "v6e-64"): (1, 64, 1),
        ("k600", "v5e-256"): (1, 32, 8),
        ("k600", "v5p-64"): (1, 32, 1),
        ("k600", "v6e-64"): (1, 32, 2),
    }
    for size in ("3b", "700m"):
        for (data, name), mesh in meshes.items():
            config = f"configs/{data}/generator_{size}.py"
            runs[f"{data}_{size}_{name}"] = Run(config, slices[name], mesh, UPDATE, FULL)
    config = "configs/k600/generator_10b.py"
    runs["k600_10b_v5p-512"] = Run(config, "v5p:4x8x8", (1, 32, 8), UPDATE, FULL)
    # One clip a chip, all chips sharing one copy: what a chip sends must not grow.
    for topology in ("4x4", "8x8", "16x16"):
        chips = 1
        for side in topology.split("x"):
            chips *= int(side)
        batch = {"train.generator.batch": str(chips), "train.generator.accumulate": "1"}
        runs[f"weak_3b_v5e-{chips}"] = Run(
            "configs/k600/generator_3b.py",
            f"v5e:{topology}",
            (1, chips, 1),
            UPDATE,
            FULL | batch,
        )
    # Evaluation and sampling once: the sampler's layers are not scanned, and take long to compile.
    config, mesh = "configs/ucf101/generator_700m.py", meshes["ucf101", "v5p-64"]
    runs["all_700m_v5p-64"] = Run(config, slices["v5p-64"], mesh, ALL, FULL)
    return runs


def main(argv: list[str] | None = None) -> None:
    """Runs what is missing, each in a process of its own."""
    runs = list_runs()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=runs, default=list(runs))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/precompile"))
    parser.add_argument("--table", action="store_true", help="print what is there, compile nothing")
    arguments = parser.parse_args(argv)
    if arguments.table:
        print_table(arguments.out)
        return
    failed = []
    for name in arguments.only:
        file = arguments.out / f"{name}.json"
        if file.is_file():
            continue
        print(f"== {name}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "nbp.precompile", *make_flags(runs[name], file)]
        )
        failed += [name] if done.returncode else []
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def print_table(folder: Path) -> None:
    """The updates of the reports in a folder, for docs/scaling.md."""
    print(
        "| run | chips | mesh | clips | GiB | compute, memory, network ms | MFU at most | sent GB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in list_runs():
        file = folder / f"{name}.json"
        if not file.is_file():
            continue
        report = json.loads(file.read_text(encoding="utf8"))
        found, mesh = report["programs"]["generator.update"], report["mesh"]
        times = [found["seconds"][kind] for kind in ("compute", "memory", "network")]
        batch = report["settings"]["generator"]
        cells = [
            name,
            f"{report['devices']} {report['chip']['name']}",
            " x ".join(str(mesh[axis]) for axis in ("data", "fsdp", "tensor")),
            f"{batch['batch']}" + (f" in {batch['accumulate']}" if batch["accumulate"] > 1 else ""),
            f"{found['bytes']['peak'] / 2**30:.2f}",
            ", ".join(f"{seconds * 1e3:.0f}" for seconds in times),
            f"{found['mfu_bound']:.0%}",
            f"{found['wire_bytes'] / 1e9:.1f}",
        ]
        print(f"| {' | '.join(cells)} |")


def make_flags(run: Run, file: Path) -> list[str]:
    """Arguments of `nbp.precompile`."""
    axes = zip(("data", "fsdp", "tensor"), run.mesh, strict=True)
    overrides = {"data.kind": "tokens", **{f"mesh.{axis}": str(n) for axis, n in axes}}
    overrides |= run.overrides
    return [
        f"--config={run.config}",
        f"--topology={run.topology}",
        f"--out={file}",
        *("--programs", *run.programs),
        *(f"--config.{key}={value}" for key, value in overrides.items()),
    ]


if __name__ == "__main__":
    main()
