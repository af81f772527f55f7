# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Rates from time stamps, and which frame is on the screen when."""

from fractions import Fraction

import numpy as np
import pytest

from nbp.data.video.timeline import Timeline, lay_out, slow_down

MS = Fraction(1, 1000)
LIMIT = 10**6


def settle(stamps, unit=MS, stated=None, limit=LIMIT) -> Timeline:
    whole = [None if stamp is None else int(stamp) for stamp in stamps]
    found = lay_out(whole, unit, stated=stated, limit=limit)
    assert found is not None
    return found


def show(stamps: np.ndarray, rate: float) -> list[int]:
    """The rule, frame by frame: each takes its nearest place, and stays until the next one's."""
    screen: dict[int, int] = {}
    for frame, stamp in enumerate(stamps):
        screen[int(np.floor((stamp - stamps[0]) * rate / 1000 + 0.5))] = frame
    shown, current = [], 0
    for place in range(max(screen) + 1):
        current = screen.get(place, current)
        shown.append(current)
    return shown


@pytest.mark.parametrize("rate", [7.5, 8, 10, 12, 15, 24, 25, 29.97, 30, 50, 59.94, 60, 120])
@pytest.mark.parametrize("frames", [2, 17, 300])
def test_even_time_stamps_give_the_rate_whatever_is_stated(rate, frames):
    exact = float(rate) if rate == round(rate, 1) else round(rate * 1.001) * 1000 / 1001
    stamps = [round(1000 * frame / exact) for frame in range(frames)]
    for stated in (None, 1000.0, 90000.0, exact):
        found = settle(stamps, stated=stated)
        assert (found.shown, found.notes) == (None, ())
        assert found.rate == pytest.approx(exact, rel=1e-3 if frames > 17 else 0.05)
    if frames > 2:
        assert settle(stamps, stated=exact).rate == exact  # bit for bit what the file states


def test_a_stated_rate_holds_while_each_frame_is_within_half_a_frame_of_it():
    rng = np.random.default_rng(0)
    stamps = np.arange(100) * 40 + rng.integers(-9, 10, 100)
    stamps[0] = 0
    assert settle(stamps, stated=25.0) == Timeline(25.0)
    assert settle(stamps, stated=25.05) == Timeline(25.05)  # 0.2 frames off at the end
    assert settle(stamps, stated=26.0).rate == pytest.approx(25, rel=2e-3)


@pytest.mark.parametrize("origin", [-700, 0, 5000, 2**33, 2**60])
def test_origin_of_time_does_not_matter(origin):
    stamps = np.array([0, 40, 80, 120, 2120, 2160, 2200])
    found = settle([origin + int(stamp) for stamp in stamps])
    assert found.rate == 25
    assert found.shown is not None
    assert found.shown.tolist() == show(stamps, 25) == [0, 1, 2, *[3] * 50, 4, 5, 6]


@pytest.mark.parametrize("seed", range(5))
def test_uneven_recordings_show_what_is_on_the_screen(seed):
    rng = np.random.default_rng(seed)
    steps = rng.integers(25, 46, 80)
    steps[rng.integers(0, 80, 4)] += rng.integers(300, 3000, 4)  # pauses
    stamps = np.concatenate([[0], np.cumsum(steps)])
    found = settle(stamps, stated=1000.0)
    assert 25 < found.rate < 32
    assert found.notes == ("uneven rate",)
    assert found.shown is not None
    assert found.shown.tolist() == show(stamps, found.rate)
    assert len(found.shown) / found.rate == pytest.approx(stamps[-1] / 1000, abs=0.06)


def test_two_rates_in_one_file_keep_time():
    stamps = np.concatenate([np.arange(40) * 50, 2000 + np.arange(10) * 200])
    found = settle(stamps)
    assert found.rate == 20
    assert found.shown is not None
    assert found.shown.tolist() == [*range(40), *np.repeat(range(40, 49), 4), 49]


def test_doubled_time_stamps_replace_each_other():
    stamps = np.repeat(np.arange(10) * 100, 2)[1:]
    found = settle([*stamps, 2000])
    assert found.rate == 10
    assert found.shown is not None
    # The second frame of each pair is what stays.
    assert found.shown[:10].tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]


def test_bursts_do_not_make_a_rate():
    stamps = np.sort(np.concatenate([np.arange(30) * 3000, np.arange(0, 30, 2) * 3000 + 1]))
    found = settle(stamps, unit=Fraction(1, 90000), stated=90000.0)
    assert found.rate <= 60
    assert found.shown is None or len(found.shown) < 100


@pytest.mark.parametrize("jump", [-4000, 10**8])
def test_jumps_of_the_time_stamps_count_as_one_frame(jump):
    stamps = np.arange(60) * 40
    stamps[30:] += jump
    assert settle(stamps) == Timeline(25.0, None, ("time jumps",))


@pytest.mark.parametrize(
    "stamps",
    [
        [None] * 9,
        [None, 1, 2, 3],
        [0, None, None, None, 8],
        [0, 2, 1, 4, 3, 6, 5, 8, 7],
        [0, 0, 0, 0],
    ],
)
def test_without_usable_time_stamps_the_stated_rate_is_believed(stamps):
    assert settle(stamps, stated=25.0) in (
        Timeline(25.0, None, ("no time stamps",)),
        Timeline(25.0, None, ()),
    )
    assert lay_out(stamps, MS, stated=None, limit=LIMIT) is None


def test_a_missing_time_stamp_lies_between_its_neighbours():
    whole = [int(stamp) for stamp in np.arange(50) * 40]
    whole[30:] = [stamp + 2000 for stamp in whole[30:]]
    partial = [None if place in (3, 17, 18, 44) else stamp for place, stamp in enumerate(whole)]
    found = lay_out(partial, MS, stated=1000.0, limit=LIMIT)
    assert found is not None
    np.testing.assert_array_equal(found.shown, settle(whole).shown)


def test_one_frame_needs_no_rate():
    assert settle([7]) == Timeline(1.0)
    assert settle([None], stated=12.0) == Timeline(12.0)


def test_time_stamps_that_would_fill_the_memory_are_refused():
    stamps = np.cumsum([0, *[40] * 20, *[59_000] * 30, *[40] * 20])
    with pytest.raises(ValueError, match="span 4[0-9]{4} frames at 25 fps"):
        settle(stamps, limit=40_000)
    assert settle(stamps, limit=50_000).rate == 25


def test_gif_delays_of_up_to_10_ms_are_100_ms():
    unit = Fraction(1, 100)
    assert slow_down([0, 1, 1, 3, 8], unit) == [0, 10, 20, 22, 27]
    assert slow_down([5], unit) == [0]
