# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m nbp.evaluate --workdir DIR --protocol NAME [--out FILE.json] [--data DIR]`."""

import argparse
from pathlib import Path

from nbp.errors import run_main


def main(argv: list[str] | None = None) -> None:
    """Scores a trained workdir under a named protocol; prints a table, writes JSON."""
    parser = argparse.ArgumentParser(prog="python -m nbp.evaluate", description=main.__doc__)
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--protocol", required=True)
    parser.add_argument("--out", type=Path, help="default: WORKDIR/report/PROTOCOL.json")
    parser.add_argument("--clips", type=int, help="clips to generate; default: the config's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="videos or prepared dataset to take clips from")
    arguments, rest = parser.parse_known_args(argv)

    from nbp.training import distributed

    distributed.initialize()

    from nbp.config import parse_overrides
    from nbp.evaluation.report import format_table, write_report
    from nbp.jobs.evaluate import evaluate_workdir, report_path

    report = evaluate_workdir(
        arguments.workdir,
        arguments.protocol,
        clips=arguments.clips,
        seed=arguments.seed,
        data=arguments.data,
        overrides=parse_overrides(rest),
    )
    if not distributed.is_main():
        return
    out = arguments.out or report_path(arguments.workdir, arguments.protocol)
    write_report(out, report)
    title = f"{report['config']}, protocol {arguments.protocol} v{report['protocol']['version']}"
    print(format_table(title, report["scores"]))
    print(f"written to {out}")


if __name__ == "__main__":
    run_main(main)
