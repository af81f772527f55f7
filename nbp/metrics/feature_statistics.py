# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The scores of a generated set against a reference set, by the names that `--statistics` takes."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nbp.errors import ConfigError
from nbp.metrics.frechet import (
    LEAST_PER_DIMENSION,
    Moments,
    bootstrap_frechet,
    extrapolate_frechet,
    frechet_distance,
)
from nbp.metrics.kvd import kernel_distance
from nbp.metrics.precision_recall import manifold_scores
from nbp.metrics.stream import LEAST_FRAMES, NEIGHBOURS, Spectra, stream_scores
from nbp.shapes import Float


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of clips [n d] in their order, and spectra of their frames where these were kept.

    Moments are those of `chunk` clips at a time, merged in their order. ddof: of the covariances
    of Frechet distances, which the reference's decides.
    """

    features: Float[np.ndarray, "n d"]
    chunk: int
    spectra: Spectra | None = None
    ddof: int = 1

    @property
    def moments(self) -> Moments:
        found = Moments.empty(self.features.shape[1])
        for start in range(0, len(self.features), self.chunk):
            found = found.add(self.features[start : start + self.chunk])
        return found


def frechet(real: FeatureSet, made: FeatureSet) -> dict[str, float]:
    return {"fvd": frechet_distance(real.moments, made.moments, ddof=real.ddof)}


def kernel(real: FeatureSet, made: FeatureSet) -> dict[str, float]:
    found = kernel_distance(real.features, made.features)
    return {"kvd": found.value, "kvd_error": found.error}


def manifold(real: FeatureSet, made: FeatureSet) -> dict[str, float]:
    found = manifold_scores(real.features, made.features)
    names = ("precision", "recall", "density", "coverage")
    return {name: getattr(found, name) for name in names}


def infinity(real: FeatureSet, made: FeatureSet) -> dict[str, float]:
    found = extrapolate_frechet(made.features, real.moments, ddof=real.ddof)
    return {"fvd_infinity": found.value, "fvd_infinity_error": found.error}


def bootstrap(real: FeatureSet, made: FeatureSet) -> dict[str, float]:
    found = bootstrap_frechet(made.features, real.features, ddof=real.ddof)
    return {"fvd_bootstrap_error": found.error}


def stream(real: FeatureSet, made: FeatureSet) -> dict[str, float]:
    assert real.spectra is not None
    assert made.spectra is not None
    found = stream_scores(real.spectra, made.spectra)
    names = ("temporal", "fidelity", "diversity")
    return {f"stream_{name}": getattr(found, name) for name in names}


STATISTICS: Mapping[str, Callable[[FeatureSet, FeatureSet], dict[str, float]]] = {
    "kvd": kernel,
    "precision": manifold,
    "infinity": infinity,
    "bootstrap": bootstrap,
    "stream": stream,
}

# The fewest clips of each set, given the dimensions of a feature.
LEAST_CLIPS: Mapping[str, Callable[[int], int]] = {
    "kvd": lambda _: 3,
    "precision": lambda _: 4,
    "infinity": lambda dimensions: 2 * LEAST_PER_DIMENSION * dimensions,
    "bootstrap": lambda _: 2,
    "stream": lambda _: NEIGHBOURS + 1,
}
OF_GENERATED = ("infinity",)  # whose number of real clips does not matter


def check_counts(
    names: Sequence[str], *, real: int, made: int, dimensions: int, frames: int
) -> None:
    """ConfigError where there will be too few clips, or frames of a clip, for a statistic.

    Told before any clip is made: what is needed, and the flag to give.
    """
    for name in names:
        least = LEAST_CLIPS[name](dimensions)
        if made < least:
            raise ConfigError(
                f"--statistics {name} needs at least {least} generated clips, there would be "
                f"{made}: give --clips {least} or more, or leave {name} out"
            )
        if real < least and name not in OF_GENERATED:
            raise ConfigError(
                f"--statistics {name} needs at least {least} real clips, there are {real}: give "
                f"more with --data, or leave {name} out"
            )
    if "stream" in names and frames < LEAST_FRAMES:
        raise ConfigError(
            f"--statistics stream needs clips of at least {LEAST_FRAMES} frames, these have "
            f"{frames}: leave stream out"
        )


def parse_statistics(text: str) -> tuple[str, ...]:
    """Names with commas between them; ConfigError for one that there is not."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in STATISTICS]
    if unknown:
        known = ", ".join(STATISTICS)
        raise ConfigError(f"--statistics {', '.join(unknown)}: there is only {known}")
    return names


def compute_statistics(
    real: FeatureSet, made: FeatureSet, names: Sequence[str]
) -> dict[str, float]:
    """`fvd`, and what the names ask for. ConfigError where the sets are too small for one."""
    scores = frechet(real, made)
    for name in names:
        try:
            scores |= STATISTICS[name](real, made)
        except ValueError as error:
            raise ConfigError(f"--statistics {name}: {error}") from error
    return scores


def name_scores(scores: Mapping[str, float], named: str, *, frames: str) -> dict[str, float]:
    """The scores under names that tell what they are not.

    named: what `name_fvd` makes of "fvd"; its ending goes to all. frames: whose features STREAM's
    scores are of.
    """
    ending = named.removeprefix("fvd")
    count = re.sub("^_(random|other)_features", "", ending)
    renamed = {}
    for name, value in scores.items():
        first, _, rest = name.partition("_")
        if first == "stream":
            renamed[f"stream_{frames}_{rest}{count}"] = value
        else:
            renamed[f"{first}{ending}" + (f"_{rest}" if rest else "")] = value
    return renamed
