# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Long videos that are right survive; frozen, vanishing, recoloured and shuffled ones do not."""

from dataclasses import replace

import numpy as np
import pytest

from nbp.data.moving_shapes import MovingShapes, MovingShapesSpec
from nbp.data.moving_world import WorldRules
from nbp.metrics.label_agreement import ShapeTracker
from nbp.metrics.survival import (
    LOST,
    ShapePath,
    Survival,
    SurvivalRules,
    Watcher,
    label_at,
    mirror_motions,
    predict_bounces,
    predict_line,
    score_survival,
    survives,
)

STEP, STRIDE, COUNT = 8, 4, 3
SPEC = MovingShapesSpec(frames=65, size=32, radius=(0.19, 0.23), world=WorldRules(clip_frames=9))
TRACKER = ShapeTracker(**SPEC.tracking)


def make(spec: MovingShapesSpec, count: int = COUNT, seed: int = 1):
    source = MovingShapes(spec, seed=seed, start=0, size=count)
    clips = np.stack([source[i]["video"] for i in range(count)])
    return clips, [source.truth(i).script(spec.label_names) for i in range(count)]


def score(spec: MovingShapesSpec, clips: np.ndarray, scripts) -> Survival:
    rules = SurvivalRules(STEP, STRIDE, spec.world.occlusion != "none")
    tracker = ShapeTracker(**spec.tracking)
    return score_survival(tracker, np.ascontiguousarray(clips), scripts, rules, horizons=(33, 65))


@pytest.fixture(scope="module")
def truth():
    return make(SPEC)


def largest(values: list[float | None]) -> float:
    return max(value for value in values if value is not None)


@pytest.mark.parametrize(
    "rules, options",
    [
        ({}, {}),
        ({}, {"size": 48, "rotate": True}),
        ({"border": "wrap"}, {"size": 40}),
        ({"turn_every": 32}, {}),
        ({"border": "wrap", "changes": (21, 41), "changing": ("colour", "shape", "motion")}, {}),
        ({"changes": (29, 49), "changing": ("shape", "motion")}, {"size": 64}),
        ({"occlusion": "bar"}, {"radius": (0.12, 0.14)}),
        ({"occlusion": "shape", "border": "wrap"}, {}),
    ],
    ids=["bounce", "turning", "wrap", "turns", "changes", "changes-64", "bar", "shape"],
)
def test_what_is_true_survives(rules, options):
    spec = replace(SPEC, world=WorldRules(**{"clip_frames": 9} | rules), **options)
    clips, scripts = make(spec)
    found = score(spec, clips, scripts)
    assert found.survival[65] == dict.fromkeys(("colour", "shape", "motion", "label"), 1.0)
    assert found.survival[33]["label"] == 1
    assert len(found.agreement["label"]) == 8
    assert found.position_error[0] is None
    assert largest(found.position_error) < 0.02
    assert largest(found.position_error_from_start) < 0.06
    changes = any(len(script) > 1 for script in scripts)
    assert found.switches == (
        dict.fromkeys(("colour", "shape", "motion", "label"), 1.0) if changes else None
    )


def test_frozen_videos_lose_their_motion(truth):
    clips, scripts = truth
    frozen = clips.copy()
    frozen[:, 24:] = clips[:, 24:25]
    found = score(SPEC, frozen, scripts)
    assert found.agreement["motion"][:3] == [1, 1, 1]
    assert largest(found.agreement["motion"][3:]) == 0
    assert found.survival[33] == {"colour": 1, "shape": 1, "motion": 0, "label": 0}
    # Its last frames predict that it stands, its first ones do not.
    errors, from_start = found.position_error, found.position_error_from_start
    assert errors[3] is not None
    assert errors[3] > 0.1
    assert largest(errors[4:]) < 0.01
    assert np.mean([e for e in from_start[4:] if e is not None]) > 0.1


def test_vanished_shapes_are_lost(truth):
    clips, scripts = truth
    gone = clips.copy()
    gone[:, 40:] = 40
    found = score(SPEC, gone, scripts)
    assert found.survival[33]["label"] == 1
    assert found.survival[65] == {"colour": 0, "shape": 0, "motion": 0, "label": 0}
    assert found.position_error[5] == pytest.approx(LOST)
    # Something in front of the shape excuses it for a while, not for good.
    hiding = replace(SPEC, world=WorldRules(clip_frames=9, occlusion="bar"))
    assert score(hiding, gone[:, :64], scripts).survival[64]["colour"] == 1
    gone[:, 24:] = 40
    assert score(hiding, gone, scripts).survival[65]["colour"] == 0


def test_recoloured_shapes_keep_all_but_their_colour(truth):
    clips, scripts = truth
    other = clips.copy()
    other[:, 33:] = clips[:, 33:, ..., [1, 2, 0]]  # green, blue and red of the palette are alike
    found = score(SPEC, other, scripts)
    assert found.survival[33]["label"] == 1
    assert found.survival[65]["colour"] == found.survival[65]["label"] == 0
    # All segments but the one with both colours.
    assert found.agreement["motion"][5:] == found.agreement["shape"][5:] == [1, 1, 1]
    assert found.agreement["colour"][5:] == [0, 0, 0]


def test_shuffled_videos_are_nowhere(truth):
    clips, scripts = truth
    order = np.random.default_rng(0).permutation(clips.shape[1])
    found = score(SPEC, clips[:, order], scripts)
    assert found.survival[33]["motion"] == 0
    assert np.mean([e for e in found.position_error if e is not None]) > 0.15
    assert found.survival[33]["colour"] == 1
    # Segments in another order: each is right, but the shape jumps.
    parts = np.concatenate([np.arange(s, s + 8) for s in (0, 40, 16, 56, 24, 8, 48, 32)])
    errors = score(SPEC, clips[:, parts], scripts).position_error
    assert np.mean([e for e in errors if e is not None]) > 0.1


def test_a_shape_that_turns_back_on_its_way_is_wrong(truth):
    clips, scripts = truth
    there = clips[:, :6]
    back = np.concatenate([there, there[:, 4::-1], there[:, 1:]], axis=1)
    found = score(SPEC, np.concatenate([back] * 5, axis=1)[:, :65], scripts)
    assert found.survival[65]["motion"] == 0


def test_switches_that_come_late_or_never_are_not_obeyed():
    spec = replace(
        SPEC,
        world=WorldRules(
            border="wrap", clip_frames=9, changes=(33,), changing=("colour", "motion")
        ),
    )
    clips, scripts = make(spec)
    late = clips.copy()
    late[:, 33:41] = clips[:, 25:33]  # what was before goes on, two latent frames long
    soon = clips.copy()
    soon[:, 33:36] = clips[:, 30:33]  # within the first one
    assert score(spec, clips, scripts).switches == dict.fromkeys(
        ("colour", "shape", "motion", "label"), 1.0
    )
    found = score(spec, soon, scripts).switches
    assert found is not None
    assert found["label"] == 1
    found = score(spec, late, scripts).switches
    assert found is not None
    assert found["label"] == 0
    never, _ = make(replace(spec, world=WorldRules(border="wrap", clip_frames=9)))
    found = score(spec, never, scripts).switches
    assert found == {"colour": 0, "shape": 1, "motion": 0, "label": 0}


def test_survival_against_counting():
    nan = np.nan
    for row, expected in (
        ([1, 1, 1], True),
        ([1, 0, 1], False),
        ([0], False),
        ([1, nan, nan, nan, 1], True),
        ([1, nan, nan, nan, nan, 1], False),
        ([nan, 1, nan, nan], True),
    ):
        assert survives(np.array(row, float)) is expected


def simulate(place, velocity, frames, low, high):
    """Steps one by one: at a wall the rest of a step goes back."""
    place, velocity, path = np.array(place, float), np.array(velocity, float), []
    for _ in range(frames):
        path.append(place.copy())
        place = place + velocity
        for axis in (0, 1):
            if not low[axis] <= place[axis] <= high[axis]:
                wall = high[axis] if place[axis] > high[axis] else low[axis]
                place[axis] = 2 * wall - place[axis]
                velocity[axis] = -velocity[axis]
    return np.array(path)


def test_predictions_are_those_of_a_simulated_ball():
    rng = np.random.default_rng(0)
    low, high = np.array([6.0, 7.0]), np.array([26.0, 25.0])
    for _ in range(40):
        velocity = rng.uniform(0.4, 2.0, 2) * rng.choice((-1, 1), 2)
        path = simulate(rng.uniform(low, high), velocity, 60, low, high)
        at = np.arange(9, 60)
        noisy = path[:9] + rng.normal(0, 0.002, (9, 2))
        found = predict_bounces(noisy, np.arange(9.0), at, (low, high))
        # A bounce of a thousandth of the frame is no bounce: then it is off by a third of a pixel.
        np.testing.assert_allclose(found, path[at], atol=0.6)
        assert np.abs(found - path[at]).mean() < 0.2
    places = 3.0 + np.arange(4)[:, None] * np.array([1.0, 2.0])
    line = predict_line(places, np.arange(4.0), np.array([9]))
    np.testing.assert_allclose(line, [[12, 21]])


def test_position_errors_against_a_simulated_path():
    """A known jump of the shape is the error of one segment, as a share of the frame."""
    watcher = Watcher(TRACKER, SurvivalRules(STEP, STRIDE))
    radius = 6.4
    whole = np.full(65, TRACKER.unit_areas["square"] * radius**2)
    low, high = np.full(2, 0.88 * radius), np.full(2, 32 - 0.88 * radius)
    path = simulate((10, 16), (1.5, 0), 65, low, high)
    frame, script = np.full(2, 32.0), ((0, "red square right"),)
    errors = watcher.position_errors(ShapePath(path, whole, frame), script)
    assert np.isnan(errors[: STEP + 1]).all()
    np.testing.assert_allclose(errors[STEP + 1 :], 0, atol=0.01)
    jumped = path + np.where(np.arange(65) > 32, 1.0, 0.0)[:, None] * [0, 3.2]
    errors = watcher.position_errors(ShapePath(jumped, whole, frame), script)
    np.testing.assert_allclose(errors[33:41], 0.1, atol=0.01)
    np.testing.assert_allclose(errors[49:], 0, atol=0.01)
    first = watcher.position_errors(ShapePath(jumped, whole, frame), script, history="first")
    np.testing.assert_allclose(first[33:], 0.1, atol=0.02)
    lost = np.where(np.arange(65)[:, None] == 20, np.nan, path)
    assert watcher.position_errors(ShapePath(lost, whole, frame), script)[20] == LOST


def test_mirror_images_of_motions():
    motions, legal = mirror_motions(
        {"right": (1.0, 0.0), "up": (0.0, -1.0), "northeast": (0.7, -0.7), "spin": (0.0, 0.0)}
    )
    assert len(motions) == 2 + 2 + 4 + 1
    directions = {name: {motions[n] for n in names} for name, names in legal.items()}
    assert directions["right"] == {(1.0, 0.0), (-1.0, 0.0)}
    assert directions["up"] == {(0.0, 1.0), (0.0, -1.0)}
    assert len(directions["northeast"]) == 4
    assert legal["spin"] == {"spin"}
    assert label_at(((0, "a"), (5, "b")), 4) == "a"
    assert label_at(((0, "a"), (5, "b")), 5) == "b"


def test_scores_are_plain_numbers_and_mistakes_are_named(truth):
    clips, scripts = truth
    found = score(SPEC, clips[:2, :17], [script[0][1] for script in scripts[:2]]).to_json()
    assert list(found["survival"]) == ["17"]
    assert found["agreement"]["label"] == [1.0, 1.0]
    assert found["switches"] is None
    with pytest.raises(ValueError, match="a script per video: 3, 1"):
        score(SPEC, clips, scripts[:1])
    with pytest.raises(ValueError, match="'red blob right' is not"):
        score(SPEC, clips[:1], ["red blob right"])
