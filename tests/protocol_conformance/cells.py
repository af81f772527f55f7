# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""One comparison of both sides, and the table of all: protocols by steps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nbp.protocols import PROTOCOLS

STEPS = (
    "clips",
    "frames",
    "resize",
    "labels",
    "storage",
    "preparation",
    "moments",
    "score",
    "quality",
)
LEGEND = """\
=       the same, or within the bound of the floating-point numbers that the original computes in
law     the original draws without a seed, or with a generator that is not public: both draw from
        the same set with the same chances
listed  a difference on purpose or for want of a source, named in the record's `differs` or
        `unknown` (nbp/protocols/published.py), no larger than stated here
FAILS   a difference that is not listed, or larger, or a listed one that is not there
-       the protocol has no such step"""


@dataclass(frozen=True)
class Check:
    """The largest difference of both sides at one step of a protocol.

    what: the quantity and its unit. bound: up to it both are the same. listed: begins a text of the
    record that names the difference; limit: how large that may be. law: chances are compared, as
    the draws themselves cannot be; the record names that too.
    """

    protocol: str
    step: str
    what: str
    difference: float
    bound: float = 0.0
    listed: str = ""
    limit: float = 0.0
    law: bool = False

    @property
    def state(self) -> str:
        """One of the words of `LEGEND`."""
        record = PROTOCOLS[self.protocol]
        named = any(text.startswith(self.listed) for text in (*record.unknown, *record.differs))
        same = self.difference <= self.bound
        if self.law:
            return "law" if same and named else "FAILS"
        if not self.listed:
            return "=" if same else "FAILS"
        return "listed" if named and self.bound < self.difference <= self.limit else "FAILS"

    def describe(self) -> str:
        """A line: what was compared, how far apart, and what is allowed."""
        allowed = f"at most {self.bound:g}"
        if self.listed and not self.law:
            allowed = f"listed, at most {self.limit:g}: {self.listed!r}"
        elif self.law:
            allowed += f"; {self.listed!r}"
        return (
            f"{self.state:6}  {self.protocol:15}  {self.step:11}  {self.what}: "
            f"{self.difference:.3g} ({allowed})"
        )


def show_table(checks: Sequence[Check]) -> str:
    """Protocols by steps in Markdown: the least favourable word and the largest difference."""
    names = [p.name for p in PROTOCOLS.values() if any(c.protocol == p.name for c in checks)]
    rows: list[tuple[str, ...]] = [("protocol", *STEPS)]
    for name in names:
        cells = [
            _show_cell([c for c in checks if (c.protocol, c.step) == (name, step)])
            for step in STEPS
        ]
        rows.append((name, *cells))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [_show_row(row, widths) for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _show_row(row: Sequence[str], widths: Iterable[int]) -> str:
    cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
    return f"| {' | '.join(cells)} |"


def _show_cell(checks: Sequence[Check]) -> str:
    if not checks:
        return "-"
    order = ("FAILS", "listed", "law", "=")
    worst = min((check.state for check in checks), key=order.index)
    largest = max(check.difference for check in checks if check.state == worst)
    return f"{worst} {largest:.1g}" if largest else worst
