# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""From time stamps to an even rate: when each stored frame of a video is shown.

Clips are cut by counting frames at an even rate. Most videos are stored so. Others (recordings of
browsers, screens and phones, animations) are laid out here as a player shows them: on an even grid,
each place of which shows the frame that is on the screen then, so that a pause repeats a frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from nbp.shapes import Int

# A frame may be this far from its place at an even rate, in frames, before the rate is uneven.
_SLACK = 0.5
# A longer gap, in seconds, is a fault of the time stamps and not a pause.
LONGEST_PAUSE = 60.0
# Frames closer than this, in seconds, replace each other before anyone sees them.
_SHORTEST = 1 / 250


@dataclass(frozen=True)
class Timeline:
    """When frames are shown.

    rate: per second. shown: the stored frame of each shown one; None where each is shown once.
    notes: keys of `nbp.data.video.notes.NOTES`.
    """

    rate: float
    shown: Int[np.ndarray, "n"] | None = None
    notes: tuple[str, ...] = ()


def lay_out(
    stamps: Sequence[int | None], unit: Fraction, *, stated: float | None, limit: int
) -> Timeline | None:
    """The timeline of frames with these time stamps, in their order of presentation.

    stamps: in units of `unit` seconds, from any origin; None where the file has none. stated: the
        rate that the file states, if any: believed where each frame is within half a frame of its
        place at that rate, or where there are no usable time stamps. Else the average rate is
        tried in the same way; else the rate is that of the usual interval, and frames are chosen
        as FFmpeg's fps filter does: each takes the nearest place, and is shown until the next one.
    limit: ValueError for more shown frames.
    Returns None where neither time stamps nor the file say a rate.
    """
    times, notes = _straighten(stamps, float(unit))
    if times is None:
        if stated is None and len(stamps) != 1:
            return None
        return Timeline(stated or 1.0, None, notes)
    places = np.arange(len(times))
    mean = (len(times) - 1) / times[-1]
    for rate in (stated, *_name_rates(mean, float(unit) / times[-1])):
        if rate is not None and np.abs(times * rate - places).max() <= _SLACK + 1e-6:
            return Timeline(rate, None, notes)
    rate = _find_usual_rate(times, float(unit))
    slots = np.floor(times * rate + 0.5).astype(np.int64)
    if slots[-1] >= limit:
        raise ValueError(f"its time stamps span {slots[-1] + 1} frames at {rate:g} fps")
    shown = np.searchsorted(slots, np.arange(slots[-1] + 1), side="right") - 1
    return Timeline(rate, shown, ("uneven rate", *notes))


def slow_down(stamps: Sequence[int | None], unit: Fraction) -> list[int | None]:
    """The time stamps of a GIF, in which frames of up to 10 ms last 100 ms, as in browsers."""
    known = np.array([stamp or 0 for stamp in stamps], np.int64)
    steps = np.diff(known)
    steps[(steps >= 0) & (steps * float(unit) < 0.0101)] = round(Fraction(1, 10) / unit)
    return [0, *np.cumsum(steps).tolist()]


def _straighten(
    stamps: Sequence[int | None], unit: float
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Seconds from the first frame on, never falling, without jumps; None if unusable."""
    if len(stamps) < 2:
        return None, ()
    known = [(place, stamp) for place, stamp in enumerate(stamps) if stamp is not None]
    if len(known) < 0.5 * len(stamps) or known[0][0] > 0 or known[-1][0] < len(stamps) - 1:
        return None, ("no time stamps",)
    # Of integers from the first one on: 64 bits of a clock are too many for a float.
    places, passed = zip(
        *((place, float(stamp - known[0][1])) for place, stamp in known), strict=True
    )
    # A frame without a time stamp is shown midway between those around it.
    steps = np.diff(np.interp(np.arange(len(stamps)), places, passed)) * unit
    forward = steps[(steps > 0) & (steps <= LONGEST_PAUSE)]
    jumps = (steps < 0) | (steps > LONGEST_PAUSE)
    # Some containers hold no time of presentation, and the order of decoding shows through.
    if len(forward) == 0 or (steps < 0).sum() > max(1, 0.05 * len(steps)):
        return None, ("no time stamps",)
    steps[jumps] = np.median(forward)
    return np.concatenate([[0.0], np.cumsum(steps)]), ("time jumps",) if jumps.any() else ()


def _find_usual_rate(times: np.ndarray, unit: float) -> float:
    """The rate while the video moves: of the usual interval, without pauses and bursts."""
    steps = np.diff(times)
    seen = steps[steps >= _SHORTEST - 1e-9]
    if len(seen) == 0:
        seen = steps[steps > 0]
    middle = np.sort(seen)[len(seen) // 2]
    usual = seen[(seen > 0.5 * middle) & (seen < 1.5 * middle)]
    mean = usual.mean()
    return _name_rates(1 / mean, unit / usual.sum())[0]


def _name_rates(rate: float, doubt: float) -> tuple[float, ...]:
    """Rates within `doubt` (relative) of `rate`: whole, or of NTSC, where there is one, then it.

    All are fractions that records keep exactly (`records`), so that windows stay the same.
    """
    exact = Fraction(rate).limit_denominator(1001) or Fraction(1, 1001)
    named = [Fraction(round(rate)), Fraction(round(rate * 1.001) * 1000, 1001)]
    near = [r for r in named if r > 0 and abs(float(r) - rate) <= (doubt + 1e-9) * rate]
    return tuple(float(r) for r in (*near, exact))
