# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Finding the file that a list means, by path, name or YouTube id, and never a namesake.

Archives differ in their top folders, and many are re-encoded, so a listed file may lie elsewhere,
with another suffix. But a file in the folder of another class or split is another file, and of
several that fit equally well none is taken.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from nbp.data.prepare.class_names import find_split, find_split_above, normalise_name
from nbp.data.prepare.list_rows import Row

UCF_NAME = re.compile(r"v_(?P<label>\w+)_(?P<group>g\d+)_c\d+")
# Names that tell clips apart by themselves: a YouTube id, with or without its seconds.
_CLIP_NAME = re.compile(r"[A-Za-z0-9_-]{11}(?:_[0-9]+_[0-9]+)?")
_TIMED = re.compile(r"(?P<id>.+)_(?P<start>[0-9]{1,9})(?:\.0*)?_(?P<end>[0-9]{1,9})(?:\.0*)?")


@dataclass(frozen=True)
class _Clip:
    """A file that may be a clip of a YouTube video. times: (start, end) that its name tells."""

    path: str
    times: tuple[int, int] | None


def tells_clips_apart(stem: str) -> bool:
    """Whether two files of that name are the same clip, wherever they lie."""
    return bool(UCF_NAME.fullmatch(stem) or (_CLIP_NAME.fullmatch(stem) and len(stem) > 11))


class Files:
    """The video files below a folder. labels: of the lists, to know folders of classes by.

    The finders return () for none, (path,) for the file, and all candidates where several fit.
    """

    def __init__(self, paths: Sequence[str], labels: Collection[str]):
        self._paths = dict.fromkeys(paths)
        self._composed: dict[str, list[str]] = {}
        self._stems: dict[str, list[str]] = {}
        self._clips: dict[str, list[_Clip]] = {}
        known = {normalise_name(label) for label in labels}
        self._has_class_folders = any(normalise_name(_parent(path)) in known for path in paths)
        for path in paths:
            self._composed.setdefault(_compose(path), []).append(path)
            stem = _stem(path)
            self._stems.setdefault(_compose(stem), []).append(path)
            self._clips.setdefault(stem, []).append(_Clip(path, None))
            if match := _TIMED.fullmatch(stem):
                times = int(match["start"]), int(match["end"])
                self._clips.setdefault(match["id"], []).append(_Clip(path, times))

    def find(self, path: str, *, split: str, label: str) -> tuple[str, ...]:
        """The file listed as `path`: that very path, else the same name below the same folders.

        A name that tells clips apart by itself may lie in a folder that tells neither class nor
        split. Of several the one counts that shares most folders, then the one with the suffix.
        """
        if path in self._paths:
            return (path,)
        if exact := self._composed.get(_compose(path)):
            return tuple(exact)
        places = self._stems.get(_compose(_stem(path)), [])
        fitting = [place for place in places if self._may_be(place, path, split, label)]
        shared = {place: _shared_end(place, path) for place in fitting}
        most = max(shared.values(), default=0)
        fitting = [p for p in fitting if shared[p] == most]
        name = _compose(path.rpartition("/")[2])
        return _prefer(fitting, [p for p in fitting if _compose(p.rpartition("/")[2]) == name])

    def find_clip(self, row: Row) -> tuple[str, ...]:
        """The file of a clip of a YouTube video; its seconds, in any notation, must agree."""
        clips = [clip for clip in self._clips.get(row.youtube, []) if _agrees(clip, row)]
        clips = [clip for clip in clips if not self._is_of_other_split(clip.path, row.split)]
        clips = [clip for clip in clips if not self._is_of_other_class(clip.path, row.label)]
        timed = [c for c in clips if c.times and row.start is not None]
        clips = timed or clips
        ends = [c for c in clips if c.times and c.times[1] == row.end]
        found = [c.path for c in ends or clips]
        found = _prefer(found, [p for p in found if find_split_above(p) == row.split])
        label = normalise_name(row.label)
        return _prefer(found, [p for p in found if normalise_name(_parent(p)) == label])

    def find_elsewhere(self, row: Row, taken: Collection[str]) -> tuple[str, ...]:
        """The only clip of that id and those seconds, in the folder of another split.

        Kinetics-600 has moved clips of Kinetics-400 to other splits. taken: files of other rows.
        """
        found = [
            clip.path
            for clip in self._clips.get(row.youtube, [])
            if clip.times and row.start is not None and _agrees(clip, row)
        ]
        unique = len(found) == 1 and found[0] not in taken
        return tuple(found) if unique and not self._is_of_other_class(found[0], row.label) else ()

    def _may_be(self, place: str, path: str, split: str, label: str) -> bool:
        stem = _stem(path)
        if UCF_NAME.fullmatch(stem):
            return True  # the name tells the class
        if self._is_of_other_split(place, split):
            return False
        own, listed = _parent(place), _parent(path)
        if own and _compose(own) == _compose(listed):
            return True
        if self._is_of_other_class(place, label):
            return False
        if not listed:
            return True
        neutral = not own or find_split(own) or find_split(listed)
        return bool(neutral and _CLIP_NAME.fullmatch(stem))

    def _is_of_other_class(self, place: str, label: str) -> bool:
        own = _parent(place)
        if not self._has_class_folders or not own or find_split(own):
            return False
        return normalise_name(own) != normalise_name(label)

    def _is_of_other_split(self, place: str, split: str) -> bool:
        return find_split_above(place) not in (None, split)


def _compose(name: str) -> str:
    """The form that is the same on file systems that store decomposed letters."""
    return unicodedata.normalize("NFC", name)


# With strings: paths are made of / here, there are millions, and pathlib takes ten times as long.
def _parent(path: str) -> str:
    return path.rpartition("/")[0].rpartition("/")[2]


def _stem(path: str) -> str:
    name = path.rpartition("/")[2]
    return name.rpartition(".")[0] or name


def _agrees(clip: _Clip, row: Row) -> bool:
    return clip.times is None or row.start is None or clip.times[0] == row.start


def _prefer(found: Iterable[str], better: Sequence[str]) -> tuple[str, ...]:
    return tuple(better) or tuple(found)


def _shared_end(first: str, second: str) -> int:
    """How many folder names two paths share, counted from the file upwards."""
    shared = 0
    pairs = zip(first.split("/")[-2::-1], second.split("/")[-2::-1], strict=False)
    for a, b in pairs:
        if _compose(a) != _compose(b):
            break
        shared += 1
    return shared
