# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Statistics by name, and what the names of their scores tell."""

import numpy as np
import pytest

from nbp.errors import ConfigError
from nbp.metrics.estimates import Estimate
from nbp.metrics.feature_statistics import (
    LEAST_CLIPS,
    STATISTICS,
    FeatureSet,
    check_counts,
    compute_statistics,
    name_scores,
    parse_statistics,
)
from nbp.metrics.frechet import Moments, frechet_distance
from nbp.metrics.kvd import kernel_distance
from nbp.metrics.stream import Spectra


def make_sets() -> tuple[FeatureSet, FeatureSet]:
    rng = np.random.default_rng(0)
    sets = []
    for shift in (0.0, 0.5):
        features = rng.standard_normal((40, 5)) + shift
        spectra = Spectra.of(rng.standard_normal((40, 6, 3)) + shift)
        sets.append(FeatureSet(features, 16, spectra))
    return sets[0], sets[1]


def test_statistics_are_those_of_their_modules() -> None:
    real, made = make_sets()
    found = compute_statistics(real, made, parse_statistics("kvd, precision,bootstrap,stream"))
    want = frechet_distance(Moments.of(real.features), Moments.of(made.features))
    assert found["fvd"] == pytest.approx(want, rel=1e-12)
    kernel = kernel_distance(real.features, made.features)
    assert Estimate(found["kvd"], found["kvd_error"]) == kernel
    rest = {"precision", "recall", "density", "coverage", "fvd_bootstrap_error"}
    rest |= {"stream_temporal", "stream_fidelity", "stream_diversity"}
    assert set(found) == {"fvd", "kvd", "kvd_error", *rest}


def test_moments_are_merged_in_chunks_of_a_fixed_size() -> None:
    real, _ = make_sets()
    merged = Moments.empty(5)
    for rows in (slice(0, 16), slice(16, 32), slice(32, 48)):
        merged = merged.add(real.features[rows])
    np.testing.assert_array_equal(real.moments.mean, merged.mean)
    np.testing.assert_array_equal(real.moments.scatter, merged.scatter)


def test_too_small_sets_and_unknown_names_are_the_users_mistakes() -> None:
    real, made = make_sets()
    few = FeatureSet(made.features[:2], 16)
    with pytest.raises(ConfigError, match="--statistics kvd: a kernel distance needs at least 3"):
        compute_statistics(real, few, ("kvd",))
    with pytest.raises(ConfigError, match="--statistics fid: there is only kvd"):
        parse_statistics("kvd,fid")


def test_names_tell_what_a_score_is_not() -> None:
    scores = {"fvd": 1.0, "fvd_infinity": 2.0, "kvd": 3.0, "precision": 4.0, "stream_temporal": 5.0}
    whole = name_scores(scores, "fvd", frames="vgg")
    assert list(whole) == ["fvd", "fvd_infinity", "kvd", "precision", "stream_vgg_temporal"]
    part = name_scores(scores, "fvd_random_features_64", frames="random")
    assert list(part) == [
        "fvd_random_features_64",
        "fvd_random_features_64_infinity",
        "kvd_random_features_64",
        "precision_random_features_64",
        "stream_random_temporal_64",
    ]


@pytest.mark.parametrize(
    "names, counts, message",
    [
        ("infinity", {"made": 1599}, "infinity needs at least 1600 generated clips, .* 1599: give"),
        ("kvd", {"made": 2}, "kvd needs at least 3 generated clips"),
        ("kvd", {"real": 2}, "kvd needs at least 3 real clips"),
        ("precision", {"made": 3}, "precision needs at least 4 generated"),
        ("bootstrap", {"made": 1}, "bootstrap needs at least 2 generated"),
        ("stream", {"made": 5}, "stream needs at least 6 generated"),
        ("kvd,stream", {"frames": 3}, "clips of at least 4 frames, these have 3"),
    ],
)
def test_too_few_clips_are_told_beforehand(names, counts, message) -> None:
    enough = {"real": 1600, "made": 1600, "dimensions": 400, "frames": 4}
    check_counts(parse_statistics(names), **enough)
    with pytest.raises(ConfigError, match=message):
        check_counts(parse_statistics(names), **enough | counts)


@pytest.mark.parametrize("name", STATISTICS)
def test_the_fewest_clips_are_just_enough(name) -> None:
    """Against the statistic itself: with one clip less it refuses, with as many it computes."""
    rng = np.random.default_rng(1)
    least = LEAST_CLIPS[name](2)

    def make(count: int) -> FeatureSet:
        return FeatureSet(
            rng.standard_normal((count, 2)), 4, Spectra.of(rng.standard_normal((count, 4, 2)))
        )

    assert STATISTICS[name](make(9), make(least))
    with pytest.raises(ValueError, match=r"needs|of \d+ clips"):
        STATISTICS[name](make(9), make(least - 1))
