# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Converts files of the published structure and size, then samples; time and memory of each step.

    python -m benchmarks.convert_sample --workdir DIR [--size 700m|3b] [--only STEP ...] [--keep]

The published files are not part of this project, so files with the same names, shapes and nesting
and random weights are written first (K600 frame prediction, the tokenizer of 370M parameters).
Every step is a process of its own, as a user would start it. Needs requirements-dev.txt.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import print_row
from nbp.data.video.encode import write_video
from nbp.layout import LatentGrid
from nbp.models.tokenizer import OFFICIAL_SPEC
from tests.interop.official_files import (
    generator_shapes,
    lazy_tensors,
    make_network,
    tokenizer_shapes,
    write_lightning,
)
from tests.interop.torch_files import write_torch

SIZES = {"700m": (24, 16, 1536), "3b": (32, 32, 3072)}
CODES = 64_000
FRAMES, SIZE, GIVEN = 17, 128, 2


def main(argv: list[str] | None = None) -> None:
    """Prints a line per step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--size", choices=SIZES, default="700m")
    parser.add_argument("--only", nargs="*", default=["tokenizer", "generator", "sample"])
    parser.add_argument("--keep", action="store_true", help="leave the files where they are")
    arguments = parser.parse_args(argv)
    folder: Path = arguments.workdir
    folder.mkdir(parents=True, exist_ok=True)
    files = {"tokenizer": folder / "magvit2_k600.pt", "generator": folder / "k600_nbp16.ckpt"}
    if "tokenizer" in arguments.only:
        shapes = tokenizer_shapes(OFFICIAL_SPEC)
        write_torch(files["tokenizer"], {"model_state_dict": lazy_tensors(shapes, "module.")})
    if "generator" in arguments.only:
        layers, heads, width = SIZES[arguments.size]
        network = make_network(
            layers=layers,
            heads=heads,
            width=width,
            grid=LatentGrid(5, 16, 16),
            codes=CODES,
            context=5120,
        )
        write_lightning(
            files["generator"],
            lazy_tensors(generator_shapes(network), "transformer."),
            n_layer=layers,
            n_head=heads,
            n_embd=width,
        )
    video = folder / "clip.mp4"
    ramp = np.linspace(0, 255, FRAMES * SIZE * SIZE * 3).reshape(FRAMES, SIZE, SIZE, 3)
    write_video(video, ramp.astype(np.uint8), fps=16.0)
    workdir = folder / "converted"
    for step in arguments.only:
        if step == "sample":
            command = ["nbp.sample", "--workdir", workdir, "--num", "1", "--frames", video]
            command += ["--given_frames", str(GIVEN)]
        else:
            command = ["nbp.convert", step, "--source", files[step], "--out", workdir]
        size = 0.0 if step == "sample" else files[step].stat().st_size / 2**20
        seconds, peak = run(command)
        row = {"step": step, "size": arguments.size, "seconds": seconds, "peak_mib": peak}
        if size:
            row |= {"file_mib": round(size, 1), "peak_over_file": round(peak / size, 3)}
        print_row("convert_sample", row)
    if not arguments.keep:
        shutil.rmtree(folder)


def run(command: list[object]) -> tuple[float, float]:
    """Seconds and peak resident memory (MiB) of `python -m command`; exits where it fails."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", *map(str, command)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed")
    return round(time.perf_counter() - began, 1), round(usage.ru_maxrss / 2**10, 1)


if __name__ == "__main__":
    main()
