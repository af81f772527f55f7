# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The tracker agrees with real clips, also degraded ones, and with nothing that is not one."""

import functools
from dataclasses import replace

import numpy as np
import pytest

from nbp.data.moving_shapes import COLOURS, MOTIONS, SHAPES, MovingShapesSpec, render_clip
from nbp.metrics.label_agreement import UNKNOWN, ShapeTracker, label_agreement

EASY = MovingShapesSpec(frames=9, size=32, radius=(0.19, 0.23))
HARD = MovingShapesSpec(
    frames=9,
    size=32,
    shapes=tuple(SHAPES),
    colours=tuple(COLOURS),
    motions=tuple(MOTIONS),
    texture=30.0,
    distractors=2,
    rotate=True,
    radius=(0.19, 0.23),
    held=0.6,
    speeds=(0.04, 0.06, 0.08),
)
LARGE = replace(HARD, frames=17, size=64, distractors=3)


@functools.cache
def render_once(spec: MovingShapesSpec, index: int, seed: int) -> tuple[np.ndarray, int]:
    return render_clip(spec, index, seed=seed)


def render(spec: MovingShapesSpec, count: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    rendered = [render_once(spec, index, seed) for index in range(count)]
    return np.stack([c for c, _ in rendered]), [spec.label_names[label] for _, label in rendered]


def agree(spec: MovingShapesSpec, clips: np.ndarray, labels: list[str]) -> dict[str, float]:
    return label_agreement(ShapeTracker(**spec.tracking), np.ascontiguousarray(clips), labels)


def degrade(clips: np.ndarray) -> np.ndarray:
    """3x3 box blur, half resolution, noise of sigma 10: about 25 dB PSNR, worse than asked."""
    n, t, h, w, c = clips.shape
    padded = np.pad(clips.astype(np.float64), ((0, 0),) * 2 + ((1, 1),) * 2 + ((0, 0),), "edge")
    blurred = sum(padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)) / 9
    halved = np.asarray(blurred).reshape(n, t, h // 2, 2, w // 2, 2, c).mean(axis=(3, 5))
    noisy = halved.repeat(2, axis=2).repeat(2, axis=3)
    noisy += np.random.default_rng(0).normal(0, 10, noisy.shape)
    return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "spec,count,least",
    [
        (EASY, 500, 0.99),
        (replace(EASY, held=0.6, speeds=(0.04, 0.06, 0.08)), 200, 0.99),
        (HARD, 150, 0.97),
        (LARGE, 50, 0.97),
    ],
    ids=["default", "bouncing", "hard", "large"],
)
def test_agrees_with_real_clips(spec, count, least):
    clips, labels = render(spec, count)
    result = agree(spec, clips, labels)
    for part in ("label", "shape", "colour", "motion"):
        assert result[f"{part}_agreement"] >= least


@pytest.mark.parametrize("spec,count", [(EASY, 200), (HARD, 100)], ids=["default", "hard"])
def test_agrees_with_degraded_clips(spec, count):
    clips, labels = render(spec, count)
    assert agree(spec, degrade(clips), labels)["label_agreement"] >= 0.9


def test_agrees_with_dim_and_tinted_clips():
    clips, labels = render(EASY, 100)
    dim = (clips * 0.65 + 20).astype(np.uint8)
    assert agree(EASY, dim, labels)["label_agreement"] >= 0.95
    tint = np.array([0.85, 1.05, 0.95])
    tinted = np.clip(clips * tint + [15, 0, -15], 0, 255).astype(np.uint8)
    assert agree(EASY, tinted, labels)["label_agreement"] >= 0.95


def test_does_not_agree_with_shuffled_labels():
    clips, labels = render(EASY, 300)
    shuffled = np.random.default_rng(0).permutation(labels).tolist()
    result = agree(EASY, clips, shuffled)
    assert result["label_agreement"] <= 0.2
    assert result["shape_agreement"] == pytest.approx(1 / 3, abs=0.12)
    assert result["colour_agreement"] == pytest.approx(1 / 3, abs=0.12)
    assert result["motion_agreement"] == pytest.approx(1 / 4, abs=0.12)


def test_chance_levels():
    clips, labels = render(EASY, 1)
    result = agree(EASY, clips, labels)
    assert result["shape_chance"] == pytest.approx(1 / 3)
    assert result["colour_chance"] == pytest.approx(1 / 3)
    assert result["motion_chance"] == pytest.approx(1 / 4)
    assert result["label_chance"] == pytest.approx(1 / 36)


@pytest.mark.parametrize("spec", [EASY, HARD], ids=["default", "hard"])
def test_nothing_is_seen_where_nothing_is(spec):
    tracker, rng = ShapeTracker(**spec.tracking), np.random.default_rng(0)
    real, _ = render_clip(spec, 0)
    clips = [
        np.zeros((9, 32, 32, 3), np.uint8),
        np.full((9, 32, 32, 3), 255, np.uint8),
        np.full((9, 32, 32, 3), COLOURS["red"], np.uint8),
        *rng.integers(0, 256, (5, 9, 32, 32, 3), dtype=np.uint8),
        *rng.integers(0, 80, (5, 9, 32, 32, 3), dtype=np.uint8),
        real[:1],
        real[:0],
        np.zeros((9, 2, 3, 3), np.uint8),
    ]
    for clip in clips:
        assert tracker.describe(clip) == UNKNOWN


def test_reversed_clips_move_the_other_way():
    spec = replace(EASY, motions=("right", "left"))
    clips, labels = render(spec, 60)
    swap = {"right": "left", "left": "right"}
    swapped = [" ".join([*label.split()[:2], swap[label.split()[2]]]) for label in labels]
    assert agree(spec, clips[:, ::-1], labels)["motion_agreement"] == 0
    assert agree(spec, clips[:, ::-1], swapped)["label_agreement"] >= 0.98


@pytest.mark.parametrize("spec,count", [(EASY, 100), (HARD, 60)], ids=["default", "hard"])
def test_incoherent_clips_do_not_agree(spec, count):
    clips, labels = render(spec, count)
    spliced = clips.copy()
    spliced[:, 4:] = np.roll(clips, 1, axis=0)[:, 4:]
    assert agree(spec, spliced, labels)["label_agreement"] <= 0.05

    frozen = np.repeat(clips[:, :1], 9, axis=1)
    # A frozen disk cannot be told from a spinning one.
    assert agree(spec, frozen, labels)["motion_agreement"] <= 0.1

    disordered = clips[:, [4, 0, 7, 2, 8, 1, 5, 3, 6]]
    assert agree(spec, disordered, labels)["motion_agreement"] <= 0.1

    gone = clips.copy()
    gone[:, 3:5] = 40
    assert agree(spec, gone, labels)["label_agreement"] == 0

    torn = clips.copy()
    for row in range(0, 32, 4):
        torn[:, :, row : row + 4] = np.roll(clips[:, :, row : row + 4], 5 * row, axis=3)
    assert agree(spec, torn, labels)["label_agreement"] <= 0.05


def test_a_shape_that_turns_into_another_does_not_agree():
    # The same index of two specs differs in nothing but the outline that is drawn.
    square = replace(EASY, shapes=("square",))
    triangle = replace(EASY, shapes=("triangle",))
    clips, labels = render(square, 60)
    morphed = clips.copy()
    morphed[:, 4:] = render(triangle, 60)[0][:, 4:]
    assert agree(EASY, clips, labels)["label_agreement"] >= 0.98
    assert agree(EASY, morphed, labels)["label_agreement"] <= 0.1


def test_turning_back_in_the_open_is_not_a_bounce():
    spec = replace(EASY, motions=("right", "left"), shapes=("disk",), size=64, radius=(0.1, 0.1))
    clips, labels = render(spec, 40)
    paths = [ShapeTracker(**spec.tracking)._follow(clip) for clip in clips]
    turned = np.concatenate([clips[:, :6], clips[:, 2:5][:, ::-1]], axis=1)
    in_the_open = [
        index
        for index, track in enumerate(paths)
        if track is not None and 15 < track.centres[5, 0] < 49
    ]
    assert len(in_the_open) >= 5
    picked = [labels[index] for index in in_the_open]
    assert agree(spec, clips[in_the_open], picked)["motion_agreement"] == 1
    assert agree(spec, turned[in_the_open], picked)["motion_agreement"] == 0


def test_spin_needs_turning():
    spec = replace(EASY, shapes=("square", "cross", "triangle"), motions=("spin", "right"))
    clips, labels = render(spec, 30)
    spinning = [index for index, label in enumerate(labels) if label.endswith("spin")]
    picked = [labels[index] for index in spinning]
    assert agree(spec, clips[spinning], picked)["motion_agreement"] == 1
    frozen = np.repeat(clips[spinning, :1], 9, axis=1)
    assert agree(spec, frozen, picked)["motion_agreement"] == 0


def test_tracker_refuses_a_motion_without_direction():
    known = EASY.tracking
    with pytest.raises(ValueError, match="wobble"):
        ShapeTracker(known["palette"], known["shapes"], {"wobble": (0.0, 0.0)})
    with pytest.raises(ValueError, match="at least one colour"):
        ShapeTracker({}, known["shapes"], known["motions"])


@pytest.mark.parametrize(
    "labels,message",
    [
        (["red square right"], "a label per clip: 2, 1"),
        (["red square right", "red square spin"], "'red square spin' is not"),
        (["red square right", "square red"], "'square red' is not"),
        (["red square right", "red square right now"], "is not 'colour shape motion'"),
    ],
)
def test_bad_labels_are_named(labels, message):
    clips, _ = render(EASY, 2)
    with pytest.raises(ValueError, match=message):
        agree(EASY, clips, labels)
