# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Protocol records: found by name, chosen by data set, and fixed where a number depends on it."""

import dataclasses
import json

import pytest

from nbp.errors import ConfigError
from nbp.evaluation.protocols import KINDS, PROTOCOLS, find_protocol, needs_features

PUBLISHED = ("nbp-rfvd", "omni-rfvd", "larp-rfvd", "seed-rfvd")


def test_protocols_are_found_by_name() -> None:
    for name, protocol in PROTOCOLS.items():
        assert find_protocol(name) is protocol
        assert protocol.name == name
        assert protocol.version >= 1
    assert find_protocol("moving-shapes").label_agreement
    assert not find_protocol("folder").label_agreement


def test_unknown_or_unfit_protocols_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'fvd'.*moving-shapes, folder"):
        find_protocol("fvd")
    for data in ("folder", "records"):
        assert find_protocol("folder", data).name == "folder"
    with pytest.raises(ConfigError, match="of folder or records data, not moving_shapes"):
        find_protocol("folder", "moving_shapes")
    for name in PUBLISHED:
        assert find_protocol(name, "records").name == name
        with pytest.raises(
            ConfigError, match=r"not folder\. Use folder or reconstruction, or prep"
        ):
            find_protocol(name, "folder")
    for kind in KINDS["any"]:
        assert find_protocol("reconstruction", kind).name == "reconstruction"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_records_leave_nothing_open(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert protocol.features is not None
    assert protocol.features.detector != "any"
    assert protocol.features.frames is not None
    assert needs_features(name)
    for rule in protocol.clips:
        assert rule.split != "held out"
        fixed = (rule.videos, rule.frames, rule.size, rule.fps, rule.spatial)
        assert None not in fixed, rule
        assert rule.clips is None or rule.duplicates != "none" or rule.clips <= (rule.videos or 0)
    assert not any(needs_features(other) for other in PROTOCOLS if other not in PUBLISHED)


def test_published_records_differ_where_the_repositories_do() -> None:
    def read(name: str, dataset: str) -> tuple[object, ...]:
        (rule,) = PROTOCOLS[name].choose(dataset, "records").clips
        return rule.split, rule.clips or rule.videos, rule.size, rule.fps, rule.window, rule.crop

    assert read("nbp-rfvd", "ucf101") == ("test", 3783, 128, 16.0, "centre", "centre")
    assert read("nbp-rfvd", "k600") == ("validation", 29739, 128, 16.0, "centre", "centre")
    assert read("omni-rfvd", "ucf101") == ("test", 3783, 256, 16.0, "centre", "centre")
    assert read("larp-rfvd", "ucf101") == ("train", 9537, 128, 0.0, "random", "centre")
    assert read("seed-rfvd", "ucf101") == ("train", 10000, 128, 0.0, "centre", "random")
    scored = {name: PROTOCOLS[name].features for name in PUBLISHED}
    assert [rule.frames for rule in scored.values() if rule] == [17, 17, 16, 17]
    assert [rule.detector for rule in scored.values() if rule] == [
        "videogpt-pt",
        "videogpt-pt",
        "styleganv-ts",
        "videogpt-pt",
    ]


def test_the_rule_of_the_data_set_is_chosen() -> None:
    chosen = PROTOCOLS["nbp-rfvd"].choose("k600", "records")
    assert [rule.dataset for rule in chosen.clips] == ["k600"]
    assert dataclasses.replace(chosen, clips=PROTOCOLS["nbp-rfvd"].clips) == PROTOCOLS["nbp-rfvd"]
    assert PROTOCOLS["folder"].choose("ucf101", "records") == PROTOCOLS["folder"]
    with pytest.raises(ConfigError, match="larp-rfvd scores clips of ucf101, .* this is k600"):
        PROTOCOLS["larp-rfvd"].choose("k600", "records")


def test_records_are_plain_values() -> None:
    """They can be keys, and lie in a report as JSON."""
    assert len({*PROTOCOLS.values()}) == len(PROTOCOLS)
    for protocol in PROTOCOLS.values():
        record = dataclasses.asdict(protocol)
        assert json.loads(json.dumps(record))["name"] == protocol.name
