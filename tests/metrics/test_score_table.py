# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The table of scores has what evaluations give, and nothing else."""

import jax
import numpy as np
import pytest

from nbp import build
from nbp.config import load_config
from nbp.config.grids import name_clips
from nbp.data.moving_shapes import MovingShapesSpec, render_clip
from nbp.evaluation.generation import ClipScorer, Made
from nbp.metrics.feature_statistics import STATISTICS, FeatureSet, compute_statistics, name_scores
from nbp.metrics.inception_score import score_classes
from nbp.metrics.label_agreement import ShapeTracker, label_agreement
from nbp.metrics.lpips import LpipsScorer
from nbp.metrics.reconstruction import CodeCounter, ReconstructionScores
from nbp.metrics.score_table import SCORES, find_place, find_score, name_fvd
from nbp.metrics.stream import Spectra
from nbp.protocols.protocol import GenerationRule
from tests import tiny


class ZeroLpips(LpipsScorer):
    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.zeros(len(a))


def of_features() -> set[str]:
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((40, 5)) for _ in range(2)]
    spectra = [Spectra.of(rng.standard_normal((40, 6, 3))) for _ in range(2)]
    sets = [FeatureSet(row, 16, one) for row, one in zip(rows, spectra, strict=True)]
    found = compute_statistics(sets[0], sets[1], tuple(STATISTICS))
    names = set()
    for features in ("published", "random", "other"):
        for count in (40, 50):
            named = name_fvd("fvd", count=40, complete=count, features=features)
            rfvd = name_fvd("rfvd", count=40, complete=count, features=features)
            names |= {*name_scores(found, named, frames="vgg"), rfvd, f"{named}_std"}
            names |= set(name_scores(found, named, frames="random"))
    return names


def of_clips() -> set[str]:
    """Of reconstructions, of clips that continue others, of clips with labels."""
    spec = MovingShapesSpec(frames=5, size=32)
    clip, label = render_clip(spec, 0, seed=0)
    clips = clip[None]
    fidelity, counter = ReconstructionScores(), CodeCounter(4)
    fidelity.add(clips, clips)
    counter.add(np.zeros((1, 1), int))
    scorer = ClipScorer(GenerationRule(1), 32, 4, pixels=1, lpips=ZeroLpips({}))
    zeros = np.zeros(1, np.int32)
    made = scorer(np.zeros(1, int), Made(clips, zeros[None], zeros, np.ones(1), real=clips))
    tracker = ShapeTracker(**spec.tracking)
    return {
        *fidelity.result(),
        "lpips",  # the mean of a scorer
        *counter.result(),
        *(name for name in made if name.endswith("_after_given")),
        *label_agreement(tracker, clips, [spec.label_names[label]]),
    }


def of_likelihood() -> set[str]:
    config = load_config(
        tiny.CONFIG,
        {
            **tiny.OVERRIDES,
            "generator.prompt": "label",
            "generator.blocks": "('frame',)",
            "generator.draft": "True",
        },
    )
    task = build.make_generator_task(config, ("a", "b"), {})
    params = jax.eval_shape(task.network.init, jax.random.key(0))
    codes = np.zeros((1, *config.grid.shape), np.int32)
    batch = {"codes": codes, "label": np.zeros(1, np.int32)}
    metrics, _ = jax.eval_shape(lambda params: task.evaluate(params, {}, batch), params)
    return set(metrics) - {"bits_grid"}


def of_further_grids() -> set[str]:
    return {f"{score}_{name_clips((9, 48, 64))}_clips" for score in ("psnr", "bits")}


def of_classes() -> set[str]:
    rows = np.full((20, 2), 0.5)
    return {*score_classes(rows), *score_classes(rows, name="inception_score_20")}


def test_the_table_has_the_scores_of_evaluations_and_no_others() -> None:
    names = of_features() | of_clips() | of_likelihood() | of_classes() | of_further_grids()
    assert not [name for name in names if not find_score(name).meaning]
    found = {find_place(name) for name in names}
    assert not [name for place, name in enumerate(SCORES) if place not in found]


@pytest.mark.parametrize(
    "name, of",
    [
        ("rfvd_256", "rfvd"),
        ("fvd_random_features_8_infinity_error", "fvd_infinity_error"),
        ("stream_vgg_temporal_8", "stream_temporal"),
        ("inception_score_21_parts_1_std", "inception_score"),
        ("accuracy_top5", "accuracy_top5"),
        ("psnr_9x48x64_clips", "psnr_clips"),
        ("bits_9x48x64_clips", "bits_clips"),
    ],
)
def test_conditions_in_a_name_do_not_hide_the_score(name: str, of: str) -> None:
    assert find_place(name) == list(SCORES).index(of)
    found = find_score(name)
    assert (found.name, found.digits) == (name, SCORES[of].digits)
    deviation = name.endswith("_std")
    assert found.better == ("" if deviation else SCORES[of].better)
    assert ("deviation" in found.meaning) == deviation
    assert ("only for trends" in found.meaning) == ("random_features" in name)


def test_an_unknown_score_stands_last_and_means_nothing() -> None:
    found = find_score("colour_of_the_sky")
    assert (found.meaning, found.better, found.headline) == ("", "", False)
    assert find_place("colour_of_the_sky") == len(SCORES)
