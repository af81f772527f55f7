# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m nbp.evaluate --workdir DIR --protocol NAME [--protocol NAME] [--features DIR]`."""

from nbp.errors import ConfigError, run_main
from nbp.files import check_writable_file
from nbp.flags import Parser
from nbp.jobs import evaluation_flags


def make_parser() -> Parser:
    return evaluation_flags.make_parser(main.__doc__)


def main(argv: list[str] | None = None) -> None:
    """Scores a trained workdir under named protocols; prints tables, writes JSON.

    Started again after it was stopped, it goes on where it stood.
    """
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.compare:
        from nbp.report.table import compare_reports

        print(compare_reports(*arguments.compare))
        return
    if arguments.workdir is None or not arguments.protocol:
        parser.error("name what to score: --workdir DIR --protocol NAME (docs/protocols.md)")
    if arguments.out and len(arguments.protocol) > 1:
        raise ConfigError("--out is for one protocol; several are written to WORKDIR/report")
    if arguments.out:
        check_writable_file(arguments.out, "Name another with --out FILE.json.")

    from nbp.parallel import distributed

    distributed.initialize()

    from nbp.config import parse_overrides
    from nbp.jobs.evaluate import EvaluateRequest, evaluate_protocols, write_and_tell
    from nbp.metrics.feature_statistics import parse_statistics
    from nbp.report.collect import write_page

    shared = {
        name: getattr(arguments, name)
        for name in ("workdir", "clips", "seed", "data", "features", "lpips", "c3d", "cache")
    }
    shared["statistics"] = parse_statistics(arguments.statistics)
    shared["overrides"] = parse_overrides(rest)
    requests = [EvaluateRequest(protocol=name, **shared) for name in arguments.protocol]
    say = distributed.is_main()
    reports = evaluate_protocols(
        requests, lambda text: print(f"[evaluate] {text}", flush=True) if say else None
    )
    if say:
        write_and_tell(arguments.workdir, reports, arguments.out)
        if not arguments.out:  # it shows what lies in WORKDIR/report
            print(f"to look at: {write_page(arguments.workdir)}")


if __name__ == "__main__":
    run_main(main)
