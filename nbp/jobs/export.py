# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A trained workdir without what only training needs: what is published, sampled and scored."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nbp import __version__, build
from nbp.config import Config, to_json
from nbp.errors import CheckpointError
from nbp.jobs.workdir import (
    BINDING,
    CONVERTED,
    has_begun,
    make_folder,
    read_config,
    read_labels,
    save_labels,
    write_text,
)
from nbp.training.checkpoint import Checkpointer
from nbp.training.state import TrainState


def export_workdir(
    workdir: Path, out: Path, report: Callable[[str], None], *, average: bool = True
) -> None:
    """Writes the parameters of each trained stage into a new workdir, float32.

    `out` works in `nbp.sample`, `nbp.evaluate` and `train.<stage>.start_from`; it cannot be trained
    on. A generator stays bound to its tokenizer.

    Args:
      average: take the averaged parameters of a stage that keeps an average, not the current ones.

    Raises CheckpointError where nothing is trained, or `out` holds something.
    """
    config = read_config(workdir)
    stages = [stage for stage in BINDING if has_begun(workdir, stage)]
    if not stages:
        raise CheckpointError(f"{workdir} holds nothing that is trained")
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out} is not empty: use another --out")
    labels = read_labels(workdir) if (workdir / "labels.json").is_file() else ()
    make_folder(out)
    try:
        hashes: dict[str, str] = {}
        for stage in stages:
            hashes[stage] = _export_stage(
                config, workdir, out, stage, labels, average=average, hashes=hashes, report=report
            )
        save_labels(out, labels)
        write_text(out / "config.json", to_json(_without_averages(config)))
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


def _export_stage(
    config: Config,
    workdir: Path,
    out: Path,
    stage: Any,
    labels: tuple[str, ...],
    *,
    average: bool,
    hashes: dict[str, str],
    report: Callable[[str], None],
) -> str:
    """Writes one stage; returns the hash of its parameters."""
    generator = stage == "generator"
    network: Any = (
        build.make_generator_network(config, labels)
        if generator
        else build.make_tokenizer_network(config)
    )
    averaged = average and getattr(config.train, stage).ema > 0
    trained = build.load_trained(
        workdir,
        stage,
        network=network,
        ema=averaged,
        groups=build.make_generator_groups(config) if generator else (),
    )
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), trained.params)
    origin = {"file": str(workdir.absolute()), "sha256": trained.sha256, "averaged": averaged}
    meta = {**trained.meta, "exported": origin, "versions": {"nbp": __version__}}
    if generator:
        meta["tokenizer_sha256"] = hashes.get("tokenizer", meta.get("tokenizer_sha256"))
    state = TrainState(np.asarray(trained.step, np.int32), params, ema={}, opt_state={}, extra={})
    folder = build.stage_directory(out, stage)
    with Checkpointer(folder / "checkpoints", report=report) as checkpointer:
        checkpointer.save(trained.step, state, data={}, meta=meta)
        checkpointer.wait()
        if checkpointer.latest_step() != trained.step:
            raise CheckpointError(f"the {stage} could not be written; see the line above")
        digest = checkpointer.checkpoint_hash(trained.step)
    write_text(folder / CONVERTED, json.dumps(origin) + "\n")
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    kind = "averaged" if averaged else "current"
    report(f"{stage}: {count:,} {kind} parameters of step {trained.step} in {out}")
    return digest


def _without_averages(config: Config) -> Config:
    """The configuration of a workdir whose parameters are what they are."""
    stages = {
        stage: dataclasses.replace(getattr(config.train, stage), ema=0.0) for stage in BINDING
    }
    memory = dataclasses.replace(config.memory, parameters="float32")
    return dataclasses.replace(
        config, train=dataclasses.replace(config.train, **stages), memory=memory
    )
