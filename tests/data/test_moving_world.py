# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Moving shapes that go on: the world's rules in pixels, and nothing new without them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbp.build_data import make_data
from nbp.config import load_config
from nbp.data.moving_shapes import (
    BACKGROUND,
    COLOURS,
    MOTIONS,
    SHAPES,
    MovingShapes,
    MovingShapesSpec,
    render_clip,
    render_world,
)
from nbp.data.moving_world import PLAIN_WORLD, WorldRules
from nbp.errors import ConfigError
from tests import tiny

EASY = MovingShapesSpec(frames=9, size=32, radius=(0.19, 0.23))
HARD = MovingShapesSpec(
    frames=17,
    size=48,
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
GOLDEN = Path(__file__).parents[1] / "golden" / "moving_shapes.npz"


def world(spec: MovingShapesSpec = EASY, *, frames: int = 65, **rules: Any) -> MovingShapesSpec:
    return replace(spec, frames=frames, world=WorldRules(clip_frames=9, **rules))


def centroids(clip: np.ndarray) -> np.ndarray:
    """(x, y) of what stands out of a flat background, [t 2]: the circular mean over the frame."""
    cover = np.abs(clip.astype(float) - BACKGROUND).sum(-1)
    angle = 2 * np.pi * (np.arange(clip.shape[1]) + 0.5) / clip.shape[1]
    waves = [(cover.sum(axis) @ np.exp(1j * angle)) for axis in (1, 2)]
    return np.stack([np.angle(w) * clip.shape[1] / (2 * np.pi) for w in waves], axis=1)


@pytest.mark.parametrize("name, spec, seed", [("easy", EASY, 0), ("hard", HARD, 3)])
def test_sets_of_the_first_release_stay_as_they_were(name, spec, seed):
    """Pixels that the first release made; another machine may round a few of them otherwise."""
    with np.load(GOLDEN) as arrays:
        expected, labels = arrays[f"{name}_clips"], arrays[f"{name}_labels"]
    made = [render_clip(spec, index, seed=seed) for index in range(len(expected))]
    assert [label for _, label in made] == labels.tolist()
    difference = np.abs(np.stack([clip for clip, _ in made]).astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4


def test_the_plain_world_is_no_part_of_a_fingerprint():
    base = MovingShapes(EASY, seed=0, start=0, size=10).fingerprint
    assert base == "moving_shapes-ea3e185b76a45e20"  # that of the first release
    rules = [{"border": "wrap"}, {"clip_frames": 5}, {"changes": (3,)}, {"turn_every": 4}]
    rules += [{"start": "anywhere"}, {"changes": (3,), "change_share": 0.5}]
    rules += [{"occlusion": "bar"}, {"changes": (3,), "changing": ("shape",)}]
    specs = [replace(EASY, world=WorldRules(**r)) for r in rules]
    prints = {MovingShapes(spec, seed=0, start=0, size=10).fingerprint for spec in specs}
    assert len(prints - {base}) == len(rules)


@pytest.mark.parametrize("size", [32, 40, 48, 64])
def test_a_long_clip_begins_with_the_clip_of_training(size):
    for spec in (replace(EASY, size=size), replace(HARD, size=size, frames=9)):
        for index in range(3):
            clip, label = render_clip(spec, index, seed=2)
            long, truth = render_world(world(spec, frames=30), index, seed=2)
            assert long.shape == (30, size, size, 3)
            np.testing.assert_array_equal(long[:9], clip)
            assert set(truth.labels) == {label}
            assert (truth.visible == 1).all()
    longer, _ = render_world(world(frames=100), 1)
    np.testing.assert_array_equal(longer[:65], render_world(world(), 1)[0])


@pytest.mark.parametrize("border", ["bounce", "wrap"])
def test_the_truth_is_where_the_pixels_are(border):
    spec = world(replace(EASY, texture=0.0, shapes=("square", "disk")), border=border)
    for index in range(6):
        clip, truth = render_world(spec, index)
        wrong = centroids(clip) - truth.centres
        wrong = (wrong + 16) % 32 - 16
        # A circular mean is that of a shape only where it is small; a bounce changes nothing.
        assert np.abs(wrong).max() < 0.15
        steps = np.diff(truth.centres, axis=0)
        if border == "wrap":
            steps = (steps + 16) % 32 - 16
            np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), atol=1e-9)
            assert truth.centres.min() >= 0
            assert truth.centres.max() < 32
        else:
            along = np.abs(steps).max(1)
            assert np.median(along) == pytest.approx(1.6)
            assert along.max() < 1.6 + 1e-9
            assert np.sign(steps.sum(1)).min() == -1 < np.sign(steps.sum(1)).max()


def test_a_wrapping_shape_keeps_its_area():
    clip, _ = render_world(world(replace(EASY, texture=0.0), border="wrap"), 0)
    area = np.abs(clip.astype(float) - BACKGROUND).sum((1, 2, 3))
    assert np.ptp(area) < 0.03 * area.mean()


def test_labels_change_at_the_frames_that_are_named():
    spec = world(frames=80, changes=(20, 41), changing=("colour", "shape"), turn_every=16)
    changed = np.zeros(80, bool)
    changed[[16, 20, 32, 41, 48, 64]] = True
    for index in range(8):
        clip, truth = render_world(spec, index)
        np.testing.assert_array_equal(np.diff(truth.labels, prepend=truth.labels[0]) != 0, changed)
        script = truth.script(spec.label_names)
        assert [frame for frame, _ in script] == [0, 16, 20, 32, 41, 48, 64]
        words = [label.split() for _, label in script]
        for (frame, _), before, now in zip(script[1:], words, words[1:], strict=False):
            parts = [a != b for a, b in zip(before, now, strict=True)]
            assert parts == ([True, True, False] if frame in (20, 41) else [False, False, True])
        for (frame, _), (colour, _, motion) in zip(script, words, strict=True):
            x, y = np.floor(truth.centres[frame]).astype(int)
            np.testing.assert_array_equal(clip[frame, y, x], COLOURS[colour])
            if frame:
                step = truth.centres[frame] - truth.centres[frame - 1]
                forward = step @ np.array(MOTIONS[motion])
                assert forward > 0 or np.max(np.abs(truth.centres[frame] - 16)) > 4.5  # at a wall
    other = [render_world(spec, index)[1].labels[-1] for index in range(30)]
    assert len(set(other)) > 8, "changes are drawn, not fixed"


def test_a_change_happens_with_its_chance():
    spec = world(frames=9, changes=(1, 5), change_share=0.25)
    source = MovingShapes(spec, seed=0, start=0, size=400)
    labels = np.stack([source.truth(index).labels for index in range(400)])
    changed = labels[:, 1:] != labels[:, :-1]
    assert set(np.flatnonzero(changed.any(0))) == {0, 4}
    # Each change is another label; 400 trials have a deviation of 0.022.
    np.testing.assert_allclose(changed[:, [0, 4]].mean(0), 0.25, atol=0.08)
    both = (changed[:, 0] & changed[:, 4]).mean()
    assert both == pytest.approx(0.0625, abs=0.045)
    for index in range(20):
        example, last = source[index], labels[index, -1]
        assert example["label"] == last
        since = next(i for i in range(9) if (labels[index, i:] == last).all())
        assert example["label_from"] == since


@pytest.mark.parametrize("border", ["bounce", "wrap"])
def test_a_path_from_anywhere_meets_the_border(border):
    """Of a path of 8 pixels in a frame of 32, or between walls 18 pixels apart."""
    spec = replace(EASY, speeds=(1 / 32,), radius=(0.22, 0.22), shapes=("disk",))
    free = replace(spec, world=WorldRules(border=border, start="anywhere"))

    def count(spec: MovingShapesSpec) -> tuple[float, float]:
        truths = [render_world(spec, index)[1].centres for index in range(200)]
        steps = np.abs(np.diff(np.stack(truths), axis=1)).max(2)
        turns = (np.abs(steps - 1) > 1e-9) if border == "wrap" else (steps < 1 - 1e-9)
        return turns.any(1).mean(), float(np.ptp(np.stack(truths)[:, 0], axis=0).min())

    met, spread = count(free)
    expected = 8 / 32 if border == "wrap" else 8 / 18
    assert met == pytest.approx(expected, abs=0.11)
    assert spread > (30 if border == "wrap" else 16)
    assert count(replace(spec, world=WorldRules(border=border)))[0] == 0


@pytest.mark.parametrize("occlusion", ["bar", "shape"])
def test_something_in_front_hides_as_much_as_the_truth_says(occlusion):
    spec = world(replace(EASY, texture=0.0), occlusion=occlusion)
    hidden = 0
    for index in range(6):
        clip, truth = render_world(spec, index)
        plain, _ = render_world(replace(spec, world=WorldRules(clip_frames=9)), index)
        shape = np.abs(plain.astype(int) - int(BACKGROUND)).max(-1) > 100
        covered = shape & (np.abs(clip.astype(int) - plain).max(-1) > 30)
        share = 1 - covered.sum((1, 2)) / shape.sum((1, 2))
        np.testing.assert_allclose(share, truth.visible, atol=0.2)
        assert np.abs(share - truth.visible).mean() < 0.05
        hidden += (truth.visible < 0.9).sum()
    assert hidden > 30


@pytest.mark.parametrize(
    "rules, message",
    [
        ({"changes": (5, 5)}, "WorldRules.changes"),
        ({"changes": (0, 5)}, "frames from 1"),
        ({"changing": ()}, "one or more of shape, colour, motion"),
        ({"clip_frames": 1}, "0, or 2 and more"),
        ({"change_share": 0.0}, "above 0, at most 1"),
    ],
)
def test_rules_name_what_is_wrong(rules, message):
    with pytest.raises(ValueError, match=message):
        WorldRules(**rules)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"frames": 5}, "clip_frames 9 is more than the 5 frames"),
        ({"motions": ("up",)}, "the motion cannot change: motions names one"),
        ({"motions": ("up", "orbit")}, "leave orbit out"),
    ],
)
def test_specs_that_cannot_have_their_world(changes, message):
    with pytest.raises(ValueError, match=f"MovingShapesSpec.world: .*{message}"):
        replace(EASY, **{"frames": 30, "world": WorldRules(clip_frames=9, turn_every=8)} | changes)


def test_colours_beside_other_shapes():
    changing = WorldRules(changes=(3,), changing=("colour",))
    with pytest.raises(ValueError, match="colour cannot change beside shapes"):
        replace(EASY, distractors=1, world=changing)
    with pytest.raises(ValueError, match="needs a colour of its own"):
        replace(EASY, distractors=2, world=WorldRules(occlusion="shape"))


def test_a_configuration_trains_on_a_world():
    keys = {"border": "wrap", "changes": "(3,)", "changing": "('colour','motion')"}
    changes = {f"data.moving_shapes.world.{key}": value for key, value in keys.items()}
    config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes})
    train, held_out = (data.source for data in make_data(config))
    assert isinstance(train, MovingShapes)
    assert isinstance(held_out, MovingShapes)
    world = WorldRules(border="wrap", changes=(3,), changing=("colour", "motion"))
    assert config.shapes_spec.world == train.spec.world == world
    assert held_out.spec.world == replace(world, changes=()), "judged by one label a clip"
    example, labels = train[1], train.truth(1).labels
    assert example["video"].shape == (5, 16, 16, 3)
    assert labels[2] != labels[3] == labels[-1] == example["label"]
    assert example["label_from"] == 3
    assert "label_from" not in held_out[1]
    assert load_config(tiny.CONFIG, tiny.OVERRIDES).shapes_spec.world == PLAIN_WORLD
    with pytest.raises(ConfigError, match="data.moving_shapes.*changes is"):
        load_config(tiny.CONFIG, {**tiny.OVERRIDES, "data.moving_shapes.world.changes": "(3, 2)"})


def test_labels_change_between_latent_frames():
    """Within one there would be no label for its codes; the line tells where they may change."""
    changes = {"data.moving_shapes.world.changes": "(2,)"}
    with pytest.raises(ConfigError, match=r"changes at frame 2, within .* some of 1, 3, or behind"):
        load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes})
    changes = {"data.moving_shapes.world.turn_every": "4"}
    with pytest.raises(ConfigError, match="changes at frame 4"):
        load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes})
    changes = {"data.moving_shapes.world.changes": "(1, 3, 6)"}
    assert load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes}).labels_change
