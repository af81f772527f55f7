# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which file belongs to which split and class: the list formats in which data sets come.

UCF101      trainlist01.txt, testlist01.txt   `Class/v_Class_g01_c01.avi 1`, the id only in train
            ucf_train.txt, ucf_val.txt        `relative/path<TAB>label`, the label is ignored
Kinetics    train.csv, val.csv, test.csv      columns label, youtube_id, time_start, time_end, split
            k600_train.txt, k600_val.txt      `relative/path<TAB>label`
            no lists                          train/, val/, test/ with class folders or files
folders     one sub-folder per class          split by a hash of the path

Nothing is decoded here. A listed file is found by its path, else by its name anywhere below the
videos folder, whatever its suffix: archives differ in their top folders, and many are re-encoded.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from nbp.data.files import VideoError
from nbp.data.prompts import load_prompts
from nbp.data.sources import find_files, is_held_out, natural_key
from nbp.errors import ConfigError, DataError

UNLABELLED = "unlabelled"
# What the folders, files and columns of Kinetics call its splits.
KINETICS_SPLITS = {
    "train": "train",
    "val": "validation",
    "validate": "validation",
    "validation": "validation",
    "test": "test",
}
_CLIP_NAME = re.compile(r"(?P<id>.{11})(?:_(?P<start>\d{6})_\d{6})?")
_UCF_NAME = re.compile(r"v_(?P<label>\w+)_(?P<group>g\d+)_c\d+")


@dataclass(frozen=True)
class Item:
    """One clip of the dataset: its file below the videos folder (with /), split and class id."""

    path: str
    split: str
    label: int


@dataclass(frozen=True)
class Listing:
    """What the lists and the videos folder say together.

    missing: listed, but there is no such file. unlisted: video files that no list names.
    unreadable: folders that could not be listed.
    """

    labels: tuple[str, ...]
    splits: tuple[str, ...]
    items: tuple[Item, ...] = field(repr=False)
    missing: tuple[Item, ...] = field(default=(), repr=False)
    unlisted: tuple[str, ...] = field(default=(), repr=False)
    unreadable: tuple[VideoError, ...] = field(default=(), repr=False)


def list_folder(videos: Path, *, validation: float) -> Listing:
    """Class sub-folders; the share `validation` of the files, by a hash of the path, is held out.

    The split of a file is that of `sources.scan_folder`: it never changes when files are added.
    """
    if not 0 <= validation < 1:
        raise ConfigError(f"--validation {validation:g}: a share of the files, 0 .. below 1")
    found, unreadable = _find(videos)
    labels = tuple(sorted({label for _, label in found}, key=natural_key))
    ids = {label: number for number, label in enumerate(labels)}
    items = [
        Item(path, "validation" if is_held_out(path, validation) else "train", ids[label])
        for path, label in found
    ]
    splits = ("train", "validation") if validation else ("train",)
    return Listing(labels, splits, _by_split(items, splits), unreadable=unreadable)


def list_ucf101(videos: Path, annotations: Path, *, split: int) -> Listing:
    """The official split 1, 2 or 3 of UCF101: splits train and test, 101 classes."""
    if split not in (1, 2, 3):
        raise ConfigError(f"--split {split}: UCF101 has the splits 1, 2 and 3")
    labels = tuple(load_prompts())
    ids = {label.lower(): number for number, label in enumerate(labels)}
    found, unreadable = _find(videos)
    files = _Files([path for path, _ in found])
    wanted = {
        "train": (f"trainlist{split:02d}.txt", "ucf_train.txt", "ucf101_train.txt", "train.txt"),
        "test": (
            f"testlist{split:02d}.txt",
            *("ucf_val.txt", "ucf_test.txt", "ucf101_val.txt", "ucf101_test.txt"),
            *("val.txt", "test.txt"),
        ),
    }
    items: list[Item] = []
    missing: list[Item] = []
    for part, names in wanted.items():
        lists = _find_list(annotations, names)
        for number, (path, _) in _read_lines(lists):
            label = ids.get(_ucf_class(path).lower())
            if label is None:
                raise DataError(
                    f"{lists}, line {number}: {path!r} is in none of the 101 classes of UCF101"
                )
            place = files.find(path)
            (missing if place is None else items).append(Item(place or path, part, label))
    return _make_listing(labels, ("train", "test"), items, missing, found, unreadable)


def ucf_group(path: str) -> tuple[str, str] | None:
    """(class, group) of a UCF101 file: clips of a group are cut from one video."""
    match = _UCF_NAME.fullmatch(PurePosixPath(path).stem)
    return None if match is None else (match["label"], match["group"])


def list_kinetics(videos: Path, annotations: Path | None) -> Listing:
    """Kinetics by its csv or txt lists, or without `annotations` by its folders."""
    found, unreadable = _find(videos)
    if annotations is None:
        rows = list(_rows_of_folders([path for path, _ in found]))
    else:
        rows = list(_rows_of_lists(annotations))
    files = _Files([path for path, _ in found])
    labels = tuple(sorted({row.label for row in rows}, key=natural_key))
    ids = {label: number for number, label in enumerate(labels)}
    items: list[Item] = []
    missing: list[Item] = []
    for row in rows:
        place = files.find_clip(row) if row.youtube else files.find(row.path)
        item = Item(place or row.path, row.split, ids[row.label])
        (missing if place is None else items).append(item)
    splits = tuple(s for s in ("train", "validation", "test") if any(r.split == s for r in rows))
    return _make_listing(labels, splits, items, missing, found, unreadable)


@dataclass(frozen=True)
class _Row:
    """A line of a Kinetics list. youtube: its id; `path` is then only for the report."""

    path: str
    split: str
    label: str
    youtube: str = ""
    start: int | None = None


class _Files:
    """The video files below a folder, found by path, by name, or by the id of a YouTube clip."""

    def __init__(self, paths: Sequence[str]):
        self._paths = set(paths)
        self._stems: dict[str, list[str]] = {}
        self._clips: dict[str, list[tuple[int | None, str]]] = {}
        for path in paths:
            stem = PurePosixPath(path).stem
            self._stems.setdefault(stem, []).append(path)
            match = _CLIP_NAME.fullmatch(stem)
            if match is not None:
                start = None if match["start"] is None else int(match["start"])
                self._clips.setdefault(match["id"], []).append((start, path))

    def find(self, path: str) -> str | None:
        """The file listed as `path`: that very path, else the same name with the folders of the
        listed path as far as they tell files of one name apart.
        """
        if path in self._paths:
            return path
        stem = PurePosixPath(path).stem
        parts = PurePosixPath(path).parts[:-1]
        # A name that tells clips apart by itself, or else the same folder just above it.
        unique = not parts or _UCF_NAME.fullmatch(stem) or _CLIP_NAME.fullmatch(stem)
        shared = {
            place: _shared_end(PurePosixPath(place).parts[:-1], parts)
            for place in self._stems.get(stem, [])
        }
        fitting = [place for place, count in shared.items() if count or unique]
        return max(fitting, key=lambda place: shared[place], default=None)

    def find_clip(self, row: _Row) -> str | None:
        """The file of a YouTube clip: the one cut at the listed start, in its split's folder."""
        fitting = [
            (
                start is not None and start == row.start,
                KINETICS_SPLITS.get(PurePosixPath(path).parts[0]) == row.split,
                path,
            )
            for start, path in self._clips.get(row.youtube, [])
            if start is None or row.start is None or start == row.start
        ]
        return max(fitting, key=lambda place: place[:2], default=(0, 0, None))[2]


def _shared_end(first: Sequence[str], second: Sequence[str]) -> int:
    """How many folder names two paths share, counted from the file upwards."""
    shared = 0
    for a, b in zip(reversed(first), reversed(second), strict=False):
        if a != b:
            break
        shared += 1
    return shared


def _find(videos: Path) -> tuple[list[tuple[str, str]], tuple[VideoError, ...]]:
    unreadable: list[VideoError] = []
    found = find_files(videos, unreadable.append)
    if not found:
        raise DataError(f"{videos}: no video files below it. Check --videos.")
    return found, tuple(unreadable)


def _by_split(items: Sequence[Item], splits: Sequence[str]) -> tuple[Item, ...]:
    return tuple(item for split in splits for item in items if item.split == split)


def _make_listing(
    labels: Sequence[str],
    splits: Sequence[str],
    items: Sequence[Item],
    missing: Sequence[Item],
    found: Sequence[tuple[str, str]],
    unreadable: Sequence[VideoError],
) -> Listing:
    items = list(dict.fromkeys(items))  # a file listed twice in a split is one clip
    if not items:
        raise DataError(
            f"none of the {len(missing)} listed files is among the {len(found)} video files. The "
            f"first listed is {missing[0].path!r}, the first file {found[0][0]!r}. Check --videos "
            "and --annotations."
            if missing
            else "the lists are empty. Check --annotations."
        )
    listed = {item.path for item in items}
    unlisted = tuple(path for path, _ in found if path not in listed)
    return Listing(
        tuple(labels),
        tuple(splits),
        _by_split(items, splits),
        _by_split(list(dict.fromkeys(missing)), splits),
        unlisted,
        tuple(unreadable),
    )


def _find_list(annotations: Path, names: Sequence[str]) -> Path:
    for folder in (annotations, annotations / "ucfTrainTestlist"):
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise DataError(
        f"{annotations}: no {names[0]} (nor {', '.join(names[1:])}) in it. Give the folder "
        "with the official lists: --annotations DIR"
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _read_lines(path: Path) -> Iterator[tuple[int, tuple[str, str]]]:
    """(line number, (path, label or "")) of a txt list."""
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        name, tab, label = line.partition("\t")
        if not tab:
            match = re.fullmatch(r"(.*\S)\s+(\d+)\s*", line)
            name, label = (line.strip(), "") if match is None else (match[1], match[2])
        parts = PurePosixPath(name.strip().replace("\\", "/")).parts
        yield number, ("/".join(part for part in parts if part not in (".", "/")), label.strip())


def _ucf_class(path: str) -> str:
    """The class of a listed file: its folder, or what its name says."""
    group = ucf_group(path)
    parent = PurePosixPath(path).parent.name
    return parent if parent or group is None else group[0]


def _rows_of_folders(paths: Sequence[str]) -> Iterator[_Row]:
    for path in paths:
        parts = PurePosixPath(path).parts
        split = KINETICS_SPLITS.get(parts[0].lower()) if len(parts) > 1 else None
        if split is None:
            raise DataError(
                f"{path}: neither in train/, val/ nor test/. Give the annotation files of "
                "Kinetics-600 with --annotations, or use `nbp.prepare folder`."
            )
        yield _Row(path, split, parts[1] if len(parts) > 2 else UNLABELLED)


def _rows_of_lists(annotations: Path) -> Iterator[_Row]:
    """The rows of every csv file in the folder, or if there is none of every txt file."""
    tables = sorted(annotations.glob("*.csv"))
    readers: list[tuple[Path, Callable[[Path], Iterator[_Row]]]]
    readers = [(path, _rows_of_csv) for path in tables]
    readers = readers or [(path, _rows_of_txt) for path in sorted(annotations.glob("*.txt"))]
    if not readers:
        raise DataError(f"{annotations}: neither csv nor txt lists in it. Check --annotations.")
    for path, read in readers:
        yield from read(path)


def _split_of(path: Path) -> str | None:
    words = re.split(r"[^a-z]+", path.stem.lower())
    return next((KINETICS_SPLITS[word] for word in words if word in KINETICS_SPLITS), None)


def _rows_of_csv(path: Path) -> Iterator[_Row]:
    reader = csv.DictReader(_read_text(path).splitlines())
    columns = {name.strip().lower(): name for name in reader.fieldnames or ()}
    if "youtube_id" not in columns:
        raise DataError(f"{path}: no column youtube_id; it has {', '.join(columns) or 'none'}")
    for number, line in enumerate(reader, start=2):
        row = {key: (line[name] or "").strip() for key, name in columns.items()}
        split = KINETICS_SPLITS.get(row.get("split", "").lower()) or _split_of(path)
        if split is None:
            raise DataError(f"{path}, line {number}: no split, neither in a column nor in the name")
        try:
            start = int(float(row["time_start"])) if row.get("time_start") else None
        except ValueError:
            raise DataError(f"{path}, line {number}: time_start {row['time_start']!r}") from None
        clip = row["youtube_id"] + ("" if start is None else f"_{start:06d}")
        yield _Row(clip, split, row.get("label") or UNLABELLED, row["youtube_id"], start)


def _rows_of_txt(path: Path) -> Iterator[_Row]:
    for number, (name, label) in _read_lines(path):
        parts = PurePosixPath(name).parts
        first = KINETICS_SPLITS.get(parts[0].lower()) if len(parts) > 1 else None
        split = first or _split_of(path)
        if split is None:
            raise DataError(f"{path}, line {number}: {name!r} tells no split, nor does the list")
        parent = parts[-2] if len(parts) > 1 else ""
        named = "" if parent.lower() in KINETICS_SPLITS else parent
        yield _Row(name, split, named or label or UNLABELLED)
