# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the folders train/, val/, ... at the top of a folder of videos are splits or classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nbp.data.prepare.class_names import find_split, normalise_name
from nbp.errors import ConfigError
from nbp.files import escape_name

SplitFolders = Literal["auto", "yes", "no"]


def has_split_folders(videos: Path, paths: Sequence[str], wanted: SplitFolders) -> bool:
    """Whether the folders at the top are splits. paths: of the videos, below `videos`.

    wanted: auto looks: they are where all of them are named after splits, train is among them, and
        each has the same classes. Raises ConfigError where a look cannot tell.
    """
    if wanted == "no":
        return False
    tops = sorted({path.split("/")[0] for path in paths if "/" in path})
    stray = next((path for path in paths if find_split(path.split("/")[0]) is None), None)
    if wanted == "yes":
        if stray is not None or any("/" not in path for path in paths):
            first = next((path for path in paths if "/" not in path), stray)
            raise ConfigError(
                f"--split_folders yes: {escape_name(str(first))!r} is neither in train/, val/ nor "
                f"test/ of {videos}. Move it, or use --split_folders no"
            )
        if not any(find_split(top) == "train" for top in tops):
            raise ConfigError(f"--split_folders yes: {videos} has no folder train")
        return True
    if not tops or any("/" not in path for path in paths) or stray is not None:
        return False
    classes: dict[str, set[str]] = {}
    for path in paths:
        top, *rest = path.split("/")
        label = normalise_name(rest[0]) if rest[1:] else ""
        classes.setdefault(find_split(top) or "", set()).add(label)
    if len(classes) > 1 and "train" in classes and len(set(map(frozenset, classes.values()))) == 1:
        return True
    raise ConfigError(
        f"{videos} holds the folders {', '.join(tops)}: are they splits (with differing classes) "
        "or classes? Say --split_folders yes, or --split_folders no"
    )
