# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of video files as a clip source, with its unusable files found and listed beforehand.

root/class_a/*.mp4        each sub-folder is a class; folders below it belong to it
root/class_b/any/*.avi
root/*.webm               files directly in the root form one class, named after the root
"""

import csv
import hashlib
import io
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, assert_never, runtime_checkable

import numpy as np

from nbp.data.video.decode import VideoInfo, probe_video, resample_frames, too_short
from nbp.data.video.notes import list_notes
from nbp.errors import DataError
from nbp.files import VideoError, escape_name, open_part
from nbp.progress import Progress, print_note
from nbp.shapes import Int

VIDEO_SUFFIXES = (".avi", ".gif", ".mkv", ".mov", ".mp4", ".webm")


@runtime_checkable
class ClipSource(Protocol):
    """Random access to examples: `source[i]` is a record that transforms turn into an example."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @property
    def label_names(self) -> tuple[str, ...]: ...
    @property
    def fingerprint(self) -> str: ...


@runtime_checkable
class LabelledSource(ClipSource, Protocol):
    """A clip source whose classes are known without its clips."""

    def list_labels(self) -> Int[np.ndarray, "n"] | None:
        """Class ids, -1 where one cannot be read; None where classes are drawn alike anyway."""
        ...


@dataclass(frozen=True)
class FolderSpec:
    """What a folder's videos must offer and how they are split.

    frames, fps: a clip's length and rate (None: each file's own); shorter videos are left out.
    validation: "split" puts each file in one split, by a hash of its path below the root, so that
        adding files never moves others; "same" uses every file for both, for folders too small to
        split (a dozen files or fewer), where validation then measures memory, not generalisation.
    validation_fraction: expected share of files for validation under "split".
    check: "frames" decodes every file once at start, which finds damage anywhere; "headers" reads
        only the containers, for large trusted folders; damaged clips are then met, replaced and
        counted while training.
    """

    frames: int
    fps: float | None = None
    validation: Literal["split", "same"] = "split"
    validation_fraction: float = 0.1
    check: Literal["frames", "headers"] = "frames"

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"FolderSpec.frames is {self.frames}; allowed: 1 or more.")
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"FolderSpec.fps is {self.fps}; allowed: None or above 0.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"FolderSpec.validation_fraction is {self.validation_fraction}; allowed: between "
                "0 and 1, both excluded."
            )


@dataclass(frozen=True)
class VideoFile:
    """One usable file: path below the root (with /), size in bytes, class id, what it holds."""

    name: str
    size: int
    label: int
    info: VideoInfo


@dataclass(frozen=True)
class VideoFolder:
    """The clip source over usable files; made by `scan_folder`.

    `source[i]` is {"path": str, "info": VideoInfo, "label": np.int32}: a light record that
    `transforms.DecodeClip` reads. Label ids index `label_names`, which lists every class folder
    that has a video file, usable or not, so that a bad file never renumbers classes.
    """

    root: str
    spec: FolderSpec
    label_names: tuple[str, ...]
    files: tuple[VideoFile, ...] = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """Changes with the spec and the files (names, sizes, classes), not with the root."""
        digest = hashlib.sha256(repr((self.spec, self.label_names)).encode())
        for file in self.files:
            digest.update(os.fsencode(file.name) + f"\0{file.size}\0{file.label}\n".encode())
        return "folder-" + digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file = self.files[index]
        return {
            "path": os.path.join(self.root, *file.name.split("/")),
            "info": file.info,
            "label": np.int32(file.label),
        }

    def list_labels(self) -> Int[np.ndarray, "n"]:
        return np.array([file.label for file in self.files], np.int64)

    def of_length(self, frames: int) -> "VideoFolder":
        """The files of this folder in which clips of so many frames lie, as if asked for these."""
        fps = self.spec.fps
        files = tuple(
            file
            for file in self.files
            if len(resample_frames(file.info.frames, file.info.fps, fps)) >= frames
        )
        if not files:
            raise DataError(
                f"{self.root}: no video has {frames} frames, for clips of data.grids. Leave these "
                "out, or add longer videos."
            )
        return replace(self, spec=replace(self.spec, frames=frames), files=files)

    def describe_notes(self, other: "VideoFolder") -> list[str]:
        """How the videos of both splits that are not plain are read, and how many there are."""
        files = {file.name: file.info.notes for file in (*self.files, *other.files)}
        return [text for text, _ in list_notes(files.items())]


class BadVideos:
    """The list of unusable files: at most one entry per path, kept in a CSV file if one is given.

    The file (columns path, reason, detail) is replaced as a whole at each change.
    """

    COLUMNS = ("path", "reason", "detail")

    def __init__(self, file: str | Path | None = None):
        self.file = None if file is None else Path(file)
        self._entries: dict[str, VideoError] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[VideoError]:
        return iter(self._entries.values())

    def add(self, *errors: VideoError) -> None:
        """Records the errors of new paths and writes the file; without errors, an empty list."""
        known = len(self)
        for error in errors:
            self._entries.setdefault(error.path, error)
        if self.file is None or (errors and len(self) == known):
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.COLUMNS)
        writer.writerows(map(escape_name, (e.path, e.reason, e.detail)) for e in self)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open_part(self.file) as part:
            part.write_text(text.getvalue(), encoding="utf-8")

    def summarize(self) -> str:
        """For example "3 corrupt, 1 zero bytes"."""
        counts = Counter(error.reason for error in self)
        return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())


@dataclass(frozen=True)
class FolderScan:
    """The two splits of a folder and the files that cannot be used."""

    train: VideoFolder
    validation: VideoFolder
    bad: BadVideos


def scan_folder(
    root: str | Path,
    spec: FolderSpec,
    *,
    bad_videos: str | Path | None = None,
    threads: int | None = None,
    report: Callable[[str], None] = print_note,
) -> FolderScan:
    """Finds and probes every video below `root` and splits the usable ones.

    The order is natural ("clip2" before "clip10") and the same everywhere. Hidden files and
    folders, those of the system and other suffixes are ignored; a folder reached twice through
    links counts once; one that cannot be listed is among the unusable files.
    bad_videos: CSV file for the list of unusable files. report: takes lines of progress.
    Raises `DataError` for a missing or empty folder, for one without a usable video, and for a
    split that would be empty.
    """
    root = Path(root)
    errors: list[VideoError] = []
    found = find_files(root, errors.append)
    if not found:
        closed = f" that can be read ({errors[0]})" if errors else ""
        raise DataError(
            f"{root}: no video files in it{closed}. Put videos ({', '.join(VIDEO_SUFFIXES)}) into "
            "it, one sub-folder per class."
        )
    labels = tuple(sorted({label for _, label in found}, key=natural_key))
    ids = {label: number for number, label in enumerate(labels)}
    bad = BadVideos(bad_videos)
    files: list[VideoFile] = []
    with (
        ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool,
        Progress(len(found), "video files looked at", report) as progress,
    ):
        for probe in pool.map(lambda item: _probe(root, item[0], ids[item[1]], spec), found):
            if isinstance(probe, VideoFile):
                files.append(probe)
            else:
                errors.append(probe)
            progress.step(bad=isinstance(probe, VideoError))
    bad.add(*errors)
    if not files:
        listed = "" if bad.file is None else f" They are listed in {bad.file}."
        raise DataError(
            f"{root}: none of its {len(found)} video files can be used ({bad.summarize()}), the "
            f"first: {errors[0]}.{listed} Replace them, or ask for shorter clips if they are too "
            "short."
        )
    train, validation = _split(root, tuple(files), spec)
    return FolderScan(
        VideoFolder(os.fspath(root), spec, labels, train),
        VideoFolder(os.fspath(root), spec, labels, validation),
        bad,
    )


def _probe(root: Path, name: str, label: int, spec: FolderSpec) -> VideoFile | VideoError:
    path = os.path.join(root, *name.split("/"))
    try:
        info = probe_video(path, decode=spec.check == "frames")
        if len(resample_frames(info.frames, info.fps, spec.fps)) < spec.frames:
            return too_short(path, info, frames=spec.frames, fps=spec.fps)
        return VideoFile(name, os.path.getsize(path), label, info)
    except VideoError as error:
        return error
    except OSError as error:  # it vanished in between
        return VideoError(path, "unreadable", error.strerror or str(error))


def _split(
    root: Path, files: tuple[VideoFile, ...], spec: FolderSpec
) -> tuple[tuple[VideoFile, ...], tuple[VideoFile, ...]]:
    match spec.validation:
        case "same":
            return files, files
        case "split":
            held_out = {
                file.name for file in files if is_held_out(file.name, spec.validation_fraction)
            }
            train = tuple(file for file in files if file.name not in held_out)
            validation = tuple(file for file in files if file.name in held_out)
        case _:
            assert_never(spec.validation)
    for part, name in ((train, "training"), (validation, "validation")):
        if not part:
            raise DataError(
                f"{root}: holding out {spec.validation_fraction:g} of its {len(files)} usable "
                f"videos leaves none for {name}. Add videos, or use every video for both: "
                "--config.data.validation=0.0"
            )
    return train, validation


def is_held_out(name: str, share: float) -> bool:
    """Whether the file is among the `share` held out; a function of its path alone."""
    digest = hashlib.sha256(os.fsencode(name)).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def natural_key(name: str) -> tuple[Any, ...]:
    # re.split alternates text and digits, so equal places always hold comparable types.
    parts = re.split(r"([0-9]+)", name)
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), name


# Folders of file systems, storage devices and archivers; hidden ones begin with a point.
_SYSTEM_FOLDERS = (
    "@eadir",
    "#recycle",
    "@recycle",
    "@recently-snapshot",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "__macosx",
)
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")


def find_files(
    root: Path,
    on_error: Callable[[VideoError], None] | None = None,
    *,
    suffixes: tuple[str, ...] = VIDEO_SUFFIXES,
    on_skip: Callable[[str], None] | None = None,
) -> list[tuple[str, str]]:
    """(path below the root with /, class name) of every candidate file, in natural order.

    suffixes: of the files, in lower case; those of videos by default.
    on_error: called for a folder below the root that cannot be listed; without it that raises
        `DataError`, as it always does for the root.
    on_skip: called with the path of every entry that is hidden or of the system, so not a user's.
    """
    _check_root(root)
    own_class = root.resolve().name or "videos"
    found: list[tuple[str, str]] = []
    visited: set[str] = set()

    def walk(folder: str, below: tuple[str, ...]) -> None:
        place = os.path.realpath(folder)
        if place in visited:
            return
        visited.add(place)
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            if on_error is not None and below:
                on_error(VideoError(folder, "unreadable", error.strerror or str(error)))
                return
            raise DataError(
                f"{folder}: cannot be listed ({error.strerror}). Give read access to it."
            ) from None
        for entry in sorted(entries, key=lambda entry: natural_key(entry.name)):
            if _is_of_system(entry.name):
                if on_skip is not None:
                    on_skip(entry.path)
            elif os.path.isdir(entry.path):  # unlike entry.is_dir(), False for a link to itself
                walk(entry.path, (*below, entry.name))
            elif entry.name.lower().endswith(suffixes):
                found.append(("/".join((*below, entry.name)), below[0] if below else own_class))

    walk(os.fspath(root), ())
    return found


def _is_of_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in (*_SYSTEM_FOLDERS, *_SYSTEM_FILES)


def _check_root(root: Path) -> None:
    try:
        kind = os.stat(root).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{root}: no such folder. Check the path.") from None
    except (OSError, ValueError) as error:
        detail = getattr(error, "strerror", None) or error
        raise DataError(f"{root}: cannot be read ({detail}). Check the path.") from None
    if not stat.S_ISDIR(kind):
        raise DataError(f"{root}: not a folder. Give the folder that holds the files.")
