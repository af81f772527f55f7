# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m nbp.sample --workdir DIR --num N --out DIR [--label NAME|ID] [--frames FILE] ...`."""

from pathlib import Path

from nbp.errors import run_main
from nbp.flags import Parser
from nbp.sampling.request import add_flags, make_request


def make_parser() -> Parser:
    parser = Parser(
        "nbp.sample",
        main.__doc__,
        examples=(
            '--workdir runs/quickstart --num 16 --out runs/squares --label "red square right"',
            "--workdir runs/folder --num 4 --out runs/continued --frames clip.mp4",
            "--workdir runs/quickstart --num 4 --out runs/long --num_frames 129",
        ),
    )
    parser.add_argument("--workdir", required=True, type=Path, help="trained or converted")
    parser.add_argument("--out", type=Path, help="folder; default: WORKDIR/samples")
    add_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Draws clips from a trained workdir: MP4 files, a GIF grid and samples.npz.

    Temperature, top-k, top-p and guidance are the workdir's configuration's unless they are given.
    """
    arguments = make_parser().parse_args(argv)

    from nbp.parallel import distributed

    distributed.initialize()

    from nbp.jobs.sample import sample_workdir

    out = arguments.out or arguments.workdir / "samples"
    names = sample_workdir(arguments.workdir, out, make_request(arguments))
    if distributed.is_main():
        print(f"{len(names)} clips in {out} (grid.gif shows all of them)")


if __name__ == "__main__":
    run_main(main)
