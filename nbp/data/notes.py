# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What is peculiar about a video that is read all the same, and by which rule it is read."""

from collections import Counter
from collections.abc import Iterable, Mapping

# The order in which they are told.
NOTES: Mapping[str, str] = {
    "several tracks": "several video tracks; the default one is read, else the largest",
    "turned": "turned or mirrored by its mark; shown as a player does",
    "pixel aspect": "pixels that are not square; made square",
    "absurd pixel aspect": "pixels stated as more than 4 times as wide as high, or high as wide; "
    "taken as square",
    "uneven rate": "uneven frame rate; laid out at an even one by the time stamps",
    "time jumps": "time stamps that jump back or by above a minute; each jump counts as one frame",
    "no time stamps": "no usable time stamps; read at the stated rate",
    "interlaced": "interlaced; read as stored, both fields in one frame",
    "HDR": "HDR or BT.2020; read as 8 bits without tone mapping",
    "transparent": "transparent; shown on white",
}


def summarize_notes(videos: Iterable[tuple[str, ...]]) -> list[str]:
    """For example ["3 files: interlaced; read as stored, both fields in one frame"]."""
    counts = Counter(note for notes in videos for note in set(notes))
    return [
        f"{counts[note]} file{'s' if counts[note] > 1 else ''}: {meaning}"
        for note, meaning in NOTES.items()
        if counts[note]
    ]
