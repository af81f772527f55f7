# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Training killed at random moments and started again, against one that was left alone.

    python -m benchmarks.kill_points [--kills 30] [--seed 0] [--evaluate_every 6]

Runs the smallest experiment (tests/tiny.py, both stages, with evaluations and previews), twice
undisturbed, then killed with SIGKILL at moments drawn evenly over the length of a run and started
again until it ends; a new run begins until there were enough kills. Every array of the final
checkpoints and every loss must be the same, bit for bit. Prints a line per run; the exit status is
1 if one differs.
"""

import argparse
import math
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import print_row
from tests.test_resume import CHANGES, finish, read_losses, read_states, saved_steps, start

STAGES = ("tokenizer", "generator")
ORPHANS = 60  # seconds that workers of a killed process may take to notice


def main(argv: list[str] | None = None) -> None:
    """Kills, compares, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate_every", type=int, default=6)
    arguments = parser.parse_args(argv)
    CHANGES["train.evaluate_every"] = CHANGES["train.preview_every"] = str(arguments.evaluate_every)
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="nbp-kill-") as folder:
        whole, seconds = Path(folder), 0.0
        for number in range(2):  # the second finds what is compiled, as those that are killed do
            whole = Path(folder) / f"whole-{number}"
            began = time.monotonic()
            finish(whole)
            seconds = time.monotonic() - began
        expected = read_all(whole)
        kills, different = 0, 0
        while kills < arguments.kills:
            workdir = Path(folder) / "killed"
            began = time.monotonic()
            points = run_with_kills(
                lambda workdir=workdir: start(workdir),
                seconds,
                rng,
                most=arguments.kills - kills,
                look=lambda workdir=workdir: find_positions(workdir),
            )
            if not points:  # the machine has become faster
                seconds = min(seconds, time.monotonic() - began)
            kills += len(points)
            same = read_all(workdir) == expected
            different += not same
            print_row("kill_points", {"same_bits": same, "killed_after": points})
            shutil.rmtree(workdir)
    print_row("kill_points_total", {"kills": kills, "different_runs": different})
    if different:
        raise SystemExit(1)


def run_with_kills(
    begin: Callable[[], subprocess.Popen[str]],
    seconds: float,
    rng: random.Random,
    *,
    most: int,
    look: Callable[[], Any],
    until: float = math.inf,
) -> list[Any]:
    """Begins a command until it ends, killed at up to `most` random moments in `seconds`.

    until: by the monotonic clock, from when on nothing is killed any more. Returns what `look`
    found after each kill. Raises SystemExit where the command fails, or leaves processes behind
    that do not end.
    """
    points: list[Any] = []
    while True:
        process = begin()
        more = len(points) < most and time.monotonic() < until
        patience = rng.uniform(0, seconds) if more else None
        try:
            output, _ = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            try:
                process.communicate(timeout=ORPHANS)
            except subprocess.TimeoutExpired:
                raise SystemExit(f"processes of {process.args} outlive it by {ORPHANS} s") from None
            points.append(look())
            continue
        if process.returncode:
            raise SystemExit(f"a run failed with exit code {process.returncode}:\n{output}")
        return points


def find_positions(workdir: Path) -> dict[str, list[int]]:
    """`find_position` of both stages."""
    return {stage: find_position(workdir, stage) for stage in STAGES}


def find_position(workdir: Path, stage: str) -> list[int]:
    """The newest checkpoint and the newest logged update, 0 where there is none."""
    checkpoints = workdir / stage / "checkpoints"
    saved = max(saved_steps(workdir, stage), default=0) if checkpoints.is_dir() else 0
    return [saved, max(read_losses(workdir, stage), default=0)]


def read_all(workdir: Path) -> dict[str, Any]:
    """Bytes of all arrays of both final checkpoints, data positions and losses."""
    found: dict[str, Any] = {}
    for name, values in read_states(workdir).items():
        arrays = not name.endswith(" data")
        found[name] = [(p, x.dtype, x.tobytes()) for p, x in values] if arrays else values
    return found | {stage: found[stage] + [read_losses(workdir, stage)] for stage in STAGES}


if __name__ == "__main__":
    main()
