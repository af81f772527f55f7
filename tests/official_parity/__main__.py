# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.official_parity --golden DIR [--only TEXT] [--verbose]`.

Checks our models against reference results of the official code: one line per case, then
`N passed, N failed`. Exit code 1 if any case failed, 2 if DIR is not in the golden format.
"""

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.official_parity", description=__doc__)
    parser.add_argument("--golden", required=True, type=Path, metavar="DIR")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name has TEXT")
    parser.add_argument("--verbose", action="store_true", help="a line per compared array")
    arguments = parser.parse_args()

    from tests.official_parity.runner import check_folder

    passed = failed = 0
    try:
        for verdict in check_folder(arguments.golden, arguments.only):
            print(verdict, flush=True)
            if arguments.verbose:
                for item in verdict.comparisons:
                    state = "ok" if item.passed else "FAIL"
                    print(f"      {item.name}: {item.error:.3g} of {item.tolerance:.3g} {state}")
            passed, failed = passed + verdict.passed, failed + (not verdict.passed)
    except ValueError as error:
        print(f"official_parity: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
