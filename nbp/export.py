# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the averaged parameters alone: as a workdir, for a hub, or in the official layout.

python -m nbp.export --workdir DIR --out DIR [--format {workdir,safetensors,official}] [--current]
"""

from pathlib import Path

from nbp.errors import run_command
from nbp.flags import Parser, Real, add_checkpoint_flag


def make_parser() -> Parser:
    parser = Parser(
        "nbp.export",
        __doc__,
        examples=(
            "--workdir runs/quickstart --out runs/published",
            "--workdir runs/quickstart --out quickstart-nbp --format safetensors --license mit",
            "--workdir runs/k600 --out k600-official --format official",
        ),
    )
    add = parser.add_argument_group("what is written").add_argument
    add("--workdir", required=True, type=Path, help="of a training")
    add("--out", required=True, type=Path, help="folder to make")
    add("--current", action="store_true", help="the current parameters, not their average")
    add_checkpoint_flag(add, of="the last trained stage")
    add(
        "--format",
        choices=("workdir", "safetensors", "official"),
        default="workdir",
        help="a workdir; a folder for a hub, with a model card; names of the official release",
    )
    add = parser.add_argument_group("of the safetensors format").add_argument
    add("--license", help="of the weights, as hubs call it, for the card; default: unknown")
    add("--shard_gb", type=Real(0.0, 1e6, above=True), help="largest safetensors file; default 5")
    return parser


if __name__ == "__main__":
    run_command("nbp.export", make_parser)  # help and mistakes end there, before the imports


import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from nbp import __version__, build, locks
from nbp.config import to_json
from nbp.config.schema import Config, StageName
from nbp.errors import CheckpointError, ConfigError, NbpError
from nbp.files import check_writable_folder, write_text
from nbp.hub.model_card import UNSTATED
from nbp.hub.publish import (
    Model,
    check_out,
    publish_official,
    publish_safetensors,
    refuse,
    refuse_busy,
)
from nbp.places import ELSEWHERE, Claim, explain, new_folders
from nbp.progress import Progress
from nbp.ranges import Checkpoint
from nbp.stages import STAGES
from nbp.training.checkpoint import Checkpointer
from nbp.training.state import TrainState
from nbp.workdir import CONVERTED, list_begun, read_config, read_labels, save_labels


def main(argv: list[str] | None = None) -> None:
    """The command. argv: its arguments; default: those of the process."""
    arguments = make_parser().parse_args(argv)

    def report(text: str) -> None:
        print(f"[export] {text}", flush=True)

    form, average, chosen = arguments.format, not arguments.current, arguments.checkpoint
    for flag in ("license", "shard_gb"):
        if form != "safetensors" and getattr(arguments, flag) is not None:
            raise ConfigError(f"--{flag} goes with --format safetensors, not with {form}")
    if form == "workdir":
        export_workdir(arguments.workdir, arguments.out, report, average=average, checkpoint=chosen)
        return
    licence = read_licence(arguments.license or UNSTATED)
    check_out(arguments.out)
    model = read_model(arguments.workdir, report, average=average, checkpoint=chosen)
    if form == "official":
        publish_official(model, arguments.out, report=report)
        return
    limit = round((arguments.shard_gb or SHARD_GB) * 1e9)
    publish_safetensors(model, arguments.out, licence=licence, limit=limit, report=report)


SHARD_GB = 5.0  # 10^9 bytes


def read_licence(text: str) -> str:
    """The name of a licence, lower case; ConfigError where it is none."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}", text):
        raise ConfigError(f"--license {text!r}: name one as hubs do, such as apache-2.0 or other")
    return text.lower()


def read_model(
    workdir: Path,
    report: Callable[[str], None],
    *,
    average: bool,
    checkpoint: Checkpoint | None = None,
) -> Model:
    """The trained stages of a workdir; CheckpointError where there are none.

    checkpoint: of the last stage; by default the newest, as of the others.
    """
    config, stages = _list_trained(workdir)
    labels = read_labels(workdir) if (workdir / "labels.json").is_file() else ()
    steps: dict[StageName, Checkpoint | None] = {stages[-1]: checkpoint}
    loaded: dict[StageName, tuple[build.Trained, bool]] = {}
    with Progress(len(stages), "stages read", report) as progress:
        for stage in stages:
            loaded[stage] = _load_stage(
                config, workdir, stage, labels, average=average, step=steps.get(stage)
            )
            progress.step()
    return Model(workdir, _without_averages(config), labels, loaded)


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
    _list_trained(workdir)  # says what is missing before the place is looked at
    finished = (out / "config.json").is_file() and not (out / PARTIAL).exists()
    if not finished:
        check_writable_folder(out, ELSEWHERE)
        _list_leftovers(out)
    model = read_model(workdir, report, average=average, checkpoint=checkpoint)
    if finished:
        if not _holds(out, model):
            raise refuse(out)
        model.tell_done(out, report)
        return
    claim = Claim()
    partial = out / PARTIAL
    with new_folders(out, claim), _lock(out):
        try:
            _remove_leftovers(out)
            hashes: dict[StageName, str] = {}
            total = sum(model.count_parameters(stage) for stage in model.stages)
            with Progress(total, "parameters written", report) as progress:
                for stage in model.stages:
                    hashes[stage] = _export_stage(model, partial, stage, hashes)
                    progress.step(model.count_parameters(stage))
            save_labels(partial, model.labels)
            write_text(partial / "config.json", to_json(model.config))
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
    model.tell(out, report)


def _holds(out: Path, model: Model) -> bool:
    """Whether `out` has a whole export of these checkpoints, whatever lies beside it."""
    hashes: dict[StageName, str] = {}
    try:
        if read_config(out) != model.config or read_labels(out) != model.labels:
            return False
        if list_begun(out) != list(model.stages):
            return False
        for stage, (trained, _) in model.stages.items():
            folder = build.stage_directory(out, stage) / "checkpoints"
            with Checkpointer(folder, read_only=True, report=lambda text: None) as checkpointer:
                whole = checkpointer.find_whole("model", "opt")
                found = checkpointer.read_meta(whole)
                hashes[stage] = checkpointer.checkpoint_hash(whole)
                steps = checkpointer.all_steps()
            wanted = _make_meta(model, stage, hashes)
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
        raise refuse(out)
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
        raise refuse_busy(out) from None
    except OSError as error:
        raise explain(error, out) from error
    with lock:
        yield


def _list_trained(workdir: Path) -> tuple[Config, list[StageName]]:
    config, stages = read_config(workdir), list_begun(workdir)
    if not stages:
        raise CheckpointError(f"{workdir} holds nothing that is trained")
    return config, stages


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
    model: Model, out: Path, stage: StageName, hashes: Mapping[StageName, str]
) -> str:
    """Writes one stage; returns the hash of its parameters. hashes: of stages exported before."""
    step, meta = model.stages[stage][0].step, _make_meta(model, stage, hashes)
    state = TrainState(
        np.asarray(step, np.int32), model.params(stage), ema={}, opt_state={}, extra={}
    )
    folder = build.stage_directory(out, stage)
    with Checkpointer(folder / "checkpoints") as checkpointer:
        checkpointer.save(step, state, data={}, meta=meta)
        checkpointer.wait()
        if checkpointer.latest_step() != step:
            raise CheckpointError(f"the {stage} could not be written; see the line above")
        digest = checkpointer.checkpoint_hash(step)
    write_text(folder / CONVERTED, json.dumps(meta["exported"]) + "\n")
    return digest


def _make_meta(model: Model, stage: StageName, hashes: Mapping[StageName, str]) -> dict[str, Any]:
    """What is recorded of a stage. hashes: of the parameters of stages exported before."""
    trained, _ = model.stages[stage]
    meta = {
        **trained.meta,
        "exported": {
            "file": str(model.workdir.absolute()),
            "sha256": trained.sha256,
            "averaged": model.is_average(stage),
        },
        "versions": {"nbp": __version__},
    }
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
