# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Checks correctness, then measures everything, in one call of at most eight minutes.

    python -m benchmarks.run_all [--size quickstart|base|700m] --out benchmarks/results/NAME.jsonl

Needs only jax, flax, optax and numpy. Every section is a process of its own with a budget of time:
one that fails or takes too long is stopped, keeps the lines that it has printed, and the next one
starts. Lines of JSON go to the standard output and to `--out`; the same command leaves out what is
done there. On a CPU the default sizes are those of the quickstart, on an accelerator the paper's.
Lines of `run_all` say how each section ended; the exit code is 1 if one did not end well. Tables of
all lines come last, in Markdown.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

SIZES = ("quickstart", "base", "700m")


@dataclass(frozen=True)
class Section:
    """A benchmark, the seconds that it may take, and its arguments by size."""

    name: str
    seconds: float
    arguments: Mapping[str, str]


SECTIONS = (
    Section("checks", 60, dict.fromkeys(SIZES, "")),
    Section(
        "train_step",
        115,
        {
            "quickstart": "--size quickstart",
            "base": "--size base",
            "700m": "--size 700m --stage generator --steps codes --remat full --batch 8 1 64",
        },
    ),
    Section(
        "sampling",
        115,
        {
            "quickstart": "--size quickstart",
            "base": "--size 87m",
            "700m": "--size 700m --dtype bfloat16 --ways row frame token --batches 1 64 "
            "--tokenizer",
        },
    ),
    Section(
        "tokenizer",
        60,
        {"quickstart": "--size small", "base": "--size small", "700m": "--size full"},
    ),
    Section(
        "attention",
        70,
        {
            "quickstart": "--size base --repeats 3",
            "base": "--size base 700m",
            "700m": "--size base 700m 3b",
        },
    ),
    Section(
        "cross_entropy",
        40,
        {
            "quickstart": "--layers 1 --width 64 --heads 2 --batch 1 --rounds 1 --repeats 1",
            "base": "--rounds 1",
            "700m": "--rounds 1 --batch 8",
        },
    ),
)
# Columns of the tables; a benchmark that is not here has none.
COLUMNS = {
    "check": ("name", "dtype", "error", "tolerance"),
    "train_step": (
        *("step", "size", "batch", "dtype", "remat", "attention", "seconds_median"),
        *("tokens_per_s", "mfu", "temporary_mib"),
    ),
    "peaks": ("copy_bytes_per_s", "matmul_flops_per_s"),
    "sampling": (
        *("way", "block", "batch", "frames_per_s", "frames_per_s_with_tokenizer"),
        *("share_of_bandwidth", "share_of_compute"),
    ),
    "tokenizer": ("pass", "formulation", "clips_per_s", "share_of_peak"),
    "attention": (
        *("size", "backend_name", "dtype", "error", "forward_seconds_median"),
        *("both_seconds_median", "both_share_of_matmul", "both_temporary_mib"),
    ),
    "cross_entropy": ("variant", "batch", "seconds_median", "temporary_mib"),
    "run_all": ("section", "size", "outcome", "seconds"),
}
MACHINE = ("device", "cpu", "cores", "jax", "python")


def main(argv: list[str] | None = None, sections: Sequence[Section] = SECTIONS) -> int:
    """Runs the sections one after another; 1 if one of them did not end well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, help="default: by the device")
    parser.add_argument("--only", nargs="+", choices=[s.name for s in sections])
    parser.add_argument(
        "--patience", type=float, default=1.0, help="multiplies every section's budget"
    )
    parser.add_argument("--out", type=Path, help="where the lines are added, FILE.jsonl")
    arguments = parser.parse_args(argv)
    size = arguments.size or ("quickstart" if find_backend() == "cpu" else "700m")
    rows = read_rows(arguments.out)
    done = {row["section"] for row in rows if row.get("outcome") == "done" and row["size"] == size}
    chosen = [s for s in sections if not arguments.only or s.name in arguments.only]
    outcomes = []
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("a", encoding="utf8") if arguments.out else nullcontext() as file:
        for section in chosen:
            if section.name not in done:
                outcome, found = run_section(
                    section, size, section.seconds * arguments.patience, file
                )
                outcomes.append(outcome)
                rows += found
    print(make_tables(rows))
    return int(any(outcome != "done" for outcome in outcomes))


def read_rows(path: Path | None) -> list[dict[str, Any]]:
    """The lines of an earlier call; one that a kill has cut off is left out."""
    if path is None or not path.exists():
        return []
    return [row for line in path.read_text("utf8").splitlines() if (row := read_row(line))]


def read_row(line: str) -> dict[str, Any] | None:
    """A line of JSON; None for all others."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def run_section(
    section: Section, size: str, budget: float, file: IO[str] | None
) -> tuple[str, list[dict[str, Any]]]:
    """How it ended (done, failed or out of time), and its rows, passed on as they come."""
    arguments = section.arguments[size].split()
    command = [sys.executable, "-u", "-m", f"benchmarks.{section.name}", *arguments]
    began = time.perf_counter()
    rows: list[dict[str, Any]] = []

    def keep(line: str) -> None:
        print(line, flush=True)
        if row := read_row(line):
            rows.append(row)
            if file is not None:
                file.write(json.dumps(row) + "\n")
                file.flush()

    # A group of its own: what it starts itself is stopped with it.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
    assert process.stdout is not None
    late = threading.Event()

    def stop() -> None:
        late.set()
        os.killpg(process.pid, signal.SIGKILL)

    watch = threading.Timer(budget, stop)
    watch.start()
    try:
        for line in process.stdout:
            keep(line.rstrip("\n"))
        code = process.wait()
    finally:  # Ctrl-C too
        watch.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    outcome = "out of time" if late.is_set() else "failed" if code else "done"
    row = {
        "benchmark": "run_all",
        "section": section.name,
        "size": size,
        "outcome": outcome,
        "seconds": round(time.perf_counter() - began, 1),
        "budget": budget,
    }
    keep(json.dumps(row))
    return outcome, rows


def make_tables(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows in Markdown, a table a benchmark; machines that they name on top."""
    rows = list(rows)
    machines = {
        ", ".join(f"{key} {row[key]}" for key in MACHINE): None
        for row in rows
        if all(key in row for key in MACHINE)
    }
    parts = ["\n".join(machines)]
    for benchmark, wanted in COLUMNS.items():
        mine = [row for row in rows if row.get("benchmark") == benchmark]
        columns = [c for c in (*wanted, "failed") if any(c in row for row in mine)]
        if columns:
            cells = [columns, ["---"] * len(columns)]
            cells += [[spell(row.get(column)) for column in columns] for row in mine]
            lines = "\n".join(f"| {' | '.join(line)} |" for line in cells)
            parts.append(f"**{benchmark}**\n\n{lines}")
    return "\n\n".join(part for part in parts if part)


def spell(value: Any) -> str:
    """Numbers with four digits that say something."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def find_backend() -> str:
    """Where JAX runs. Asked in another process: this one would hold on to the accelerator."""
    code = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


if __name__ == "__main__":
    raise SystemExit(main())
