# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Progress in plain lines, and the share of a machine."""

import pytest

from nbp import progress
from nbp.errors import ConfigError
from nbp.progress import Progress, parse_shard


def test_lines_come_now_and_then_and_at_the_end(monkeypatch):
    clock = iter(range(0, 1000, 16))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    lines: list[str] = []
    with Progress(5, "files", lines.append) as counter:
        for i in range(5):
            counter.step(bad=i == 1)
    assert [line.split(",")[0] for line in lines] == ["2/5 files", "4/5 files", "5/5 files"]
    assert lines[0] == "2/5 files, 1 bad, 0.1/s, 1 min left"
    assert lines[-1].endswith("0 min left")


def test_shards_are_read():
    assert parse_shard("0/1") == (0, 1)
    assert parse_shard("3/8") == (3, 8)


@pytest.mark.parametrize("text", ["1", "1/1", "8/3", "-1/2", "a/b", "0/0", "", "0/1/2"])
def test_other_shards_are_refused(text):
    with pytest.raises(ConfigError, match="from 0 to N - 1"):
        parse_shard(text)


def test_the_time_left_does_not_count_what_was_compiled_first(monkeypatch):
    """The first batch of four comes after 1000 s, each later one after 40 s."""
    times = iter([0.0, *[1000.0] * 4, *[1040.0] * 4, *[1080.0] * 4])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    lines: list[str] = []
    with Progress(64, "clips", lines.append) as counter:
        for _ in range(12):
            counter.step()
    assert lines == [
        "1/64 clips, 0 bad",
        "5/64 clips, 0 bad, 0.0/s, 39 min left",
        "9/64 clips, 0 bad, 0.1/s, 15 min left",
    ]
