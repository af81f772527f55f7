# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluations of generated clips on models of random weights: numbers, files, resuming."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbp import build, datasets, evaluate
from nbp.evaluation.frechet import Moments, frechet_distance
from nbp.evaluation.fvd import FeatureExtractor
from nbp.evaluation.rules import FeatureRule
from nbp.jobs import chunks, weights
from nbp.jobs.sample import SampleRequest, make_drawing
from nbp.jobs.workdir import read_config, read_labels
from nbp.nn.conv3d import taps_conv
from nbp.sampling.sampler import Sampler
from tests.jobs.evaluated import SMALL, SmallNetwork, add_generator, make_workdir

SHAPES = {"data.frames": "9", "data.size": "32", "data.validation_clips": "11"}
FEATURES = ("--features", "random-i3d")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "I3dNetwork", SmallNetwork)
    monkeypatch.setattr(weights, "I3dSpec", lambda **_: SMALL)
    monkeypatch.setattr(chunks, "CHUNK", 8)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Moving shapes of 9x32x32, with label prompts."""
    folder = tmp_path_factory.mktemp("shapes") / "run"
    return add_generator(make_workdir(folder, {**SHAPES, "generator.prompt": "label"}))


def run(workdir: Path, protocol: str, *arguments: object) -> dict[str, Any]:
    out = workdir.parent / "scores.json"
    flags = ("--workdir", workdir, "--protocol", protocol, "--out", out, *arguments)
    evaluate.main([str(flag) for flag in flags])
    return json.loads(out.read_text())


def load(workdir: Path) -> tuple[Sampler, Any]:
    config = read_config(workdir)
    filtering, guidance = make_drawing(config, SampleRequest(1))
    labels = read_labels(workdir)
    sampler, _ = build.load_sampler(
        config, workdir, labels=labels, filtering=filtering, guidance=guidance
    )
    return sampler, config


def make_extractor() -> FeatureExtractor:
    network = SmallNetwork(SMALL, taps_conv)
    return FeatureExtractor(network, weights.draw_i3d(network), FeatureRule("any", "videogpt"))


def test_the_score_is_that_of_all_clips_at_once(workdir: Path) -> None:
    report = run(workdir, "moving-shapes", *FEATURES, "--clips", 21)
    sampler, config = load(workdir)
    labels = [i % len(read_labels(workdir)) for i in range(21)]
    made = sampler.sample(21, seed=0, labels=labels)
    _, held_out = datasets.make_data(config)
    real = np.stack([held_out.source[i]["video"] for i in range(11)])
    extract = make_extractor()
    want = frechet_distance(Moments.of(extract(real)), Moments.of(extract(made.videos)))
    assert report["scores"]["fvd_random_features_21"] == pytest.approx(want, rel=1e-6)
    assert "fvd" not in report["scores"]
    assert report["generated"]["clips"] == 21
