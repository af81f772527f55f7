# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The I3D weight file of the official release (`i3d_pretrained_400.pt`) as mapping rules.

287 tensors: 57 units of kernel and four normalisation vectors, and the logits. A file saved from a
training module also has 57 counters, which are dropped (REFERENCE 7, STATE_DICT_TABLES 3).
"""

from collections.abc import Iterator

import numpy as np

from nbp.interop.mapping import Drop, Rule, Shape, transpose_conv3d
from nbp.models.i3d import FEATURES, RGB, STAGES, I3dSpec, Pool, Unit

_NORM = {
    "scale": "bn.weight",
    "bias": "bn.bias",
    "mean": "bn.running_mean",
    "variance": "bn.running_var",
}


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


def _walk_units() -> Iterator[tuple[str, Shape]]:
    """Official module name and kernel shape [out, in, t, h, w] of all 57 units."""
    one, three = (1, 1, 1), (3, 3, 3)
    width = RGB
    for name, stage in STAGES.items():
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
