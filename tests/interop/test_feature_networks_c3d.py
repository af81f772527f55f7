# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""C3D weight files: both namings of the public ports, and every value there and back."""

import jax
import numpy as np
import pytest

from nbp.errors import CheckpointError
from nbp.interop.feature_networks import c3d_rules, clean_c3d_names
from nbp.interop.mapping import convert_tensors, export_tensors
from nbp.models.c3d import C3dNetwork, C3dSpec
from nbp.nn.conv3d import taps_conv

NETWORK = C3dNetwork(
    C3dSpec(classes=5, widths=(2, 3, 2, 3, 4), hidden=6, frames=16, size=16), taps_conv
)
# As jfzhang95/pytorch-video-recognition spells them (network/C3D_model.py).
LISTED = {
    "features.0": "conv1",
    "features.3": "conv2",
    "features.6": "conv3a",
    "features.8": "conv3b",
    "features.11": "conv4a",
    "features.13": "conv4b",
    "features.16": "conv5a",
    "features.18": "conv5b",
    "classifier.0": "fc6",
    "classifier.3": "fc7",
}


def test_every_value_arrives_and_comes_back():
    params = jax.tree.map(np.asarray, NETWORK.init(jax.random.key(1)))
    params = jax.tree.map(lambda leaf: leaf + np.arange(leaf.shape[-1], dtype="f4"), params)
    tensors = export_tensors(params, c3d_rules())
    assert tensors["conv3a.weight"].shape == (2, 3, 3, 3, 3)
    assert tensors["fc6.weight"].shape == (6, 4)
    kernel = params["convs"]["conv2"]["kernel"]
    assert tensors["conv2.weight"][1, 0, 2, 1, 0] == kernel[2, 1, 0, 0, 1]
    found = convert_tensors(tensors, c3d_rules(), template=params, origin="c3d.pth")
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_names_of_layer_lists_become_those_of_the_modules():
    listed = {f"{name}.{leaf}": 0 for name in LISTED for leaf in ("weight", "bias")}
    modules = {f"{name}.{leaf}": 0 for name in LISTED.values() for leaf in ("weight", "bias")}
    assert clean_c3d_names(listed) == modules
    assert clean_c3d_names(modules) == modules


def test_another_number_of_classes_is_named():
    template = jax.eval_shape(NETWORK.init, jax.random.key(0))
    tensors = export_tensors(template, c3d_rules())
    tensors["fc8.weight"] = np.zeros((487, 6), np.float32)
    with pytest.raises(CheckpointError, match=r"fc8.weight \[487, 6\]"):
        convert_tensors(tensors, c3d_rules(), template=template, origin="sports1m.pth")
