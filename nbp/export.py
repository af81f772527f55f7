# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m nbp.export --workdir DIR --out DIR [--current]`."""

from pathlib import Path

from nbp.errors import run_main
from nbp.flags import Parser


def make_parser() -> Parser:
    example = "--workdir runs/quickstart --out runs/published"
    parser = Parser("nbp.export", main.__doc__, examples=(example,))
    parser.add_argument("--workdir", required=True, type=Path, help="of a training")
    parser.add_argument("--out", required=True, type=Path, help="workdir to make")
    parser.add_argument(
        "--current", action="store_true", help="the current parameters, not their average"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Writes a workdir that holds the averaged parameters alone: for sampling and publishing."""
    arguments = make_parser().parse_args(argv)

    from nbp.jobs.export import export_workdir

    export_workdir(
        arguments.workdir,
        arguments.out,
        report=lambda text: print(f"[export] {text}", flush=True),
        average=not arguments.current,
    )


if __name__ == "__main__":
    run_main(main)
