# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The table of rules is checked both ways and converts leaf by leaf."""

from dataclasses import dataclass, field

import jax
import numpy as np
import pytest

from nbp.errors import CheckpointError
from nbp.interop.mapping import (
    Drop,
    Rule,
    check_rules,
    convert_tensors,
    export_tensors,
    flatten_channels,
    transpose_conv3d,
    transpose_linear,
)

LAYERS = 3
RULES = [
    Rule("table", "table"),
    Rule(
        tuple(f"b.{{i}}.{part}.weight" for part in ("q", "k", "v")),
        "layers/qkv",
        transpose_linear,
        LAYERS,
    ),
    Rule("conv", "stem/0/kernel", transpose_conv3d),
    Rule("beta", "stem/0/beta", flatten_channels),
]
DROPS = [Drop(r".*mask", "computed here")]


def make_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"table": (5, 4), "conv": (6, 3, 2, 1, 1), "beta": (1, 6, 1, 1, 1)}
    for i in range(LAYERS):
        shapes |= {f"b.{i}.{part}.weight": (7, 4) for part in ("q", "k", "v")}
    tensors = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    return tensors | {"b.0.mask": np.zeros((2, 2), bool)}


def make_template():
    zeros = {
        "table": np.zeros((5, 4), np.float32),
        "layers": {"qkv": np.zeros((LAYERS, 4, 3, 7), np.float32)},
        "stem": {0: {"kernel": np.zeros((2, 1, 1, 3, 6), np.float32), "beta": np.zeros(6, "f4")}},
    }
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), zeros)


def convert(tensors, rules=RULES, drops=DROPS):
    return convert_tensors(tensors, rules, drops, template=make_template(), origin="file.pt")


def test_values_arrive_where_the_rules_say():
    tensors = make_tensors()
    params = convert(tensors)
    np.testing.assert_array_equal(params["table"], tensors["table"])
    for i in range(LAYERS):
        for j, part in enumerate(("q", "k", "v")):
            found = params["layers"]["qkv"][i][:, j]
            np.testing.assert_array_equal(found, tensors[f"b.{i}.{part}.weight"].T)
    kernel = params["stem"][0]["kernel"]
    assert kernel[1, 0, 0, 2, 5] == tensors["conv"][5, 2, 1, 0, 0]
    np.testing.assert_array_equal(params["stem"][0]["beta"], tensors["beta"][0, :, 0, 0, 0])


def test_export_is_the_inverse():
    tensors = make_tensors()
    exported = export_tensors(convert(tensors), RULES)
    tensors.pop("b.0.mask")
    assert set(exported) == set(tensors)
    for name, values in tensors.items():
        np.testing.assert_array_equal(exported[name], values)


def test_dropped_tensors_are_reported_with_the_reason():
    notes = check_rules(make_tensors(), RULES, DROPS, template=make_template(), origin="file.pt")
    assert notes == ["1 tensors dropped (computed here): b.0.mask"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("b.1.k.weight"), "missing tensor b.1.k.weight"),
        (lambda t: t.update(extra=np.zeros(3)), r"unexpected tensor extra \[3\]"),
        (
            lambda t: t.update(table=np.zeros((6, 4))),
            r"table \[6, 4\] does not give table \[5, 4\]",
        ),
        (lambda t: t.update({"b.2.q.weight": np.zeros((8, 4))}), r"b.2.q.weight \[8, 4\]"),
        (lambda t: t.update(conv=np.zeros((6, 3))), r"conv \[6, 3\] does not give stem/0/kernel"),
        (lambda t: t.update(beta=np.zeros((6, 1, 1, 1, 1))), "beta"),
    ],
)
def test_errors_name_the_tensor_and_both_shapes(change, message):
    tensors = make_tensors()
    change(tensors)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert(tensors)
    assert "file.pt does not fit the model" in str(caught.value)


@pytest.mark.parametrize(
    "rules, message",
    [
        (RULES[1:], "no tensor for parameter table; unexpected tensor table"),
        ([*RULES, Rule("table", "table")], "written 2 times"),
        ([*RULES, Rule("b.0.mask", "nowhere")], "no parameter nowhere"),
    ],
)
def test_a_wrong_table_is_noticed(rules, message):
    with pytest.raises(CheckpointError) as caught:
        convert(make_tensors(), rules)
    assert all(part in str(caught.value) for part in message.split("; "))


@dataclass
class Watched:
    """A tensor that counts how often it is read."""

    values: np.ndarray
    reads: list[str] = field(default_factory=list)
    name: str = ""

    @property
    def shape(self):
        return self.values.shape

    @property
    def dtype(self):
        return self.values.dtype

    def read(self):
        self.reads.append(self.name)
        return self.values


def test_nothing_is_read_before_all_is_checked_and_then_everything_once():
    reads: list[str] = []
    tensors = {name: Watched(x, reads, name) for name, x in make_tensors().items()}
    broken = {name: t for name, t in tensors.items() if name != "beta"}
    with pytest.raises(CheckpointError):
        convert(broken)
    assert reads == []
    convert(tensors)
    assert sorted(reads) == sorted(set(tensors) - {"b.0.mask"})
