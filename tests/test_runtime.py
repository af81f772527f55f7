# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""nbp/runtime.py: what is told of the log of a process that works for another."""

from pathlib import Path

import pytest

from nbp.runtime import read_last_line


@pytest.mark.parametrize(
    "text, line",
    [
        ("one\ntwo\n", "two"),
        ("one\r 2/3 \r\n\n", "2/3"),
        ("Very slow compile?\n****\n", "Very slow compile?"),  # as XLA frames its warnings
        ("Längen: é\n---\n", "Längen: é"),
        ("***\n\n", ""),
        ("", ""),
    ],
)
def test_the_last_line_says_something(tmp_path: Path, text: str, line: str) -> None:
    log = tmp_path / "log"
    log.write_text(text, encoding="utf8")
    assert read_last_line(log) == line


def test_a_log_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert read_last_line(tmp_path / "log") == ""
