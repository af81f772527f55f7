# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which network a folder of converted weights is, how it is computed, whose numbers it gives."""

from pathlib import Path

import jax.numpy as jnp
import pytest

from nbp import weights
from nbp.errors import ConfigError
from nbp.interop.identity import FILES, PUBLIC, KnownFile
from nbp.nn.conv3d import taps_conv
from nbp.protocols import PROTOCOLS
from nbp.weights import recognize
from tests.evaluated import SMALL, SmallNetwork, make_features, make_small


def load(folder: Path, protocol: str = "reconstruction", **options) -> weights.Features:
    features = weights.load_features(
        str(folder),
        PROTOCOLS[protocol],
        frames=9,
        place=jnp.asarray,
        copy=lambda params: params,
        make_network=make_small,
        **options,
    )
    assert features is not None
    return features


def make(folder: Path, kind: str, known: str) -> Path:
    return make_features(folder, SmallNetwork(SMALL, taps_conv), kind=kind, known=known)


@pytest.mark.parametrize(
    "known, kind, epsilon, published",
    [
        ("videogpt-pt", "torch", 1e-5, True),
        ("styleganv-ts", "torchscript", 1e-3, True),
        ("deepmind-piergiaj", "torch-legacy", 1e-3, False),
        ("deepmind-hassony2", "torch", 1e-3, False),
        ("another", "torch", 1e-5, False),
        ("another", "torchscript", 1e-3, False),
        ("old", "torch", 1e-5, False),  # converted before blob ids were recorded
    ],
)
def test_a_file_is_known_by_its_blob_and_has_the_epsilon_of_its_code(
    known: str, kind: str, epsilon: float, published: bool, tmp_path: Path
) -> None:
    features = load(make(tmp_path / "f", kind, known))
    assert features.published is published
    assert features.kind == ("published" if published else "other")
    assert features.extractor.network.spec.epsilon == epsilon
    assert features.origin["epsilon"] == epsilon
    assert features.origin["published"] is published
    assert features.origin["sha256"] == "5" * 64
    assert bool(features.deviation) is not published
    if known == "old":
        assert "convert the file again" in features.deviation


def test_a_file_can_be_declared_known(tmp_path: Path) -> None:
    mine = KnownFile("0" * 40, "mine.pt", "mine", "i3d", "me", (), epsilon=0.5)
    features = load(make(tmp_path / "f", "torch", "another"), known={mine.blob: mine})
    assert features.published
    assert features.origin["detector"] == "mine"
    assert features.extractor.network.spec.epsilon == 0.5


def test_a_published_protocol_takes_its_file_refuses_the_other_and_renames_the_rest(
    tmp_path: Path,
) -> None:
    assert load(make(tmp_path / "a", "torch", "videogpt-pt"), "nbp-rfvd").published
    with pytest.raises(ConfigError, match="uses videogpt-pt, this is styleganv-ts"):
        load(make(tmp_path / "b", "torchscript", "styleganv-ts"), "nbp-rfvd")
    other = load(make(tmp_path / "c", "torch", "deepmind-piergiaj"), "nbp-rfvd")
    assert other.kind == "other"
    assert "it is not the network of any FVD" in other.deviation
    unknown = load(make(tmp_path / "d", "torch", "another"), "nbp-rfvd")
    assert unknown.kind == "other"
    assert unknown.deviation == "unknown (i3d.pt, git blob 000000000000)"


def test_an_unknown_file_has_the_epsilon_that_was_recorded() -> None:
    kind, about = recognize({"blob": "1" * 40, "format": "torch", "epsilon": 0.01}, PUBLIC)
    assert (kind, about["epsilon"], about["detector"]) == ("other", 0.01, "unknown")


def test_heads_of_lpips_are_no_features_of_a_distance() -> None:
    (heads,) = [file for file in FILES if file.network == "lpips"]
    assert recognize({"blob": heads.blob, "format": "torch-legacy"}, PUBLIC)[0] == "other"


def test_a_protocol_of_another_network_has_its_own_epsilon(tmp_path: Path) -> None:
    """MAGVIT's Flax port has 1e-3, whatever file stands in for it."""
    for kind, known in (("torch", "videogpt-pt"), ("torchscript", "styleganv-ts")):
        features = load(make(tmp_path / known, kind, known), "magvit-ucf")
        assert features.extractor.network.spec.epsilon == 1e-3
