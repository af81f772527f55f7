# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What trackers cost: trainings with all of them and with none, in turn.

    python -m benchmarks.trackers [--updates 100] [--log_every 5] [--rounds 3]

Trains the quickstart for a few updates of each stage, without its last evaluation, as programs of
their own; needs the packages of all trackers (docs/tracking.md). `update_ratio` compares the median
time of an update, `seconds_ratio` the whole command with its imports and its end, which trackers
make longer once. Parameters must have the same bits, and every store must agree with metrics.csv:
the exit status is 1 where one differs.
"""

import argparse
import csv
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from benchmarks.measure import print_row
from nbp import build
from nbp.tracking.packages import TrackerName
from nbp.workdir import read_config, read_labels
from tests.tracking import stores

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "configs/quickstart.py"
WAYS: dict[str, tuple[str, ...]] = {"none": (), "all": get_args(TrackerName)}


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, compares, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--log_every", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    measured: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    params: set[bytes] = set()
    with tempfile.TemporaryDirectory(prefix="nbp-trackers-") as folder:
        for number in range(options.rounds + 1):
            for way in WAYS if number % 2 else reversed(WAYS):
                workdir = Path(folder) / f"{way}-{number}"
                row = train(
                    workdir,
                    WAYS[way],
                    config=options.config,
                    updates=options.updates,
                    log_every=options.log_every,
                )
                params.add(read_params(workdir))
                if number:  # the first fills JAX's cache of compiled programs
                    measured[way].append(row)
        agree = stores.compare(Path(folder) / f"all-{options.rounds}")
    row = summarize(measured)
    same = len(params) == 1
    settings = {key: getattr(options, key) for key in ("updates", "log_every", "rounds")}
    print_row("trackers", {**settings, **row, "same_bits": same, "stores_agree": agree})
    if not same or not all(agree.values()):
        raise SystemExit(1)


def train(
    workdir: Path, trackers: Sequence[str], *, config: str, updates: int, log_every: int
) -> dict[str, float]:
    """Trains as the command does. Seconds: clock, processor, median update of each stage."""
    changes = {
        **{f"train.{stage}.steps": updates for stage in ("tokenizer", "generator")},
        **{f"train.{what}_every": updates for what in ("checkpoint", "evaluate", "preview")},
        "train.log_every": log_every,
        "train.tracking": repr(tuple(trackers)),
        "evaluation.protocol": "",
    }
    command = [sys.executable, "-m", "nbp.train", "--config", config, "--workdir", str(workdir)]
    command += [f"--config.{key}={value}" for key, value in changes.items()]
    before, began = processor_seconds(), time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    seconds, used = time.monotonic() - began, processor_seconds() - before
    output = done.stdout + done.stderr
    if done.returncode or "[tracking] warning" in output:
        raise SystemExit(f"a training failed, or lost a tracker:\n{output}")
    row = {"seconds": seconds, "processor_seconds": used}
    for stage in ("tokenizer", "generator"):
        with (workdir / stage / "metrics.csv").open(newline="", encoding="utf8") as file:
            times = [float(line["step_time_s"]) for line in csv.DictReader(file)]
        row[f"{stage}_update"] = statistics.median(times)
    return row


def read_params(workdir: Path) -> bytes:
    """The averages of the parameters of both stages, which all updates have a share in."""
    config = read_config(workdir)
    generator = build.make_generator_network(config, read_labels(workdir))
    stages = [
        build.load_tokenizer(config, workdir),
        build.load_trained(workdir, "generator", network=generator, ema=True),
    ]
    leaves = jax.tree.leaves([stage.params for stage in stages])
    return b"".join(np.asarray(leaf).tobytes() for leaf in leaves)


def processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def summarize(measured: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians over the rounds of each way, and what all trackers take relative to none."""
    medians = {
        way: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for way, rows in measured.items()
    }
    updates = {
        way: row["tokenizer_update"] + row["generator_update"] for way, row in medians.items()
    }
    return {
        **{way: {key: round(s, 4) for key, s in row.items()} for way, row in medians.items()},
        "update_ratio": round(updates["all"] / updates["none"], 4),
        "seconds_ratio": round(medians["all"]["seconds"] / medians["none"]["seconds"], 4),
        "load": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    main()
