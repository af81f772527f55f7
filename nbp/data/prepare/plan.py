# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What a preparation is to do: the request, and the plan that is fixed in the work folder.

The plan, options and list of files, is made once. A restart and every other machine read it, so
that a file that appears or vanishes meanwhile changes no shard.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

from nbp.data.prepare import annotations as lists
from nbp.data.prepare.annotations import Finding, Item, Listing
from nbp.data.prepare.quality_report import summarize
from nbp.data.prepare.reencode import MAX_WORKERS, Recipe, check_number, check_timeout
from nbp.data.prepare.shards import Shard, split_shards
from nbp.data.prepare.split_folders import SplitFolders
from nbp.data.records import VERSION, shard_name
from nbp.errors import ConfigError, DataError
from nbp.files import VideoError, escape_name, full_disk_named, read_json, sync
from nbp.locks import find_held

Kind = Literal["ucf101", "k600", "folder"]
FORMAT = 1  # of the plan and of prepare.json
# Options that older plans and datasets do not name, as they were then.
ADDED = {"resize": "bicubic", "long_side": "round"}
# In the work folder: a finished dataset is being replaced at the user's wish.
REPLACING = "replacing"
MAX_SHARD = 10**6  # files
# What TFDS takes; and the names of record files are longer by some 40 characters.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")


@dataclass(frozen=True)
class PrepareRequest:
    """What the command line asks for. shard: (i, n), this machine's share of the work."""

    kind: Kind
    videos: Path
    out: Path
    recipe: Recipe
    annotations: Path | None = None
    name: str = "folder"
    split: int = 1
    validation: float = 0.1
    split_folders: SplitFolders = "auto"
    shard_size: int = 256
    shard: tuple[int, int] = (0, 1)
    workers: int = 1
    timeout: float = 600.0
    strict: bool = False
    restart: bool = False

    def __post_init__(self) -> None:
        i, n = self.shard
        if not 0 <= i < n:
            raise ConfigError(f"--shard {i}/{n}: machine i of n is numbered 0 .. n - 1")
        if self.restart and n > 1:
            raise ConfigError("--restart and --shard: restart on one machine, then add the others")
        check_number("shard_size", self.shard_size, 1, MAX_SHARD)
        check_number("workers", self.workers, 1, MAX_WORKERS)
        check_timeout(self.timeout)
        if not 0 <= self.validation < 1:
            raise ConfigError(
                f"--validation {self.validation:g}: a share of the files, 0 .. below 1"
            )
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"--name {self.name!r}: use at most 100 of the letters a to z, digits and _, a "
                "letter first"
            )

    @property
    def dataset(self) -> str:
        return {"ucf101": "ucf101", "k600": "kinetics600", "folder": self.name}[self.kind]

    @property
    def target(self) -> Path:
        """Where the finished dataset lies."""
        below = [f"split{self.split}"] if self.kind == "ucf101" else []
        return self.out.joinpath(self.dataset, *below, VERSION)

    @property
    def work(self) -> Path:
        below = f"-split{self.split}" if self.kind == "ucf101" else ""
        return self.out / f".incomplete-{self.dataset}{below}"

    def options(self) -> dict[str, Any]:
        """All that the dataset's bytes depend on, beside the files themselves."""
        own: dict[str, dict[str, Any]]
        own = {"ucf101": {"split": self.split}, "folder": {"validation": self.validation}}
        if self.split_folders != "auto":
            own["folder"]["split_folders"] = self.split_folders
        recipe = asdict(self.recipe)
        coding = recipe.pop("coding") | {"quality": self.recipe.coding.level}
        shown = {"kind": self.kind, "name": self.dataset, "shard_size": self.shard_size}
        return {"format": FORMAT, **shown, **own.get(self.kind, {}), **recipe, **coding}


@dataclass(frozen=True)
class Plan:
    """What a preparation does, fixed when it begins."""

    options: Mapping[str, Any]
    listing: Listing

    @property
    def shards(self) -> list[Shard]:
        size = self.options["shard_size"]
        return split_shards(self.listing.items, self.listing.splits, size)


def load_plan(request: PrepareRequest, report: Callable[[str], None] = print) -> Plan:
    """The plan in the work folder, made first if there is none; ConfigError if it differs."""
    file = request.work / "plan.json"
    options = {**request.options(), "videos": os.path.realpath(request.videos)}
    if request.restart or not file.is_file():
        with _tried_place(request):
            listing = _list_files(request)
            if request.restart:
                _discard(request)
            _write_plan(file, Plan(options, listing))
    plan = _read_plan(file)
    compare_options(plan.options, options, request.work)
    counts = dict.fromkeys(plan.listing.splits, 0)
    for item in plan.listing.items:
        counts[item.split] += 1
    parts = ", ".join(f"{count} for {split}" for split, count in counts.items())
    report(
        f"{request.dataset}: {len(plan.listing.items)} files ({parts}), "
        f"{len(plan.listing.labels)} classes, {len(plan.shards)} shards"
    )
    for line in _describe_lists(plan.listing):
        report(line)
    return plan


def _describe_lists(listing: Listing) -> Iterator[str]:
    """What is odd about lists and classes; the report has all of it."""
    if listing.skipped:
        yield f"{listing.skipped} hidden entries and folders of the system are passed over"
    for heading in dict.fromkeys(remark.heading for remark in listing.remarks):
        of_it = [remark for remark in listing.remarks if remark.heading == heading]
        first = f"{escape_name(of_it[0].path)}: {escape_name(of_it[0].detail)}"
        yield f"{summarize(of_it)}{', the first' if of_it[1:] else ''}: {first}"


@contextlib.contextmanager
def _tried_place(request: PrepareRequest) -> Iterator[None]:
    """Makes the work folder and tries to write what will be written; undone if the block fails.

    Raises ConfigError where that cannot be done: after hours of work is too late.
    """
    target = request.target.parent
    made: list[Path] = []
    try:
        try:
            for folder in (*reversed(request.work.parents), request.work):
                if not os.path.isdir(folder):
                    folder.mkdir(exist_ok=True)  # another machine may be as fast
                    made.append(folder)
            above = next(place for place in (target, *target.parents) if os.path.lexists(place))
            for folder in (request.work, above):
                _try_writing(folder, shard_name(request.dataset, "validation", 0, 1))
        except OSError as error:
            raise ConfigError(
                f"--out {request.out}: cannot write {error.filename or 'there'} "
                f"({error.strerror or error}). Mend it or use another --out"
            ) from None
        yield
    except BaseException:
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _try_writing(folder: Path, name: str) -> None:
    """Writes a file, renames it to a name as long as the one given, and takes it away."""
    part, final = folder / f".try-{os.getpid()}.tmp", folder / f".try-{os.getpid()}-{name}"
    try:
        part.write_bytes(b"x")
        sync(part)
        os.replace(part, final)
    finally:
        part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # too long a name
            final.unlink(missing_ok=True)


def _discard(request: PrepareRequest) -> None:
    """Empties the work folder, and notes that a finished dataset is to be replaced."""
    if (held := find_held(request.work)) is not None:
        raise ConfigError(f"another nbp.prepare works in {request.work} ({held.name}); stop it")
    for entry in list(request.work.iterdir()):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    if request.target.exists():
        (request.work / REPLACING).touch()


def _list_files(request: PrepareRequest) -> Listing:
    match request.kind:
        case "ucf101":
            folder = request.annotations or request.videos
            return lists.list_ucf101(request.videos, folder, split=request.split)
        case "k600":
            return lists.list_kinetics(request.videos, request.annotations)
        case "folder":
            return lists.list_folder(
                request.videos, validation=request.validation, split_folders=request.split_folders
            )
        case _:
            assert_never(request.kind)


def _write_plan(file: Path, plan: Plan) -> None:
    listing = plan.listing
    data = {
        "options": plan.options,
        "labels": listing.labels,
        "splits": listing.splits,
        "items": [(item.path, item.split, item.label) for item in listing.items],
        "missing": [(item.path, item.split, item.label) for item in listing.missing],
        "unlisted": listing.unlisted,
        "unreadable": [(e.path, e.reason, e.detail) for e in listing.unreadable],
        "remarks": [astuple(remark) for remark in listing.remarks],
        "skipped": listing.skipped,
    }
    part = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    with full_disk_named(part):
        part.write_text(json.dumps(data) + "\n", encoding="ascii")
    try:
        os.link(part, file)
    except FileExistsError:  # another machine was first: its plan counts
        pass
    except OSError:  # a file system without hard links
        if not file.exists():
            os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def _read_plan(file: Path) -> Plan:
    try:
        data = read_json(file)
        items, missing = (tuple(Item(*row) for row in data[key]) for key in ("items", "missing"))
        unreadable = tuple(VideoError(*row) for row in data["unreadable"])
        listing = Listing(
            tuple(data["labels"]),
            tuple(data["splits"]),
            items,
            missing,
            tuple(data["unlisted"]),
            unreadable,
            tuple(Finding(*row) for row in data.get("remarks", ())),
            data.get("skipped", 0),
        )
        return Plan(data["options"], listing)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: damaged ({error}). Begin anew with --restart") from None


def compare_options(old: Mapping[str, Any], new: Mapping[str, Any], place: Path) -> None:
    """ConfigError, which names both sides, unless the options are equal."""
    old = {**ADDED, **old}  # as it was before there was a choice
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if keys:
        sides = "; ".join(f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in keys)
        raise ConfigError(
            f"{place} was prepared with other options: {sides}. Use the old ones, another --out, "
            "or --restart to discard it"
        )
