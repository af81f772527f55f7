# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The I3D weight file of the official release (`i3d_pretrained_400.pt`) as mapping rules.

287 tensors: 57 units of kernel and four normalisation vectors, and the logits. A file saved from a
training module also has 57 counters, which are dropped (REFERENCE 7, STATE_DICT_TABLES 3).

StyleGAN-V's TorchScript (`i3d_torchscript.pt`) was made from another port of the same network,
hassony2/kinetics_i3d_pytorch (src/i3dpt.py), with other names: `rename_ported` translates them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np

from nbp.interop.mapping import Drop, Rule, Shape, transpose_conv3d
from nbp.models.i3d import FEATURES, RGB, I3dSpec, Pool, Unit
from nbp.models.i3d import STAGES as I3D_STAGES

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


def is_name(name: str) -> bool:
    """Whether a tensor of the network has this name, in either naming."""
    return name in _NAMES or name in _PORTED_NAMES


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


_NAMES = set(i3d_shapes(I3dSpec()))
_PORTED_NAMES = {
    f"{_port_name(unit)}.{leaf}"
    for unit, _ in _walk_units()
    for leaf in ("conv3d.weight", *(v.replace("bn.", "batch3d.") for v in _NORM.values()))
} | {f"{_PORTED_LOGITS}.conv3d.weight", f"{_PORTED_LOGITS}.conv3d.bias"}
