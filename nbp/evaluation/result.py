# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The report of an evaluation as a JSON file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbp.errors import ConfigError
from nbp.files import write_text


def read_report(path: Path) -> dict[str, Any]:
    """A report of nbp.evaluate; ConfigError where the file is none."""
    try:
        report = json.loads(path.read_text(encoding="utf8"))
        if not (isinstance(report["protocol"], dict) and isinstance(report["scores"], dict)):
            raise TypeError("it has no protocol or no scores")
    except OSError as error:
        raise ConfigError(f"--compare {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"--compare {path}: no report of nbp.evaluate ({error})") from error
    return report


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Writes a report as JSON, whole or not at all."""
    write_text(path, json.dumps(report, indent=2) + "\n")
