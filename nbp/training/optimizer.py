# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""AdamW and Muon with parameter groups, schedules, gradient accumulation, parameter averages."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, assert_never

import jax
import jax.numpy as jnp
import optax.contrib

from nbp.errors import ConfigError
from nbp.parallel.sharding import RULES, count_parts, mesh_sizes
from nbp.ranges import Count, Natural, NonNegative, Positive, Share
from nbp.shapes import Array, Float, Int, PyTree
from nbp.training.layer_norms import layer_norms
from nbp.training.precision import Storage, is_narrow, keep_masters, round_update, widen
from nbp.training.state import TrainState
from nbp.trees import flatten_paths


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that are treated alike.

    Attributes:
        pattern: regular expression that matches the *whole* path, e.g. `.*/(bias|scale)`.
        decay: whether weight decay applies.
        learning_rate_scale: factor on the learning rate of these parameters.
        matrix: what Muon makes orthogonal. dense: the last two axes, any before them count
            separate matrices; joined: the last two together against the one before (query, key,
            value); conv: the last axis against all others; none: Muon leaves these to Adam.
        storage: type of the parameters between updates; see `nbp.training.precision`.
    """

    pattern: str
    decay: bool = True
    learning_rate_scale: float = 1.0
    matrix: Literal["none", "dense", "joined", "conv"] = "none"
    storage: Storage = "float32"


@dataclass(frozen=True)
class OptimizerSettings:
    """The update rule: keys of the sections `train.tokenizer` and `train.generator`.

    Attributes:
        learning_rate: peak learning rate.
        steps: updates over which the schedule runs.
        optimizer: muon treats weight matrices as a whole and learns in fewer steps, Adam the rest;
            AdamW otherwise. Both give updates of about the same size at the same learning rate.
        warmup: updates of linear warm-up; at least one update follows it.
        schedule: what follows the warm-up; paper is the official one, quirks included
            (docs/official_parity.md).
        final_fraction: learning rate at the end divided by the peak (cosine only).
        b1, b2: constants of Adam.
        weight_decay: decoupled decay, multiplied by the learning rate of the moment.
        clip_norm: largest global gradient norm; 0 for no clipping.
        accumulate: micro-batches of one update.
        gradients: mean over the micro-batches, or their sum as in the official code.
        ema: decay of the moving average of parameters; 0 for none.
    """

    learning_rate: Positive
    steps: Count
    optimizer: Literal["adamw", "muon"] = "adamw"
    warmup: Natural = 100
    schedule: Literal["cosine", "constant", "paper"] = "cosine"
    final_fraction: NonNegative = 0.0
    b1: Share = 0.9
    b2: Share = 0.95
    weight_decay: NonNegative = 0.01
    clip_norm: NonNegative = 1.0
    accumulate: Count = 1
    gradients: Literal["mean", "sum"] = "mean"
    ema: Share = 0.0

    @property
    def warmup_steps(self) -> int:
        """Updates of the warm-up that there is time for."""
        return min(self.warmup, self.steps - 1)


@dataclass(frozen=True)
class OptimizerSpec(OptimizerSettings):
    """The update rule of certain parameters.

    Attributes:
        eps: constant of Adam.
        groups: every parameter path must match exactly one of them.
        statistics: whether an update measures each layer; see `layer_norms`.
    """

    eps: float = 1e-8
    groups: tuple[ParamGroup, ...] = (ParamGroup(".*"),)
    statistics: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"optimizer.{name} is {getattr(self, name)}. Use 1 or more.")
        if not 0.0 <= self.ema < 1.0:
            raise ConfigError(f"optimizer.ema is {self.ema}. Use 0 (off) or a value below 1.")

    @classmethod
    def of(cls, settings: OptimizerSettings, groups: tuple[ParamGroup, ...]) -> "OptimizerSpec":
        """Settings for the parameters of `groups`; what a subclass adds to them is left out."""
        fields = dataclasses.fields(OptimizerSettings)
        return cls(**{field.name: getattr(settings, field.name) for field in fields}, groups=groups)


def make_schedule(spec: OptimizerSpec) -> Callable[[Any], Array]:
    """Returns the learning rate as a function of the number of completed updates `s`.

    With peak `p`, warm-up `W`, total `T` and final fraction `f`:

    * `s < W`: `p * (s + 1) / W`, so that the first update already moves;
    * then, cosine: `p * (f + (1 - f) * (1 + cos(pi * x)) / 2)` with `x = (s - W) / (T - W)`
      clipped to 0..1; constant: `p`;
    * paper: see `paper_learning_rate`, which counts micro-batches: `W` and `T` times `accumulate`.
    """
    peak, warmup = spec.learning_rate, spec.warmup_steps

    def schedule(step: Array) -> Array:
        if spec.schedule == "paper":
            return paper_learning_rate(
                step,
                peak=peak,
                warmup=warmup * spec.accumulate,
                total=spec.steps * spec.accumulate,
                accumulate=spec.accumulate,
            )
        step = jnp.asarray(step, jnp.float32)
        match spec.schedule:
            case "constant":
                after = jnp.full((), peak, jnp.float32)
            case "cosine":
                part = jnp.clip((step - warmup) / (spec.steps - warmup), 0.0, 1.0)
                cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * part))
                after = peak * (spec.final_fraction + (1.0 - spec.final_fraction) * cosine)
            case _:
                assert_never(spec.schedule)
        return jnp.where(step < warmup, peak * (step + 1.0) / max(warmup, 1), after)

    return schedule


def assign_groups(groups: tuple[ParamGroup, ...], params: PyTree) -> PyTree:
    """Returns a tree like `params` with the index of each parameter's group as leaves.

    Raises:
        ConfigError: a parameter matches no group or several, or a group matches no parameter.
    """
    matches = {
        path: [i for i, group in enumerate(groups) if re.fullmatch(group.pattern, path)]
        for path in flatten_paths(params)
    }
    orphans = [path for path, found in matches.items() if not found]
    shared = [path for path, found in matches.items() if len(found) > 1]
    used = {i for found in matches.values() for i in found}
    idle = [repr(group.pattern) for i, group in enumerate(groups) if i not in used]
    problems = [
        f"{text}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if names[5:] else ''}"
        for text, names in (
            ("parameters in no group", orphans),
            ("parameters in several groups", shared),
            ("groups without parameters", idle),
        )
        if names
    ]
    if problems:
        raise ConfigError(
            f"optimizer.groups do not cover the parameters exactly once. {'; '.join(problems)}. "
            "A pattern must match the whole path; change the patterns."
        )
    treedef = jax.tree.structure(params)
    return jax.tree.unflatten(treedef, [found[0] for found in matches.values()])


def make_optimizer(spec: OptimizerSpec, params: PyTree) -> optax.GradientTransformation:
    """Builds clip -> Adam or Muon -> decoupled weight decay -> learning rate.

    AdamW: arXiv 1711.05101. Muon: momentum made orthogonal by Newton-Schulz iterations
    (optax.contrib), scaled to the root mean square of Adam's updates (arXiv 2502.16982).

    Args:
        spec: what to build.
        params: the parameters or their shapes; only structure and paths are read. Whatever their
            storage, `init` and `update` of the result take float32 parameters.

    Raises:
        ConfigError: `spec.groups` do not cover `params` exactly once.
    """
    index = assign_groups(spec.groups, params)
    decay = jax.tree.map(lambda i: spec.groups[i].decay, index)
    scales = jax.tree.map(lambda i: spec.groups[i].learning_rate_scale, index)
    parts = [optax.clip_by_global_norm(spec.clip_norm)] if spec.clip_norm else []
    parts += [
        _scale_by_direction(spec, params, index),
        optax.add_decayed_weights(spec.weight_decay, mask=decay),
        optax.scale_by_learning_rate(make_schedule(spec)),
    ]
    if any(scale != 1.0 for scale in jax.tree.leaves(scales)):
        parts.append(
            optax.stateless(
                lambda updates, _: jax.tree.map(
                    lambda u, s: (u * s).astype(u.dtype), updates, scales
                )
            )
        )
    optimizer, storage = optax.chain(*parts), find_storage(spec.groups, params)
    return keep_masters(optimizer, storage) if "master" in jax.tree.leaves(storage) else optimizer


def find_storage(groups: tuple[ParamGroup, ...], params: PyTree) -> PyTree:
    """A tree like `params` with the storage of each parameter."""
    return jax.tree.map(lambda i: groups[i].storage, assign_groups(groups, params))


def _scale_by_direction(
    spec: OptimizerSpec, params: PyTree, index: PyTree
) -> optax.GradientTransformation:
    """The direction of an update, not yet scaled by the learning rate."""
    if spec.optimizer == "adamw":
        return optax.scale_by_adam(b1=spec.b1, b2=spec.b2, eps=spec.eps)
    axes = jax.tree.map(lambda leaf, i: _matrix_axes(spec.groups[i].matrix, leaf), params, index)
    return optax.contrib.muon(
        -1.0,  # keeps the sign: the learning rate is applied with the decay, after this
        adam_b1=spec.b1,
        adam_b2=spec.b2,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=axes,
    )


def _matrix_axes(
    matrix: Literal["none", "dense", "joined", "conv"], leaf: Array
) -> optax.contrib.MuonDimensionNumbers | None:
    """Input and output axes of a parameter seen as a matrix."""
    last = leaf.ndim - 1
    match matrix:
        case "none":
            return None
        case "dense":
            return optax.contrib.MuonDimensionNumbers((last - 1,), (last,))
        case "joined":
            return optax.contrib.MuonDimensionNumbers((last - 2,), (last - 1, last))
        case "conv":
            return optax.contrib.MuonDimensionNumbers(tuple(range(last)), (last,))
        case _:
            assert_never(matrix)


def update_ema(ema: PyTree, params: PyTree, *, decay: float, step: Int[Array, ""]) -> PyTree:
    """Moves the average towards `params` with decay `min(decay, (1 + t) / (10 + t))`.

    `t` is the number of updates before this one: a young average follows quickly, so that it
    forgets the initial values. `{}` stays `{}`.
    """
    if not jax.tree.leaves(ema):
        return ema
    t = step.astype(jnp.float32)
    rate = 1.0 - jnp.minimum(decay, (1.0 + t) / (10.0 + t))
    return jax.tree.map(lambda old, new: old + (rate * (new - old)).astype(old.dtype), ema, params)


def accumulate_gradients(
    loss_fn: Callable[[PyTree, Mapping[str, Array], Array], tuple[Array, dict[str, Array]]],
    params: PyTree,
    *,
    batch: Mapping[str, Array],
    key: Array,
    accumulate: int = 1,
) -> tuple[Float[Array, ""], dict[str, Array], PyTree]:
    """Averages loss, metrics and gradients over `accumulate` micro-batches, one at a time.

    For a loss that is a mean over the rows of the batch this equals the full-batch gradient.
    Micro-batch `j` holds the rows `j, j + accumulate, ...`: with rows sharded over devices in
    contiguous pieces each device then keeps its own rows, and nothing moves between devices.

    Args:
        loss_fn: `(params, batch, key) -> (loss, metrics)`, scalars; `j` is folded into the key.
        params: what to differentiate for.
        batch: arrays with a common leading axis, which `accumulate` divides.
        key: random key of the step.
        accumulate: number of micro-batches.

    Returns:
        Mean loss, mean metrics, mean gradients (float32 where they are sums).

    Raises:
        ConfigError: `accumulate` does not divide the batch.
    """
    differentiate = jax.value_and_grad(loss_fn, has_aux=True)

    def one(rows: Mapping[str, Array], key: Array) -> PyTree:
        return differentiate(params, rows, key)

    (loss, metrics), gradients = average_micro_batches(
        one, batch=batch, key=key, accumulate=accumulate
    )
    gradients = jax.tree.map(lambda g, p: g.astype(p.dtype), gradients, params)
    return loss, metrics, gradients


def average_micro_batches(
    function: Callable[[Mapping[str, Array], Array], PyTree],
    *,
    batch: Mapping[str, Array],
    key: Array,
    accumulate: int = 1,
) -> PyTree:
    """The mean over micro-batches, run one after the other, of a tree of arrays.

    Only the sum so far is kept (in float32 at least), so memory does not grow with `accumulate`.

    Args:
        function: `(rows, key) -> tree`; the number of the micro-batch is folded into the key.
        batch, key, accumulate: as in `accumulate_gradients`, as is the choice of the rows.

    Raises:
        ConfigError: `accumulate` does not divide the batch.
    """
    if accumulate == 1:
        return function(batch, jax.random.fold_in(key, 0))

    devices = count_parts(RULES["batch"], sizes) if (sizes := mesh_sizes()) else 1

    def split(rows: Array) -> Array:
        if rows.shape[0] % (accumulate * devices):
            raise ConfigError(
                f"optimizer.accumulate {accumulate} does not divide the batch of {rows.shape[0]}"
                " clips"
                + (f" on {devices} devices of mesh.data * mesh.fsdp" if devices > 1 else "")
                + ". Choose a batch that is a multiple of both, or raise mesh.tensor."
            )
        parts = rows.reshape(rows.shape[0] // accumulate, accumulate, *rows.shape[1:])
        return jnp.moveaxis(parts, 1, 0)

    micro_batches = jax.tree.map(split, dict(batch))

    def one(index: Array, rows: PyTree) -> PyTree:
        return jax.tree.map(
            lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)),
            function(rows, jax.random.fold_in(key, index)),
        )

    def body(total: PyTree, item: tuple[Array, PyTree]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, one(*item)), None

    first = jax.tree.map(lambda rows: rows[0], micro_batches)
    shapes = jax.eval_shape(one, jnp.zeros((), jnp.int32), first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(body, zeros, (jnp.arange(accumulate), micro_batches))
    return jax.tree.map(lambda x: x / accumulate, total)


def apply_gradients(
    state: TrainState,
    gradients: PyTree,
    *,
    optimizer: optax.GradientTransformation,
    spec: OptimizerSpec,
) -> tuple[TrainState, dict[str, Array]]:
    """Performs one update of parameters, optimizer state and average.

    `gradients` are means over the micro-batches, as `accumulate_gradients` gives them.

    Returns:
        The next state, and the metrics `grad_norm` (before clipping) and `learning_rate`; with
        `spec.statistics` LAYER/gradient_norm (before clipping), LAYER/update_norm (what the
        parameters change by) and LAYER/weight_norm (before the update) of each layer.
    """
    gradients = jax.tree.map(lambda g: g.astype(jnp.promote_types(g.dtype, jnp.float32)), gradients)
    if spec.gradients == "sum":
        gradients = jax.tree.map(lambda g: g * spec.accumulate, gradients)
    storage = find_storage(spec.groups, state.params)
    full = widen(state.params, storage, state.opt_state)
    updates, opt_state = optimizer.update(gradients, state.opt_state, full)
    statistics: dict[str, Array] = {}
    if spec.statistics:
        for kind, tree in (("gradient", gradients), ("update", updates), ("weight", full)):
            norms = layer_norms(tree)
            statistics |= {f"{layer}/{kind}_norm": norm for layer, norm in norms.items()}
    full = optax.apply_updates(full, updates)
    params = round_update(full, storage, state.step) if is_narrow(storage) else full
    metrics = {
        "grad_norm": optax.tree.norm(gradients),
        "learning_rate": make_schedule(spec)(state.step),
        **statistics,
    }
    state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=params,
        ema=update_ema(state.ema, full, decay=spec.ema, step=state.step),
        opt_state=opt_state,
    )
    return state, metrics


def paper_learning_rate(
    update: Int[Array, "*s"], *, peak: float, warmup: int, total: int, accumulate: int = 1
) -> Float[Array, "*s"]:
    """Learning rate of the update after `update` completed ones.

    The official loop counts micro-batches and sets the rate of the micro-batch just done: update
    u >= 1 uses f(accumulate * u - 1), and u = 0 the start of the warm-up, so that the first two
    updates do nothing where accumulate = 1. f rises linearly from 0 over `warmup`, then follows a
    cosine that starts at 0, not at the end of the warm-up (the rate jumps down a little there),
    and is 0 from `total` on.

    Args:
        update: completed updates.
        peak: rate at the end of the warm-up.
        warmup, total: in micro-batches.
        accumulate: micro-batches per update.

    Returns:
        Rates in the default float type: float64 under `jax.enable_x64`, else float32.
    """
    done = jnp.asarray(accumulate * jnp.asarray(update) - 1, float)
    t = jnp.maximum(done, 0.0)
    cosine = 0.5 * peak * (1.0 + jnp.cos(jnp.pi * t / total))
    rate = jnp.where(t < warmup, peak * t / max(warmup, 1), jnp.where(t < total, cosine, 0.0))
    first = 0.0 if warmup else peak
    return jnp.where(done < 0, first, rate)
