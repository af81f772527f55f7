# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Named, versioned evaluation recipes. A score is reported with the record that produced it."""

from dataclasses import dataclass

from nbp.errors import ConfigError


@dataclass(frozen=True)
class Protocol:
    """What is measured on which clips.

    data: kinds of data that its clips may come from.
    clips_from: held-out clips in index order, centred in time.
    label_agreement: whether generated clips are checked against the label they were asked for.
    """

    name: str
    version: int
    data: tuple[str, ...]
    clips_from: str = "validation"
    label_agreement: bool = False


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("moving-shapes", 1, data=("moving_shapes",), label_agreement=True),
        Protocol("folder", 1, data=("folder", "records")),
    )
}


def find_protocol(name: str, data: str | None = None) -> Protocol:
    """The protocol of a name; ConfigError where it is unknown or made for another kind of data."""
    if name not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    if data is not None and data not in protocol.data:
        kinds = " or ".join(protocol.data)
        raise ConfigError(f"protocol {name} scores models of {kinds} data, not {data}")
    return protocol
