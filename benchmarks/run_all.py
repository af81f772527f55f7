# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Checks correctness, then measures everything, in one call of at most eight minutes.

    python -m benchmarks.run_all [--size quickstart|base|700m] > benchmarks/results/NAME.jsonl

Needs only jax, flax, optax and numpy. Every section is a process of its own with a budget of time:
one that fails or takes too long is stopped, keeps the lines that it has printed, and the next one
starts. On a CPU the default sizes are those of the quickstart, on an accelerator the paper's. Lines
of `run_all` say how each section ended; the exit code is 1 if one did not end well.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SIZES = ("quickstart", "base", "700m")
SAMPLING = {
    "quickstart": ["--size", "quickstart"],
    "base": ["--size", "87m"],
    "700m": ["--size", "700m", "--dtype", "bfloat16", "--batches", "1", "64", "--tokenizer"],
}


@dataclass(frozen=True)
class Section:
    """A benchmark, its arguments by size, and the seconds that it may take."""

    name: str
    seconds: float
    arguments: Mapping[str, Sequence[str]]


SECTIONS = (
    Section("checks", 45, dict.fromkeys(SIZES, ())),
    Section(
        "attention",
        90,
        {
            "quickstart": ["--size", "base", "--repeats", "3"],
            "base": ["--size", "base", "700m"],
            "700m": ["--size", "base", "700m", "3b"],
        },
    ),
    Section("sampling", 140, SAMPLING),
    Section("train_step", 115, {size: ["--size", size] for size in SIZES}),
    Section(
        "tokenizer",
        70,
        {
            size: ["--size", tokenizer]
            for size, tokenizer in zip(SIZES, ("small", "small", "full"), strict=True)
        },
    ),
)


def main(argv: list[str] | None = None, sections: Sequence[Section] = SECTIONS) -> int:
    """Runs the sections one after another; 1 if one of them did not end well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, help="default: by the device")
    parser.add_argument("--only", nargs="+", choices=[s.name for s in sections])
    parser.add_argument(
        "--patience", type=float, default=1.0, help="multiplies every section's budget"
    )
    arguments = parser.parse_args(argv)
    size = arguments.size or ("quickstart" if find_backend() == "cpu" else "700m")
    chosen = [s for s in sections if not arguments.only or s.name in arguments.only]
    outcomes = [run_section(s, size, s.seconds * arguments.patience) for s in chosen]
    return int(any(outcome != "done" for outcome in outcomes))


def run_section(section: Section, size: str, budget: float) -> str:
    """How it ended: done, failed or out of time. Its lines go where ours go."""
    command = [sys.executable, "-m", f"benchmarks.{section.name}", *section.arguments[size]]
    began = time.perf_counter()
    try:
        code = subprocess.run(command, timeout=budget).returncode
        outcome = "failed" if code else "done"
    except subprocess.TimeoutExpired:
        outcome = "out of time"
    row = {
        "benchmark": "run_all",
        "section": section.name,
        "size": size,
        "outcome": outcome,
        "seconds": round(time.perf_counter() - began, 1),
        "budget": budget,
    }
    print(json.dumps(row), flush=True)
    return outcome


def find_backend() -> str:
    """Where JAX runs. Asked in another process: this one would hold on to the accelerator."""
    code = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


if __name__ == "__main__":
    raise SystemExit(main())
