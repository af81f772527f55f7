# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""C3D weight files of the public PyTorch ports as mapping rules.

Names of both ports' modules (DavideA/c3d-pytorch, jfzhang95/pytorch-video-recognition) are
`conv1.weight` ... `fc8.bias`. The second also loads files with `features.N.*` and `classifier.N.*`;
`clean_names` translates those. All names are read off the ports' code, not off files.
"""

import itertools
from collections.abc import Mapping
from typing import TypeVar

from nbp.interop.mapping import Rule, transpose_conv3d, transpose_linear
from nbp.models.c3d import STAGES as C3D_STAGES

LINEAR = ("fc6", "fc7", "fc8")
CONVS = tuple(itertools.chain.from_iterable(C3D_STAGES))

T = TypeVar("T")


def clean_names(tensors: Mapping[str, T]) -> dict[str, T]:
    """Tensors of either naming under the names of the ports' modules."""
    modules: dict[str, str] = {}
    index = 0  # within a list of layers
    for names in C3D_STAGES:
        for name in names:
            modules[f"features.{index}"] = name
            index += 2  # its ReLU counts
        index += 1  # the pool
    # Between the linear layers stand a ReLU and a dropout.
    modules |= {f"classifier.{3 * i}": name for i, name in enumerate(LINEAR)}
    renamed = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        renamed[f"{modules.get(module, module)}.{leaf}" if module else name] = tensor
    return renamed


def is_name(name: str) -> bool:
    """Whether a tensor of the network has this name, in either naming."""
    return bool(clean_names({name: None}).keys() & _NAMES)


def c3d_rules() -> list[Rule]:
    """One rule per parameter of `nbp.models.c3d.C3d`."""
    rules: list[Rule] = []
    for name in CONVS:
        target = f"convs/{name}"
        rules.append(Rule(f"{name}.weight", f"{target}/kernel", transpose_conv3d))
        rules.append(Rule(f"{name}.bias", f"{target}/bias"))
    for name in LINEAR:
        rules.append(Rule(f"{name}.weight", f"{name}/kernel", transpose_linear))
        rules.append(Rule(f"{name}.bias", f"{name}/bias"))
    return rules


_NAMES = {name for rule in c3d_rules() for name in rule.all_sources()}
