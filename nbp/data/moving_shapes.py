# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Moving shapes: labelled synthetic clips, each a pure function of (spec, seed, index).

One coloured shape moves over a dim, still texture. Its label is "colour shape motion", for example
"red square right", so that a generated clip can be checked against its label by tracking
(`nbp.metrics.label_agreement`). Distractors, turning, bounces and more classes make it harder. In
clips of any length it goes on by the rules of a world (`nbp.data.moving_world`), which tell what
is right in each frame.

Positions are (x, y) in pixels, x to the right and y down; pixel i covers [i, i + 1].
"""

import hashlib
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, SupportsIndex

import numpy as np

from nbp.data.moving_world import (
    PLAIN_WORLD,
    Label,
    WorldRules,
    WorldTruth,
    bar_cover,
    draw_labels,
    fold,
    reflect,
)
from nbp.shapes import Array, Clip

Distance = Callable[[Array, Array], Array]

# Part of the fingerprint: raise it when the same (spec, seed, index) gives other pixels.
RENDERER_VERSION = 1
# All fields of a spec, in the order of the fingerprint, which checkpoints hold.
FINGERPRINTED = (
    *("frames", "size", "shapes", "colours", "motions", "texture", "distractors", "rotate"),
    *("radius", "speeds", "held", "turn", "snap"),
)
# Dark enough that every palette colour stands out, bright enough that a texture never clips at 0.
BACKGROUND = 40.0
# A distractor's radius relative to the smallest labelled one: it covers a third of the area at
# most, so "the largest shape" always is the labelled one.
DISTRACTOR_SCALE = 0.55
# An orbit's radius as a fraction of the frame, and the least part of the circle that a clip shows.
ORBIT_RADIUS = 0.16
ORBIT_TURNS = 0.75


@dataclass(frozen=True)
class Outline:
    """A shape of radius 1 around its centroid.

    `distance(x, y)` is negative inside and positive outside, in units of the radius (exact near
    the edges, a bound near corners). `half_width`, `above` and `below` are the extents of the
    upright shape, `reach` its farthest point. The radius is scaled so that areas are comparable.
    """

    distance: Distance
    half_width: float
    above: float
    below: float
    reach: float


def _square_distance(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - 0.88


def _disk_distance(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y) - 1.0


def _triangle_distance(x: Array, y: Array) -> Array:
    return np.maximum(y, math.sqrt(0.75) * np.abs(x) - 0.5 * y) - 0.65


def _cross_distance(x: Array, y: Array) -> Array:
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 1.1, y - 0.4), np.maximum(x - 0.4, y - 1.1))


def _ring_distance(x: Array, y: Array) -> Array:
    return np.abs(np.sqrt(x * x + y * y) - 0.8) - 0.3


def _star_distance(x: Array, y: Array) -> Array:
    tip, notch, half_sector = 1.35, 0.62, math.pi / 5
    # Fold the plane onto half a sector: the outline there is the segment from tip to notch.
    angle = np.abs((np.arctan2(x, -y) + half_sector) % (2 * half_sector) - half_sector)
    radius = np.sqrt(x * x + y * y)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    edge_x, edge_y = notch * math.cos(half_sector) - tip, notch * math.sin(half_sector)
    return (edge_y * (along - tip) - edge_x * across) / math.hypot(edge_x, edge_y)


SHAPES: Mapping[str, Outline] = MappingProxyType(
    {
        "square": Outline(_square_distance, 0.88, 0.88, 0.88, 0.88 * math.sqrt(2)),
        "disk": Outline(_disk_distance, 1.0, 1.0, 1.0, 1.0),
        "triangle": Outline(_triangle_distance, 1.3 * math.sqrt(0.75), 1.3, 0.65, 1.3),
        "cross": Outline(_cross_distance, 1.1, 1.1, 1.1, math.hypot(1.1, 0.4)),
        "star": Outline(_star_distance, 1.285, 1.35, 1.095, 1.35),
        "ring": Outline(_ring_distance, 1.1, 1.1, 1.1, 1.1),
    }
)

COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (230, 50, 45),
        "green": (50, 190, 70),
        "blue": (60, 90, 245),
        "yellow": (240, 215, 50),
        "magenta": (225, 60, 215),
        "cyan": (50, 210, 225),
        "white": (240, 240, 240),
    }
)

_HALF = math.sqrt(0.5)
# Name -> direction of the path at the start; (0, 0) for the two that have none. A spinning disk or
# ring stands still to the eye, which no other motion does.
MOTIONS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "right": (1.0, 0.0),
        "left": (-1.0, 0.0),
        "down": (0.0, 1.0),
        "up": (0.0, -1.0),
        "northeast": (_HALF, -_HALF),
        "northwest": (-_HALF, -_HALF),
        "southeast": (_HALF, _HALF),
        "southwest": (-_HALF, _HALF),
        "spin": (0.0, 0.0),
        "orbit": (0.0, 0.0),
    }
)


@dataclass(frozen=True)
class ShapesContent:
    """What is seen: keys of the section `data.moving_shapes` of a configuration.

    shapes, colours, motions: names from `SHAPES`, `COLOURS`, `MOTIONS`; each combination a class.
    texture: largest deviation of the background from its base, 0..40 of 255; 0 is a flat grey.
    distractors: smaller shapes behind the labelled one, each in another of the spec's colours.
    rotate: the labelled shape also turns about its own centre, from a random angle.
    radius: range of the labelled shape's radius, as fractions of the size.
    speeds: fractions of the size per frame; each clip takes one of them.
    snap: pixels between the possible start positions of straight paths; 0 allows any.
    world: what happens beyond a clip of training, and in front of the shape.
    """

    shapes: tuple[str, ...] = ("square", "disk", "triangle")
    colours: tuple[str, ...] = ("red", "green", "blue")
    motions: tuple[str, ...] = ("right", "left", "down", "up")
    texture: float = 12.0
    distractors: int = 0
    rotate: bool = False
    radius: tuple[float, float] = (0.2, 0.25)
    speeds: tuple[float | int, ...] = (0.05,)
    snap: int = 0
    world: WorldRules = PLAIN_WORLD


@dataclass(frozen=True, kw_only=True)
class MovingShapesSpec(ShapesContent):
    """What the clips look like. Raises `ValueError` naming the field and its allowed values.

    frames, size: a clip is uint8 [frames, size, size, 3], or with `width` [frames, size, width, 3];
      fractions are of the shorter side then.
    held: least share of the clip for which the first direction lasts, as far as the frame is wide
        enough for it; 1 means that a shape bounces only where it cannot be avoided.
    turn: radians per frame of a `spin` and of `rotate`; the sense is random.
    """

    frames: int
    size: int
    held: float = 1.0
    turn: float = 0.2
    width: int = 0

    @classmethod
    def of(
        cls, content: ShapesContent, *, frames: int, size: int, width: int = 0
    ) -> "MovingShapesSpec":
        """Clips of this content; what a subclass adds to it is left out."""
        seen = {field.name: getattr(content, field.name) for field in fields(ShapesContent)}
        return cls(frames=frames, size=size, width=width, **seen)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        return self.size, self.width or self.size

    def __post_init__(self) -> None:
        _check_names("shapes", self.shapes, SHAPES)
        _check_names("colours", self.colours, COLOURS)
        _check_names("motions", self.motions, MOTIONS)
        _check("frames", self.frames, self.frames >= 2, "at least 2, or nothing moves")
        _check("size", self.size, self.size >= 8, "at least 8 pixels")
        _check("width", self.width, self.width >= 8 or not self.width, "0 or at least 8 pixels")
        _check("texture", self.texture, 0 <= self.texture <= BACKGROUND, f"0 .. {BACKGROUND:g}")
        _check("held", self.held, 0 < self.held <= 1, "above 0, at most 1")
        _check("turn", self.turn, 0 < self.turn <= 0.5, "above 0, at most 0.5 radians per frame")
        speeds_fit = bool(self.speeds) and all(0 < speed <= 0.25 for speed in self.speeds)
        _check("speeds", self.speeds, speeds_fit, "one or more of above 0, at most 0.25")
        most = len(self.colours) - 1
        distractors_fit = 0 <= self.distractors <= most
        _check("distractors", self.distractors, distractors_fit, f"0 .. {most}, a colour each")
        reach = max(SHAPES[name].reach for name in self.shapes)
        radius_fits = len(self.radius) == 2 and 0 < self.radius[0] <= self.radius[1] <= 0.4 / reach
        _check(
            "radius", self.radius, radius_fits, f"(low, high) with 0 < low <= high <= {0.4 / reach}"
        )
        _check("snap", self.snap, self.snap >= 0, "0 or more")
        classes = len(self.shapes) * len(self.colours) * len(self.motions)
        _check("shapes x colours x motions", classes, classes >= 2, "at least 2 classes")
        if problem := self._find_world_problem():
            raise ValueError(f"MovingShapesSpec.world: {problem}.")

    def _find_world_problem(self) -> str:
        """What these clips cannot have of their world; empty where all fits."""
        world = self.world
        if self.frames < world.clip_frames:
            return f"clip_frames {world.clip_frames} is more than the {self.frames} frames"
        for part in sorted(world.changed_parts):
            if len(getattr(self, f"{part}s")) < 2:
                return f"the {part} cannot change: {part}s names one"
        if "motion" in world.changed_parts and "orbit" in self.motions:
            return "the motion cannot change to or from an orbit: leave orbit out of motions"
        if "colour" in world.changed_parts and (self.distractors or world.occlusion == "shape"):
            return "the colour cannot change beside shapes of other colours: leave these out"
        if world.occlusion == "shape" and len(self.colours) < self.distractors + 2:
            return "a shape in front needs a colour of its own: name more colours"
        return ""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names "colour shape motion" by class id: shape slowest, motion fastest."""
        return tuple(
            f"{colour} {shape} {motion}"
            for shape in self.shapes
            for colour in self.colours
            for motion in self.motions
        )

    @property
    def tracking(self) -> dict[str, Any]:
        """Keyword arguments of `nbp.metrics.label_agreement.ShapeTracker` for these clips."""
        return {
            "palette": {name: COLOURS[name] for name in self.colours},
            "shapes": {name: SHAPES[name].distance for name in self.shapes},
            "motions": {name: MOTIONS[name] for name in self.motions},
            "turning": self.rotate,
            "border": self.world.border,
        }


def _check(field: str, value: object, fits: bool, allowed: str) -> None:
    if not fits:
        raise ValueError(f"MovingShapesSpec.{field} is {value!r}; allowed: {allowed}.")


def _check_names(field: str, names: tuple[str, ...], allowed: Mapping[str, object]) -> None:
    unknown = [name for name in names if name not in allowed]
    if unknown or not names or len(set(names)) != len(names):
        raise ValueError(
            f"MovingShapesSpec.{field} is {names!r}; allowed: one or more, without repeats, of "
            f"{', '.join(allowed)}" + (f" (unknown: {', '.join(unknown)})." if unknown else ".")
        )


def _walls(
    outline: Outline, radius: float, sides: tuple[int, int], *, turning: bool
) -> tuple[Array, Array]:
    """Lowest and highest centre (x, y) at which the shape is wholly inside the frame."""
    if turning:
        low = high = np.full(2, outline.reach)
    else:
        low = np.array([outline.half_width, outline.above])
        high = np.array([outline.half_width, outline.below])
    return low * radius, np.array(sides[::-1]) - high * radius


def _path(
    rng: np.random.Generator, spec: MovingShapesSpec, motion: str, walls: tuple[Array, Array]
) -> tuple[Array, float]:
    """Centres (x, y) of the shape in each frame, float [t 2], and pixels that it moves in one.

    It begins as in a clip of `world.clip_frames`.
    """
    low, high = walls
    time = np.arange(spec.frames, dtype=np.float64)[:, None]
    steps = (spec.world.clip_frames or spec.frames) - 1
    speed = spec.speeds[rng.integers(len(spec.speeds))] * min(spec.sides)
    if motion == "orbit":
        circle = min(ORBIT_RADIUS * min(spec.sides), 0.5 * float(np.min(high - low)))
        rate = max(speed / circle, ORBIT_TURNS * 2 * math.pi / steps)
        middle = rng.uniform(low + circle, high - circle)
        angle = rng.uniform(0, 2 * math.pi) + rng.choice((-1.0, 1.0)) * rate * time
        return middle + circle * np.concatenate([np.cos(angle), np.sin(angle)], axis=1), speed
    velocity = speed * np.array(MOTIONS[motion])
    # Start far enough from the wall ahead to hold the direction for the asked share of the clip.
    ahead = np.minimum(np.abs(velocity) * spec.held * steps, high - low)
    if spec.world.start == "anywhere":
        ahead = np.zeros(2)
        if spec.world.border == "wrap":
            low, high = np.zeros(2), np.array(spec.sides[::-1], float)
    least = low + ahead * (velocity < 0)
    start = least + rng.random(2) * (high - low - ahead)
    if spec.snap:
        start = np.clip(np.round(start / spec.snap) * spec.snap, least, least + high - low - ahead)
    return fold(start + velocity * time, walls, border=spec.world.border, sides=spec.sides), speed


def _continue_path(
    spec: MovingShapesSpec, motion: str, walls: tuple[Array, Array], *, here: Array, moves: Array
) -> Array:
    """Centres [t 2] of a straight path from the last place `here`, after `moves` pixels [t]."""
    if spec.world.border == "bounce":  # another outline may be larger
        here = np.clip(here, *walls)
    centres = here + moves[:, None] * np.array(MOTIONS[motion])
    return fold(centres, walls, border=spec.world.border, sides=spec.sides)


def _make_background(rng: np.random.Generator, sides: tuple[int, int], texture: float) -> Array:
    """A still, smooth texture of two waves in two random tints, float32 [h w 3]."""
    y, x = ((np.arange(n, dtype=np.float32) + 0.5) * (2 * math.pi / min(sides)) for n in sides)
    background = np.full((*sides, 3), BACKGROUND, np.float32)
    for _ in range(2):
        angle, waves, phase = rng.uniform((0, 0.5, 0), (2 * math.pi, 1.5, 2 * math.pi)).tolist()
        tint = (0.5 * texture * rng.uniform(0.3, 1.0, 3)).astype(np.float32)
        wave = np.cos(
            np.float32(waves * math.sin(angle)) * y[:, None]
            + np.float32(waves * math.cos(angle)) * x[None, :]
            + np.float32(phase)
        )
        background += wave[:, :, None] * tint
    return background


def _draw(
    canvas: Array,
    outline: Outline,
    *,
    radius: float,
    colour: tuple[float | int, ...],
    centres: Array,
    angles: Array | None,
) -> None:
    """Paints one anti-aliased shape into each frame of `canvas`, float32 [t h w c]."""
    frames, height, width = canvas.shape[:3]
    # Only a window around the shape is evaluated: half of a small frame, a fifth of a large one.
    window = min(height, width, 2 * math.ceil(outline.reach * radius) + 3)
    room = np.array([width, height]) - window
    origin = np.clip(np.floor(centres - window / 2 + 0.5), 0, room).astype(np.int64)
    pixels = origin[:, :, None] + np.arange(window)
    offsets = ((pixels + 0.5 - centres[:, :, None]) / radius).astype(np.float32)
    x, y = offsets[:, 0, None, :], offsets[:, 1, :, None]
    if angles is not None:
        cos = np.cos(angles).astype(np.float32)[:, None, None]
        sin = np.sin(angles).astype(np.float32)[:, None, None]
        x, y = cos * x + sin * y, cos * y - sin * x
    cover = np.clip(0.5 - np.float32(radius) * outline.distance(x, y), 0, 1)[..., None]
    where = (np.arange(frames)[:, None, None], pixels[:, 1, :, None], pixels[:, 0, None, :])
    patch = canvas[where]
    canvas[where] = patch + cover * (np.array(colour, np.float32) - patch)


def _draw_distractor(
    rng: np.random.Generator, spec: MovingShapesSpec, canvas: Array, colour: tuple[float | int, ...]
) -> None:
    outline = SHAPES[spec.shapes[rng.integers(len(spec.shapes))]]
    radius = DISTRACTOR_SCALE * spec.radius[0] * min(spec.sides)
    low, high = _walls(outline, radius, spec.sides, turning=True)
    heading, speed = rng.uniform(0, 2 * math.pi), spec.speeds[rng.integers(len(spec.speeds))]
    velocity = speed * min(spec.sides) * np.array([math.cos(heading), math.sin(heading)])
    centres = rng.uniform(low, high) + velocity * np.arange(spec.frames)[:, None]
    angles = np.full(spec.frames, rng.uniform(0, 2 * math.pi)) if spec.rotate else None
    _draw(
        canvas,
        outline,
        radius=radius,
        colour=colour,
        centres=reflect(centres, low, high),
        angles=angles,
    )


@dataclass(frozen=True, eq=False)
class _Stretch:
    """Frames `start` to below `end`, in which the labelled shape has one outline and colour."""

    start: int
    end: int
    outline: Outline
    colour: tuple[int, int, int]
    centres: Array
    angles: Array | None

    def paint(
        self, canvas: Array, radius: float, colour: tuple[float | int, ...], *, wrap: bool
    ) -> None:
        """Into its frames of float32 [t h w c]; at a wrapping border on both sides."""
        height, width = canvas.shape[1:3]
        places = [(0, 0)]
        if wrap:
            places = [(x, y) for x in (-width, 0, width) for y in (-height, 0, height)]
        for place in places:
            centres = self.centres + place
            margin = self.outline.reach * radius + 1
            ends = np.array([width, height]) + margin
            if np.all((centres > -margin) & (centres < ends), axis=1).any():
                _draw(
                    canvas[self.start : self.end],
                    self.outline,
                    radius=radius,
                    colour=colour,
                    centres=centres,
                    angles=self.angles,
                )


def _make_stretches(
    rng: np.random.Generator,
    more: np.random.Generator,
    spec: MovingShapesSpec,
    labels: list[tuple[int, Label]],
) -> tuple[list[_Stretch], float]:
    """Where the labelled shape is while each label holds, and its radius in pixels.

    rng: what a clip of training draws. more: what its world does.
    """
    motion = spec.motions[labels[0][1].motion]
    turning = spec.rotate or motion == "spin"
    radius = float(rng.uniform(*spec.radius)) * min(spec.sides)
    turns = np.arange(spec.frames)
    angles, centres, speed = None, np.empty((0, 2)), 0.0
    if turning:
        rate = spec.turn * rng.choice((-1.0, 1.0))
        angles = rng.uniform(0, 2 * math.pi) + rate * turns
    stretches = []
    ends = [start for start, _ in labels[1:]] + [spec.frames]
    for (start, label), end in zip(labels, ends, strict=True):
        outline, motion = SHAPES[spec.shapes[label.shape]], spec.motions[label.motion]
        turning = spec.rotate or motion == "spin"
        walls = _walls(outline, radius, spec.sides, turning=turning)
        if not start:
            centres, speed = _path(rng, spec, motion, walls)
        else:
            moves = speed * np.arange(1, end - start + 1)
            here = centres[start - 1]
            centres[start:end] = _continue_path(spec, motion, walls, here=here, moves=moves)
            if turning and angles is None:
                angles = spec.turn * more.choice((-1.0, 1.0)) * turns
        stretches.append(
            _Stretch(
                start,
                end,
                outline,
                COLOURS[spec.colours[label.colour]],
                centres[start:end],
                angles[start:end] if turning and angles is not None else None,
            )
        )
    return stretches, radius


def _occluder(
    rng: np.random.Generator, spec: MovingShapesSpec, label: Label, taken: tuple[str, ...]
) -> tuple[Array, Array]:
    """What is in front of the shape: its cover 0..1, float32 [t h w 1], and its colour [3].

    taken: colours of others.
    """
    if spec.world.occlusion == "bar":
        across = MOTIONS[spec.motions[label.motion]]
        return bar_cover(rng, spec.sides, upright=abs(across[0]) >= abs(across[1]))
    cover = np.zeros((spec.frames, *spec.sides, 1), np.float32)
    free = [name for name in spec.colours if name not in taken]
    colour = COLOURS[free[rng.integers(len(free))]]
    _draw_distractor(rng, spec, cover, (1.0,))
    return cover, np.array(colour, np.float32)


def render_clip(spec: MovingShapesSpec, index: int, *, seed: int = 0) -> tuple[Clip, int]:
    """Renders example `index` (>= 0): uint8 [frames h w 3] and its class id.

    The same (spec, seed, index) gives the same bytes in every process; classes are drawn
    uniformly and independently. The id indexes `spec.label_names`; where a world changes it, it
    is that of the first frame.
    """
    clip, truth = render_world(spec, index, seed=seed)
    return clip, int(truth.labels[0])


def render_world(spec: MovingShapesSpec, index: int, *, seed: int = 0) -> tuple[Clip, WorldTruth]:
    """As `render_clip`, with what is true of each frame.

    With `world.clip_frames` n the first n frames are those of the clip of n frames with the same
    seed and index, to the last bit, unless the world does something within them.
    """
    rng = np.random.default_rng((seed, index))
    more = np.random.default_rng((seed, index, 1))  # the world's: a clip draws what it ever drew
    counts = (len(spec.shapes), len(spec.colours), len(spec.motions))
    first = Label.of(int(rng.integers(math.prod(counts))), counts)
    labels = draw_labels(more, spec.world, first, counts=counts, frames=spec.frames)

    background = _make_background(rng, spec.sides, spec.texture)
    canvas = np.repeat(background[None], spec.frames, axis=0)
    taken = [spec.colours[first.colour]]
    if spec.distractors:
        others = [name for name in spec.colours if name not in taken]
        for other in rng.permutation(others)[: spec.distractors]:
            _draw_distractor(rng, spec, canvas, COLOURS[str(other)])
            taken.append(str(other))

    stretches, radius = _make_stretches(rng, more, spec, labels)
    wrap = spec.world.border == "wrap"
    for stretch in stretches:
        stretch.paint(canvas, radius, stretch.colour, wrap=wrap)
    visible = np.ones(spec.frames)
    if spec.world.occlusion != "none":
        cover, colour = _occluder(more, spec, first, tuple(taken))
        canvas += cover * (colour - canvas)
        mask = np.zeros((*canvas.shape[:3], 1), np.float32)
        for stretch in stretches:
            stretch.paint(mask, radius, (1.0,), wrap=wrap)
        visible -= (mask * cover).sum((1, 2, 3)) / mask.sum((1, 2, 3))
    ids = np.concatenate(
        [
            np.full(stretch.end - stretch.start, label.number(counts))
            for stretch, (_, label) in zip(stretches, labels, strict=True)
        ]
    )
    centres = np.concatenate([stretch.centres for stretch in stretches])
    return (canvas + 0.5).astype(np.uint8), WorldTruth(ids, centres, visible)


class MovingShapes:
    """A clip source: example i is `render_clip(spec, start + i, seed=seed)`, for i in 0..size-1.

    `source[i]` is {"video": uint8 [t h w 3], "label": np.int32}; raises `IndexError` outside. In a
    world whose labels change the label is that of the last frame, and "label_from" (np.int32) the
    first frame from which it holds.
    Sources with disjoint index ranges (or other seeds) share no clip, so a held-out set is another
    `start`. Picklable; holds no state beyond its arguments.
    """

    def __init__(self, spec: MovingShapesSpec, *, seed: int, start: int, size: int):
        if seed < 0 or start < 0 or size < 1:
            raise ValueError(
                f"MovingShapes(seed={seed}, start={start}, size={size}): seed and start must be "
                "0 or more, size 1 or more."
            )
        self.spec, self.seed, self.start, self.size = spec, seed, start, size

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.spec.label_names

    @property
    def fingerprint(self) -> str:
        """Changes whenever any example could: the renderer, the spec, the seed or the range."""
        names = list(FINGERPRINTED)
        if self.spec.width:  # squares as they ever were
            names.append("width")
        if self.spec.world != PLAIN_WORLD:  # older checkpoints know of no other
            names.append("world")
        spec = ", ".join(f"{name}={getattr(self.spec, name)!r}" for name in names)
        parts = (self.seed, self.start, self.size)
        text = f"({RENDERER_VERSION}, MovingShapesSpec({spec}), {', '.join(map(repr, parts))})"
        return "moving_shapes-" + hashlib.sha256(text.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        position = operator.index(index)
        if not 0 <= position < self.size:
            raise IndexError(f"MovingShapes has examples 0 .. {self.size - 1}; asked for {index}.")
        video, truth = render_world(self.spec, self.start + position, seed=self.seed)
        example = {"video": video, "label": np.int32(truth.labels[-1])}
        if self.spec.world.changed_parts:
            example["label_from"] = np.int32(truth.label_from)
        return example

    def list_labels(self) -> None:
        """Nothing: every class is drawn as often as the others."""

    def truth(self, index: int) -> WorldTruth:
        """What is true of the frames of example `index`."""
        return render_world(self.spec, self.start + index, seed=self.seed)[1]
