# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Moving shapes: the same bytes always, the right pixels, and the motion that the label names."""

import hashlib
import math
import pickle
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from nbp.data.moving_shapes import (
    BACKGROUND,
    COLOURS,
    MOTIONS,
    SHAPES,
    MovingShapes,
    MovingShapesSpec,
    render_clip,
)
from nbp.data.moving_world import WorldRules

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


def single(shape: str, motion: str, **options) -> MovingShapesSpec:
    """One shape and one motion on a flat background; two colours, as two classes are needed."""
    options = {"frames": 9, "size": 32, "texture": 0.0, "radius": (0.19, 0.23)} | options
    return MovingShapesSpec(shapes=(shape,), colours=("white", "red"), motions=(motion,), **options)


def measure_cover(clip: np.ndarray, label: int) -> np.ndarray:
    """How much of each pixel the shape covers, [t h w], on a flat background; red is channel 0."""
    strength = COLOURS[("white", "red")[label]][0] - BACKGROUND
    return (clip[..., 0].astype(np.float64) - BACKGROUND) / strength


def measure_path(spec: MovingShapesSpec, index: int) -> np.ndarray:
    """Centroids (x, y) of the only shape of a clip on a flat background, [t 2]."""
    cover = measure_cover(*render_clip(spec, index))
    position = np.arange(spec.size) + 0.5
    x, y = (cover * position).sum(axis=(1, 2)), (cover * position[:, None]).sum(axis=(1, 2))
    return np.stack([x, y], axis=1) / cover.sum(axis=(1, 2))[:, None]


def polygon(shape: str) -> np.ndarray:
    """Corners of the shape of radius 1, from its description and not from its distance."""
    if shape == "square":
        return 0.88 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    if shape == "cross":
        a, w = 1.1, 0.4
        arm = np.array([[w, -a], [w, -w], [a, -w]])
        turn = np.array([[0, 1], [-1, 0]])
        return np.concatenate([arm @ np.linalg.matrix_power(turn, k) for k in range(4)])
    radii = {"triangle": [1.3], "star": [1.35, 0.62], "disk": [1.0]}[shape]
    count = {"triangle": 3, "star": 10, "disk": 200}[shape]
    angle = np.arange(count) * 2 * math.pi / count
    return np.resize(radii, count)[:, None] * np.stack([np.sin(angle), -np.cos(angle)], axis=1)


def contains(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether points [n 2] lie inside a polygon, by counting crossings of a ray to the right."""
    inside = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 != y1:
            crosses = (y0 > points[:, 1]) != (y1 > points[:, 1])
            inside ^= crosses & (points[:, 0] < x0 + (points[:, 1] - y0) * (x1 - x0) / (y1 - y0))
    return inside


@pytest.mark.parametrize("shape", ["square", "disk", "triangle", "cross", "star"])
def test_pixels_match_supersampled_polygon(shape):
    spec = single(shape, "right", size=48, radius=(0.2, 0.2))
    clip, label = render_clip(spec, 0)
    cover = measure_cover(clip, label)[0]
    centre, radius, fine = measure_path(spec, 0)[0], 0.2 * 48, 8
    position = (np.arange(48 * fine) + 0.5) / fine
    grid = np.stack(np.meshgrid(position, position), axis=-1).reshape(-1, 2)
    expected = contains(polygon(shape), (grid - centre) / radius)
    expected = expected.reshape(48, fine, 48, fine).mean(axis=(1, 3))
    assert np.abs(cover - expected).max() < 0.35  # a corner shares one pixel between two edges
    assert np.abs(cover - expected).mean() < 0.005
    assert cover.sum() == pytest.approx(expected.sum(), rel=0.02)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_outline_extents_bound_the_shape(shape):
    outline = SHAPES[shape]
    grid = np.linspace(-1.6, 1.6, 801)
    inside = outline.distance(grid[None, :], grid[:, None]) <= 0
    y, x = np.nonzero(inside)
    measured = (grid[x].max(), -grid[y].min(), grid[y].max(), np.hypot(grid[x], grid[y]).max())
    stated = (outline.half_width, outline.above, outline.below, outline.reach)
    np.testing.assert_allclose(measured, stated, atol=0.01)
    # The tracker takes the centroid of the mask for the centre of the outline.
    np.testing.assert_allclose((grid[x].mean(), grid[y].mean()), 0, atol=0.01)


def test_ring_has_a_hole():
    clip, label = render_clip(single("ring", "right"), 0)
    x, y = np.floor(measure_path(single("ring", "right"), 0)[0]).astype(int)
    cover = measure_cover(clip, label)[0]
    assert cover[y, x] == pytest.approx(0, abs=0.01)
    assert cover.max() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("motion", [name for name in MOTIONS if any(MOTIONS[name])])
def test_shape_moves_as_named(motion):
    spec = single("square", motion)
    for index in range(5):
        steps = np.diff(measure_path(spec, index), axis=0)
        # `held` is 1 and the frame wide enough: one straight line, no bounce.
        expected = 0.05 * 32 * np.array(MOTIONS[motion])
        np.testing.assert_allclose(steps, np.tile(expected, (8, 1)), atol=0.1)


def test_shape_bounces_and_stays_inside():
    spec = single("disk", "right", frames=33)
    for index in range(5):
        path = measure_path(spec, index)
        steps = np.diff(path[:, 0])
        assert steps[0] > 1
        assert (steps < -1).any()  # turned back
        assert path[:, 0].min() > 0.19 * 32 - 0.2
        assert path[:, 0].max() < 32 - 0.19 * 32 + 0.2
        assert np.ptp(path[:, 1]) < 0.1


@pytest.mark.parametrize("held", [0.5, 0.8])
def test_first_direction_is_held(held):
    spec = replace(single("square", "up", frames=17), held=held)
    steps = [np.diff(measure_path(spec, index)[:, 1]) for index in range(10)]
    least = min(int(np.argmax(np.append(s > -1.5, True))) for s in steps)
    reachable = (1 - 2 * 0.88 * 0.23) / 0.05  # frames until any start meets the wall
    assert least >= math.floor(min(held * 16, reachable))


def test_orbit_is_a_circle_and_spin_stays():
    orbit = measure_path(single("disk", "orbit"), 1)
    middle = np.linalg.lstsq(np.c_[2 * orbit, np.ones(9)], (orbit**2).sum(axis=1), rcond=None)[0]
    radii = np.linalg.norm(orbit - middle[:2], axis=1)
    assert np.ptp(radii) < 0.1
    assert radii.mean() > 3
    spin = single("cross", "spin")
    assert np.ptp(measure_path(spin, 1), axis=0).max() < 0.1
    clip, _ = render_clip(spin, 1)
    assert np.abs(clip[3].astype(int) - clip[0]).max() > 80


def test_rotate_turns_a_moving_shape():
    upright, turning = single("square", "right"), single("square", "right", rotate=True)
    spread = [
        np.ptp([(frame[..., 0] > 120).any(axis=0).sum() for frame in render_clip(spec, 2)[0]])
        for spec in (upright, turning)
    ]
    assert spread[0] <= 1
    assert spread[1] >= 2


def test_texture_is_still_smooth_and_bounded():
    spec = MovingShapesSpec(frames=9, size=32, texture=30.0, radius=(0.19, 0.23))
    for index in range(5):
        clip, _ = render_clip(spec, index)
        background = np.median(clip, axis=0)
        quiet = (clip == clip[0]).all(axis=(0, 3))  # never covered by the shape
        assert quiet.mean() > 0.3
        assert np.abs(background[quiet] - BACKGROUND).max() <= 30.5
        assert np.abs(np.diff(clip[0].astype(int), axis=0)[quiet[1:] & quiet[:-1]]).max() <= 12
    flat, _ = render_clip(replace(spec, texture=0.0), 0)
    assert (np.median(flat, axis=(0, 1, 2)) == BACKGROUND).all()


def test_distractors_never_take_the_labelled_colour():
    spec = replace(EASY, distractors=2, texture=0.0)
    for index in range(10):
        clip, label = render_clip(spec, index)
        plain, same = render_clip(replace(spec, distractors=0), index)
        assert label == same  # distractors do not change what the clip is of
        labelled = spec.label_names[label].split()[0]
        nearest = {
            name: (np.abs(clip.astype(int) - COLOURS[name]).max(axis=-1) < 10).sum(axis=(1, 2))
            for name in spec.colours
        }
        others = [nearest[name] for name in spec.colours if name != labelled]
        assert all((nearest[labelled] > other).all() for other in others)
        assert all(other.any() for other in others)
        assert not any(
            (np.abs(plain.astype(int) - COLOURS[n]).max(axis=-1) < 10).any()
            for n in spec.colours
            if n != labelled
        )


def test_labels_name_every_class_once_and_all_occur():
    assert len(set(HARD.label_names)) == len(HARD.label_names) == 6 * 7 * 10
    assert EASY.label_names[0] == "red square right"
    assert EASY.label_names[-1] == "blue triangle up"
    labels = np.array([render_clip(EASY, index)[1] for index in range(720)])
    counts = np.bincount(labels, minlength=36)
    assert counts.min() >= 5
    assert counts.max() <= 45


def test_clip_is_a_function_of_spec_seed_and_index():
    clip, label = render_clip(HARD, 7, seed=3)
    np.random.seed(0)  # noqa: NPY002  global state must not matter
    again, same = render_clip(HARD, 7, seed=3)
    assert clip.shape == (9, 32, 32, 3)
    assert clip.dtype == np.uint8
    np.testing.assert_array_equal(clip, again)
    assert label == same
    assert not np.array_equal(clip, render_clip(HARD, 8, seed=3)[0])
    assert not np.array_equal(clip, render_clip(HARD, 7, seed=4)[0])


def test_another_process_renders_the_same_bytes():
    source = MovingShapes(HARD, seed=1, start=10, size=4)
    program = (
        "import pickle, sys, hashlib; source = pickle.loads(sys.stdin.buffer.read());"
        "print(source.fingerprint, *(hashlib.sha256(source[i]['video'].tobytes()).hexdigest()"
        " for i in range(4)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(source), capture_output=True, check=True
    )
    here = [hashlib.sha256(source[i]["video"].tobytes()).hexdigest() for i in range(4)]
    assert result.stdout.decode().split() == [source.fingerprint, *here]


def test_source_indexes_its_own_range():
    source = MovingShapes(EASY, seed=5, start=100, size=3)
    assert len(source) == 3
    assert source.label_names == EASY.label_names
    clip, label = render_clip(EASY, 102, seed=5)
    example = source[np.int64(2)]
    np.testing.assert_array_equal(example["video"], clip)
    assert example["label"] == label
    assert example["label"].dtype == np.int32
    for index in (-1, 3):
        with pytest.raises(IndexError, match=r"0 \.\. 2"):
            source[index]


def test_fingerprint_changes_with_every_field():
    base = MovingShapes(EASY, seed=0, start=0, size=10)
    assert base.fingerprint == "moving_shapes-ea3e185b76a45e20"  # that of the first release
    changes = {
        "frames": 10, "size": 33, "shapes": ("disk", "star"), "colours": ("red", "white"),
        "motions": ("up", "down"), "texture": 1.0, "distractors": 1, "rotate": True,
        "radius": (0.2, 0.21), "speeds": (0.04,), "held": 0.7, "turn": 0.3,
        "snap": 4, "width": 40, "world": WorldRules(border="wrap"),
    }  # fmt: skip
    assert set(changes) == set(vars(EASY))
    sources = [
        MovingShapes(replace(EASY, **{name: value}), seed=0, start=0, size=10)
        for name, value in changes.items()
    ]
    sources += [
        MovingShapes(EASY, seed=1, start=0, size=10),
        MovingShapes(EASY, seed=0, start=1, size=10),
        MovingShapes(EASY, seed=0, start=0, size=11),
    ]
    prints = {source.fingerprint for source in sources}
    assert len(prints) == len(sources)
    assert base.fingerprint not in prints
    assert base.fingerprint == MovingShapes(EASY, seed=0, start=0, size=10).fingerprint


@pytest.mark.parametrize(
    "field,value,message",
    [
        ("shapes", ("square", "blob"), r"unknown: blob.*|square, disk.*blob"),
        ("colours", ("red", "mauve"), "unknown: mauve"),
        ("motions", ("sideways",), "unknown: sideways"),
        ("motions", (), "one or more"),
        ("shapes", ("disk", "disk"), "without repeats"),
        ("frames", 1, "at least 2"),
        ("size", 4, "at least 8"),
        ("texture", 90.0, r"0 \.\. 40"),
        ("distractors", 3, r"0 \.\. 2"),
        ("radius", (0.3, 0.2), "low <= high"),
        ("radius", (0.2, 0.5), "low <= high"),
        ("speeds", (), "one or more"),
        ("speeds", (0.05, 0.0), "above 0"),
        ("held", 0.0, "above 0"),
        ("turn", 2.0, "at most 0.5"),
    ],
)
def test_spec_names_what_is_wrong(field, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        replace(EASY, **{field: value})
    assert f"MovingShapesSpec.{field}" in str(caught.value)


def test_spec_needs_two_classes():
    with pytest.raises(ValueError, match="at least 2 classes"):
        MovingShapesSpec(frames=9, size=32, shapes=("disk",), colours=("red",), motions=("up",))


@pytest.mark.parametrize("arguments", [(-1, 0, 1), (0, -1, 1), (0, 0, 0)])
def test_source_refuses_bad_ranges(arguments):
    seed, start, size = arguments
    with pytest.raises(ValueError, match="size 1 or more"):
        MovingShapes(EASY, seed=seed, start=start, size=size)


def test_rendering_keeps_up_with_training():
    def measure() -> float:
        begin = time.thread_time()
        for index in range(20):
            render_clip(EASY, index)
        return (time.thread_time() - begin) / 20

    # Half a millisecond when nothing else runs; a fully loaded machine takes several times as long.
    assert min(measure() for _ in range(5)) < 6e-3


def test_frames_that_are_no_squares():
    """The shape is as large as in a square of the shorter side, and stays within the frame."""
    content = {"shapes": ("square",), "colours": ("red",), "texture": 0.0, "snap": 0}
    square = MovingShapesSpec(frames=9, size=16, **content)
    wide = MovingShapesSpec(frames=9, size=16, width=40, **content)
    tall = MovingShapesSpec(frames=9, size=40, width=16, **content)
    places = []
    for index in range(12):
        clips = [render_clip(spec, index)[0] for spec in (square, wide, tall)]
        assert [clip.shape[1:3] for clip in clips] == [(16, 16), (16, 40), (40, 16)]
        red = [(clip[..., 0].astype(int) - clip[..., 2] > 90) for clip in clips]
        areas = [mask.sum((1, 2)) for mask in red]
        assert min(map(np.min, areas)) > 20
        assert all(abs(int(area.max()) - int(areas[0].max())) <= 12 for area in areas)
        places.append([np.argwhere(mask.any(0)).max(0) for mask in red[1:]])
    reached = np.max(places, axis=0)
    assert reached[0, 1] > 30
    assert reached[1, 0] > 30
    names = {MovingShapes(spec, seed=0, start=0, size=2).fingerprint for spec in (square, wide)}
    assert len(names) == 2
