# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Writes a workdir that holds the averaged parameters alone: for sampling and publishing.

python -m nbp.export --workdir DIR --out DIR [--current]
"""

from pathlib import Path

from nbp.errors import run_command
from nbp.flags import Parser, add_checkpoint_flag


def make_parser() -> Parser:
    example = "--workdir runs/quickstart --out runs/published"
    parser = Parser("nbp.export", __doc__, examples=(example,))
    parser.add_argument("--workdir", required=True, type=Path, help="of a training")
    parser.add_argument("--out", required=True, type=Path, help="workdir to make")
    parser.add_argument(
        "--current", action="store_true", help="the current parameters, not their average"
    )
    add_checkpoint_flag(parser, of="the last trained stage")
    return parser


if __name__ == "__main__":
    run_command("nbp.export", make_parser)  # help and mistakes end there, before the imports


import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from nbp import __version__, build, locks
from nbp.config import to_json
from nbp.config.schema import Config, StageName
from nbp.errors import CheckpointError, ConfigError, NbpError
from nbp.files import check_writable_folder, write_text
from nbp.places import ELSEWHERE, Claim, explain, new_folders
from nbp.ranges import Checkpoint
from nbp.stages import STAGES
from nbp.training.checkpoint import Checkpointer
from nbp.training.state import TrainState
from nbp.workdir import CONVERTED, list_begun, read_config, read_labels, save_labels


def main(argv: list[str] | None = None) -> None:
    """The command. argv: its arguments; default: those of the process."""
    arguments = make_parser().parse_args(argv)

    export_workdir(
        arguments.workdir,
        arguments.out,
        report=lambda text: print(f"[export] {text}", flush=True),
        average=not arguments.current,
        checkpoint=arguments.checkpoint,
    )


PARTIAL = ".exporting"  # in the new workdir, until all is written


def export_workdir(
    workdir: Path,
    out: Path,
    report: Callable[[str], None],
    *,
    average: bool = True,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Writes the parameters of each trained stage into a new workdir, float32.

    `out` works in `nbp.sample`, `nbp.evaluate` and `train.<stage>.start_from`; it cannot be trained
    on. A generator stays bound to its tokenizer. An export that was killed begins anew; where `out`
    holds just this export already, it is left as it is.

    Args:
      average: take the averaged parameters of a stage that keeps an average, not the current ones.
      checkpoint: step of the last stage that is trained, or the best; by default the newest.

    Raises CheckpointError where nothing is trained, or `out` holds something else, ConfigError
    where another process writes there.
    """
    config = read_config(workdir)
    stages = list_begun(workdir)
    if not stages:
        raise CheckpointError(f"{workdir} holds nothing that is trained")
    finished = (out / "config.json").is_file() and not (out / PARTIAL).exists()
    if not finished:
        check_writable_folder(out, ELSEWHERE)
        _list_leftovers(out)
    labels = read_labels(workdir) if (workdir / "labels.json").is_file() else ()
    steps: dict[StageName, Checkpoint | None] = {stages[-1]: checkpoint}
    loaded = {
        stage: _load_stage(config, workdir, stage, labels, average=average, step=steps.get(stage))
        for stage in stages
    }
    if finished:
        if not _holds(out, loaded, config=_without_averages(config), labels=labels):
            raise _refuse(out)
        told = ", ".join(
            f"{stage} of step {trained.step}" for stage, (trained, _) in loaded.items()
        )
        report(f"already exported: {told} in {out}")
        return
    claim = Claim()
    partial = out / PARTIAL
    with new_folders(out, claim), _lock(out):
        try:
            _remove_leftovers(out)
            hashes: dict[str, str] = {}
            for stage, (trained, averaged) in loaded.items():
                hashes[stage] = _export_stage(
                    workdir, partial, stage, trained, averaged=averaged, hashes=hashes
                )
            save_labels(partial, labels)
            write_text(partial / "config.json", to_json(_without_averages(config)))
            # The configuration last: with it, a folder is a workdir.
            for path in sorted(partial.iterdir(), key=lambda path: path.name == "config.json"):
                os.replace(path, out / path.name)
            claim.keep()
        except OSError as error:
            raise explain(error, out) from error
        finally:
            if partial.is_dir() and not claim.kept:
                with contextlib.suppress(NbpError, OSError):
                    _remove_leftovers(out)
            shutil.rmtree(partial, ignore_errors=True)
    for stage, (trained, averaged) in loaded.items():
        count = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
        kind = "averaged" if averaged else "current"
        report(f"{stage}: {count:,} {kind} parameters of step {trained.step} in {out}")


def _refuse(out: Path) -> CheckpointError:
    return CheckpointError(f"{out} is not empty: use another --out")


def _holds(
    out: Path,
    loaded: Mapping[str, tuple[build.Trained, bool]],
    *,
    config: Config,
    labels: tuple[str, ...],
) -> bool:
    """Whether `out` has a whole export of these checkpoints, whatever lies beside it."""
    hashes: dict[str, str] = {}
    try:
        if read_config(out) != config or read_labels(out) != labels:
            return False
        if list_begun(out) != list(loaded):
            return False
        for stage, (trained, averaged) in loaded.items():
            folder = build.stage_directory(out, stage) / "checkpoints"
            with Checkpointer(folder, read_only=True, report=lambda text: None) as checkpointer:
                whole = checkpointer.find_whole("model", "opt")
                found = checkpointer.read_meta(whole)
                hashes[stage] = checkpointer.checkpoint_hash(whole)
                steps = checkpointer.all_steps()
            wanted = _make_meta(Path(), stage, trained, averaged=averaged, hashes=hashes)
            if steps != [trained.step] or _strip(found) != _strip(wanted):
                return False
    except NbpError:
        return False
    return True


def _strip(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Without what may differ between two exports of the same: the version, the source's place."""
    origin = meta.get("exported")
    exported = {**origin, "file": ""} if isinstance(origin, dict) else origin
    return {**meta, "exported": exported, "versions": {}}


def _list_leftovers(out: Path) -> list[Path]:
    """What an export that was killed left in `out`, if anything: the configuration first.

    Raises CheckpointError where there is something else.
    """
    entries = sorted(out.iterdir()) if out.exists() else []
    ours = {"config.json": 0, "labels.json": 1, **dict.fromkeys(STAGES, 1), PARTIAL: 2}
    if entries and not ((out / PARTIAL).is_dir() and all(path.name in ours for path in entries)):
        raise _refuse(out)
    return sorted(entries, key=lambda path: ours[path.name])


def _remove_leftovers(out: Path) -> None:
    """Removes them; what says that they are leftovers goes last."""
    for path in _list_leftovers(out):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextlib.contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Keeps other exports out of a folder."""
    try:
        lock = locks.lock_folder(out)
    except locks.Held:
        raise ConfigError(f"another process exports into {out}: use another --out") from None
    except OSError as error:
        raise explain(error, out) from error
    with lock:
        yield


def _load_stage(
    config: Config,
    workdir: Path,
    name: StageName,
    labels: tuple[str, ...],
    *,
    average: bool,
    step: Checkpoint | None,
) -> tuple[build.Trained, bool]:
    """The parameters of a stage, and whether they are the averaged ones."""
    stage = STAGES[name]
    averaged = average and getattr(config.train, name).ema > 0
    trained = build.load_trained(
        workdir,
        name,
        network=stage.make_network(config, labels),
        ema=averaged,
        groups=stage.make_groups(config),
        step=step,
    )
    return trained, averaged


def _export_stage(
    workdir: Path,
    out: Path,
    stage: Any,
    trained: build.Trained,
    *,
    averaged: bool,
    hashes: dict[str, str],
) -> str:
    """Writes one stage; returns the hash of its parameters."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), trained.params)
    meta = _make_meta(workdir, stage, trained, averaged=averaged, hashes=hashes)
    state = TrainState(np.asarray(trained.step, np.int32), params, ema={}, opt_state={}, extra={})
    folder = build.stage_directory(out, stage)
    with Checkpointer(folder / "checkpoints") as checkpointer:
        checkpointer.save(trained.step, state, data={}, meta=meta)
        checkpointer.wait()
        if checkpointer.latest_step() != trained.step:
            raise CheckpointError(f"the {stage} could not be written; see the line above")
        digest = checkpointer.checkpoint_hash(trained.step)
    write_text(folder / CONVERTED, json.dumps(meta["exported"]) + "\n")
    return digest


def _make_meta(
    workdir: Path,
    stage: Any,
    trained: build.Trained,
    *,
    averaged: bool,
    hashes: Mapping[str, str],
) -> dict[str, Any]:
    """What is recorded of a stage. hashes: of the parameters of stages exported before."""
    origin = {"file": str(workdir.absolute()), "sha256": trained.sha256, "averaged": averaged}
    meta = {**trained.meta, "exported": origin, "versions": {"nbp": __version__}}
    if (before := STAGES[stage].follows) is not None:
        key = f"{before}_sha256"
        meta[key] = hashes.get(before, meta.get(key))
    return meta


def _without_averages(config: Config) -> Config:
    """The configuration of a workdir whose parameters are what they are."""
    stages = {stage: dataclasses.replace(getattr(config.train, stage), ema=0.0) for stage in STAGES}
    memory = dataclasses.replace(config.memory, parameters="float32")
    return dataclasses.replace(
        config, train=dataclasses.replace(config.train, **stages), memory=memory
    )
