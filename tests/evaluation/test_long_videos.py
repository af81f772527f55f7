# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The report of long videos, where the videos are real ones: all is right, and nothing drifts."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from nbp import build, build_data
from nbp.config import load_config
from nbp.data.moving_shapes import render_clip
from nbp.evaluation.long_videos import DriftJob, describe_drift, real_videos, survival_rules
from nbp.protocols import find_protocol
from nbp.sampling.long_video import Slide
from nbp.weights import load_features
from tests.evaluated import SMALL, SmallNetwork

CONFIG = load_config("configs/quickstart.py", {})
COUNT, FRAMES, LATENTS = 6, 33, 9


@pytest.fixture(scope="module")
def real() -> tuple[np.ndarray, list[str]]:
    (videos,) = real_videos(CONFIG, FRAMES, COUNT)
    spec = CONFIG.shapes_spec
    rows = [render_clip(spec, build_data.HELD_OUT + i, seed=CONFIG.seed) for i in range(COUNT)]
    for video, (clip, _) in zip(videos, rows, strict=True):
        np.testing.assert_array_equal(video[: spec.frames], clip)  # held-out clips that go on
    return videos, [spec.label_names[label] for _, label in rows]


def make_tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 64, (COUNT, LATENTS, 8, 8), np.int32)


def test_real_videos_are_right_and_no_farther_from_real_ones_than_from_themselves(real):
    videos, names = real
    features = load_features(
        "random-i3d",
        find_protocol("reconstruction"),
        frames=9,
        place=jnp.asarray,
        copy=lambda params: params,
        make_network=lambda size: SmallNetwork(SMALL, build.make_conv()),
    )
    drift, report = describe_drift(
        DriftJob(CONFIG, features, names), videos, make_tokens(), Slide(2, "anchor")
    )
    report = json.loads(json.dumps(report))
    assert report["survival"]["survival"]["33"] == dict.fromkeys(
        ("colour", "shape", "motion", "label"), 1
    )
    assert report["survival"]["switches"] is None
    assert report["story"] is None
    assert report["real_fvd"] == "fvd_random_features_6_to_real_segment"
    assert report["fvd"] == "fvd_random_features_6_to_first_segment"
    for segment in report["segments"]:
        assert segment["real_fvd"] == pytest.approx(0, abs=1e-4)
        assert segment["label_agreement"] == 1
    assert report["segments"][3]["fvd"] > 0
    assert (report["slide"], report["keep_frames"], report["window_frames"]) == ("anchor", 2, 9)
    assert drift.slopes["real_fvd"].over == "segments"
    assert set(report["slopes"]) >= {"label_agreement", "motion_agreement", "sharpness", "fvd"}


def test_a_story_is_held_against_its_switches(real):
    videos, names = real
    told = ((0, names[0]), (17, "red square up"))
    job = DriftJob(CONFIG, None, ["told"] * COUNT, told)
    _, report = describe_drift(job, videos, make_tokens(), Slide(2))
    assert report["story"] == [[0, names[0]], [17, "red square up"]]
    assert report["real_fvd"] is None
    assert report["survival"]["switches"]["label"] < 0.5, "nobody drew these videos by it"
    # Labels that name no shapes: nothing to be right about.
    _, report = describe_drift(
        DriftJob(CONFIG, None, ["a", "b"] * 3), videos, make_tokens(), Slide(2)
    )
    assert report["survival"] is None
    assert report["segments"][0]["label_agreement"] is None


def test_the_rules_are_those_of_the_data():
    rules = survival_rules(CONFIG)
    assert (rules.step, rules.stride, rules.occluded) == (8, 4, False)
    assert build.make_tracker(CONFIG).border == "bounce"
    keys = {"border": "wrap", "occlusion": "bar"}
    changes = {f"data.moving_shapes.world.{key}": value for key, value in keys.items()}
    config = load_config("configs/quickstart.py", changes)
    assert survival_rules(config).occluded
    assert build.make_tracker(config).border == "wrap"
