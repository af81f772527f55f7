# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The programs of a configuration, lowered for a mesh whose devices need not be here.

They are those that training runs: the update of each stage, the evaluator's measurement and the
sampler of the previews, on parameters as the mesh splits them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nbp import build
from nbp.build_sampling import choose_given_frames, make_sampling
from nbp.config.grids import find_batches, find_mean_clips, find_shares, name_clips
from nbp.config.schema import Config, StageConfig
from nbp.data.pipeline import LABELS
from nbp.data.prompts import load_prompts
from nbp.parallel.hlo import abstract, count_flops
from nbp.parallel.mesh import make_mesh, make_state_shardings, measure_bytes, replicate
from nbp.parallel.sharding import RULES, count_parts, make_partition_spec
from nbp.sampling.request import SampleRequest
from nbp.sampling.sampler import Sampler
from nbp.shapes import PyTree
from nbp.tasks.generator import GeneratorTask

EVALUATED = 64  # clips of an evaluation


@dataclass(frozen=True)
class Case:
    """A program to compile.

    lower: traces it and lowers it for the mesh; call it with the mesh in force.
    held: what lies on a device while it runs, by purpose, in bytes.
    clips: how many clips a run works on; flops: what the model needs for them, 0 if not stated.
    """

    name: str
    lower: Callable[[], tuple[Any, Any]]  # (lowered, jaxpr)
    held: dict[str, int]
    clips: int
    flops: float = 0.0


def tokenizer_cases(config: Config, mesh: Mesh, classes: int) -> list[Case]:
    """The update of the tokenizer, of each grid."""
    del classes
    task = build.make_tokenizer_task(config, read_weights=False)
    return [
        _update_case(
            f"tokenizer.update{name}",
            task,
            {"video": _clips(each, mesh, batch), **_labels(each, mesh, batch)},
            mesh,
        )
        for name, each, batch in _list_grids(config, config.train.tokenizer)
    ]


def _list_grids(config: Config, stage: StageConfig) -> list[tuple[str, Config, int]]:
    """The end of a program's name, the configuration and the batch of each grid."""
    names = ["", *(f".{name_clips(clip)}" for clip in config.data.grids)]
    return list(zip(names, config.each_grid, find_batches(config, stage), strict=True))


def generator_cases(config: Config, mesh: Mesh, classes: int) -> list[Case]:
    """The updates, the evaluation and the sampler of the generator."""
    labels = list(load_prompts()) if config.generator.prompt == "text" else _name(classes)
    frozen = jax.eval_shape(build.make_tokenizer_network(config).init, jax.random.key(0))
    platform = mesh.devices.flat[0].platform  # of the devices that need not be here
    task = build.make_generator_task(config, labels, frozen, platform=platform)
    updates = [
        _update_case(f"generator.update{name}", task, _rows(each, mesh, batch), mesh)
        for name, each, batch in _list_grids(config, config.train.generator)
    ]
    clips = min(EVALUATED, config.data.validation_clips)
    return [
        *updates,
        _evaluation_case(task, _rows(config, mesh, clips), mesh),
        _sampling_case(config, task, frozen, mesh),
    ]


@dataclass(frozen=True)
class TrainingAmount:
    """What all updates of a generator take, or of a tokenizer where no generator is trained.

    flops: operations, those of the tokenizer beside it too where that is trained. tokens: that are
    predicted in all updates, 0 for a tokenizer. parameters: of the network, embeddings too.
    """

    updates: int
    clips: int
    tokens: int
    flops: float
    parameters: int


def measure_training(config: Config, classes: int) -> TrainingAmount:
    """The amounts of a configuration's training; computes nothing, reads neither data nor weights.

    Of several grids as much as their shares. classes: labels of data with label prompts.
    """
    flops = 0.0
    if "tokenizer" in config.stages:
        mesh = make_mesh(devices=jax.devices()[:1])
        cases = tokenizer_cases(config, mesh, classes)
        with jax.set_mesh(mesh):
            for case, share in zip(cases, find_shares(config), strict=True):
                flops += share * config.train.tokenizer.steps * count_flops(case.lower()[1])
    stage = getattr(config.train, config.stages[-1])
    means, tokens = find_mean_clips(config, stage), 0
    clips = round(stage.steps * sum(means))
    if config.stages[-1] == "generator":
        # The kernels are those of other devices; what they compute is the same.
        config = replace(config, generator=replace(config.generator, attention="auto"))
        labels = list(load_prompts()) if config.generator.prompt == "text" else _name(classes)
        network = build.make_generator_network(config, labels)
        for each, mean in zip(config.each_grid, means, strict=True):
            part = replace(network, plan=each.plan)
            flops += stage.steps * mean * part.flops_per_clip
            tokens += round(stage.steps * mean * part.plan.target_count)
    else:
        network = build.make_tokenizer_network(config)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    return TrainingAmount(stage.steps, clips, tokens, flops, parameters)


def _update_case(name: str, task: Any, rows: dict[str, Any], mesh: Mesh) -> Case:
    axes = getattr(task, "axes", None)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    shardings = make_state_shardings(mesh, shapes, axes)
    state = abstract(shapes, shardings)
    frozen = abstract(task.frozen, make_state_shardings(mesh, task.frozen))
    clips = next(iter(rows.values())).shape[0]

    def update(state: Any, frozen: PyTree, batch: PyTree, key: Any) -> Any:
        return task.step(state, frozen, batch, jax.random.fold_in(key, state.step))

    def lower() -> tuple[Any, Any]:
        jitted = jax.jit(update, donate_argnums=0, out_shardings=(shardings, None))
        traced = jitted.trace(state, frozen, rows, _key(mesh))
        return traced.lower(), traced.jaxpr

    held = {
        "parameters": measure_bytes(state.params),
        "average": measure_bytes(state.ema),
        "optimizer": measure_bytes(state.opt_state),
        "others": measure_bytes(state.extra),
        "frozen": measure_bytes(frozen),
        "batch": measure_bytes(rows),
    }
    flops = 0.0
    if isinstance(task, GeneratorTask):
        flops = clips * task.on_grid(rows).network.flops_per_clip
    return Case(name, lower, held, clips, flops)


def _evaluation_case(task: GeneratorTask, rows: dict[str, Any], mesh: Mesh) -> Case:
    params = _params(task, mesh)
    frozen = abstract(task.frozen, make_state_shardings(mesh, task.frozen))
    clips = next(iter(rows.values())).shape[0]

    def lower() -> tuple[Any, Any]:
        traced = jax.jit(task.evaluate).trace(params, frozen, rows)
        return traced.lower(), traced.jaxpr

    held = {"parameters": measure_bytes(params), "frozen": measure_bytes(frozen)}
    held["batch"] = measure_bytes(rows)
    flops = clips * task.network.flops_per_clip / 3  # forward only
    return Case("generator.evaluate", lower, held, clips, flops)


def _sampling_case(config: Config, task: GeneratorTask, frozen: PyTree, mesh: Mesh) -> Case:
    """The drawing of codes; their decoding is a small program of its own."""
    params, clips = _params(task, mesh), config.train.preview_clips
    sampling = replace(make_sampling(config), weights="compute", cache="compute", batch=clips)
    sampler = Sampler(
        task.network,
        {},
        task.tokenizer,
        frozen,
        sampling=sampling,
    )
    plan = task.network.plan
    given = plan.tokens_of_frames(choose_given_frames(config, SampleRequest(1)))
    prompted = plan.prompt_length > 0

    def lower() -> tuple[Any, Any]:
        ids = _shape(mesh, (clips,), jnp.int32)
        traced = sampler.draw_program(given).trace(
            params,
            _key(mesh),
            ids,
            ids if prompted else None,
            _shape(mesh, (clips, plan.grid.size), jnp.int32),
        )
        return traced.lower(), traced.jaxpr

    return Case("generator.sample", lower, {"parameters": measure_bytes(params)}, clips)


def _params(task: GeneratorTask, mesh: Mesh) -> PyTree:
    """Shapes of the parameters that are evaluated: the average where it is kept."""
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    params = shapes.ema if jax.tree.leaves(shapes.ema) else shapes.params
    return abstract(params, make_state_shardings(mesh, params, task.axes))


def _rows(config: Config, mesh: Mesh, batch: int) -> dict[str, Any]:
    """A batch of the generator: codes from a token cache, or clips."""
    if config.data.kind == "tokens":
        return {
            "codes": _shape(mesh, (batch, *config.grid.shape), jnp.uint16),
            **_labels(config, mesh, batch),
        }
    return {"video": _clips(config, mesh, batch), **_labels(config, mesh, batch)}


def _clips(config: Config, mesh: Mesh, batch: int) -> Any:
    return _shape(mesh, (batch, *config.data.clip, 3), jnp.uint8)


def _labels(config: Config, mesh: Mesh, batch: int) -> dict[str, Any]:
    names = LABELS if config.labels_change else LABELS[:1]
    return {name: _shape(mesh, (batch,), jnp.int32) for name in names}


def _shape(mesh: Mesh, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """Rows, split over devices where they divide among them."""
    divides = shape[0] % count_parts(RULES["batch"], mesh.shape) == 0
    spec = make_partition_spec(("batch",)) if divides else PartitionSpec()
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


def _key(mesh: Mesh) -> Any:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicate(mesh))


def _name(classes: int) -> Sequence[str]:
    return [f"class {i}" for i in range(classes)]
