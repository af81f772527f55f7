# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which network a folder of converted weights is computed with."""

from pathlib import Path

import jax.numpy as jnp
import pytest

from nbp.evaluation.protocols import PROTOCOLS
from nbp.jobs import weights
from nbp.nn.conv3d import taps_conv
from tests.jobs.evaluated import SMALL, SmallNetwork, make_features


@pytest.mark.parametrize(
    "protocol, kind, epsilon",
    [
        ("reconstruction", "torch", 1e-5),
        ("reconstruction", "torchscript", 1e-3),
        ("magvit-ucf", "torch", 1e-3),  # its own network's, whatever the file
        ("magvit-ucf", "torchscript", 1e-3),
    ],
)
def test_each_published_file_has_the_epsilon_of_its_code_or_of_the_protocol(
    protocol: str, kind: str, epsilon: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "I3dNetwork", SmallNetwork)
    monkeypatch.setattr(weights, "I3dSpec", lambda **_: SMALL)
    folder = make_features(tmp_path / "f", SmallNetwork(SMALL, taps_conv), kind=kind)
    features = weights.load_features(
        str(folder),
        PROTOCOLS[protocol],
        frames=9,
        place=jnp.asarray,
        copy=lambda params: params,
    )
    assert features is not None
    assert features.published
    assert features.extractor.network.spec.epsilon == epsilon
    assert features.origin["epsilon"] == epsilon
    assert features.origin["sha256"] == "5" * 64
