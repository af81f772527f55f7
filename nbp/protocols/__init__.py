# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Named, versioned evaluation recipes. A score is reported with the record that produced it."""

from collections.abc import Mapping

from nbp.errors import ConfigError
from nbp.protocols.protocol import GENERAL, ClipRule, FeatureRule, GenerationRule, Protocol
from nbp.protocols.published import PUBLISHED

# Ours. The first two follow the workdir's own data and settings and grew up with the quickstart;
# `reconstruction` scores the tokenizer of any workdir on all of its held-out clips.
MOVING_SHAPES = Protocol(
    "moving-shapes",
    3,
    clips=(ClipRule("moving_shapes", limit="validation_clips"),),
    features=FeatureRule("any", "videogpt"),
    features_optional=True,
    generation=GenerationRule(given_frames=None, condition="reconstructed", labels="any"),
    likelihood=True,
    label_agreement=True,
)
FOLDER = Protocol(
    "folder",
    3,
    clips=(ClipRule("videos", limit="validation_clips"),),
    features=FeatureRule("any", "videogpt"),
    features_optional=True,
    generation=GenerationRule(given_frames=None, condition="reconstructed", labels="any"),
    likelihood=True,
)
RECONSTRUCTION = Protocol(
    "reconstruction",
    2,
    clips=(ClipRule("any"),),
    features=FeatureRule("any", "videogpt"),
    features_optional=True,
)

PROTOCOLS = {
    protocol.name: protocol for protocol in (MOVING_SHAPES, FOLDER, RECONSTRUCTION, *PUBLISHED)
}


def find_protocol(
    name: str, data: str | None = None, *, known: Mapping[str, Protocol] = PROTOCOLS
) -> Protocol:
    """The protocol of a name; ConfigError where it is unknown or made for another kind of data."""
    if name not in known:
        raise ConfigError(f"unknown protocol {name!r}; known: {', '.join(known)}")
    protocol = known[name]
    if data is not None and data not in protocol.data:
        kinds = " or ".join(protocol.data)
        prepare = ""
        if protocol.data == ("records",):
            prepare = ", or prepare its data set (nbp.prepare) and name it with --data DIR"
        raise ConfigError(
            f"protocol {name} scores models of {kinds} data, not {data}. "
            f"Use {_name_fitting(data)}{prepare}"
        )
    return protocol


def needs_features(name: str) -> bool:
    """Whether a protocol, if it is known, has no scores without features."""
    protocol = PROTOCOLS.get(name)
    return bool(protocol and protocol.features and not protocol.features_optional)


def _name_fitting(kind: str) -> str:
    """The protocols that any data of a kind can be scored under."""
    return " or ".join(GENERAL[kind])
