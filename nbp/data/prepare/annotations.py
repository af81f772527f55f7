# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which file belongs to which split and class: the list formats in which data sets come.

UCF101      trainlist01.txt, testlist01.txt   `Class/v_Class_g01_c01.avi 1`, the id only in train
            ucf_train.txt, ucf_val.txt        `relative/path<TAB>label`, the label is ignored
Kinetics    train.csv, val.csv, test.csv      columns label, youtube_id, time_start, time_end, split
            k600_train.txt, k600_val.txt      `relative/path<TAB>label`
            no lists                          train/, val/, test/ with class folders
folders     one sub-folder per class          split by a hash of the path, or train/, val/, test/

Nothing is decoded here. `list_rows` reads the lines, `listed_files` finds the files.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from nbp.data.prepare.class_names import ORDER, find_split, unify_names
from nbp.data.prepare.list_rows import Row, read_kinetics, read_paths, rows_of_folders
from nbp.data.prepare.listed_files import UCF_NAME, Files, tells_clips_apart
from nbp.data.prepare.split_folders import SplitFolders, has_split_folders
from nbp.data.prompts import load_prompts
from nbp.data.sources import find_files, is_held_out, natural_key
from nbp.errors import ConfigError, DataError
from nbp.files import VideoError, escape_name


@dataclass(frozen=True)
class Item:
    """One clip of the dataset: its file below the videos folder (with /), split and class id."""

    path: str
    split: str
    label: int


@dataclass(frozen=True)
class Finding:
    """One line of the report of a preparation; headings: `quality_report.HEADINGS`."""

    heading: str
    path: str
    split: str = ""
    label: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Listing:
    """What the lists and the videos folder say together.

    missing: listed, but there is no such file. unlisted: video files that no list names.
    unreadable: folders that could not be listed. remarks: what else is odd about lists and classes.
    skipped: hidden entries, and those of file systems and storage devices.
    """

    labels: tuple[str, ...]
    splits: tuple[str, ...]
    items: tuple[Item, ...] = field(repr=False)
    missing: tuple[Item, ...] = field(default=(), repr=False)
    unlisted: tuple[str, ...] = field(default=(), repr=False)
    unreadable: tuple[VideoError, ...] = field(default=(), repr=False)
    remarks: tuple[Finding, ...] = field(default=(), repr=False)
    skipped: int = 0


@dataclass(frozen=True)
class _Found:
    """The video files below a folder: (path, class), natural order; and what was passed over."""

    files: tuple[tuple[str, str], ...]
    unreadable: tuple[VideoError, ...]
    skipped: int

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.files]


def list_folder(
    videos: Path, *, validation: float, split_folders: SplitFolders = "auto"
) -> Listing:
    """Class sub-folders; the share `validation` of the files, by a hash of the path, is held out.

    The split of a file is that of `sources.scan_folder`: it never changes when files are added.
    Where the folders at the top are train/, val/, ... those are the splits instead.
    """
    if not 0 <= validation < 1:
        raise ConfigError(f"--validation {validation:g}: a share of the files, 0 .. below 1")
    found = _find(videos)
    if has_split_folders(videos, found.paths, split_folders):
        own = videos.resolve().name or "videos"
        rows = [
            Row(row.path, row.split, row.label or own, row.source)
            for row in rows_of_folders(found.paths)
        ]
        return _list_rows(rows, [(row.path,) for row in rows], found, [])
    labels = tuple(sorted({label for _, label in found.files}, key=natural_key))
    ids = {label: number for number, label in enumerate(labels)}
    items = [
        Item(path, "validation" if is_held_out(path, validation) else "train", ids[label])
        for path, label in found.files
    ]
    splits = ("train", "validation") if validation else ("train",)
    if validation:
        _check_share(videos, items, validation)
    remarks = [
        Finding("class spelled twice", name, label=name, detail=f"a class beside {chosen!r}")
        for chosen, others in unify_names(labels).others.items()
        for name in others
    ]
    trained = {item.label for item in items if item.split == "train"}
    remarks += [
        Finding("class in one split", name, "validation", name, "no file of it is in train")
        for number, name in enumerate(labels)
        if number not in trained
    ]
    return Listing(
        labels,
        splits,
        _by_split(items, splits),
        unreadable=found.unreadable,
        remarks=tuple(remarks),
        skipped=found.skipped,
    )


def list_ucf101(videos: Path, annotations: Path, *, split: int) -> Listing:
    """The official split 1, 2 or 3 of UCF101: splits train and test, 101 classes."""
    if split not in (1, 2, 3):
        raise ConfigError(f"--split {split}: UCF101 has the splits 1, 2 and 3")
    labels = tuple(load_prompts())
    names = {label.lower(): label for label in labels}
    found = _find(videos)
    wanted = {
        "train": (f"trainlist{split:02d}.txt", "ucf_train.txt", "ucf101_train.txt", "train.txt"),
        "test": (
            f"testlist{split:02d}.txt",
            *("ucf_val.txt", "ucf_test.txt", "ucf101_val.txt", "ucf101_test.txt"),
            *("val.txt", "test.txt"),
        ),
    }
    rows: list[Row] = []
    for part, candidates in wanted.items():
        lists = _find_list(annotations, candidates)
        for number, path, _ in read_paths(lists):
            where = f"{lists}, line {number}"
            rows.append(Row(path, part, _ucf_class(path, names, where), where))
    files = Files(found.paths, labels)
    matches = [files.find(row.path, split=row.split, label=row.label) for row in rows]
    return _list_rows(rows, matches, found, [], labels=labels)


def ucf_group(path: str) -> tuple[str, str] | None:
    """(class, group) of a UCF101 file: clips of a group are cut from one video."""
    match = UCF_NAME.fullmatch(PurePosixPath(path).stem)
    return None if match is None else (match["label"], match["group"])


def list_kinetics(videos: Path, annotations: Path | None) -> Listing:
    """Kinetics by its csv or txt lists, or without `annotations` by its folders.

    A list or folder that tells no class is left out, with a remark: classes are not made up.
    """
    found = _find(videos)
    rows = list(rows_of_folders(found.paths) if annotations is None else read_kinetics(annotations))
    bare: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if not row.label:
            bare[row.source.rpartition(", line")[0] or row.source, row.split] += 1
    remarks = [
        Finding("no label", name, split, detail=f"no class; clips left out: {count}")
        for (name, split), count in bare.items()
    ]
    files = Files(found.paths, {row.label for row in rows})
    labelled = [row for row in rows if row.label]
    matches = _match(labelled, files)
    unlabelled = [row for row in rows if not row.label]
    left_out = {path for match in _match(unlabelled, files) for path in match}
    if not labelled and rows:
        raise DataError(
            f"{next(iter(bare))[0]}: no class is told for any clip. Give lists with a column "
            "label, or use `nbp.prepare folder`, where the files of a folder are of one class"
        )
    return _list_rows(labelled, matches, found, remarks, left_out=left_out)


def _match(rows: Sequence[Row], files: Files) -> list[tuple[str, ...]]:
    """What each row may mean; () where nothing."""
    matches = [
        files.find_clip(row)
        if row.youtube
        else files.find(row.path, split=row.split, label=row.label)
        for row in rows
    ]
    taken = {match[0] for match in matches if match}
    return [
        match or (files.find_elsewhere(row, taken) if row.youtube else ())
        for row, match in zip(rows, matches, strict=True)
    ]


def _list_rows(
    rows: Sequence[Row],
    matches: Sequence[tuple[str, ...]],
    found: _Found,
    remarks: Iterable[Finding],
    *,
    labels: Sequence[str] | None = None,
    left_out: Iterable[str] = (),
) -> Listing:
    """The listing of rows with what each may mean. labels: the classes, where they are known."""
    remarks = list(remarks)
    chosen: Mapping[str, str] = {label: label for label in labels or ()}
    if labels is None:
        spellings = unify_names(
            row.label for row in sorted(rows, key=lambda row: ORDER.index(row.split))
        )
        chosen = spellings.chosen
        labels = sorted(set(chosen.values()), key=natural_key)
        remarks += [
            Finding("class spelled twice", other, label=name, detail=f"counted as {name!r}")
            for name, others in spellings.others.items()
            for other in others
        ]
    ids = {label: number for number, label in enumerate(labels)}
    items: list[Item] = []
    missing: list[Item] = []
    label_of: dict[str, tuple[int, str]] = {}
    for row, path, doubt in _settle(rows, matches):
        label = ids[chosen[row.label]]
        finding = Finding("ambiguous", row.path, row.split, chosen[row.label])
        if doubt:
            remarks.append(replace(finding, detail=f"{row.source}: {doubt}"))
            continue
        if not path:
            missing.append(Item(row.path, row.split, label))
            continue
        first, source = label_of.setdefault(path, (label, row.source))
        if first != label:
            detail = f"{row.source}; {source} says {labels[first]!r}, which counts"
            remarks.append(replace(finding, heading="two labels", path=path, detail=detail))
            continue
        items.append(Item(path, row.split, label))
    items = list(dict.fromkeys(items))  # a file listed twice in a split is one clip
    missing = list(dict.fromkeys(missing))
    splits = tuple(s for s in ORDER if any(row.split == s for row in rows))
    _check_found(items, missing, splits, found)
    remarks += _compare_splits(labels, splits, rows, chosen)
    known = {item.path for item in items} | set(left_out)
    known |= {path for match in matches for path in match}
    return Listing(
        tuple(labels),
        splits,
        _by_split(items, splits),
        _by_split(missing, splits),
        tuple(path for path in found.paths if path not in known),
        found.unreadable,
        tuple(remarks),
        found.skipped,
    )


def _settle(
    rows: Sequence[Row], matches: Sequence[tuple[str, ...]]
) -> Iterator[tuple[Row, str, str]]:
    """(row, its file or "", why it cannot be told or ""), splits in their order.

    A file that may be several clips of the lists is the one listed with that very path, if any,
    else none of them.
    """
    pairs = sorted(zip(rows, matches, strict=True), key=lambda pair: ORDER.index(pair[0].split))
    exact = {row.path for row, match in pairs if match == (row.path,)}
    clips: dict[str, list[str]] = {}
    for row, match in pairs:
        if len(match) == 1:
            clips.setdefault(match[0], []).append(_clip_of(row))
    for row, match in pairs:
        if len(match) > 1:
            yield row, "", f"it may be {_join(match)}"
        elif not match or match[0] == row.path or len(set(clips[match[0]])) == 1:
            yield row, match[0] if match else "", ""
        elif match[0] in exact:
            yield row, "", ""
        else:
            listed = _join(dict.fromkeys(clips[match[0]]))
            yield row, "", f"{escape_name(match[0])} may be {listed}"


def _join(names: Iterable[str]) -> str:
    shown = [escape_name(name) for name in names]
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if shown[4:] else "")


def _clip_of(row: Row) -> str:
    """What is the same for two rows of one clip."""
    if row.youtube:
        return row.path
    path = PurePosixPath(row.path)
    return path.stem if tells_clips_apart(path.stem) else str(path.with_suffix(""))


def _compare_splits(
    labels: Sequence[str], splits: Sequence[str], rows: Sequence[Row], chosen: Mapping[str, str]
) -> list[Finding]:
    """Classes that only one of several splits has."""
    if len(splits) < 2:
        return []
    seen: dict[str, set[str]] = {}
    for row in rows:
        seen.setdefault(chosen[row.label], set()).add(row.split)
    return [
        Finding("class in one split", name, only, name, f"no list of {' or '.join(others)} has it")
        for name in labels
        if len(seen.get(name, ())) == 1
        for only in seen[name]
        for others in [[split for split in splits if split != only]]
    ]


def _check_share(videos: Path, items: Sequence[Item], validation: float) -> None:
    """DataError, with a share that works, where one of the two splits would be empty."""
    held_out = sum(item.split == "validation" for item in items)
    if 0 < held_out < len(items):
        return
    better = [
        share / 100
        for share in (5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 90)
        if 0 < sum(is_held_out(item.path, share / 100) for item in items) < len(items)
    ]
    remedy = "--validation 0 (none are held out)"
    if better:
        nearest = min(better, key=lambda share: abs(share - validation))
        count = sum(is_held_out(item.path, nearest) for item in items)
        remedy = f"--validation {nearest:g} (holds out {count}), or {remedy}"
    which = "train" if held_out else "validation"
    raise DataError(
        f"{videos}: --validation {validation:g} of its {len(items)} files leaves none for the "
        f"split {which}. Add files, or use {remedy}"
    )


def _find(videos: Path) -> _Found:
    unreadable: list[VideoError] = []
    skipped: list[str] = []
    found = find_files(videos, unreadable.append, on_skip=skipped.append)
    if not found:
        first = f" ({unreadable[0]})" if unreadable else ""
        raise DataError(f"{videos}: no video files below it{first}. Check --videos.")
    return _Found(tuple(found), tuple(unreadable), len(skipped))


def _by_split(items: Sequence[Item], splits: Sequence[str]) -> tuple[Item, ...]:
    return tuple(item for split in splits for item in items if item.split == split)


def _check_found(
    items: Sequence[Item], missing: Sequence[Item], splits: Sequence[str], found: _Found
) -> None:
    """DataError where a split has no file at all."""
    if not items:
        example = f"The first listed is {missing[0].path!r}, t" if missing else "T"
        raise DataError(
            f"none of the {len(missing)} listed files is among the {len(found.files)} video "
            f"files. {example}he first file {found.paths[0]!r}. Check --videos and --annotations."
        )
    have = Counter(item.split for item in items)
    for split in splits:
        if not have[split]:
            listed = [item for item in missing if item.split == split]
            example = f", the first: {listed[0].path!r}" if listed else ""
            raise DataError(
                f"none of the files listed for the split {split} is there{example}. Download "
                "them, or take the list of that split out of --annotations"
            )


def _find_list(annotations: Path, names: Sequence[str]) -> Path:
    for folder in (annotations, annotations / "ucfTrainTestlist"):
        for name in names:
            if os.path.isfile(folder / name):  # unlike the method, False without rights
                return folder / name
    raise DataError(
        f"{annotations}: no {names[0]} (nor {', '.join(names[1:])}) in it. Give the folder "
        "with the official lists: --annotations DIR"
    )


def _ucf_class(path: str, names: Mapping[str, str], where: str) -> str:
    """The class of a listed file: its folder, or what its name says. names: by lower case."""
    group = ucf_group(path)
    parent = PurePosixPath(path).parent.name
    label = names.get((parent if parent or group is None else group[0]).lower())
    if label is None and group is not None and find_split(parent):
        label = names.get(group[0].lower())
    if label is None:
        raise DataError(f"{where}: {path!r} is in none of the 101 classes of UCF101")
    if group is not None and names.get(group[0].lower(), label) != label:
        raise DataError(f"{where}: the folder of {path!r} is of another class than its name")
    return label
