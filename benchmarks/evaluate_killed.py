# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""An evaluation of generated clips: how long it takes, and whether kills change its number.

    python -m benchmarks.evaluate_killed [--clips 512] [--size 64] [--kills 3] [--seed 0]

A model of the quickstart's size with random weights (an evaluation costs the same), on moving
shapes of --size pixels, is scored with random features: first undisturbed, then killed with
SIGKILL at moments drawn evenly over what is left of the time and started again until it ends. All
scores must be the same, bit for bit; the exit status is 1 if one differs. On a shared machine the
seconds of processor time say more than those on the clock.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import print_row
from nbp.config import load_config
from tests.jobs.evaluated import add_generator, make_workdir

ROOT = Path(__file__).resolve().parent.parent
PROTOCOL = "moving-shapes"
CONFIG = "configs/quickstart.py"


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluates, kills, compares, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="nbp-evaluate-") as folder:
        workdir = make_model(Path(folder) / "run", arguments.size, arguments.frames)
        whole, row = measure(workdir, arguments.clips)
        print_row("evaluate_generated", {"size": arguments.size, **row})
        shutil.rmtree(workdir / "report")
        killed, points = kill(workdir, arguments, seconds=row["seconds"])
        same = killed["scores"] == whole["scores"]
        print_row("evaluate_killed", {"same_bits": same, "killed_after": points})
    if not same:
        raise SystemExit(1)


def make_model(folder: Path, size: int, frames: int, config: str = CONFIG) -> Path:
    """A workdir with both stages, of random weights."""
    keys = {"data.size": str(size), "data.frames": str(frames)}
    keys |= {f"train.{stage}.ema": "0" for stage in ("tokenizer", "generator")}
    return add_generator(make_workdir(folder, {}, config=load_config(config, keys)))


def start(workdir: Path, clips: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nbp.evaluate", "--workdir", str(workdir)]
    command += ["--protocol", PROTOCOL, "--features", "random-i3d", "--clips", str(clips)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str], timeout: float | None = None) -> None:
    output, _ = process.communicate(timeout=timeout)
    if process.returncode:
        raise SystemExit(f"an evaluation failed with exit code {process.returncode}:\n{output}")


def read(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "report" / f"{PROTOCOL}.json").read_text(encoding="utf8"))


def measure(workdir: Path, clips: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report of an evaluation that nobody disturbs, and a row of how long its parts took."""
    before, began = processor_seconds(), time.monotonic()
    finish(start(workdir, clips))
    seconds, used = time.monotonic() - began, processor_seconds() - before
    report = read(workdir)
    return report, {
        "clips": clips,
        "real_clips": report["held_out_clips"],
        "frames": report["data"]["frames"],
        "seconds": round(seconds, 1),
        "processor_seconds": round(used, 1),
        "seconds_of": report["generation"]["seconds_of"],
        "seconds_of_real": report["reference"]["seconds"],
        "load": round(os.getloadavg()[0], 1),
    }


def processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def kill(
    workdir: Path, arguments: argparse.Namespace, *, seconds: float
) -> tuple[dict[str, Any], list[int]]:
    """The report after all kills, and how many chunks of generated clips each kill found."""
    rng = random.Random(arguments.seed)
    points: list[int] = []
    while True:
        process = start(workdir, arguments.clips)
        try:
            # Each start spends part of its time on compiling: so that every kill meets the work.
            patience = rng.uniform(0.3, 0.8) * seconds / max(1, len(points))
            finish(process, patience if len(points) < arguments.kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            points.append(len(list((workdir / "report" / "cache").glob("generated-*/*.npz"))))
            continue
        return read(workdir), points


if __name__ == "__main__":
    main()
