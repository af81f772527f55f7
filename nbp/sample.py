# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m nbp.sample --workdir DIR --num N --out DIR [--label NAME|ID] [--frames FILE] ...`."""

import argparse
from pathlib import Path

from nbp.errors import run_main


def main(argv: list[str] | None = None) -> None:
    """Draws clips from a trained workdir: MP4 files, a GIF grid and samples.npz."""
    parser = argparse.ArgumentParser(prog="python -m nbp.sample", description=main.__doc__)
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--num", type=int, default=16, help="clips to draw")
    parser.add_argument("--out", type=Path, help="folder; default: WORKDIR/samples")
    parser.add_argument("--label", help="class name or id, or none; default: all in turn")
    parser.add_argument("--frames", type=Path, help="video whose first frames are continued")
    parser.add_argument("--given_frames", type=int, help="latent frames taken from --frames")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--top_k", type=int, help="0: off")
    parser.add_argument("--top_p", type=float, help="1: off")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance; 0: off")
    parser.add_argument("--decoding", choices=("plain", "jacobi", "relaxed"), default="plain")
    parser.add_argument("--window", type=int, help="passes that jacobi and relaxed look at at once")
    parser.add_argument("--radius", type=int, help="relaxed: levels that mass may move")
    parser.add_argument("--delta", type=float, help="relaxed: share of it that may move, 0..1")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)

    from nbp.training import distributed

    distributed.initialize()

    from nbp.jobs.sample import SampleRequest, sample_workdir

    out = arguments.out or arguments.workdir / "samples"
    request = SampleRequest(
        count=arguments.num,
        seed=arguments.seed,
        label=arguments.label,
        frames=arguments.frames,
        given_frames=arguments.given_frames,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        guidance=arguments.guidance,
        decoding=arguments.decoding,
        window=arguments.window,
        radius=arguments.radius,
        delta=arguments.delta,
    )
    names = sample_workdir(arguments.workdir, out, request)
    if distributed.is_main():
        print(f"{len(names)} clips in {out} (grid.gif shows all of them)")


if __name__ == "__main__":
    run_main(main)
