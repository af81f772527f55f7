# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The published weights of LPIPS: torchvision's VGG-16 and the linear heads, or both in one file.

Known names: `features.N.*` (torchvision) and `net.sliceK.N.*` (the lpips package) for the network,
`linK.model.1.weight` for the heads, which the package repeats as `lins.K.model.1.weight`.
"""

import re
from collections.abc import Mapping

from nbp.interop.mapping import Drop, Rule, Tensor, flatten_head, transpose_conv2d
from nbp.models.lpips import STAGES as LPIPS_STAGES


def clean_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
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
