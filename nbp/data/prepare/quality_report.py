# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a preparation: what is in the dataset and what is wrong with its sources."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nbp.data.prepare.annotations import Finding, Listing, ucf_group
from nbp.data.video.notes import list_notes
from nbp.files import escape_name

# Every heading of the report, in its order, with what it means. docs/data.md says what to do.
HEADINGS = {
    "missing": "listed, but there is no such file",
    "ambiguous": "listed, but it cannot be told which file it is",
    "no label": "a list or folder that tells no class for its clips",
    "vanished": "found at first, gone when its turn came",
    "unreadable": "the file or folder cannot be read",
    "zero bytes": "the file is empty",
    "not a video": "it does not start like a video file",
    "no video stream": "a video container without a picture",
    "too large": "above the limits on bytes, pixels or frames",
    "corrupt": "decoding it fails",
    "too short": "fewer frames than --min_frames at --fps",
    "decoder crashed": "the decoder ended its process",
    "timed out": "decoding took longer than --timeout",
    "two labels": "listed with another class too; it counts for the one that is listed first",
    "class spelled twice": "another spelling of the name of a class",
    "class in one split": "only one of the splits has the class",
    "duplicate": "another file of the same split has the same content; both are kept",
    "overlap": "a file of another split has the same content; both are kept",
    "group overlap": "clips cut from the same video are in train and in test; all are kept",
    "unlisted": "no list names the file",
}
# Kept in the dataset; every other heading leaves the file out.
KEPT = (
    "two labels",
    "class spelled twice",
    "class in one split",
    "duplicate",
    "overlap",
    "group overlap",
)
SHOWN = 20


@dataclass(frozen=True)
class Outcome:
    """What became of one listed file: a heading, or "ok"."""

    path: str
    split: str
    label: int
    status: str
    detail: str = ""
    sha256: str = ""
    frames: int = 0
    notes: tuple[str, ...] = ()  # keys of `notes.NOTES`


def collect_findings(
    listing: Listing, outcomes: Sequence[Outcome], *, groups: bool
) -> list[Finding]:
    """Everything that is wrong, in the order of `HEADINGS`. groups: compare UCF101's groups."""
    names = listing.labels
    found = [
        Finding("missing", item.path, item.split, names[item.label]) for item in listing.missing
    ]
    found += listing.remarks
    found += [Finding("unlisted", path) for path in listing.unlisted]
    found += [Finding(e.reason, e.path, detail=e.detail) for e in listing.unreadable]
    found += [
        Finding(o.status, o.path, o.split, names[o.label], o.detail)
        for o in outcomes
        if o.status != "ok"
    ]
    found += _find_copies(names, outcomes)
    if groups:
        found += _find_shared_groups(names, outcomes)
    order = list(HEADINGS)
    return sorted(found, key=lambda finding: order.index(finding.heading))  # stable


def _find_copies(names: Sequence[str], outcomes: Sequence[Outcome]) -> Iterable[Finding]:
    """The second and later files of the same content, within a split and across splits."""
    first: dict[str, dict[str, Outcome]] = {}
    for outcome in outcomes:
        if outcome.status != "ok":
            continue
        seen = first.setdefault(outcome.sha256, {})
        label = names[outcome.label]
        if outcome.split in seen:
            detail = f"same content as {seen[outcome.split].path}"
            yield Finding("duplicate", outcome.path, outcome.split, label, detail)
        else:
            for split, other in seen.items():
                detail = f"same content as {other.path} of {split}"
                yield Finding("overlap", outcome.path, outcome.split, label, detail)
            seen[outcome.split] = outcome


def _find_shared_groups(names: Sequence[str], outcomes: Sequence[Outcome]) -> Iterable[Finding]:
    members: dict[tuple[str, str], dict[str, list[Outcome]]] = {}
    for outcome in outcomes:
        group = ucf_group(outcome.path)
        if outcome.status == "ok" and group is not None:
            members.setdefault(group, {}).setdefault(outcome.split, []).append(outcome)
    for (label, group), splits in members.items():
        if len(splits) > 1:
            for outcome in splits["test"]:
                detail = f"v_{label}_{group} is in train too: {splits['train'][0].path}"
                yield Finding("group overlap", outcome.path, "test", names[outcome.label], detail)


def format_report(
    name: str,
    listing: Listing,
    *,
    outcomes: Sequence[Outcome],
    findings: Sequence[Finding],
) -> tuple[str, str]:
    """report.md, which sums up, and report.csv, with every finding."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("heading", "split", "class", "path", "detail"))
    for finding in findings:
        row = (finding.heading, finding.split, finding.label, finding.path, finding.detail)
        writer.writerow([escape_name(cell) for cell in row])
    passed = f"{listing.skipped} hidden entries and folders of the system are passed over."
    sections = [
        f"# Preparation of {name}",
        _describe_splits(listing, outcomes, findings),
        *([passed] if listing.skipped else []),
        _describe_findings(findings),
        *_describe_notes(outcomes),
        _describe_classes(listing, outcomes),
    ]
    return "\n\n".join(sections) + "\n", text.getvalue()


def summarize(findings: Sequence[Finding]) -> str:
    """For example "2 corrupt, 1 zero bytes"."""
    counts = Counter(finding.heading for finding in findings)
    return ", ".join(f"{counts[heading]} {heading}" for heading in HEADINGS if counts[heading])


def _table(rows: Sequence[Sequence[object]]) -> str:
    lines = [
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows
    ]
    lines.insert(1, "| --- " * len(rows[0]) + "|")
    return "\n".join(lines)


def _describe_splits(
    listing: Listing, outcomes: Sequence[Outcome], findings: Sequence[Finding]
) -> str:
    usable = Counter(o.split for o in outcomes if o.status == "ok")
    frames: Counter[str] = Counter()
    for outcome in outcomes:
        frames[outcome.split] += outcome.frames
    listed = Counter(item.split for item in (*listing.items, *listing.missing))
    listed.update(remark.split for remark in listing.remarks if remark.heading == "ambiguous")
    rows: list[Sequence[object]] = [("split", "listed", "in the dataset", "frames", "left out")]
    for split in listing.splits:
        left_out = [f for f in findings if f.split == split and f.heading not in KEPT]
        rows.append(
            (split, listed[split], usable[split], frames[split], summarize(left_out) or "none")
        )
    return _table(rows)


def _describe_findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return "Nothing is wrong with the sources."
    parts = ["report.csv lists all of them."]
    for heading, meaning in HEADINGS.items():
        of_it = [finding for finding in findings if finding.heading == heading]
        if not of_it:
            continue
        lines = [
            f"* `{escape_name(f.path)}`" + (f": {escape_name(f.detail)}" if f.detail else "")
            for f in of_it
        ]
        if of_it[SHOWN:]:
            lines[SHOWN:] = [f"* and {len(of_it) - SHOWN} more"]
        parts.append(f"## {heading}: {len(of_it)}\n\n{meaning}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _describe_notes(outcomes: Sequence[Outcome]) -> list[str]:
    """A section on the videos that were read by a rule; none where every video was plain."""
    noted = list_notes((o.path, o.notes) for o in outcomes if o.status == "ok")
    lines = []
    for text, paths in noted:
        named = ", ".join(f"`{escape_name(path)}`" for path in paths[:SHOWN])
        more = f" and {len(paths) - SHOWN} more" if paths[SHOWN:] else ""
        lines.append(f"* {text}: {named}{more}")
    return ["## How videos were read\n\n" + "\n".join(lines)] if lines else []


def _describe_classes(listing: Listing, outcomes: Sequence[Outcome]) -> str:
    usable = Counter((o.label, o.split) for o in outcomes if o.status == "ok")
    listed = Counter((item.label, item.split) for item in (*listing.items, *listing.missing))
    rows: list[Sequence[object]] = [("class", *listing.splits)]
    for label, name in enumerate(listing.labels):
        cells = []
        for split in listing.splits:
            have, of = usable[label, split], listed[label, split]
            cells.append(str(have) if have == of else f"{have} of {of}")
        rows.append((escape_name(name), *cells))
    return "## Clips per class\n\n" + _table(rows)
