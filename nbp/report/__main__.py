# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m nbp.report --workdir DIR [--out FILE.html]`."""

from pathlib import Path

from nbp.errors import run_main
from nbp.flags import Parser


def make_parser() -> Parser:
    parser = Parser("nbp.report", main.__doc__, examples=("--workdir runs/quickstart",))
    parser.add_argument("--workdir", required=True, type=Path, help="trained or converted")
    parser.add_argument("--out", type=Path, help="default: WORKDIR/report/index.html")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Makes the report page of a workdir from the files that lie there; nothing is computed."""
    arguments = make_parser().parse_args(argv)

    from nbp.report.collect import write_page

    print(f"written to {write_page(arguments.workdir, arguments.out)}")


if __name__ == "__main__":
    run_main(main)
