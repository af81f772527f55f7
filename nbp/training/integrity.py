# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What protects a checkpoint directory: hashes of files, the lock, the hunt for leftovers."""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils

from nbp.errors import CheckpointError, ConfigError
from nbp.files import hash_file, write_text
from nbp.locks import NAME, Held, Lock, lock_file
from nbp.parallel.distributed import decide

FORMAT = 1
MANIFEST = "INTEGRITY.json"

T = TypeVar("T")


class Damaged(Exception):
    """The files of a step are not what was written."""


def take_lock(directory: Path) -> Lock:
    """Takes the lock that goes away with the process, however it ends.

    The processes of a job train in a directory together; the first one keeps others out.
    """
    if jax.process_index() > 0:
        return Lock(None)
    try:
        return lock_file(directory / NAME)
    except Held:
        raise ConfigError(
            f"another process trains in {directory}. Wait for it or use another --workdir."
        ) from None


def list_unfinished(directory: Path) -> list[Path]:
    """Finds steps that a killed or failed save left behind, or that are being written."""
    return sorted(directory.glob("*.orbax-checkpoint-tmp*"))


def remove_unfinished(directory: Path) -> None:
    """Removes what a killed or failed save left; it would hold disk space for ever."""
    if jax.process_index() == 0:
        for path in [*list_unfinished(directory), *directory.glob("discarded-*")]:
            shutil.rmtree(path, ignore_errors=True)


def move_aside(path: Path) -> None:
    """Renames a damaged step, so that it is kept but never used."""
    name = f"corrupt-{path.name}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
    os.replace(path, path.with_name(name))


def discard_steps(directory: Path, steps: Sequence[int]) -> None:
    """Removes whole steps. A kill leaves none in part: each gets another name first."""
    if jax.process_index() == 0:
        for path in (directory / str(step) for step in steps):
            if path.is_dir():
                os.replace(path, path.with_name(f"discarded-{path.name}-{time.time_ns()}"))
        remove_unfinished(directory)
    if jax.process_count() > 1:  # nobody may save a step that is still being removed
        multihost_utils.sync_global_devices("discarded checkpoints")


def write_manifest(directory: Path) -> None:
    """Lists every file inside the items; orbax may still touch the files beside them."""
    files = sorted(path for path in directory.glob("*/**/*") if path.is_file())
    entries = {
        path.relative_to(directory).as_posix(): [path.stat().st_size, hash_file(path)]
        for path in files
    }
    write_text(directory / MANIFEST, json.dumps({"format": FORMAT, "files": entries}))


def read_manifest(directory: Path) -> dict[str, Any] | None:
    path = directory / MANIFEST
    if not path.exists():
        return None
    try:
        files = json.loads(path.read_text())["files"]
        return {name: [size, digest] for name, (size, digest) in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} is unreadable") from error


def verify_files(directory: Path, items: Sequence[str]) -> bool:
    """Compares the files of `items` with the list; returns False if there is no list."""
    manifest = read_manifest(directory)
    if manifest is None:
        return False
    for name, (size, digest) in manifest.items():
        path = directory / name
        if name.split("/")[0] not in items:
            continue
        if not path.is_file():
            raise Damaged(f"{name} is missing")
        if path.stat().st_size != size:
            raise Damaged(f"{name} has {path.stat().st_size} bytes instead of {size}")
        if hash_file(path) != digest:
            raise Damaged(f"{name} has other contents than were written")
    return True


def verify_once(directory: Path, items: Sequence[str]) -> bool:
    """As `verify_files`, by the first process of a job for all: one reads, and all agree."""
    sealed, damage = False, ""
    if jax.process_index() == 0:
        try:
            sealed = verify_files(directory, items)
        except Damaged as error:
            damage = str(error)
    sealed, damage = decide([sealed, damage])
    if damage:
        raise Damaged(damage)
    return bool(sealed)


def hash_item(directory: Path, item: str) -> str:
    """Returns a sha256 of the hashes of one item's files.

    Raises:
        CheckpointError: the step is absent, or its list of hashes is absent or unreadable.
    """
    try:
        manifest = read_manifest(directory)
    except Damaged as damage:
        raise CheckpointError(f"checkpoint {directory} is damaged: {damage}.") from damage
    if manifest is None:
        raise CheckpointError(f"checkpoint {directory} is absent or has no {MANIFEST}.")
    entries = {name: entry for name, entry in manifest.items() if name.startswith(f"{item}/")}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def load_whole(
    directory: Path,
    load: Callable[[], T],
    *,
    items: Sequence[str],
    report: Callable[[str], None],
    verified: bool = False,
) -> T:
    """Returns `load()` of a step whose `items` are as written.

    A step without hashes is accepted if it can be read. verified: its files were compared before.

    Raises:
        Damaged: the files are not what was written.
        CheckpointError: they are, but cannot be read or do not fit.
    """
    sealed = verified or verify_once(directory, items)
    if not sealed:
        report(f"checkpoint {directory} has no {MANIFEST}: its contents are not verified")
    try:
        return load()
    except CheckpointError:
        raise
    except Exception as error:  # orbax raises anything down to bare Exception on damaged files
        if sealed:
            raise CheckpointError(
                f"checkpoint {directory} is whole but cannot be read: {first_line(error)}"
            ) from error
        raise Damaged(first_line(error)) from error


def print_warning(message: str) -> None:
    """Prints one line on stderr."""
    print(f"nbp: warning: {message}", file=sys.stderr, flush=True)


def first_line(error: BaseException) -> str:
    """Returns the class of an error and the first line of its text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
