# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Where a command writes: looked at before the work, made whole, and gone if it is refused."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from nbp import locks
from nbp.errors import FULL, ConfigError, NbpError, RestartError
from nbp.files import check_writable_folder
from nbp.parallel import distributed

ELSEWHERE = "Use a place that can be written"


def explain(error: OSError, path: Path) -> NbpError:
    """One line for a place that cannot be written: ConfigError, or RestartError for a full disk."""
    place = error.filename or path
    if error.errno in FULL:
        return RestartError(f"cannot write {place}: the disk is full. Free space and start again")
    reason = error.strerror or str(error)
    return ConfigError(f"cannot write {place}: {reason}. {ELSEWHERE}")


def refuse_inside(place: Path, flag: str, root: str | Path, source: str) -> None:
    """ConfigError where `place` lies among the files that are read below `root`, links followed.

    What is written there would be taken for data by the next command. The same goes for another
    run's workdir in there. Hidden folders are not read, and so may hold anything.

    flag, source: what place and root are called, e.g. "--workdir" and "data.root".
    """
    target = os.path.realpath(place)
    visited: set[str] = set()

    def refuse(found: str) -> None:
        raise ConfigError(
            f"{flag} {place} lies in {source} {root}{found}: what is written there would become "
            f"data. Use a {flag} outside of it"
        )

    def walk(folder: str) -> None:
        real = os.path.realpath(folder)
        if real in visited:
            return
        visited.add(real)
        linked = "" if folder == os.fspath(root) else f" (through the link {folder})"
        if _is_below(target, real):
            refuse(linked)
        if os.path.isfile(os.path.join(real, "config.json")) and any(
            found.is_dir() for found in Path(real).glob("*/checkpoints")
        ):
            raise ConfigError(
                f"{source} {root} holds the workdir of a run, {folder}: its previews and samples "
                "would become data. Move it out of there"
            )
        try:
            entries = list(os.scandir(folder))
        except OSError:  # whoever reads the data says so
            return
        for entry in entries:
            if not entry.name.startswith(".") and os.path.isdir(entry.path):
                walk(entry.path)

    if root and os.path.isdir(root):
        walk(os.fspath(root))


def _is_below(target: str, folder: str) -> bool:
    """Whether real path `target` is `folder` or is read where `folder` is walked through."""
    if target == folder:
        return True
    relative = os.path.relpath(target, folder)
    parts = relative.split(os.sep)
    return parts[0] != os.pardir and not any(part.startswith(".") for part in parts)


class Claim:
    """A workdir that belongs to this command. Call `keep` before the first write."""

    def __init__(self) -> None:
        self.kept = False

    def keep(self) -> None:
        """From now on the folder stays, whatever comes."""
        self.kept = True


@contextlib.contextmanager
def claim_workdir(workdir: Path) -> Iterator[Claim]:
    """Makes the folder if need be and keeps other commands that train out of it.

    Folders that were made for it are removed again if it was not kept. Of several processes of a
    job the first one does this. Raises ConfigError where another process trains there, and where
    the folder cannot be made.
    """
    claim = Claim()
    if not distributed.is_main():
        yield claim
        return
    check_writable_folder(workdir, ELSEWHERE)
    with new_folders(workdir, claim):
        busy = f"another process trains in {workdir}. Wait for it or use another --workdir."
        try:
            lock = locks.lock_folder(workdir)
        except locks.Held:
            raise ConfigError(busy) from None
        except OSError as error:
            raise explain(error, workdir) from error
        with lock:
            # Stages have locks of their own, which an older version holds alone.
            if any(map(locks.is_held, workdir.glob(f"*/checkpoints/{locks.NAME}"))):
                raise ConfigError(busy)
            yield claim


@contextlib.contextmanager
def new_folders(folder: Path, claim: Claim) -> Iterator[None]:
    """Makes a folder with its parents; those that are new and empty go away unless kept."""
    folder = Path(os.path.abspath(folder))
    made: list[Path] = []
    place = folder
    while not os.path.lexists(place):
        made.append(place)
        place = place.parent
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror
            raise ConfigError(f"cannot make the folder {folder}: {reason}") from error
        yield
    finally:
        if not claim.kept:
            for place in made:
                with contextlib.suppress(OSError):
                    place.rmdir()
