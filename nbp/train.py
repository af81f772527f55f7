# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m nbp.train --config FILE[:VARIANT] --workdir DIR [--config.a.b=value ...]`."""

from pathlib import Path

from nbp.errors import run_main
from nbp.flags import NATURAL, Parser


def make_parser() -> Parser:
    parser = Parser(
        "nbp.train",
        main.__doc__,
        examples=(
            "--config configs/quickstart.py --workdir runs/quickstart",
            "--config configs/folder.py --workdir runs/folder --config.data.root=DIR",
            "--config configs/quickstart.py --workdir runs/longer\n"
            "--resume_from runs/quickstart --config.train.generator.steps=2000",
        ),
        overrides="all",
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE[:VARIANT]", help="of the folder configs, or yours"
    )
    parser.add_argument("--workdir", required=True, type=Path, help="made, or gone on with")
    parser.add_argument(
        "--resume_from", type=Path, metavar="DIR", help="go on from another workdir's checkpoints"
    )
    parser.add_argument("--resume_step", type=NATURAL, help="which of them; default: the newest")
    parser.add_argument(
        "--check",
        action="store_true",
        help="look at flags and configuration, not at files, and end: for launchers",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Trains the configuration's stages in order; resumes from the workdir by itself."""
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.resume_step is not None and arguments.resume_from is None:
        parser.error("--resume_step needs --resume_from DIR")

    from nbp.config import load_config, parse_overrides  # after parsing: --help stays quick

    # Folders and variables may be those of other machines where no more than a check is wanted.
    expand = not arguments.check
    config = load_config(arguments.config, parse_overrides(rest), expand=expand)
    if arguments.check:
        print(f"{arguments.config}: flags and configuration are in order")
        return

    from nbp.parallel import distributed

    distributed.initialize()

    from nbp.jobs.train import train_workdir

    train_workdir(
        config, arguments.workdir, source=arguments.resume_from, step=arguments.resume_step
    )


if __name__ == "__main__":
    run_main(main)
