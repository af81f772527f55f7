# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The lines of lists of videos, read strictly: what is malformed is an error with file and line.

A line is a row: no cell runs over its end, so that a stray quotation mark is found where it is.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nbp.data.prepare.class_names import find_split, find_split_above, find_split_in
from nbp.errors import DataError
from nbp.files import escape_name, read_lines

MAX_CELL = 1000  # characters; a class name or a path has fewer
MAX_SECONDS = 10**6  # the names of clips have six digits
_CELL = re.compile(r'[ ]*"((?:[^"]|"")*)"[ ]*(,|$)|([^",]*)(,|$)')
_TIME = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?")
_INSTEAD = {";": "a semicolon", "\t": "a tab", "|": "a bar"}


@dataclass(frozen=True)
class Row:
    """A clip that a list names. label: "" where the list has none; source: file and line.

    youtube: the id of the video, with the seconds of the clip where they are listed; `path` is
    then only for the report.
    """

    path: str
    split: str
    label: str
    source: str
    youtube: str = ""
    start: int | None = None
    end: int | None = None


def read_paths(file: Path) -> Iterator[tuple[int, str, str]]:
    """(line number, path, label or "") of a txt list: `path`, `path 12` or `path<TAB>label`."""
    lines = read_lines(file)
    if not any(line.strip() for line in lines):
        raise DataError(f"{file}: no clip in the list. Mend it, or take it away")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        if len(line) > 2 * MAX_CELL:
            raise DataError(f"{where}: {len(line)} characters are no path and label")
        name, *labels = line.split("\t")
        if len(labels) > 1:
            raise DataError(f"{where}: {len(labels)} tabs; a line is a path, a tab and a label")
        if not labels:
            match = re.fullmatch(r"(.*\S)[ ]+([0-9]+)[ ]*", line, re.DOTALL)
            name, labels = (line, [""]) if match is None else (match[1], [match[2]])
        name = name.strip(" ").replace("\\", "/")
        if match := re.search(r"\.[A-Za-z0-9]{2,4}([,;|])", name):
            raise DataError(f"{where}: {match[1]!r} after a path; separate the label by a tab")
        parts = [part for part in PurePosixPath(name).parts if part not in (".", "/")]
        if not parts:
            raise DataError(f"{where}: no path")
        yield number, "/".join(parts), labels[0].strip(" ")


def read_table(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, cells by column in lower case) of a csv table with a header."""
    columns: list[str] = []
    for number, line in enumerate(read_lines(file), start=1):
        where = f"{file}, line {number}"
        cells = _split_cells(line, where)
        if not any(cells):
            continue
        if columns:
            if len(cells) != len(columns):
                raise DataError(
                    f"{where}: {len(cells)} fields, and the header has {len(columns)}. Is there a "
                    "comma in a name? Put the name into quotation marks"
                )
            yield number, dict(zip(columns, cells, strict=True))
            continue
        if "\r" in line:
            raise DataError(
                f"{where}: carriage returns without newlines end its lines. Save it with newlines"
            )
        columns = [cell.lower() for cell in cells]
        if len(columns) == 1 and (found := re.search(r"[;\t|]", columns[0])):
            raise DataError(
                f"{where}: {_INSTEAD[found[0]]} separates the fields. Save the table with commas"
            )
        twice = [name for name in columns if name and columns.count(name) > 1]
        if twice:
            raise DataError(f"{where}: the column {twice[0]} is there twice")


def _split_cells(line: str, where: str) -> list[str]:
    cells: list[str] = []
    place = 0
    while True:
        match = _CELL.match(line, place)
        if match is None:
            raise DataError(
                f"{where}: a stray quotation mark in field {len(cells) + 1}. A field in quotation "
                'marks ends on its line, and a mark in it is written ""'
            )
        quoted, after, bare, bare_after = match.groups()
        cell = (bare if quoted is None else quoted.replace('""', '"')).strip(" \t")
        if len(cell) > MAX_CELL:
            raise DataError(
                f"{where}: field {len(cells) + 1} has {len(cell)} characters; allowed: {MAX_CELL}"
            )
        cells.append(cell)
        place = match.end()
        if not (after if bare is None else bare_after):
            return cells


def read_kinetics(folder: Path) -> list[Row]:
    """The rows of every csv list in the folder, or if there is none of every txt list."""
    if not os.path.isdir(folder):
        raise DataError(f"{folder}: no such folder. Give the folder of the lists: --annotations.")
    tables = _glob(folder, ".csv")
    readers: list[tuple[Path, Callable[[Path], Iterator[Row]]]]
    readers = [(path, _read_csv_rows) for path in tables]
    readers = readers or [(path, _read_txt_rows) for path in _glob(folder, ".txt")]
    if not readers:
        raise DataError(f"{folder}: neither csv nor txt lists in it. Check --annotations.")
    rows: list[Row] = []
    for path, read in readers:
        of_it = list(read(path))
        if not of_it:
            raise DataError(f"{path}: no clip in the list. Mend it, or take it away")
        _check_labels(of_it)
        rows += of_it
    return rows


def _glob(folder: Path, suffix: str) -> list[Path]:
    """Lists of a kind, in upper case too; hidden ones are notes of a file system."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from None
    return [
        path
        for path in entries
        if path.suffix.lower() == suffix and path.name[0] != "." and not os.path.isdir(path)
    ]


def _check_labels(rows: Sequence[Row]) -> None:
    """A list has a class for all of its clips, or for none."""
    bare = [row for row in rows if not row.label]
    if bare and len(bare) < len(rows):
        raise DataError(f"{bare[0].source}: no label, though other lines of the list have one")


def _read_csv_rows(file: Path) -> Iterator[Row]:
    for number, cells in read_table(file):
        where = f"{file}, line {number}"
        if "youtube_id" not in cells:
            raise DataError(f"{file}: no column youtube_id; it has {', '.join(cells)}")
        youtube = cells["youtube_id"]
        if not youtube:
            raise DataError(f"{where}: no youtube_id")
        listed = cells.get("split", "")
        split = find_split(listed) if listed else find_split_in(file.stem)
        if split is None and listed:
            raise DataError(f"{where}: split {listed!r} is none of train, val and test")
        if split is None:
            raise DataError(f"{where}: no split, neither in a column nor in the name")
        start, end = (_read_time(cells, name, where) for name in ("time_start", "time_end"))
        if start is not None and end is not None and end <= start:
            raise DataError(f"{where}: time_end {end:g} is not after time_start {start:g}")
        first = None if start is None else int(start)
        last = None if end is None else int(end)
        clip = youtube + ("" if first is None else f"_{first:06d}")
        yield Row(clip, split, cells.get("label", ""), where, youtube, first, last)


def _read_time(cells: dict[str, str], name: str, where: str) -> float | None:
    text = cells.get(name, "")
    if not text:
        return None
    if not _TIME.fullmatch(text) or float(text) >= MAX_SECONDS:
        raise DataError(f"{where}: {name} {text!r}; allowed: seconds, 0 .. below {MAX_SECONDS}")
    return float(text)


def _read_txt_rows(file: Path) -> Iterator[Row]:
    for number, path, label in read_paths(file):
        split = find_split_above(path) or find_split_in(file.stem)
        where = f"{file}, line {number}"
        if split is None:
            raise DataError(f"{where}: {escape_name(path)!r} tells no split, nor does the list")
        parent = PurePosixPath(path).parent.name
        yield Row(path, split, (parent if not find_split(parent) else "") or label, where)


def rows_of_folders(paths: Sequence[str]) -> Iterator[Row]:
    """Files below train/, val/ or test/, in class folders or without a label."""
    for path in paths:
        top, *rest = path.split("/")
        split = find_split(top) if rest else None
        if split is None:
            raise DataError(
                f"{escape_name(path)}: neither in train/, val/ nor test/. Give the annotation "
                "files of Kinetics-600 with --annotations, or use `nbp.prepare folder`."
            )
        yield Row(path, split, rest[0] if rest[1:] else "", f"{top}/")
