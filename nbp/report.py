# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m nbp.report --workdir DIR [--out FILE.html]`."""

from pathlib import Path

from nbp.errors import run_main
from nbp.flags import Parser


def main(argv: list[str] | None = None) -> None:
    """Makes the report page of a workdir from the files that lie there; nothing is computed."""
    parser = Parser(prog="python -m nbp.report", description=main.__doc__)
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--out", type=Path, help="default: WORKDIR/report/index.html")
    arguments = parser.parse_args(argv)

    from nbp.jobs.report import write_page

    print(f"written to {write_page(arguments.workdir, arguments.out)}")


if __name__ == "__main__":
    run_main(main)
