# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Scores of several runs: in one column only what `nbp.evaluate --compare` would compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple

from nbp.metrics.score_table import find_place, find_score
from nbp.report.comparison.runs import Run
from nbp.report.table import count_clips, list_obstacles

REASONS = 3  # differences that are told of an evaluation that cannot be compared


class Scored(NamedTuple):
    """A row of the table: a run's number, and the evaluation of it that has another file than
    `PROTOCOL.json`; "" for all that have not.
    """

    run: int
    file: str


@dataclass
class ScoreGroup:
    """Evaluations whose numbers compare: reports as JSON, by row of the table."""

    reports: dict[Scored, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def first(self) -> Mapping[str, Any]:
        return next(iter(self.reports.values()))

    @property
    def protocol(self) -> str:
        return self.first["protocol"]["name"]

    @property
    def names(self) -> list[str]:
        """Its scores, what a reader asks for first in front."""
        names = {name for report in self.reports.values() for name in report["scores"]}
        return sorted(names, key=lambda name: (find_place(name), name))

    def describe(self) -> str:
        """What all its numbers share, in words: version, data, clips, features."""
        counts = [count_clips(report) for report in self.reports.values()]
        words, data = [f"v{self.first['protocol']['version']}"], self.first.get("data") or {}
        if {"frames", "size"} <= data.keys():
            size = (data["frames"], data["size"], data.get("width") or data["size"])
            words.append("x".join(map(str, size)))
        if data.get("root"):
            words.append(PurePath(data["root"]).name)
        for kind in counts[0]:
            count = next((c[kind] for c in counts if c[kind] is not None), None)
            words += [] if count is None else [f"{count:,} {kind}"]
        features = self.first.get("features")
        if features:
            known = features.get("detector") or features.get("file") or "of another file"
            words.append(f"features {known}")
        return ", ".join(words)

    def find_best(self, name: str) -> float | None:
        """The best value of a score; None where no direction is better, or all are the same."""
        found = [r["scores"][name] for r in self.reports.values() if name in r["scores"]]
        better = find_score(name).better
        if not better or len(set(found)) < 2:
            return None
        return min(found) if better == "lower" else max(found)


def group_reports(runs: Sequence[Run]) -> list[ScoreGroup]:
    """All evaluations, those together that compare; the groups of most runs first."""
    groups: list[ScoreGroup] = []
    for number, run in enumerate(runs):
        for file, result in run.results.items():
            report = result.to_json()
            row = Scored(number, "" if file == result.protocol["name"] else file)
            for group in groups:
                if not any(list_obstacles(other, report) for other in group.reports.values()):
                    group.reports[row] = report
                    break
            else:
                groups.append(ScoreGroup({row: report}))
    return sorted(groups, key=lambda group: -len(group.reports))


def list_rows(runs: Sequence[Run], groups: Sequence[ScoreGroup]) -> list[Scored]:
    """A row for each run, and one for each further evaluation."""
    more = {row for group in groups for row in group.reports}
    return sorted({*(Scored(number, "") for number in range(len(runs))), *more})


def explain_missing(run: Run, row: Scored, group: ScoreGroup) -> str:
    """Why a row has no numbers in a group."""
    result = run.results.get(row.file or group.protocol)
    if result is not None and result.protocol["name"] == group.protocol:
        found = list_obstacles(result.to_json(), group.first)
        more = f" and {len(found) - REASONS} more" if len(found) > REASONS else ""
        return f"scored otherwise: {'; '.join(found[:REASONS])}{more}"
    if row.file:
        return f"report/{row.file}.json is of another protocol"
    return f"not scored: python -m nbp.evaluate --workdir {run.folder} --protocol {group.protocol}"
