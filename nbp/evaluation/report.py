# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What a person reads after an evaluation: a table in the terminal and a JSON file."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbp.metrics.score_table import find_unit


def format_table(title: str, scores: Mapping[str, float]) -> str:
    """Scores as aligned lines: name, value, unit."""
    width = max(len(name) for name in scores)
    lines = [title, "-" * len(title)]
    for name, value in scores.items():
        unit, digits = find_unit(name)
        lines.append(f"{name:<{width}}  {value:>10.{digits}f}  {unit}".rstrip())
    return "\n".join(lines)


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Writes a report as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:60]}.tmp")  # a name may have 255 bytes
    temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf8")
    os.replace(temporary, path)
