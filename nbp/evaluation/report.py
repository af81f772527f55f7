# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What a person reads after an evaluation: a table in the terminal and a JSON file."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Unit of each score and the digits worth printing.
UNITS = {
    "psnr": ("dB", 2),
    "psnr_worst": ("dB", 2),
    "ssim": ("", 4),
    "gms": ("", 4),
    "gmsd": ("", 4),
    "lpips": ("", 4),
    "bits_per_token": ("bits", 3),
    "unigram_bits": ("bits", 3),
    "code_perplexity": ("codes", 1),
    "code_usage": ("share of codes", 3),
    "accuracy": ("share of tokens", 3),
    "accuracy_top5": ("share of tokens", 3),
    "loss": ("nats per token", 3),
}


def format_table(title: str, scores: Mapping[str, float]) -> str:
    """Scores as aligned lines: name, value, unit."""
    width = max(len(name) for name in scores)
    lines = [title, "-" * len(title)]
    for name, value in scores.items():
        unit, digits = find_unit(name)
        lines.append(f"{name:<{width}}  {value:>10.{digits}f}  {unit}".rstrip())
    return "\n".join(lines)


def find_unit(name: str) -> tuple[str, int]:
    """Unit of a score and the digits worth printing."""
    # `rfvd_256` and the like: a score under conditions that its name tells.
    return UNITS.get(name, ("", 2) if name.startswith(("fvd", "rfvd")) else ("", 3))


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Writes a report as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:60]}.tmp")  # a name may have 255 bytes
    temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf8")
    os.replace(temporary, path)
