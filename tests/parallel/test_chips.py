# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0

import jax
import pytest

from nbp.errors import ConfigError
from nbp.parallel.chips import CHIPS, find_chip, parse_topology


def test_topologies():
    assert parse_topology("v5e:16x16").size == 256
    assert parse_topology("v5p:2x4x4").shape == (2, 4, 4)
    assert (parse_topology("cpu:8").kind, parse_topology("cpu:8").size) == ("cpu", 8)
    assert parse_topology("gpu").size == 0


@pytest.mark.parametrize(
    "text", ["v5e", "v4:2x2", "v5e:2x2x2", "v5p:4x4", "cpu:0", "gpu:8", "v6e:x"]
)
def test_others_are_refused(text):
    with pytest.raises(ConfigError, match=r"--topology"):
        parse_topology(text)


def test_chips():
    v5e = find_chip(parse_topology("v5e:2x2"), None)
    assert v5e is CHIPS["v5e"]
    assert 240 < v5e.flops / v5e.bandwidth < 241  # operations a byte where matmuls become bound
    assert all(chip.source and chip.memory < 2**38 for chip in CHIPS.values())
    halves = [find_chip(parse_topology(f"cpu:{n}"), jax.devices()[0]).memory for n in (1, 2)]
    assert halves[0] // 2 == halves[1]
