# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The stages of a training, in their order: one record each, and what is done for every stage.

A new objective is a new file in `nbp/tasks/`, its section `train.NAME` in `nbp/config/schema.py`,
its construction in `nbp/build.py` and a record here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from jax.sharding import Mesh

from nbp import build
from nbp.config.schema import Config
from nbp.evaluation.during_training import (
    PeriodicScore,
    StageEvaluators,
    Validation,
    generator_evaluators,
    make_preview_sampler,
    tokenizer_evaluators,
)
from nbp.lowering import Case, generator_cases, tokenizer_cases
from nbp.shapes import PyTree
from nbp.training.optimizer import ParamGroup

Name = Literal["tokenizer", "generator"]


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

    name: Name
    fixes: tuple[str, ...]
    make_network: Callable[[Config, Sequence[str]], Any]
    make_groups: Callable[[Config], tuple[ParamGroup, ...]]
    make_task: Callable[[Config, Sequence[str], PyTree], Any]
    make_evaluators: Callable[
        [Config, Any, Validation, PyTree, PeriodicScore | None], StageEvaluators
    ]
    make_cases: Callable[[Config, Mesh, int], list[Case]]
    follows: Name | None = None
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
    return evaluators


STAGES: Mapping[Name, Stage] = {
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
