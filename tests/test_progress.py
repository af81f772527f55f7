# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Progress in plain lines and as a bar, durations, and the share of a machine."""

import io
from collections.abc import Iterable

import pytest

from nbp import progress
from nbp.errors import ConfigError
from nbp.progress import Progress, format_duration, parse_shard


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def lines() -> list[str]:
    return []


def set_clock(monkeypatch: pytest.MonkeyPatch, seconds: Iterable[float]) -> None:
    clock = iter(seconds)
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)


def test_lines_come_now_and_then_and_at_the_end(monkeypatch, lines):
    set_clock(monkeypatch, range(0, 1000, 16))
    with Progress(5, "files", lines.append) as counter:
        for i in range(5):
            counter.step(bad=i == 1)
    assert lines == [
        "2/5 files, 1 bad, 0.0625/s, ETA 48s",
        "4/5 files, 1 bad, 0.0625/s, ETA 16s",
        "5/5 files, 1 bad, 0.0625/s, ETA 0s",
    ]


def test_what_is_done_soon_has_no_lines(monkeypatch, lines):
    set_clock(monkeypatch, range(10))
    with Progress(5, "files", lines.append) as counter:
        for _ in range(5):
            counter.step()
        counter.note("a remark")
    assert lines == ["a remark"]


@pytest.mark.parametrize("at_once", [True, False])
def test_the_time_left_does_not_count_what_was_compiled_first(monkeypatch, lines, at_once):
    """The first batch of four comes after 1000 s, each later one after 40 s."""
    calls = 1 if at_once else 4
    set_clock(monkeypatch, [0.0, *[1000.0] * calls, *[1040.0] * calls, *[1080.0] * calls])
    with Progress(64, "clips", lines.append) as counter:
        for _ in range(3 * calls):
            counter.step(4 // calls)
    done = (4, 8, 12) if at_once else (1, 5, 9)
    left = ("9m20s", "8m40s") if at_once else ("39m20s", "14m40s")
    rates = ("0.1", "0.1") if at_once else ("0.025", "0.0625")
    assert lines == [
        f"{done[0]}/64 clips",
        f"{done[1]}/64 clips, {rates[0]}/s, ETA {left[0]}",
        f"{done[2]}/64 clips, {rates[1]}/s, ETA {left[1]}",
    ]


def test_a_terminal_has_a_bar_that_lines_do_not_cut(monkeypatch, lines):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress(4, "clips", lines.append) as counter:
        counter.step(3, bad=True)
        counter.note("a remark")
        counter.step()
    assert lines == ["a remark"]
    shown = terminal.getvalue()
    assert "4/4" in shown
    assert "clips/s" in shown
    assert "bad=3" in shown
    assert "\x1b[3" not in shown  # no colours


@pytest.mark.parametrize(
    "seconds,text", [(0.4, "0s"), (5.0, "5s"), (62.0, "1m02s"), (3725.0, "1h02m"), (9e4, "25h00m")]
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_shards_are_read():
    assert parse_shard("0/1") == (0, 1)
    assert parse_shard("3/8") == (3, 8)


@pytest.mark.parametrize("text", ["1", "1/1", "8/3", "-1/2", "a/b", "0/0", "", "0/1/2"])
def test_other_shards_are_refused(text):
    with pytest.raises(ConfigError, match="from 0 to N - 1"):
        parse_shard(text)
