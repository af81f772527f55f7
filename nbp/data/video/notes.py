# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What is peculiar about a video that is read all the same, and by which rule it is read."""

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


def list_notes(videos: Iterable[tuple[str, tuple[str, ...]]]) -> list[tuple[str, list[str]]]:
    """A text and the names of the videos for each note that occurs; videos: (name, notes).

    For example [("1 file: interlaced; read as stored, both fields in one frame", ["a.mp4"])].
    """
    found: dict[str, list[str]] = {note: [] for note in NOTES}
    for name, notes in videos:
        for note in notes:
            found[note].append(name)
    return [
        (f"{len(names)} file{'s' if len(names) > 1 else ''}: {NOTES[note]}", names)
        for note, names in found.items()
        if names
    ]
