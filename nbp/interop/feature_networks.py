# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The networks that scores are made with: weight files of I3D, LPIPS and C3D as mapping rules."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np

from nbp.interop.mapping import (
    Drop,
    Rule,
    Shape,
    Tensor,
    flatten_head,
    transpose_conv2d,
    transpose_conv3d,
    transpose_linear,
)
from nbp.models.c3d import STAGES as C3D_STAGES
from nbp.models.i3d import FEATURES, RGB, I3dSpec, Pool, Unit
from nbp.models.i3d import STAGES as I3D_STAGES
from nbp.models.lpips import STAGES as LPIPS_STAGES

_NORM = {
    "scale": "bn.weight",
    "bias": "bn.bias",
    "mean": "bn.running_mean",
    "variance": "bn.running_var",
}
# This port's names of the units inside a Mixed stage, and of the other parts.
_BRANCHES = {
    "b0": "branch_0",
    "b1a": "branch_1.0",
    "b1b": "branch_1.1",
    "b2a": "branch_2.0",
    "b2b": "branch_2.1",
    "b3b": "branch_3.1",
}
_PORTED_LOGITS = "conv3d_0c_1x1"

T = TypeVar("T")


def i3d_rules() -> list[Rule]:
    """One rule per parameter of `nbp.models.i3d.I3d`."""
    rules = [
        Rule("logits.conv3d.weight", "logits/kernel", _transpose_pointwise),
        Rule("logits.conv3d.bias", "logits/bias"),
    ]
    for name, _ in _walk_units():
        target = f"units/{name.replace('.', '/')}"
        rules.append(Rule(f"{name}.conv3d.weight", f"{target}/kernel", transpose_conv3d))
        rules += [Rule(f"{name}.{ours}", f"{target}/{leaf}") for leaf, ours in _NORM.items()]
    return rules


def i3d_drops() -> list[Drop]:
    """What the file may hold that inference does not need."""
    return [Drop(r".*\.bn\.num_batches_tracked", "counts training steps, unused at inference")]


def i3d_shapes(spec: I3dSpec) -> dict[str, Shape]:
    """Official name and PyTorch shape of every tensor that the rules read."""
    shapes: dict[str, Shape] = {}
    for name, shape in _walk_units():
        shapes[f"{name}.conv3d.weight"] = shape
        shapes |= {f"{name}.{vector}": shape[:1] for vector in _NORM.values()}
    shapes["logits.conv3d.weight"] = (spec.classes, FEATURES, 1, 1, 1)
    shapes["logits.conv3d.bias"] = (spec.classes,)
    return shapes


def rename_ported(tensors: Mapping[str, T]) -> dict[str, T]:
    """Tensors of the port that the TorchScript file was made from, under the names of the rules.

    Names that are not the port's stay, so a file of the release passes through as it is.
    """
    units = {_port_name(name): name for name, _ in _walk_units()} | {_PORTED_LOGITS: "logits"}
    renamed = {}
    for name, tensor in tensors.items():
        for part, ours in ((".conv3d.", ".conv3d."), (".batch3d.", ".bn.")):
            unit, found, leaf = name.partition(part)
            if found and unit in units:
                name = f"{units[unit]}{ours}{leaf}"
        renamed[name] = tensor
    return renamed


def is_i3d_name(name: str) -> bool:
    """Whether a tensor of the network has this name, in either naming."""
    return name in _I3D_NAMES or name in _PORTED_NAMES


def is_ported(names: Iterable[str]) -> bool:
    """Whether these are the names of the port, whose code has TF-Hub's epsilon."""
    return any(name in _PORTED_NAMES for name in names)


def _port_name(unit: str) -> str:
    stage, _, branch = unit.partition(".")
    return f"{stage.lower()}.{_BRANCHES[branch]}" if branch else stage.lower()


def _walk_units() -> Iterator[tuple[str, Shape]]:
    """Official module name and kernel shape [out, in, t, h, w] of all 57 units."""
    one, three = (1, 1, 1), (3, 3, 3)
    width = RGB
    for name, stage in I3D_STAGES.items():
        if isinstance(stage, Pool):
            continue
        if isinstance(stage, Unit):
            yield name, (stage.width, width, *stage.kernel)
        else:
            yield f"{name}.b0", (stage.single, width, *one)
            for branch, (inner, outer) in (("b1", stage.double), ("b2", stage.second)):
                yield f"{name}.{branch}a", (inner, width, *one)
                yield f"{name}.{branch}b", (outer, inner, *three)
            yield f"{name}.b3b", (stage.pooled, width, *one)
        width = stage.width


def _transpose_pointwise(x: np.ndarray) -> np.ndarray:
    """PyTorch 1x1x1 convolution [out, in, 1, 1, 1] to a matrix [in, out]."""
    return x[:, :, 0, 0, 0].T


_I3D_NAMES = set(i3d_shapes(I3dSpec()))
_PORTED_NAMES = {
    f"{_port_name(unit)}.{leaf}"
    for unit, _ in _walk_units()
    for leaf in ("conv3d.weight", *(v.replace("bn.", "batch3d.") for v in _NORM.values()))
} | {f"{_PORTED_LOGITS}.conv3d.weight", f"{_PORTED_LOGITS}.conv3d.bias"}


def clean_lpips_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of either origin under torchvision's names."""
    return {re.sub(r"^net\.slice\d\.", "features.", name): t for name, t in tensors.items()}


def is_network_name(name: str) -> bool:
    """Whether a tensor of VGG-16 up to its last convolution has this name, in either naming."""
    return re.sub(r"^net\.slice\d\.", "features.", name) in _FEATURES


def is_head_name(name: str) -> bool:
    """Whether a linear head has this name."""
    return name in _HEADS


def lpips_rules() -> list[Rule]:
    """One rule per parameter of `nbp.models.lpips.Lpips`."""
    rules: list[Rule] = []
    index = 0  # within torchvision's list of layers
    for stage, widths in enumerate(LPIPS_STAGES):
        for conv in range(len(widths)):
            target = f"stages/{stage}/{conv}"
            rules += [
                Rule(f"features.{index}.weight", f"{target}/kernel", transpose_conv2d),
                Rule(f"features.{index}.bias", f"{target}/bias"),
            ]
            index += 2  # its ReLU counts
        index += 1  # the pool
        rules.append(Rule(f"lin{stage}.model.1.weight", f"heads/{stage}", flatten_head))
    return rules


def lpips_drops() -> list[Drop]:
    """What the files may hold beside."""
    return [
        Drop(r"classifier\..*", "the classifier of VGG-16; LPIPS ends at the last convolution"),
        Drop(r"lins\..*", "the linear heads, a second time"),
        Drop(r"scaling_layer\..*", "constants"),
    ]


_SOURCES = {name for rule in lpips_rules() for name in rule.all_sources()}
_HEADS = {name for name in _SOURCES if name.startswith("lin")}
_FEATURES = _SOURCES - _HEADS


C3D_LINEAR = ("fc6", "fc7", "fc8")
C3D_CONVS = tuple(itertools.chain.from_iterable(C3D_STAGES))


def clean_c3d_names(tensors: Mapping[str, T]) -> dict[str, T]:
    """Tensors of either naming under the names of the ports' modules."""
    modules: dict[str, str] = {}
    index = 0  # within a list of layers
    for names in C3D_STAGES:
        for name in names:
            modules[f"features.{index}"] = name
            index += 2  # its ReLU counts
        index += 1  # the pool
    # Between the linear layers stand a ReLU and a dropout.
    modules |= {f"classifier.{3 * i}": name for i, name in enumerate(C3D_LINEAR)}
    renamed = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        renamed[f"{modules.get(module, module)}.{leaf}" if module else name] = tensor
    return renamed


def is_c3d_name(name: str) -> bool:
    """Whether a tensor of the network has this name, in either naming."""
    return bool(clean_c3d_names({name: None}).keys() & _C3D_NAMES)


def c3d_rules() -> list[Rule]:
    """One rule per parameter of `nbp.models.c3d.C3d`."""
    rules: list[Rule] = []
    for name in C3D_CONVS:
        target = f"convs/{name}"
        rules.append(Rule(f"{name}.weight", f"{target}/kernel", transpose_conv3d))
        rules.append(Rule(f"{name}.bias", f"{target}/bias"))
    for name in C3D_LINEAR:
        rules.append(Rule(f"{name}.weight", f"{name}/kernel", transpose_linear))
        rules.append(Rule(f"{name}.bias", f"{name}/bias"))
    return rules


_C3D_NAMES = {name for rule in c3d_rules() for name in rule.all_sources()}
