# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
import pytest

from nbp.errors import ConfigError
from nbp.evaluation.protocols import PROTOCOLS, find_protocol


def test_protocols_are_found_by_name():
    for name, protocol in PROTOCOLS.items():
        assert find_protocol(name) is protocol
        assert protocol.name == name
        assert protocol.version >= 1
    assert find_protocol("moving-shapes").label_agreement
    assert not find_protocol("folder").label_agreement


def test_unknown_or_unfit_protocols_are_refused():
    with pytest.raises(ConfigError, match=r"'fvd'.*moving-shapes, folder"):
        find_protocol("fvd")
    for data in ("folder", "records"):
        assert find_protocol("folder", data).name == "folder"
    with pytest.raises(ConfigError, match="of folder or records data, not moving_shapes"):
        find_protocol("folder", "moving_shapes")
