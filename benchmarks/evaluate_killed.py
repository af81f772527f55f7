# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""An evaluation of generated clips: how long it takes, and whether kills change its number.

    python -m benchmarks.evaluate_killed [--clips 512] [--size 64] [--kills 3] [--seed 0]

A model of the quickstart's size with random weights (an evaluation costs the same), on moving
shapes of --size pixels, is scored with random features: first undisturbed, then killed with
SIGKILL at random moments of its work and started again until it ends. All scores must be the same,
bit for bit; the exit status is 1 if one differs. On a shared machine the seconds of processor time
say more than those on the clock.
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
from tests.evaluated import add_generator, make_workdir

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
        chunks = count_files(workdir)
        shutil.rmtree(workdir / "report")
        killed, points = kill(
            workdir,
            clips=arguments.clips,
            chunks=chunks,
            kills=arguments.kills,
            seed=arguments.seed,
            seconds=row["seconds"],
        )
        same = killed["scores"] == whole["scores"]
        row = {"same_bits": same, "killed_after": points, "chunks": chunks}
        print_row("evaluate_killed", {"clips": arguments.clips, "size": arguments.size, **row})
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
    workdir: Path, *, clips: int, chunks: int, kills: int, seed: int, seconds: float
) -> tuple[dict[str, Any], list[int]]:
    """The report after all kills, and how many of the `chunks` files each kill found.

    A kill comes a random moment after a random number of files, real or generated, is there.
    seconds: of the whole evaluation; a moment is shorter than a chunk.
    """
    rng = random.Random(seed)
    points: list[int] = []
    for target in sorted(rng.sample(range(chunks), kills)):
        process = start(workdir, clips)
        while count_files(workdir) < target and process.poll() is None:
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 0.3 * seconds / chunks))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            raise SystemExit(f"an evaluation ended before it was killed: {process.returncode}")
        points.append(count_files(workdir))
    finish(start(workdir, clips))
    return read(workdir), points


def count_files(workdir: Path) -> int:
    """Chunks that are there."""
    return len(list((workdir / "report" / "cache").glob("*/*.npz")))


if __name__ == "__main__":
    main()
