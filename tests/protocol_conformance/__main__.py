# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Prints the table of published protocols: `python -m tests.protocol_conformance [--full]`.

--full: lists as long as UCF101's and sets of 2,048 features of 400 numbers (minutes). --checks:
every comparison on a line. Exits with 1 where a difference is not listed.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.protocol_conformance import made, real, scores, sets
from tests.protocol_conformance.cells import LEGEND, Check, show_table

SMALL = 151  # videos of a list where time counts


def run_checks(
    folder: Path, *, count: int, features: tuple[int, int], stored: int = 256
) -> Iterator[Check]:
    """All comparisons. count: videos of a list; features: of a set, and their dimensions; stored:
    px of clips that are written to files.
    """
    yield from real.compare_clips(count)
    yield from real.compare_resize(folder / "files")
    yield from made.compare_labels(count)
    yield from made.compare_storage(folder / "stored", stored)
    yield from made.compare_preparation()
    yield from scores.compare_scores(*features)
    yield from scores.compare_quality()


def main() -> int:
    full = "--full" in sys.argv
    size = (9_537, (2_048, 400)) if full else (sets.VIDEOS, (600, 120))
    with tempfile.TemporaryDirectory() as folder:
        checks = list(run_checks(Path(folder), count=size[0], features=size[1]))
    print(show_table(checks))
    print(f"\n{LEGEND}\n")
    failing = [check for check in checks if check.state == "FAILS"]
    for check in checks if "--checks" in sys.argv else failing:
        print(check.describe())
    print(f"{len(checks)} comparisons, {len(failing)} differences that no record lists")
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
