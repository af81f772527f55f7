# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Foreign weights as a table of rules, checked both ways before the first byte is read.

Every source tensor is consumed by exactly one rule or dropped with a reason; every target leaf is
written by exactly one rule and has the shape that the model wants. Conversion then goes leaf by
leaf: besides the result, at most one source tensor is in memory.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import numpy as np

from nbp.errors import CheckpointError
from nbp.progress import Progress
from nbp.shapes import PyTree
from nbp.trees import flatten_paths

Shape = tuple[int, ...]
LISTED = 8  # problems shown before "and N more"


@runtime_checkable
class Tensor(Protocol):
    """A tensor in a file: shape and type are known, the values are read on demand."""

    @property
    def shape(self) -> Shape: ...

    @property
    def dtype(self) -> np.dtype: ...

    def read(self) -> np.ndarray: ...


Tensors = Mapping[str, Tensor | np.ndarray]


@dataclass(frozen=True)
class Rule:
    """One target leaf and where its values come from.

    Attributes:
        source: name of the source tensor; several names are transformed one by one, then stacked
            on a new axis before the last (query, key, value). With `layers`, `{i}` in a name is the
            layer.
        target: path of the leaf in the parameter tree, e.g. `"encoder/0/kernel"`.
        transform: applied to each source tensor; must not depend on values (it is run on shapes).
        layers: number of layers that are stacked on a new leading axis; 0 for a plain leaf.
    """

    source: str | tuple[str, ...]
    target: str
    transform: Callable[[np.ndarray], np.ndarray] = np.asarray
    layers: int = 0

    def sources(self, layer: int = 0) -> tuple[str, ...]:
        """The source names of one layer, in the order in which they are joined."""
        names = (self.source,) if isinstance(self.source, str) else self.source
        return tuple(name.format(i=layer) for name in names) if self.layers else names

    def all_sources(self) -> list[str]:
        """The source names of all layers."""
        return [name for layer in range(max(self.layers, 1)) for name in self.sources(layer)]


@dataclass(frozen=True)
class Drop:
    """Source tensors (a regular expression for the whole name) that are not wanted, and why."""

    pattern: str
    reason: str


# Transforms --------------------------------------------------------------------------------------


def transpose_linear(x: np.ndarray) -> np.ndarray:
    """PyTorch Linear [out, in] to a kernel [in, out]."""
    return x.T


def transpose_conv3d(x: np.ndarray) -> np.ndarray:
    """PyTorch Conv3d [out, in, t, h, w] to a kernel [t, h, w, in, out]; no flip."""
    return x.transpose(2, 3, 4, 1, 0)


def transpose_conv2d(x: np.ndarray) -> np.ndarray:
    """PyTorch Conv2d [out, in, h, w] to a kernel [h, w, in, out]; no flip."""
    return x.transpose(2, 3, 1, 0)


def flatten_head(x: np.ndarray) -> np.ndarray:
    """A 1x1 convolution to one channel, [1, C, 1, 1] to [C]."""
    if x.ndim != 4 or x.size != x.shape[1]:
        raise ValueError(f"{x.shape} is not one value per channel")
    return x.reshape(-1)


def flatten_channels(x: np.ndarray) -> np.ndarray:
    """A value per channel, [1, C, 1, 1, 1] to [C]."""
    if x.ndim != 5 or x.size != x.shape[1]:
        raise ValueError(f"{x.shape} is not one value per channel")
    return x.reshape(-1)


def drop_batch(x: np.ndarray) -> np.ndarray:
    """[1, ...] to [...]."""
    if x.shape[0] != 1:
        raise ValueError(f"the first axis of {x.shape} is not 1")
    return x[0]


# What takes a leaf back to the foreign layout.
_INVERSE: dict[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]] = {
    np.asarray: np.asarray,
    transpose_linear: transpose_linear,
    transpose_conv3d: lambda x: x.transpose(4, 3, 0, 1, 2),
    transpose_conv2d: lambda x: x.transpose(3, 2, 0, 1),
    flatten_head: lambda x: x.reshape(1, -1, 1, 1),
    flatten_channels: lambda x: x.reshape(1, -1, 1, 1, 1),
    drop_batch: lambda x: x[None],
}


# Checking and converting -------------------------------------------------------------------------


def check_rules(
    tensors: Tensors, rules: Sequence[Rule], drops: Sequence[Drop], *, template: PyTree, origin: str
) -> list[str]:
    """Compares rules, source and target without reading values.

    Args:
        tensors: what the file holds.
        rules, drops: the table.
        template: arrays or `jax.ShapeDtypeStruct`s of the wanted parameters.
        origin: the file's name, for messages.

    Returns:
        A line per dropped group of tensors, with its reason.

    Raises:
        CheckpointError: names every tensor that is missing, left over or of another shape.
    """
    targets = flatten_paths(template)
    consumed: dict[str, str] = {}
    written: dict[str, int] = {}
    problems: list[str] = []
    for rule in rules:
        written[rule.target] = written.get(rule.target, 0) + 1
        absent = [name for name in rule.all_sources() if name not in tensors]
        problems += [f"missing tensor {name} (for {rule.target})" for name in absent]
        for name in rule.all_sources():
            if name in consumed:
                problems.append(f"tensor {name} is used for {consumed[name]} and {rule.target}")
            consumed[name] = rule.target
        if rule.target not in targets:
            problems.append(f"the model has no parameter {rule.target}")
        elif not absent:
            problems += _compare_shapes(rule, tensors, tuple(targets[rule.target].shape))
    problems += [f"parameter {path} is written {n} times" for path, n in written.items() if n > 1]
    problems += [f"no tensor for parameter {path}" for path in targets if path not in written]
    notes: list[str] = []
    rest = [name for name in tensors if name not in consumed]
    for drop in drops:
        dropped = [name for name in rest if re.fullmatch(drop.pattern, name)]
        rest = [name for name in rest if name not in set(dropped)]
        if dropped:
            notes.append(f"{len(dropped)} tensors dropped ({drop.reason}): {dropped[0]}")
    problems += [f"unexpected tensor {name} {list(tensors[name].shape)}" for name in rest]
    if problems:
        more = f"; and {len(problems) - LISTED} more" if problems[LISTED:] else ""
        raise CheckpointError(
            f"{origin} does not fit the model: {'; '.join(problems[:LISTED])}{more}"
        )
    return notes


def convert_tensors(
    tensors: Tensors,
    rules: Sequence[Rule],
    drops: Sequence[Drop] = (),
    *,
    template: PyTree,
    origin: str,
) -> PyTree:
    """The parameters of a model from foreign tensors: numpy arrays in `template`'s structure.

    Arguments and errors as in `check_rules`, which runs first. Memory: the result plus the largest
    source tensor. Raises CheckpointError, too, for values that are not finite or no real numbers.
    """
    check_rules(tensors, rules, drops, template=template, origin=origin)
    broken: dict[str, str] = {}
    by_target = {rule.target: rule for rule in rules}
    targets, leaves = flatten_paths(template), []
    with Progress(sum(leaf.size for leaf in targets.values()), "parameters") as progress:
        for path, leaf in targets.items():
            empty = np.empty(leaf.shape, leaf.dtype)
            leaves.append(_fill(by_target[path], tensors, empty, broken))
            progress.step(leaf.size)
    if broken:
        shown = [f"{name} {what}" for name, what in broken.items()][:LISTED]
        more = f"; and {len(broken) - LISTED} more" if len(broken) > LISTED else ""
        raise CheckpointError(
            f"{origin} holds weights that no network can compute with: {'; '.join(shown)}{more}. "
            "Fetch the file again, or take an earlier checkpoint of that training"
        )
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def export_tensors(params: PyTree, rules: Sequence[Rule]) -> dict[str, np.ndarray]:
    """The inverse of `convert_tensors`: foreign tensors (views where possible) of parameters.

    Takes `jax.ShapeDtypeStruct`s too; the tensors then have shapes but share one zero.
    """
    leaves = flatten_paths(params)
    tensors: dict[str, np.ndarray] = {}
    for rule in rules:
        leaf = leaves[rule.target]
        if isinstance(leaf, jax.ShapeDtypeStruct):
            leaf = np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
        for layer in range(max(rule.layers, 1)):
            names = rule.sources(layer)
            row = np.asarray(leaf)[layer] if rule.layers else np.asarray(leaf)
            parts = [row] if len(names) == 1 else np.moveaxis(row, -2, 0)
            inverse = _INVERSE[rule.transform]
            tensors |= {name: inverse(part) for name, part in zip(names, parts, strict=True)}
    return tensors


def _fill(rule: Rule, tensors: Tensors, out: np.ndarray, broken: dict[str, str]) -> np.ndarray:
    """Writes a leaf; `broken` gets the tensors whose values do not survive, and what is wrong."""
    for layer in range(max(rule.layers, 1)):
        row = out[layer] if rule.layers else out
        names = rule.sources(layer)
        for i, name in enumerate(names):
            tensor = tensors[name]
            values = tensor if isinstance(tensor, np.ndarray) else tensor.read()
            if not np.can_cast(values.dtype, np.float64):
                broken[name] = f"has numbers of the type {values.dtype}"
                continue
            place = row if len(names) == 1 else row[..., i, :]
            with np.errstate(over="ignore", invalid="ignore"):  # counted below
                place[...] = rule.transform(values)
            bad = int(np.size(place) - np.count_nonzero(np.isfinite(place)))
            if bad:
                broken[name] = f"has {bad} of {np.size(place)} values that are not finite"
    return out


def _compare_shapes(rule: Rule, tensors: Tensors, wanted: Shape) -> list[str]:
    """A line per disagreement between what a rule makes and what the model wants."""
    lines = []
    for layer in range(max(rule.layers, 1)):
        names = rule.sources(layer)
        shapes = [tuple(tensors[name].shape) for name in names]
        made = _transform_shapes(rule, shapes)
        if made != wanted:
            pairs = zip(names, shapes, strict=True)
            have = ", ".join(f"{name} {list(shape)}" for name, shape in pairs)
            lines.append(f"{have} does not give {rule.target} {list(wanted)}")
    return lines


def _transform_shapes(rule: Rule, shapes: list[Shape]) -> Shape | None:
    """The shape of the leaf that a rule makes of tensors of these shapes; None if it cannot."""
    try:
        parts = [rule.transform(np.broadcast_to(np.float32(0), shape)).shape for shape in shapes]
    except (ValueError, IndexError):
        return None
    if any(part != parts[0] or not part for part in parts[1:]):
        return None
    joined = parts[0] if len(parts) == 1 else (*parts[0][:-1], len(parts), parts[0][-1])
    return (rule.layers, *joined) if rule.layers else joined
