# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the report page of a workdir from the files that lie there; nothing is computed.

python -m nbp.report --workdir DIR [--out FILE.html]
"""

from pathlib import Path

from nbp.errors import run_command
from nbp.flags import Parser


def make_parser() -> Parser:
    parser = Parser("nbp.report", __doc__, examples=("--workdir runs/quickstart",))
    parser.add_argument("--workdir", required=True, type=Path, help="trained or converted")
    parser.add_argument("--out", type=Path, help="default: WORKDIR/report/index.html")
    return parser


if __name__ == "__main__":
    run_command("nbp.report.__main__", make_parser)  # as in the other commands


from nbp.report.collect import write_page


def main(argv: list[str] | None = None) -> None:
    """The command. argv: its arguments; default: those of the process."""
    arguments = make_parser().parse_args(argv)

    print(f"written to {write_page(arguments.workdir, arguments.out)}")
