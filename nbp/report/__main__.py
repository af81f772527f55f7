# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the report page of a run, or one page of several side by side, from the files that lie
there; nothing is computed.

python -m nbp.report RUN [RUN ...] [--out FILE.html]

Of one run: its scores, clips, curves and configuration, or with --gallery its clips alone, for a
model card. Of several: scores in one table, curves over each other, what each drew of the same
condition, and the keys of their configurations that differ.
"""

from pathlib import Path

from nbp.errors import run_command
from nbp.flags import Parser


def make_parser() -> Parser:
    parser = Parser(
        "nbp.report",
        __doc__,
        examples=(
            "runs/quickstart",
            "runs/a runs/b runs/c --out compared.html",
            "runs/quickstart --gallery",
        ),
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="workdirs, trained or converted"
    )
    parser.add_argument("--workdir", type=Path, help="the same as one RUN")
    parser.add_argument(
        "--gallery",
        action="store_true",
        help="a page of one run's generated clips, for a model card",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.html",
        help="default: RUN/report/index.html, RUN/report/gallery.html, "
        "of several runs comparison.html here",
    )
    return parser


if __name__ == "__main__":
    run_command("nbp.report.__main__", make_parser)  # as in the other commands


from nbp.report.collect import write_gallery, write_page
from nbp.report.comparison.page import write_comparison

COMPARISON = Path("comparison.html")


def main(argv: list[str] | None = None) -> None:
    """The command. argv: its arguments; default: those of the process."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    folders: list[Path] = arguments.runs or [arguments.workdir]
    if (arguments.workdir is None) != bool(arguments.runs):
        parser.error("name runs, or one with --workdir DIR")
    if arguments.gallery and len(folders) > 1:
        parser.error("--gallery is for one run")

    notes: list[str] = []
    if len(folders) > 1:
        page, notes = write_comparison(folders, arguments.out or COMPARISON)
    elif arguments.gallery:
        page = write_gallery(folders[0], arguments.out)
    else:
        page = write_page(folders[0], arguments.out)
    for note in notes:
        print(f"note: {note}")
    print(f"written to {page}")
