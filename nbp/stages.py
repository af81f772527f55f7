# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The stages of a training, in their order: one record each, and what is done for every stage.

A new objective is a new file in `nbp/tasks/`, its section `train.NAME` in `nbp/config/schema.py`,
its construction in `nbp/build.py` and a record here.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from nbp import build, files
from nbp.build import stage_directory
from nbp.config import to_json
from nbp.config.schema import Config, StageName
from nbp.errors import CheckpointError
from nbp.evaluation.during_training import (
    PeriodicScore,
    StageEvaluators,
    Validation,
    choose_early_score,
    generator_evaluators,
    make_preview_sampler,
    tokenizer_evaluators,
)
from nbp.lowering import Case, generator_cases, tokenizer_cases
from nbp.shapes import PyTree
from nbp.training.optimizer import ParamGroup
from nbp.workdir import CONVERTED, list_begun, read_config


@dataclass(frozen=True)
class Stage:
    """A stage: the folder `name` of a workdir, and the section `train.NAME` of a configuration.

    fixes: groups of keys that its parameters depend on: they cannot change once it has begun.
    make_network: of a configuration and class names. make_groups: types in which its parameters
    are stored. make_task: of a configuration, class names and the parameters of the stage that it
    follows. make_evaluators: of a configuration, the task, held-out clips, these parameters, and
    the periodic score or None. make_cases: its programs, lowered for a mesh and a number of
    classes. follows: the stage whose parameters it is trained on; class names are part of such a
    stage. images: takes images beside clips. transformer: its layers can be computed again
    (`memory.remat`) and its heads split. generates: what samples and evaluations of generated
    clips are made with.
    """

    name: StageName
    fixes: tuple[str, ...]
    make_network: Callable[[Config, Sequence[str]], Any]
    make_groups: Callable[[Config], tuple[ParamGroup, ...]]
    make_task: Callable[[Config, Sequence[str], PyTree], Any]
    make_evaluators: Callable[
        [Config, Any, Validation, PyTree, PeriodicScore | None], StageEvaluators
    ]
    make_cases: Callable[[Config, Mesh, int], list[Case]]
    follows: StageName | None = None
    images: bool = False
    transformer: bool = False
    generates: bool = False


def _evaluate_tokenizer(
    config: Config, task: Any, clips: Validation, params: PyTree, score: PeriodicScore | None
) -> StageEvaluators:
    del params, score
    return tokenizer_evaluators(config, task, clips)


def _evaluate_generator(
    config: Config, task: Any, clips: Validation, params: PyTree, score: PeriodicScore | None
) -> StageEvaluators:
    sampler = make_preview_sampler(config, task, params)
    evaluators = generator_evaluators(config, task, clips, sampler=sampler)
    if score is not None:
        evaluators.score = partial(score, sampler)
    evaluators.early = choose_early_score(config, clips, sampler=sampler, score=score)
    return evaluators


STAGES: Mapping[StageName, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "tokenizer",
            fixes=("tokenizer", "data", "seed"),
            make_network=lambda config, labels: build.make_tokenizer_network(config),
            make_groups=lambda config: (),
            make_task=lambda config, labels, params: build.make_tokenizer_task(config),
            make_evaluators=_evaluate_tokenizer,
            make_cases=tokenizer_cases,
            images=True,
        ),
        Stage(
            "generator",
            fixes=("tokenizer", "generator", "data", "seed"),
            make_network=build.make_generator_network,
            make_groups=build.make_generator_groups,
            make_task=build.make_generator_task,
            make_evaluators=_evaluate_generator,
            make_cases=generator_cases,
            follows="tokenizer",
            transformer=True,
            generates=True,
        ),
    )
}


def list_stages(config: Config) -> list[Stage]:
    """The stages that a configuration trains."""
    return [STAGES[name] for name in config.stages]


def make_cases(config: Config, mesh: Mesh, classes: int) -> list[Case]:
    """The programs of all stages of a configuration; `classes`: labels of data with label prompts.

    Raises ConfigError where the mesh does not fit the batch or the networks.
    """
    return [case for s in list_stages(config) for case in s.make_cases(config, mesh, classes)]


# Keys inside the groups that a stage fixes which describe the machine or the amount of evaluation,
# not what was learned.
FREE = (
    "data.root",
    "data.workers",
    "data.stall_seconds",
    "data.bad_records",
    "data.validation_clips",
    "data.validation_split",
    # What is learned from now on; positions and ids that do not fit are refused with the shapes.
    "data.grids",
    "data.grid_shares",
    "data.mix",
    "data.balance",
    "tokenizer.dtype",
    "tokenizer.remat",
    # The table of drafts is zero where it is new, which changes nothing.
    "generator.draft",
    # What updates are about from now on; shapes and sampling do not know of it.
    "generator.corruption.share",
    "generator.corruption.codes",
    "generator.corruption.over_time",
    "generator.blocks_share",
    "generator.draft_training.share",
    "generator.draft_training.schedule",
)
# Keys that say where clips come from: after a stage is trained, the next may read its clips from
# another place or in another form, such as the tokens that the trained tokenizer made of them.
ORIGIN = ("data.kind", "data.validation", "data.check", "data.moving_shapes.train_clips")


def compare_config(config: Config, workdir: Path) -> dict[str, tuple[Any, Any]]:
    """What `config` changes in the workdir: dotted key -> (old, new).

    Raises CheckpointError, which names both sides, for a key that trained parameters depend on.
    """
    if not (workdir / "config.json").is_file():
        return {}
    old, new = _flatten(read_config(workdir)), _flatten(config)
    changed = {key: (old[key], new[key]) for key in old if old[key] != new[key]}

    begun = list_begun(workdir)
    groups = {group for stage in begun for group in STAGES[stage].fixes}
    if begun and all((stage_directory(workdir, stage) / CONVERTED).is_file() for stage in begun):
        groups -= {"data", "seed"}  # published weights were not trained on this workdir's data
    free = FREE if set(begun) & set(config.stages) else (*FREE, *ORIGIN)
    fatal = [key for key in changed if key.split(".")[0] in groups and key not in free]
    if fatal:
        sides = "; ".join(f"{key} was {old[key]!r}, now {new[key]!r}" for key in fatal[:6])
        raise CheckpointError(
            f"{workdir} was trained with another configuration: {sides}. "
            "Use another --workdir, or the old values."
        )
    return changed


def adopt_config(config: Config, workdir: Path, report: Callable[[str], None]) -> None:
    """Makes `config` the workdir's, after comparing it with what was trained there.

    Keys that trained parameters depend on must be equal, else CheckpointError names both sides;
    other changes (steps, learning rate, cadence) are reported and adopted.
    """
    changed = compare_config(config, workdir)
    if changed:
        sides = "; ".join(f"{key} {a!r} -> {b!r}" for key, (a, b) in list(changed.items())[:12])
        report(f"configuration changed: {sides}")
    files.write_text(workdir / "config.json", to_json(config))


def _flatten(config: Config) -> dict[str, Any]:
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    walk("", dataclasses.asdict(config))
    return flat
