# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Dry runs of the launch scripts. `python -m tests.launch.golden` records them in golden/."""

import atexit
import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.launch.stage import LAUNCH, ROOT

CONFIG = "configs/ucf101/generator_700m.py"
SWEEP = "configs/sweeps/scaling.py"
BLOCK = "--config.generator.block=(1,2,2)"
TPU = ("tpu_pod.sh", "--name", "nbp-700m", "--zone", "us-east5-a", "--project", "my-project")
GKE = (
    *("gke.sh", "--name", "nbp-700m", "--cluster", "tpus", "--zone", "us-east5-a"),
    *("--project", "my-project", "--image", "us-docker.pkg.dev/my-project/nbp/nbp:2026-01-01"),
)
CASES = {
    "local": ("local.sh", CONFIG, "my runs/a", BLOCK),
    "local_8_devices": ("local.sh", "--devices", "8", CONFIG, "runs/a"),
    "local_2x4": ("local.sh", "--processes", "2", "--devices", "4", CONFIG, "my runs/a", BLOCK),
    "slurm": ("slurm.sbatch", CONFIG, "my runs/a", BLOCK),
    "slurm_sweep": ("slurm.sbatch", "--sweep", SWEEP, "my runs/a"),
    "slurm_encode": ("slurm.sbatch", "nbp.encode", "--workdir", "my runs/a", "--out", "t"),
    "tpu_v5e": (*TPU, "--type", "v5litepod-256", CONFIG, "/mnt/nbp/my runs/a", BLOCK),
    "tpu_v5p": (*TPU, "--type", "v5p-512", "--valid-for", "6h", CONFIG, "/mnt/nbp/a"),
    "tpu_v6e_spot": (
        *(*TPU, "--type", "v6e-64", "--spot", "--delete", "--nfs", "10.0.0.2:/nbp"),
        *("--setup", "launch/local.sh", "--internal-ip", "--service-account", "t@p.iam", CONFIG),
        "/mnt/nbp/a",
    ),
    "gke_jobset": (
        *(*GKE, "--type", "v5p-64", "--claim", "nbp-data", "--queue", "tpu-queue", "--delete"),
        *(CONFIG, "/data/my runs/a", BLOCK),
    ),
    "gke_jobset_no_build": (*GKE, "--type", "v6e-256", "--no-build", CONFIG, "/data/a"),
    "gke_sweep": (
        *(*GKE, "--type", "v6e-8", "--no-build", "--claim", "nbp-data", "--sweep", "4"),
        *(SWEEP, "/data/my runs/a"),
    ),
    "gke_evaluate": (
        *(*GKE, "--type", "v6e-8", "--no-build", "--claim", "nbp-data", "--array", "4"),
        *("nbp.evaluate", "--workdir", "/data/my runs/a", "--protocol", "nbp-ucf"),
    ),
    "gke_xpk": (
        *GKE,
        "--type",
        "v5litepod-256",
        "--engine",
        "xpk",
        CONFIG,
        "/data/my runs/a",
        BLOCK,
    ),
}


def path(name: str) -> Path:
    return Path(__file__).parent / "golden" / f"{name}.txt"


@functools.cache
def stand_in_python() -> str:
    """A folder with a `python` that finds every configuration in order."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    python = Path(folder) / "python"
    python.write_text("#!/bin/sh\nexit 0\n")
    python.chmod(0o755)
    return folder


def run(name: str) -> str:
    """What a dry run prints, without the names of this machine's folders."""
    script, *arguments = CASES[name]
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "XLA_FLAGS")}
    kept["PATH"] = f"{stand_in_python()}:{kept['PATH']}"
    done = subprocess.run(
        ["bash", str(LAUNCH / script), "--dry-run", *arguments],
        env=kept,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return re.sub(r"/\S*/tmp\.\w+|/tmp/tmp\.\w+", "SCRATCH", done.stdout).replace(str(ROOT), "ROOT")


if __name__ == "__main__":
    for case in CASES:
        path(case).write_text(run(case))
