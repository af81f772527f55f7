# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Seconds by purpose over several starts; updates that were lost no longer count as good."""

import contextlib
import json
import time
from pathlib import Path

import pytest

from nbp.errors import ConfigError
from nbp.training.goodput import Goodput, Profiler, check_steps


def work(goodput: Goodput, steps: range, seconds: float) -> None:
    """Updates that took so long, as if measured."""
    for step in steps:
        goodput.seconds["step"] += seconds
        goodput.count_update(step)


def test_time_inside_is_counted_whatever_happens() -> None:
    goodput = Goodput(None)
    with goodput.timed("compile"):
        time.sleep(0.02)
    with contextlib.suppress(ValueError), goodput.timed("evaluation"):
        time.sleep(0.01)
        raise ValueError
    assert 0.02 <= goodput.seconds["compile"] < 1
    assert 0.01 <= goodput.seconds["evaluation"] < 1
    assert goodput.share == 0


def test_a_second_start_goes_on_and_counts_what_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "goodput.json"
    first = Goodput(path)
    work(first, range(1, 11), 2.0)
    first.seconds["compile"] += 20.0
    assert first.share == pytest.approx(0.5)
    first.save()
    assert json.loads(path.read_text())["goodput"] == 0.5

    second = Goodput(path)
    second.go_on_from(6)  # updates 7 to 10 were killed before a checkpoint held them
    assert second.seconds["step"] == pytest.approx(12.0)
    assert second.seconds["lost"] == pytest.approx(8.0)
    work(second, range(7, 11), 2.0)
    assert second.share == pytest.approx(20 / 48)
    assert second.describe() == "goodput 42% of 48 s: step 20, compile 20, lost 8"


def test_going_on_where_it_stood_loses_nothing(tmp_path: Path) -> None:
    first = Goodput(tmp_path / "goodput.json")
    work(first, range(1, 4), 1.0)
    first.save()
    second = Goodput(tmp_path / "goodput.json")
    second.go_on_from(3)
    assert second.seconds["lost"] == 0


def test_a_broken_file_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "goodput.json").write_text("{")
    assert sum(Goodput(tmp_path / "goodput.json").seconds.values()) == 0


@pytest.mark.parametrize("steps", [(1,), (0, 2), (3, 2), (1, 2, 3)])
def test_steps_of_a_trace_that_cannot_be(steps: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"profile_steps.*FIRST,LAST"):
        check_steps(steps)


def test_a_trace_of_chosen_updates(tmp_path: Path) -> None:
    check_steps((2, 3))
    profiler = Profiler(tmp_path / "profile", (2, 3))
    lines = [profiler.look(step, None) for step in range(6)]
    assert [line is not None for line in lines] == [False, False, False, True, False, False]
    assert "updates 2 to 3" in str(lines[3])
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert not (tmp_path / "other").exists()
    Profiler(tmp_path / "other", ()).look(1, None)
    assert not (tmp_path / "other").exists()
