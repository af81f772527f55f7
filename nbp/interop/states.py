# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which of a file's tensors are the wanted network: wrappers, nested states, averaged weights.

Training scripts nest a network in dictionaries (`state_dict`, `model`, `generator`) and in modules
(`module.` of DataParallel, `_orig_mod.` of torch.compile, `model.`). Instead of a list of all these
names, the network is found by its own: the beginning that most of its tensors' names stand behind.
Where a file holds averaged weights (EMA) as well, these are taken, as they are what one samples
with and publishes, and a note says so.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from nbp.interop.mapping import Drop, Rule, Tensor

# Parts of names that wrappers put anywhere; no network here has a part of this name.
WRAPPERS = {
    *("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
    *("_modules", "_parameters", "_buffers"),  # of a pickled network
}
AVERAGED = re.compile(r"(.*_)?(ema|swa)(_.*)?|shadow", re.IGNORECASE)
LISTED = 3

T = TypeVar("T")


@dataclass(frozen=True)
class State:
    """Tensors of one network under its own names.

    tensors: all below `prefix`. notes: what a person should know. prefix: of the file's names;
    None where the network is not there. names: what was taken, as the file calls it.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...]
    prefix: str | None
    names: frozenset[str]


def clean_names(tensors: Mapping[str, T]) -> dict[str, T]:
    """Tensors without the wrappers' parts of their names; as they are where two would collide."""
    cleaned: dict[str, T] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        cleaned[".".join([p for p in parts[:-1] if p not in WRAPPERS] + parts[-1:])] = tensor
    return cleaned if len(cleaned) == len(tensors) else dict(tensors)


def find_state(tensors: Mapping[str, Tensor], wanted: Callable[[str], bool]) -> State:
    """The network whose tensors' names are `wanted`, wherever it is nested.

    tensors: as `nbp.interop.reading` names them.
    """
    cleaned = clean_names(tensors)
    groups: dict[str, list[str]] = {}
    for name in cleaned:
        prefix = _find_prefix(name, wanted)
        if prefix is not None:
            groups.setdefault(prefix, []).append(name)
    current = _largest({p: names for p, names in groups.items() if not is_averaged(p)})
    averaged = _largest({p: names for p, names in groups.items() if is_averaged(p)})
    if current is None and averaged is None:
        return State({}, (), None, frozenset())
    if current is None:
        assert averaged is not None
        found = _below(cleaned, averaged)
        note = f"the file holds averaged weights (EMA) only: {averaged}*"
        return State(found, (note,), averaged, frozenset(averaged + name for name in found))
    below = _below(cleaned, current)
    found = {n: t for n, t in below.items() if not is_averaged(n.rpartition(".")[0])}
    names = {current + name for name in found}
    if averaged is None:
        means, prefix = _find_dotless(cleaned, found)
    else:
        means, prefix = _below(cleaned, averaged), averaged
        names |= {averaged + name for name in means}
    # Averages are kept of parameters; buffers beside them may be in the current state alone.
    means = {n: t for n, t in means.items() if n in found and t.shape == found[n].shape}
    notes: tuple[str, ...] = ()
    if means:
        notes = (
            f"the averaged weights (EMA, {prefix}*) are taken: {len(means)} of {len(found)} "
            "tensors; the current ones in the same file are not",
        )
    return State({**found, **means}, notes, current, frozenset(names))


def set_aside(
    tensors: Mapping[str, Tensor], rules: Sequence[Rule], drops: Sequence[Drop]
) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors without those that are beside the network, and a line about these.

    Beside it are: what lies under no module that the rules read (a discriminator, an optimizer),
    and, anywhere, what can be no weight: single numbers, numbers that are no real ones, views that
    repeat their numbers. Other tensors that no rule reads stay, as they tell another network.
    """
    consumed = {name for rule in rules for name in rule.all_sources()}
    roots = {name.partition(".")[0] for name in consumed}
    kept: dict[str, Tensor] = {}
    aside: list[str] = []
    for name, tensor in tensors.items():
        known = name in consumed or any(re.fullmatch(drop.pattern, name) for drop in drops)
        if known or (name.partition(".")[0] in roots and _is_weight(tensor)):
            kept[name] = tensor
        else:
            aside.append(name)
    if not aside:
        return kept, []
    more = f" and {len(aside) - LISTED} more" if aside[LISTED:] else ""
    return kept, [f"not part of this network, left out: {', '.join(aside[:LISTED])}{more}"]


def is_averaged(prefix: str) -> bool:
    """Whether a part of a name is one of averaged weights."""
    return any(AVERAGED.fullmatch(part) for part in prefix.split("."))


def is_real(dtype: np.dtype) -> bool:
    """Whether numbers of this type can be weights: floating point, of numpy or ml_dtypes."""
    return dtype.kind == "f" or (dtype.kind == "V" and dtype.fields is None and dtype.itemsize > 0)


def _is_weight(tensor: Tensor) -> bool:
    strides = getattr(tensor, "strides", ())
    repeats = any(step == 0 and side > 1 for step, side in zip(strides, tensor.shape, strict=False))
    # Numbers of eight bits are what quantisation leaves beside its scales, or a buffer.
    real = is_real(tensor.dtype) and tensor.dtype.itemsize > 1
    return real and not repeats and int(np.prod(tensor.shape)) > 1


def _find_prefix(name: str, wanted: Callable[[str], bool]) -> str | None:
    """The shortest beginning behind which a wanted name stands."""
    start = 0
    while True:
        if wanted(name[start:]):
            return name[:start]
        start = name.find(".", start) + 1
        if not start:
            return None


def _largest(groups: Mapping[str, list[str]]) -> str | None:
    """The beginning of most names; of equal ones the first in the file."""
    return max(groups, key=lambda prefix: len(groups[prefix]), default=None)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}


def _find_dotless(
    tensors: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], str]:
    """Averages that a training script keeps as buffers, whose names cannot have dots."""
    dotless = {name.replace(".", ""): name for name in found}
    means: dict[str, Tensor] = {}
    beginning = ""
    for name, tensor in tensors.items():
        prefix, _, last = name.rpartition(".")
        if is_averaged(prefix) and last in dotless:
            means[dotless[last]] = tensor
            beginning = f"{prefix}."
    return means, beginning
