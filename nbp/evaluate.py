# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m nbp.evaluate --workdir DIR --protocol NAME [--features DIR] [--out FILE.json]`."""

import argparse
from pathlib import Path

from nbp.errors import run_main


def main(argv: list[str] | None = None) -> None:
    """Scores a trained workdir under a named protocol; prints a table, writes JSON."""
    parser = argparse.ArgumentParser(prog="python -m nbp.evaluate", description=main.__doc__)
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--protocol", required=True, help="see docs/protocols.md")
    parser.add_argument("--out", type=Path, help="default: WORKDIR/report/PROTOCOL.json")
    parser.add_argument("--clips", type=int, help="clips to generate, or else to score")
    parser.add_argument("--seed", type=int, default=0, help="of the generated clips")
    parser.add_argument("--data", type=Path, help="videos or prepared dataset to take clips from")
    parser.add_argument(
        "--features", default="", help="folder that nbp.convert i3d wrote, or random-i3d"
    )
    parser.add_argument("--lpips", default="", help="folder that nbp.convert lpips wrote")
    arguments, rest = parser.parse_known_args(argv)

    from nbp.training import distributed

    distributed.initialize()

    from nbp.config import parse_overrides
    from nbp.evaluation.report import format_table, write_report
    from nbp.jobs.evaluate import EvaluateRequest, evaluate_workdir, report_path
    from nbp.jobs.report import write_page

    given = {name: value for name, value in vars(arguments).items() if name != "out"}
    report = evaluate_workdir(
        EvaluateRequest(**given, overrides=parse_overrides(rest)),
        lambda text: print(f"[evaluate] {text}", flush=True),
    )
    if not distributed.is_main():
        return
    out = arguments.out or report_path(arguments.workdir, arguments.protocol)
    write_report(out, report)
    title = f"{report['config']}, protocol {arguments.protocol} v{report['protocol']['version']}"
    print(format_table(title, report["scores"]))
    for deviation in report["deviations"]:
        print(f"not the whole protocol: {deviation}")
    print(f"written to {out}")
    if out == report_path(arguments.workdir, arguments.protocol):
        print(f"to look at: {write_page(arguments.workdir)}")


if __name__ == "__main__":
    run_main(main)
