# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Protocol records: found by name, chosen by data set, and fixed where a number depends on it."""

import dataclasses
import json

import pytest

from nbp.errors import ConfigError
from nbp.protocols import PROTOCOLS, find_protocol, needs_features
from nbp.protocols.protocol import KINDS, InceptionRule, Storage

RECONSTRUCTION = ("nbp-rfvd", "omni-rfvd", "larp-rfvd", "seed-rfvd")
GENERATION = (
    "nbp-ucf",
    "nbp-k600",
    "larp-ucf",
    "larp-k600",
    "magvit-ucf",
    "omni-ucf",
    "omni-k600",
    "tats-ucf",
    "tats-ucf-uncond",
)
PUBLISHED = (*RECONSTRUCTION, *GENERATION)


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
    assert protocol.features.frames is not None
    # What a repository does not tell is named, with the choice made.
    assert protocol.features.detector != "any" or "either file" in " ".join(protocol.unknown)
    assert protocol.source.count("/") >= 1
    assert needs_features(name)
    for rule in protocol.clips:
        assert rule.split != "held out"
        assert None not in (rule.frames, rule.size, rule.fps, rule.spatial), rule
        assert rule.videos or "in no repository" in " ".join(protocol.unknown)
        endless = rule.duplicates != "none" or rule.order == "epochs"
        enough = endless or rule.window == "all" or rule.videos is None
        assert enough or (rule.clips or 0) <= (rule.videos or 0)
    assert not any(needs_features(other) for other in PROTOCOLS if other not in PUBLISHED)


@pytest.mark.parametrize("name", GENERATION)
def test_generation_is_fixed_too(name: str) -> None:
    protocol = PROTOCOLS[name]
    rule = protocol.generation
    assert rule is not None
    assert not protocol.reconstruction
    assert (rule.given_frames == 5) == name.endswith("k600")
    assert (rule.condition == "none") == (rule.given_frames == 0)
    assert rule.labels != "any"
    for clips in protocol.clips:
        assert rule.clips == clips.clips  # as many real ones


def test_generation_records_differ_where_the_repositories_do() -> None:
    def read(name: str) -> tuple[object, ...]:
        protocol = PROTOCOLS[name]
        (clips,), made, features = protocol.clips, protocol.generation, protocol.features
        assert made is not None
        assert features is not None
        real = (clips.split, clips.clips, clips.order, clips.fps, clips.spatial, clips.window)
        scored = (made.condition, made.labels, features.frames, features.sizes, features.antialias)
        return (*real, *scored, protocol.repeats)

    train, held_out = "train", "validation"
    real = {
        "nbp-ucf": (train, 10_000, "ranks", 8.0, "squash", "centre"),
        "nbp-k600": (held_out, 50_000, "ranks", 25.0, "squash", "loader"),
        "larp-ucf": (train, 10_000, "sample", 0.0, "crop", "all"),
        "larp-k600": (held_out, 50_000, "sample", 0.0, "crop", "all"),
        "magvit-ucf": (train, 10_000, "epochs", 0.0, "crop", "random"),
        "omni-ucf": ("train+test", 2_048, "shuffled", 0.0, "squash", "centre"),
        "omni-k600": (train, 2_048, "ranks", 0.0, "squash", "centre"),
        "tats-ucf": (train, 2_048, "shuffled", 0.0, "crop", "all"),
        "tats-ucf-uncond": (train, 2_048, "shuffled", 0.0, "crop", "all"),
    }
    scored = {
        "nbp-ucf": ("none", "paired", 16, (), False, 1),
        "nbp-k600": ("reconstructed", "none", 16, (64,), False, 1),
        "larp-ucf": ("none", "paired", 16, (), False, 1),
        "larp-k600": ("regenerated", "none", 16, (64,), True, 1),
        "magvit-ucf": ("none", "paired", 16, (), False, 4),
        "omni-ucf": ("none", "in turn", 17, (), False, 1),
        "omni-k600": ("reconstructed", "none", 17, (), False, 1),
        "tats-ucf": ("none", "in turn", 16, (), False, 1),
        "tats-ucf-uncond": ("none", "none", 16, (), False, 1),
    }
    assert {name: read(name) for name in GENERATION} == {n: (*real[n], *scored[n]) for n in real}
    rules = {name: PROTOCOLS[name].generation for name in GENERATION}
    stored = [name for name, rule in rules.items() if rule and rule.storage]
    assert stored == ["omni-ucf", "omni-k600"]


def test_published_records_differ_where_the_repositories_do() -> None:
    def read(name: str, dataset: str) -> tuple[object, ...]:
        (rule,) = PROTOCOLS[name].choose(dataset, "records").clips
        return rule.split, rule.clips or rule.videos, rule.size, rule.fps, rule.window, rule.crop

    assert read("nbp-rfvd", "ucf101") == ("test", 3783, 128, 16.0, "centre", "centre")
    assert read("nbp-rfvd", "k600") == ("validation", 29739, 128, 16.0, "centre", "centre")
    assert read("omni-rfvd", "ucf101") == ("test", 3783, 256, 16.0, "centre", "centre")
    assert read("larp-rfvd", "ucf101") == ("train", 9537, 128, 0.0, "random", "centre")
    assert read("seed-rfvd", "ucf101") == ("train", 10000, 128, 0.0, "centre", "random")
    scored = {name: PROTOCOLS[name].features for name in RECONSTRUCTION}
    assert [rule.frames for rule in scored.values() if rule] == [17, 17, 16, 17]
    assert [rule.detector for rule in scored.values() if rule] == [
        "videogpt-pt",
        "videogpt-pt",
        "styleganv-ts",
        "videogpt-pt",
    ]


def test_moments_scores_and_versions_are_those_of_the_repositories() -> None:
    features = {name: PROTOCOLS[name].features for name in PUBLISHED}
    assert {name for name, rule in features.items() if rule and rule.ddof == 0} == {
        name for name in PUBLISHED if name.startswith("larp")
    }
    for name, rule in features.items():
        assert PROTOCOLS[name].version == 2
        assert rule is not None
        # VideoGPT's code has a float32 root, ours float64: said wherever it is the published one.
        told = any("float32" in text for text in PROTOCOLS[name].differs)
        assert told == (rule.detector == "videogpt-pt")
    magvit = PROTOCOLS["magvit-ucf"]
    assert magvit.features is not None
    assert (magvit.features.epsilon, magvit.repeats_ddof) == (1e-3, 0)
    assert magvit.inception == InceptionRule((1,), shuffle=None, preparation="squash")
    assert {PROTOCOLS[name].inception for name in PUBLISHED if name != "magvit-ucf"} == {
        InceptionRule((1, 10), preparation="cut")
    }
    inferred = " ".join(magvit.unknown)
    assert "inferred" in inferred
    assert "video_tfrecord_dataset" in inferred


def test_what_is_drawn_without_a_seed_is_told() -> None:
    seeded = ("nbp-rfvd", "omni-rfvd", "nbp-ucf", "nbp-k600", "larp-ucf", "larp-k600", "omni-k600")
    for name in PUBLISHED:
        told = any("seed" in text or "shuffling" in text for text in PROTOCOLS[name].unknown)
        assert told == (name not in seeded), name


def test_frames_are_scaled_as_each_repository_does() -> None:
    decord, half, one = "swscale-bilinear", "[-0.5, 0.5]", "[-1, 1]"
    larp = ("bilinear-antialiased", "floor", "round", "float", "none")
    tats = ("bilinear", "ceil", "floor", "float", half)
    wanted = {
        "nbp-rfvd": (decord, "round", "floor", "rounded", "none"),
        "omni-rfvd": (decord, "round", "floor", "rounded", half),
        "larp-rfvd": larp,
        "seed-rfvd": ("cv2-bilinear", "floor", "floor", "rounded", one),
        "nbp-ucf": (decord, "round", "floor", "rounded", "none"),
        "nbp-k600": (decord, "round", "floor", "rounded", "none"),
        "larp-ucf": larp,
        "larp-k600": larp,
        "magvit-ucf": ("bilinear", "floor", "floor", "floored", "none"),
        "omni-ucf": (decord, "round", "floor", "rounded", "none"),
        "omni-k600": (decord, "round", "floor", "rounded", half),
        "tats-ucf": tats,
        "tats-ucf-uncond": tats,
    }
    found = {
        name: {dataclasses.astuple(rule.pixels) for rule in PROTOCOLS[name].clips}
        for name in PUBLISHED
    }
    assert found == {name: {row} for name, row in wanted.items()}
    values = {name: PROTOCOLS[name].generation.values for name in GENERATION}  # type: ignore
    floored = [name for name, kind in values.items() if kind == "floored"]
    assert floored == ["omni-ucf", "omni-k600", "tats-ucf", "tats-ucf-uncond"]
    assert {kind for name, kind in values.items() if name not in floored} == {"float"}
    assert PROTOCOLS["magvit-ucf"].features.preparation == "tf1"  # type: ignore
    # A file of 258 px is written with 272, and the black lines stay.
    stored = [PROTOCOLS[name].generation.storage for name in ("omni-ucf", "omni-k600")]  # type: ignore
    assert {*stored, PROTOCOLS["omni-k600"].clips[0].storage} == {Storage(256, 2, 16, 23)}
    assert PROTOCOLS["omni-ucf"].clips[0].storage is None  # the files of UCF101 have no border


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
