# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The two namings of published I3D files; the rules themselves are in tests/models/test_i3d.py."""

from nbp.interop.feature_networks import i3d_shapes, rename_ported
from nbp.models.i3d import I3dSpec

# Names as the port's code spells them (hassony2/kinetics_i3d_pytorch, src/i3dpt.py).
PORTED = {
    "conv3d_1a_7x7.conv3d.weight": "Conv3d_1a_7x7.conv3d.weight",
    "conv3d_2c_3x3.batch3d.running_mean": "Conv3d_2c_3x3.bn.running_mean",
    "mixed_3b.branch_0.batch3d.weight": "Mixed_3b.b0.bn.weight",
    "mixed_4d.branch_1.0.conv3d.weight": "Mixed_4d.b1a.conv3d.weight",
    "mixed_4f.branch_1.1.batch3d.bias": "Mixed_4f.b1b.bn.bias",
    "mixed_5b.branch_2.0.batch3d.num_batches_tracked": "Mixed_5b.b2a.bn.num_batches_tracked",
    "mixed_5b.branch_2.1.conv3d.weight": "Mixed_5b.b2b.conv3d.weight",
    "mixed_5c.branch_3.1.batch3d.running_var": "Mixed_5c.b3b.bn.running_var",
    "conv3d_0c_1x1.conv3d.weight": "logits.conv3d.weight",
    "conv3d_0c_1x1.conv3d.bias": "logits.conv3d.bias",
}


def test_names_of_the_port_become_those_of_the_release():
    assert rename_ported(dict.fromkeys(PORTED, 0)) == dict.fromkeys(PORTED.values(), 0)


def test_a_whole_file_of_the_port_is_recognized():
    """Each name of the release written as the port would, by plain text replacement."""
    swaps = {".b0.": ".branch_0.", ".b3b.": ".branch_3.1.", ".bn.": ".batch3d."}
    for number in "12":
        swaps[f".b{number}a."] = f".branch_{number}.0."
        swaps[f".b{number}b."] = f".branch_{number}.1."
    shapes = i3d_shapes(I3dSpec())
    ported = {}
    for name, shape in shapes.items():
        unit = name.replace("logits.", "conv3d_0c_1x1.")
        for old, new in swaps.items():
            unit = unit.replace(old, new)
        ported[unit[0].lower() + unit[1:]] = shape
    assert not {name for name in ported if name in shapes}
    assert rename_ported(ported) == shapes


def test_other_names_stay():
    names = dict.fromkeys(
        ["Mixed_3b.b0.conv3d.weight", "logits.conv3d.bias", "extra", "x.conv3d.w"]
    )
    assert rename_ported(names) == names
