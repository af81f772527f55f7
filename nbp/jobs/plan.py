# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What a preparation is to do: the request, and the plan that is fixed in the work folder.

The plan, options and list of files, is made once. A restart and every other machine read it, so
that a file that appears or vanishes meanwhile changes no shard.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

from nbp.data import annotations as lists
from nbp.data.annotations import Item, Listing
from nbp.data.files import VideoError
from nbp.data.records import VERSION
from nbp.errors import ConfigError, DataError
from nbp.jobs.reencode import Recipe
from nbp.jobs.shards import Shard, split_shards

Kind = Literal["ucf101", "k600", "folder"]
FORMAT = 1  # of the plan and of prepare.json
# Options that older plans and datasets do not name, as they were then.
ADDED = {"resize": "bicubic", "long_side": "round"}
# In the work folder: a finished dataset is being replaced at the user's wish.
REPLACING = "replacing"


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
        if self.shard_size < 1:
            raise ConfigError(f"--shard_size {self.shard_size}; allowed: 1 or more")
        if not self.name.replace("_", "").isalnum() or self.name != self.name.lower():
            raise ConfigError(f"--name {self.name!r}: use lower-case letters, digits and _")

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
        own = {"ucf101": {"split": self.split}, "folder": {"validation": self.validation}}
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
    if request.restart:
        shutil.rmtree(request.work, ignore_errors=True)
    try:
        request.work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {request.work}: {error.strerror}") from None
    if request.restart and request.target.exists():
        (request.work / REPLACING).touch()
    options = {**request.options(), "videos": os.path.realpath(request.videos)}
    if not file.is_file():
        _write_plan(file, Plan(options, _list_files(request)))
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
    return plan


def _list_files(request: PrepareRequest) -> Listing:
    match request.kind:
        case "ucf101":
            folder = request.annotations or request.videos
            return lists.list_ucf101(request.videos, folder, split=request.split)
        case "k600":
            return lists.list_kinetics(request.videos, request.annotations)
        case "folder":
            return lists.list_folder(request.videos, validation=request.validation)
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
    }
    part = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    part.write_text(json.dumps(data) + "\n", encoding="ascii")
    try:
        with contextlib.suppress(FileExistsError):  # another machine was first: its plan counts
            os.link(part, file)
    finally:
        part.unlink()


def _read_plan(file: Path) -> Plan:
    try:
        data = json.loads(file.read_text(encoding="ascii"))
        items, missing = (tuple(Item(*row) for row in data[key]) for key in ("items", "missing"))
        unreadable = tuple(VideoError(*row) for row in data["unreadable"])
        listing = Listing(
            tuple(data["labels"]),
            tuple(data["splits"]),
            items,
            missing,
            tuple(data["unlisted"]),
            unreadable,
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
