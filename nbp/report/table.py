# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What a person reads in the terminal: an evaluation as a table, and two of them side by side."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nbp.errors import ConfigError
from nbp.evaluation.result import read_report
from nbp.metrics.independence_gap import compare_token_bits
from nbp.metrics.score_table import find_score
from nbp.protocols.protocol import NAMED


def format_table(title: str, scores: Mapping[str, float]) -> str:
    """Scores as aligned lines: name, value, unit."""
    width = max(len(name) for name in scores)
    lines = [title, "-" * len(title)]
    for name, value in scores.items():
        score = find_score(name)
        lines.append(f"{name:<{width}}  {value:>10.{score.digits}f}  {score.unit}".rstrip())
    return "\n".join(lines)


# Conditions outside the protocol that may differ, and are told: they are what is compared.
TOLD = ("workdir", "checkpoints", "sampling", "seed", "deviations", "device")


def list_differences(first: Any, second: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted path and both values of every field that differs; a missing one is None."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in {**first, **second}:
            inner = f"{path}.{key}" if path else str(key)
            yield from list_differences(first.get(key), second.get(key), inner)
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for i, pair in enumerate(zip(first, second, strict=True)):
            yield from list_differences(*pair, f"{path}[{i}]")
    elif first != second:
        yield path, first, second


def list_obstacles(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Why the numbers of two reports cannot be compared, [] where they can.

    What differs of their protocols (of two versions of one, only that), of the files of their
    features, and, where both tell, of the real clips (see `describe_data`) and of the numbers of
    real and of generated clips.
    """
    names = [report["protocol"].get("name") for report in (first, second)]
    versions = [report["protocol"].get("version") for report in (first, second)]
    if names[0] == names[1] and versions[0] != versions[1]:
        return [f"protocol {names[0]} v{versions[0]} and v{versions[1]} are different ones"]
    pairs = [
        *list_differences(first["protocol"], second["protocol"]),
        *list_differences(first.get("features"), second.get("features"), "features"),
    ]
    told = [  # what one of them does not tell, as reports of older versions, may be the same
        *list_differences(describe_data(first), describe_data(second), "data"),
        *list_differences(count_clips(first), count_clips(second)),
    ]
    pairs += [pair for pair in told if None not in pair]
    return [f"{path} {a!r} and {b!r}" for path, a, b in pairs]


# What decides how a report's real clips are read.
READ = ("kind", "frames", "size", "width", "fps", "spatial")


def describe_data(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the real clips of a report are: two are of the same data where these are equal.

    Sizes and rates; of moving shapes what they are drawn from, whatever the seed; of other data
    that a protocol does not name the fingerprint, which is of files and not of their place.
    """
    data = report.get("data") or {}
    found = {key: data[key] for key in READ if key in data}
    if data.get("kind") == "moving_shapes":
        return found | {"moving_shapes": data.get("moving_shapes")}
    (rule, *_) = report["protocol"].get("clips") or ({},)
    return found if rule.get("dataset") in NAMED else found | {"clips": data.get("fingerprint")}


def count_clips(report: Mapping[str, Any]) -> dict[str, int | None]:
    """How many clips the scores of a report are of; None for a kind of clips without scores."""
    drawn = report.get("generation") or {}
    return {"real clips": report.get("held_out_clips"), "generated clips": drawn.get("clips")}


def check_comparable(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Refuses reports that `list_obstacles` finds to be made differently: ConfigError says how."""
    found = list_obstacles(first, second)
    if found and found[0].endswith("are different ones"):
        raise ConfigError(
            f'these numbers cannot be compared: {found[0]} (docs/protocols.md, "Versions"). '
            "Evaluate the older workdir again"
        )
    if found:
        raise ConfigError(
            f"these numbers cannot be compared, as they were made differently: {'; '.join(found)}. "
            "Evaluate both under one protocol"
        )


def compare_reports(first: Path, second: Path) -> str:
    """A table of the scores of two reports and their differences; ConfigError where they differ."""
    a, b = read_report(first), read_report(second)
    check_comparable(a, b)
    protocol = a["protocol"]
    title = f"protocol {protocol['name']} v{protocol['version']}"
    names = list({**a["scores"], **b["scores"]})
    width = max(map(len, names), default=0)
    lines = [title, "-" * len(title), f"A  {first}", f"B  {second}"]
    for key in TOLD:
        for path, x, y in list_differences(a.get(key), b.get(key), key):
            lines.append(f"{path}: A {x}, B {y}")
    lines.append(f"{'':<{width}}  {'A':>12}  {'B':>12}  {'B - A':>12}")
    for name in names:
        values = [report["scores"].get(name, math.nan) for report in (a, b)]
        cells = [*values, values[1] - values[0]]
        score = find_score(name)
        better = f"{score.better} is better" if score.better else ""
        about = ", ".join(text for text in (score.unit, better) if text)
        shown = "  ".join(_show(value) for value in cells)
        lines.append(f"{name:<{width}}  {shown}  {about}".rstrip())
    if "token_bits" in a and "token_bits" in b:
        gap = compare_token_bits(a["token_bits"], b["token_bits"])
        lines += [f"independence gap  {gap}"] if gap is not None else []
    return "\n".join(lines)


def _show(value: float) -> str:
    return f"{'-' if math.isnan(value) else f'{value:.4f}':>12}"
