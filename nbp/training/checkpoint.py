# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that survive kill -9, full disks and flipped bits. Orbax is used here only."""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from nbp.errors import CheckpointError, ConfigError, RestartError
from nbp.parallel.distributed import decide
from nbp.shapes import PyTree
from nbp.training import integrity
from nbp.training.integrity import Damaged
from nbp.training.state import TrainState, compare_leaves, make_target, make_zeros
from nbp.trees import flatten_paths, nest_flat, nest_paths, unnest_paths

PIECE = 64 << 20  # bytes compressed at a time


class HostArrayHandler(ocp.type_handlers.NumpyHandler):
    """Saves numpy arrays one after another, in pieces, without a copy.

    They must not change until the save is waited for.
    """

    def __init__(self) -> None:
        super().__init__(deepcopy_host_arrays=False)

    async def _background_serialize(
        self, values: Sequence[Any], infos: Sequence[Any], args: Sequence[Any] | None = None
    ) -> None:
        args = args or [ocp.SaveArgs()] * len(values)
        for value, info, arg in zip(values, infos, args, strict=True):
            pieces = dataclasses.replace(arg, chunk_byte_size=PIECE)
            await super()._background_serialize([value], [info], [pieces])


@functools.cache
def set_up_orbax() -> None:
    """Drops orbax's log lines and makes it use `HostArrayHandler`; the first call does it."""
    logging.getLogger("absl").addFilter(_is_not_from_orbax)
    ocp.type_handlers.register_type_handler(np.ndarray, HostArrayHandler(), override=True)


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    """What matters in orbax's log reaches the user through the checkpointer's `report`."""
    return "orbax" not in record.pathname


JSON_ITEMS = ("data", "meta")
ITEMS = ("model", "ema", "opt", *JSON_ITEMS)
FAILURES_ALLOWED = 3

T = TypeVar("T")


@dataclass(frozen=True)
class Restored:
    """What `Checkpointer.restore` found: the step, the state, the data position, the meta data."""

    step: int
    state: TrainState
    data: dict[str, Any]
    meta: dict[str, Any]


@dataclass(frozen=True)
class Checked:
    """What `Checkpointer.check` found: as `Restored`, without the state.

    sealed: whether its files were compared with a list of hashes.
    """

    step: int
    sealed: bool
    data: dict[str, Any]
    meta: dict[str, Any]


class Checkpointer:
    """Saves and restores the state of one stage.

    Saving is asynchronous; a failed save (a full disk) is reported and tried again at the next
    one. Restoring takes the newest checkpoint that is whole and moves damaged ones aside.

    Args:
        directory: where the steps lie; made if absent.
        keep: newest checkpoints to keep, at least 1.
        keep_best: metric whose best checkpoint is kept as well.
        best_mode: whether a low or a high value of that metric is better.
        read_only: never write, clean or rename; safe beside a running training.
        verified: steps whose files `check` has compared just before; `restore` believes it.
        optional: pattern of the paths of parameters that may be missing in a checkpoint, which are
            zero then, as are their averages and moments; others of that name are left out.
        report: receives warnings, one line each.

    Raises:
        ConfigError: `keep` is less than 1, or another process trains in this directory.
        CheckpointError: `read_only` and the directory does not exist.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int = 3,
        keep_best: str | None = None,
        best_mode: Literal["min", "max"] = "min",
        read_only: bool = False,
        verified: Collection[int] = (),
        optional: str = "",
        report: Callable[[str], None] = integrity.print_warning,
    ) -> None:
        if keep < 1:
            raise ConfigError(f"checkpoints to keep: {keep}. Use 1 or more.")
        self.directory = Path(directory).absolute()
        self._keep, self._keep_best, self._best_mode = keep, keep_best, best_mode
        self._read_only, self._report = read_only, report
        self._verified = frozenset(verified)
        self._optional = re.compile(rf"(.*/)?({optional})") if optional else None
        self._failures = 0
        self._pending: int | None = None  # the step whose save has not been seen to end
        if read_only and not self.directory.is_dir():
            raise CheckpointError(f"no checkpoints: {self.directory} does not exist. Train first.")
        if not read_only:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = integrity.take_lock(self.directory)
            integrity.remove_unfinished(self.directory)
        self._manager = self._make_manager()
        self._scores: dict[int, float | None] = {}
        if keep_best is not None:
            self._scores |= {step: self._read_score(step) for step in self.all_steps()}

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def all_steps(self) -> list[int]:
        """Returns the committed steps, oldest first. A save in progress is not among them."""
        found = (path.name for path in self.directory.iterdir() if path.is_dir())
        return sorted(int(name) for name in found if name.isdecimal())

    def latest_step(self) -> int | None:
        """Returns the newest committed step, None if there is none."""
        return max(self.all_steps(), default=None)

    def is_empty(self) -> bool:
        """Tells whether nothing was ever saved here, damaged and moved-aside steps included."""
        return decide(not self.all_steps() and not list(self.directory.glob("corrupt-*")))

    def save(
        self,
        step: int,
        state: TrainState,
        *,
        data: Mapping[str, Any],
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Starts to save; the arrays may be donated as soon as this returns.

        Args:
            step: completed updates.
            state: what to save.
            data: position of the data stream, JSON.
            meta: configuration and the like, JSON.
            metrics: evaluation results that `keep_best` looks at.

        Returns:
            False if the step was there already or could not be written (which was reported).

        Raises:
            RestartError: several saves in a row failed.
        """
        self.wait()
        if decide(step in self.all_steps()):
            return False
        if self._failures:  # threads of the failed save may have written on after the clean-up
            integrity.remove_unfinished(self.directory)
        trees = {name: tree for name, part in _split(state).items() if (tree := nest_paths(part))}
        score = (metrics or {}).get(self._keep_best or "", math.nan)
        score = score if math.isfinite(score) else None
        items = [*trees, *JSON_ITEMS]
        notes = {"format": integrity.FORMAT, "items": items, "score": score, "user": dict(meta)}
        if self._keep_best is not None:
            notes["scored"] = {"name": self._keep_best, "mode": self._best_mode}
        # Unserialisable values fail here, not later in orbax's thread.
        jsons = {"data": json.loads(json.dumps(dict(data))), "meta": json.loads(json.dumps(notes))}
        arguments = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        arguments |= {name: ocp.args.JsonSave(value) for name, value in jsons.items()}
        self._scores[step] = score
        try:
            self._check_space(trees)
            self._manager.save(step, args=ocp.args.Composite(**arguments), force=True)
        except Exception as error:  # orbax raises anything from OSError to bare Exception here
            self._count_failure(step, error)
            return False
        self._pending = step
        return True

    def wait(self) -> None:
        """Waits for the save in progress, if any, and reports it if it failed.

        Raises:
            RestartError: several saves in a row failed.
        """
        if self._pending is None:
            return
        step, self._pending = self._pending, None
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._count_failure(step, error)
        else:
            if self._failures:  # threads of the failed save may have written on until now
                integrity.remove_unfinished(self.directory)
            self._failures = 0

    def discard(self, steps: Sequence[int]) -> None:
        """Removes these steps for good; waits for the save in progress first."""
        self.wait()
        integrity.discard_steps(self.directory, steps)
        self._manager.reload()

    def close(self) -> None:
        """Waits for the save in progress and lets go of the directory."""
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception):
                self._manager.close()
            if not self._read_only:
                self._lock.close()

    def restore(self, template: TrainState, *, step: int | None = None) -> Restored:
        """Reads a checkpoint.

        Args:
            template: arrays or `jax.ShapeDtypeStruct`s; their shardings say where the result lives,
                whatever devices it was saved from.
            step: which one. By default the newest good one: damaged ones are renamed to
                `corrupt-<step>-<time>` with a warning.

        Raises:
            CheckpointError: there is none, none is whole, or it does not fit the template.
        """

        def load(step: int) -> Restored:
            trees, jsons = self._read(step, _split(template))
            state = TrainState(params=trees["model"], ema=trees["ema"], **trees["opt"])
            return Restored(step=step, state=state, data=jsons["data"], meta=jsons["meta"]["user"])

        return self._load_newest(load, items=ITEMS, step=step)

    def check(self, template: TrainState, *, step: int | None = None) -> Checked:
        """What `restore` would find, without reading arrays; arguments and errors as there."""

        def look(step: int) -> Checked:
            _, jsons = self._read(step, _split(template), arrays=False)
            sealed = decide((self.directory / str(step) / integrity.MANIFEST).is_file())
            return Checked(step, sealed, data=jsons["data"], meta=jsons["meta"]["user"])

        return self._load_newest(look, items=ITEMS, step=step)

    def restore_params(self, template: PyTree, *, use_ema: bool, step: int | None = None) -> PyTree:
        """Reads the parameters alone, or their average; arguments and errors as in `restore`."""
        item = "ema" if use_ema else "model"
        return self._load_newest(
            lambda step: self._read(step, {item: template})[0][item],
            items=(item, *JSON_ITEMS),
            step=step,
        )

    def read_meta(self, step: int | None = None) -> dict[str, Any]:
        """Reads the `meta` of a step, the newest good one by default; errors as in `restore`."""
        return self._load_newest(
            lambda step: self._read(step, {})[1]["meta"]["user"], items=JSON_ITEMS, step=step
        )

    def find_whole(self, *items: str) -> int:
        """Returns the newest step whose `items` are whole; errors as in `restore`."""
        return self._load_newest(lambda step: step, items=(*items, *JSON_ITEMS), step=None)

    def find_best(self) -> int:
        """Returns the step with the best score, of those of the newest step that has one.

        Raises:
            CheckpointError: none has a score.
        """
        found = {step: self._read_notes(step) for step in reversed(decide(self.all_steps()))}
        rated = {step: notes for step, notes in found.items() if notes.get("score") is not None}
        if not rated:
            raise CheckpointError(
                f"no checkpoint in {self.directory} has a score. Train with "
                "--config.train.STAGE.keep_best=SCORE, or name a step."
            )
        kind = next(iter(rated.values())).get("scored")
        sign = -1.0 if kind is not None and kind["mode"] == "max" else 1.0
        alike = [step for step, notes in rated.items() if notes.get("scored") == kind]
        return decide(min(alike, key=lambda step: (sign * rated[step]["score"], step)))

    def checkpoint_hash(self, step: int) -> str:
        """Returns a sha256 that names the saved parameters of `step`.

        Raises:
            CheckpointError: the step is absent or has no list of hashes.
        """
        return integrity.hash_item(self.directory / str(step), "model")

    def _load_newest(
        self, load: Callable[[int], T], *, items: Sequence[str], step: int | None
    ) -> T:
        steps = decide(self.all_steps()) if step is None else [step]
        if not steps:
            why = "Train first." if self.is_empty() else "Damaged ones were renamed to corrupt-*."
            raise CheckpointError(f"no checkpoint in {self.directory}. {why}")
        if not (self.directory / str(steps[-1])).is_dir():
            raise CheckpointError(f"no checkpoint {step} in {self.directory}: {self.all_steps()}.")
        damaged: list[int] = []
        for candidate in reversed(steps):
            path = self.directory / str(candidate)
            try:
                found = integrity.load_whole(
                    path,
                    partial(load, candidate),
                    items=items,
                    report=self._report,
                    verified=candidate in self._verified,
                )
            except Damaged as damage:
                if step is not None:
                    raise CheckpointError(f"checkpoint {path} is damaged: {damage}.") from damage
                self._report(f"checkpoint {path} is damaged ({damage}): not used")
                damaged.append(candidate)
                continue
            self._move_aside(damaged)  # not before there is something to go on with
            return found
        raise CheckpointError(
            f"no good checkpoint is left in {self.directory} ({len(steps)} damaged). "
            "Remove the directory to start again."
        )

    def _read(
        self, step: int, wanted: Mapping[str, PyTree], *, arrays: bool = True
    ) -> tuple[dict[str, PyTree], dict]:
        """Reads the trees named in `wanted` and both JSON items; the former at most compared."""
        path = self.directory / str(step)
        if not all((path / name).is_dir() for name in JSON_ITEMS):
            raise Damaged("data or meta is missing")
        jsons = self._manager.restore(
            step, args=ocp.args.Composite(**{name: ocp.args.JsonRestore() for name in JSON_ITEMS})
        )
        notes = jsons["meta"]
        if notes.get("format") != integrity.FORMAT:
            raise CheckpointError(
                f"checkpoint {path} has format {notes.get('format')}, not {integrity.FORMAT}."
            )
        metadata = self._manager.item_metadata(step) if wanted else {}
        targets, differences = {}, []
        zeros: dict[str, dict[str, Any]] = {}
        for name, template in wanted.items():
            saved = {}
            if name in notes["items"]:
                # One attribute of a Composite that fails to read is None, not an error.
                if metadata[name] is None:
                    raise Damaged(f"{name} is missing")
                saved = flatten_paths(metadata[name].tree)
            leaves = flatten_paths(nest_paths(template))
            zeros[name] = self._find_optional(leaves, saved)
            more = self._find_optional(saved, leaves)
            there = {path: leaf for path, leaf in saved.items() if path not in more}
            here = {path: leaf for path, leaf in leaves.items() if path not in zeros[name]}
            differences += compare_leaves(name, there, here)
            if name == "model" and (more or zeros[name]):
                self._report(
                    f"checkpoint {path} has {', '.join(more)}, left out here"
                    if more
                    else f"checkpoint {path} has no {', '.join(zeros[name])}: zero at first"
                )
            if leaves:
                targets[name] = nest_flat(_make_targets({**here, **more}, like=here))
        if differences:
            if differences[12:]:
                differences[12:] = [f"and {len(differences) - 12} more"]
            raise CheckpointError(
                "\n  ".join((f"checkpoint {path} does not fit this configuration:", *differences))
            )
        if not arrays:
            return {}, {name: jsons[name] for name in JSON_ITEMS}
        arguments = {name: ocp.args.StandardRestore(tree) for name, tree in targets.items()}
        found = self._manager.restore(step, args=ocp.args.Composite(**arguments)) if targets else {}
        trees = {}
        for name, template in wanted.items():
            leaves = flatten_paths(found[name]) if name in targets else {}
            leaves |= {path: make_zeros(leaf) for path, leaf in zeros[name].items()}
            trees[name] = unnest_paths(nest_flat(leaves), template)
        return trees, {name: jsons[name] for name in JSON_ITEMS}

    def _find_optional(
        self, leaves: Mapping[str, Any], others: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The leaves that are optional and not among the others, by their paths."""
        if self._optional is None:
            return {}
        return {
            path: leaf
            for path, leaf in leaves.items()
            if path not in others and self._optional.fullmatch(path)
        }

    def _move_aside(self, steps: Sequence[int]) -> None:
        if not steps or self._read_only or jax.process_index() != 0:
            return
        for step in steps:
            integrity.move_aside(self.directory / str(step))
        self._manager.reload()

    def _make_manager(self) -> ocp.CheckpointManager:
        set_up_orbax()
        if self._read_only:
            options = ocp.CheckpointManagerOptions(
                read_only=True, save_interval_steps=0, create=False, lightweight_initialize=True
            )
        else:
            options = ocp.CheckpointManagerOptions(
                preservation_policy=_Preserve(self._choose_kept),
                lightweight_initialize=True,
                async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
            )
        handlers = {
            name: ocp.JsonCheckpointHandler()
            if name in JSON_ITEMS
            else ocp.StandardCheckpointHandler()
            for name in ITEMS
        }
        return ocp.CheckpointManager(self.directory, item_handlers=handlers, options=options)

    def _choose_kept(self, steps: Sequence[int]) -> set[int]:
        """Chooses the newest steps and the best one, of equal ones the first."""
        sign = 1.0 if self._best_mode == "min" else -1.0
        scores = {
            step: sign * value for step in steps if (value := self._scores.get(step)) is not None
        }
        best = min(scores, key=lambda step: (scores[step], step), default=steps[-1])
        return {*sorted(steps)[-self._keep :], best}

    def _read_notes(self, step: int) -> dict[str, Any]:
        try:
            return self._read(step, {})[1]["meta"]
        except Exception:  # a damaged step has no score; restore deals with it
            return {}

    def _read_score(self, step: int) -> float | None:
        notes = self._read_notes(step)
        name = notes.get("scored", {}).get("name", self._keep_best)
        return notes.get("score") if name == self._keep_best else None

    def _seal(self) -> None:
        """Writes the hashes into the step about to be committed; orbax calls it in its thread."""
        if jax.process_index() == 0:
            for path in integrity.list_unfinished(self.directory):
                integrity.write_manifest(path)

    def _check_space(self, trees: PyTree) -> None:
        needed = sum(int(leaf.nbytes) for leaf in jax.tree.leaves(trees))
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise OSError(f"{needed / 2**20:.0f} MiB needed, {free / 2**20:.0f} MiB free on disk")

    def _count_failure(self, step: int, error: Exception) -> None:
        self._failures += 1
        self._scores.pop(step, None)
        integrity.remove_unfinished(self.directory)
        message = f"checkpoint {step} could not be written: {integrity.first_line(error)}"
        if self._failures >= FAILURES_ALLOWED or jax.process_count() > 1:  # others would wait
            raise RestartError(
                f"{message} ({self._failures} failures in a row). The last good checkpoint is "
                f"{self.latest_step()}. Free space in {self.directory} and start again."
            ) from error
        with contextlib.suppress(Exception):  # orbax's own list of steps is unreliable now
            self._manager.close()
        self._manager = self._make_manager()
        self._report(f"{message}; training goes on and the next save is tried")


def _make_targets(leaves: Mapping[str, Any], *, like: Mapping[str, Any]) -> dict[str, Any]:
    """What to read leaves as; those that nobody places lie whole on the devices of the others."""
    meshes = [
        leaf.sharding.mesh
        for leaf in like.values()
        if isinstance(getattr(leaf, "sharding", None), jax.sharding.NamedSharding)
    ]

    def place(path: str, leaf: Any) -> Any:
        if path in like:
            return make_target(leaf)
        whole = None
        if meshes:
            whole = jax.sharding.NamedSharding(meshes[0], jax.sharding.PartitionSpec())
        return make_target(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole))

    return {path: place(path, leaf) for path, leaf in leaves.items()}


def _split(state: TrainState) -> dict[str, PyTree]:
    """Assigns the parts of a state to the items of a checkpoint."""
    rest = {"opt_state": state.opt_state, "step": state.step, "extra": state.extra}
    return {"model": state.params, "ema": state.ema, "opt": rest}


class _Preserve:
    """Orbax's protocol for deciding which steps stay."""

    def __init__(self, choose: Callable[[Sequence[int]], set[int]]) -> None:
        self._choose = choose

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        kept = self._choose([info.step for info in checkpoints])
        return [info.step in kept for info in checkpoints]
