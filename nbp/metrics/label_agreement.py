# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Does a clip show what its label says? Tracks the one coloured shape of a moving-shapes clip.

A label is "colour shape motion". The tracker knows nothing of how clips were made beyond the
palette, the outlines and the directions it is given. It expects imperfect clips (blur, shifted
colours, compression) but also coherent ones: a shape that vanishes, tears or jumps is `None`.
Deterministic numpy, about 2 ms for 9x32x32 with upright shapes and 20 ms with turning ones.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from nbp.shapes import Array, Clip, Clips

Distance = Callable[[Array, Array], Array]
Border = Literal["bounce", "wrap"]

# Segmentation. A pixel is background + alpha * (colour - background); alpha is steepened around
# one half, which keeps areas, sharpens blur and drops texture and noise.
ALPHA_RAMP = (0.25, 0.75)
PEAK_RANGE = (0.6, 1.2)  # how strong a colour may be, relative to the palette's
LEAST_COSINE = 0.8  # palette colours of different hue are farther apart than this
LEAST_CONTRAST = 60.0  # a palette colour this close to the background cannot be seen on it
# Persistence, as fractions of the frame, of the median area, and of the frames.
AREA_RANGE = (0.01, 0.5)
STEADY_AREA = (0.5, 1.8)
LEAST_COMPACT = 0.75
LEAST_FRAMES = 0.85
# Where something may be in front of the shape: it is hidden in frames with less of its whole area,
# and nothing is said of fewer frames than these without.
WHOLE_AREA = 0.94
LEAST_WHOLE_FRAMES = 4
# Shape: soft intersection over union with the ideal mask, in a frame and on average.
LEAST_FRAME_OVERLAP = 0.6
LEAST_OVERLAP = 0.7
EDGE_WIDTHS = (1.0, 2.5)  # pixels over which an edge fades: sharp and blurred
TURN_STEPS = 24
FINE_TURN_STEPS = 72  # to follow the angle of a standing shape
# Motion, as fractions of the frame size (per frame for the speed). The largest error bounds both
# a centre's distance from the fitted path and its jump relative to it between two frames.
LEAST_SPEED = 0.012
MEAN_PATH_ERROR = 0.04
LARGEST_PATH_ERROR = 0.1
STILL = 0.03
LEAST_DIRECTION_COSINE = math.cos(math.radians(30))
LEAST_ORBIT_TURNS = 0.4
SPIN_RATES = np.linspace(-0.5, 0.5, 41)  # radians per frame
LEAST_SPIN_RATE = 0.05
LEAST_SPIN_GAIN = 0.01  # overlap gained by assuming a steady turn instead of a standing shape
LARGEST_SPIN_LOSS = 0.04  # overlap lost by it against any angle in every frame


@dataclass(frozen=True)
class Observation:
    """What the tracker saw; `None` where it saw nothing sure. `confidence` is the mean overlap
    (0..1) of the tracked mask with the ideal mask of the shape, 0 without a trackable shape.
    hidden: too few frames show the shape whole, though something may be in front of it."""

    shape: str | None
    colour: str | None
    motion: str | None
    confidence: float
    hidden: bool = False


UNKNOWN = Observation(shape=None, colour=None, motion=None, confidence=0.0)


@dataclass(frozen=True)
class Blob:
    """The largest lasting blob of a palette colour in t frames of a clip, which `frames` numbers.

    mask: soft, float32 [t h w]; at a border that wraps each frame is rolled, so that it is whole.
    centres: (x, y) in the mask, [t 2], and path: in the video, unwrapped over a border that wraps.
    areas: [t], in pixels, and the usual one. compact: share of it around the centre, 0..1 [t].
    """

    colour: str
    mask: Array
    centres: Array
    path: Array
    areas: Array
    area: float
    compact: Array
    frames: Array

    def steady(self, whole_area: float | None = None) -> Array:
        """In which frames it is one whole shape of its usual (or this) area, bool [t]."""
        least, most = STEADY_AREA
        least, area = (least, self.area) if whole_area is None else (WHOLE_AREA, whole_area)
        whole = (self.areas >= least * area) & (self.areas <= most * area)
        return whole & (self.compact >= LEAST_COMPACT)

    @property
    def plausible(self) -> bool:
        """Whether a shape is so large."""
        low, high = AREA_RANGE
        return low <= self.area / (self.mask.shape[1] * self.mask.shape[2]) <= high


class ShapeTracker:
    """Reads shape, colour and motion off a clip.

    palette: colour name -> (red, green, blue) in 0..255.
    shapes: shape name -> signed distance function of (x, y) for radius 1, negative inside.
    motions: motion name -> direction (x, y) of the path at the start, y down; (0, 0) is for the
        names "spin" (turns in place) and "orbit" (runs on a circle) alone.
    turning: whether shapes may be seen at any angle; with "spin" among the motions they are.
    border: what shapes do where they would leave the frame.
    """

    def __init__(
        self,
        palette: Mapping[str, tuple[int, int, int]],
        shapes: Mapping[str, Distance],
        motions: Mapping[str, tuple[float, float]],
        *,
        turning: bool = False,
        border: Border = "bounce",
    ):
        if not (palette and shapes and motions):
            raise ValueError("ShapeTracker needs at least one colour, one shape and one motion.")
        still = [n for n, d in motions.items() if not any(d) and n not in ("spin", "orbit")]
        if still:
            raise ValueError(
                f"ShapeTracker: motions {still} have no direction; only 'spin' and 'orbit' may."
            )
        self.palette, self.shapes, self.motions = dict(palette), dict(shapes), dict(motions)
        self.directions = {name: d for name, d in motions.items() if any(d)}
        self.turn_steps = TURN_STEPS if turning or "spin" in motions else 1
        self.turning = turning
        self.border: Border = border
        self.unit_areas: dict[str, float] = {}
        self.reaches: dict[str, float] = {}
        self.extents: dict[str, Array] = {}  # of radius 1: [[left, up], [right, down]]
        grid = (np.arange(400) + 0.5) / 100 - 2
        for name, distance in shapes.items():
            inside = distance(grid[None, :], grid[:, None]) < 0
            self.unit_areas[name] = float(inside.mean()) * 16
            radius = np.hypot(grid[None, :], grid[:, None])
            self.reaches[name] = float(radius[inside].max())
            across, along = grid[inside.any(axis=0)], grid[inside.any(axis=1)]
            ends = [[-across.min(), -along.min()], [across.max(), along.max()]]
            self.extents[name] = np.array(ends)

    def parse(self, label: str) -> dict[str, str]:
        """Colour, shape and motion of a label; ValueError for one that is not of these names."""
        known = {"colour": self.palette, "shape": self.shapes, "motion": self.motions}
        asked = dict(zip(known, label.split(), strict=False))
        if len(label.split()) != 3 or any(asked[part] not in known[part] for part in known):
            raise ValueError(
                f"label {label!r} is not 'colour shape motion' of {list(self.palette)}, "
                f"{list(self.shapes)}, {list(self.motions)}."
            )
        return asked

    def describe(self, clip: Clip, *, whole_area: float | None = None) -> Observation:
        """Tracks the largest lasting shape of one clip; never raises on noise or black clips.

        A clip of one frame, or without one compact blob of a palette colour in nearly all
        frames, gives `None` throughout. Of a shape that bounces the motion is that before.
        whole_area: of the shape in pixels, where something may be in front of it: frames that show
        less are left out.
        """
        track = self._follow(clip, whole_area)
        if track is None:
            return replace(UNKNOWN, hidden=whole_area is not None)
        overlaps = {name: self._overlaps(track, name, self.turn_steps) for name in self.shapes}
        scores = {name: float(o.max(axis=0).mean()) for name, o in overlaps.items()}
        shape = max(scores, key=lambda name: scores[name])
        lasting = np.mean(overlaps[shape].max(axis=0) >= LEAST_FRAME_OVERLAP) >= LEAST_FRAMES
        if scores[shape] < LEAST_OVERLAP or not lasting:
            return Observation(None, track.colour, None, scores[shape])
        motion = self._read_motion(track, shape, size=max(clip.shape[1:3]))
        return Observation(shape, track.colour, motion, scores[shape])

    def locate(self, clip: Clip, *, occluded: bool = False) -> Blob:
        """Finds the palette colour with the largest lasting area and where it is in each frame.

        The clip has at least one frame.
        """
        masks = _segment(clip, np.array(list(self.palette.values()), np.float32))
        areas = masks.sum(axis=(2, 3))
        usual = np.percentile(areas, 90, axis=1) if occluded else np.median(areas, axis=1)
        best = int(usual.argmax())
        mask, area = masks[best], areas[best]
        shifts = np.zeros((len(mask), 2), np.int64)
        if self.border == "wrap":
            mask, shifts = _roll_to_middle(mask)
        reach = 1.8 * math.sqrt(float(usual[best]) / math.pi)
        centres, inside = _locate(mask, reach)
        path = centres - shifts
        if self.border == "wrap":
            for axis in (0, 1):
                path[:, axis] = np.unwrap(path[:, axis], period=clip.shape[2 - axis])
        compact = inside / np.maximum(area, 1e-6)
        colour = list(self.palette)[best]
        frames = np.arange(len(clip))
        return Blob(colour, mask, centres, path, area, float(usual[best]), compact, frames)

    def _follow(self, clip: Clip, whole_area: float | None = None) -> Blob | None:
        """The blob of a clip where it lasts: in all frames, or in those that show it whole."""
        if clip.shape[0] < 2:
            return None
        occluded = whole_area is not None
        blob = self.locate(clip, occluded=occluded)
        if not blob.plausible:
            return None
        whole = blob.steady(whole_area)
        if not occluded:
            return blob if np.mean(whole) >= LEAST_FRAMES else None
        frames = np.flatnonzero(whole)
        if len(frames) < LEAST_WHOLE_FRAMES:
            return None
        rows = {n: getattr(blob, n)[frames] for n in ("mask", "centres", "path", "frames")}
        return replace(blob, **rows, area=whole_area)

    def _overlaps(self, track: Blob, shape: str, steps: int) -> Array:
        """Soft intersection over union with the ideal mask at each of `steps` angles, [angle t]."""
        radius = math.sqrt(track.area / self.unit_areas[shape])
        window = min(*track.mask.shape[1:], 2 * math.ceil(1.8 * radius) + 3)
        patch, x, y = _cut_windows(track.mask, track.centres, window)
        x, y = x / radius, y / radius
        overlaps = np.empty((steps, len(patch)))
        for row in range(steps):
            angle = 2 * math.pi * row / steps
            cos, sin = math.cos(angle), math.sin(angle)
            distance = radius * self.shapes[shape](cos * x + sin * y, cos * y - sin * x)
            best = np.zeros(len(patch))
            for width in EDGE_WIDTHS:
                ideal = np.clip(0.5 - distance / width, 0, 1)
                union = np.maximum(ideal, patch).sum(axis=(1, 2))
                best = np.maximum(best, np.minimum(ideal, patch).sum(axis=(1, 2)) / union)
            overlaps[row] = best
        return overlaps

    def _read_motion(self, track: Blob, shape: str, *, size: int) -> str | None:
        """Names the motion whose model explains the whole path, within the stated errors."""
        path, time = track.path, track.frames.astype(np.float64)
        spread = float(np.linalg.norm(path - path.mean(axis=0), axis=1).max())
        if "spin" in self.motions and spread < STILL * size:
            overlaps = self._overlaps(track, shape, FINE_TURN_STEPS)
            return "spin" if _turns(overlaps, time) else None
        reach = self.reaches[shape] * math.sqrt(track.area / self.unit_areas[shape])
        frame = np.array(track.mask.shape[:0:-1], np.float64)
        walls = None if self.border == "wrap" else (reach, frame)
        velocity, line_errors = _fit_bouncing_line(path, time, walls)
        if "orbit" in self.motions:
            errors = fit_orbit(path, time, least_radius=2 * STILL * size)
            if errors is not None and _mean_length(errors[0]) < _mean_length(line_errors):
                return "orbit" if _is_close(errors[0], size) else None
        speed = float(np.linalg.norm(velocity))
        if speed < LEAST_SPEED * size or not _is_close(line_errors, size) or not self.directions:
            return None
        cosines = {n: float(velocity @ d) / speed for n, d in self.directions.items()}
        motion = max(cosines, key=lambda name: cosines[name])
        return motion if cosines[motion] >= LEAST_DIRECTION_COSINE else None


def _roll_to_middle(mask: Array) -> tuple[Array, Array]:
    """Each frame rolled so that its blob, which may lie on both sides, is whole in the middle.

    Also by how many pixels (x, y) [t 2]. The blob's place is the circular mean of its pixels.
    """
    shifts = []
    for axis in (2, 1):
        weights, size = mask.sum(axis=3 - axis), mask.shape[axis]
        angles = 2 * np.pi * (np.arange(size) + 0.5) / size
        middle = np.arctan2(weights @ np.sin(angles), weights @ np.cos(angles)) * size / (2 * np.pi)
        shifts.append(np.rint(size / 2 - middle).astype(np.int64))
    frames = np.arange(len(mask))[:, None, None]
    rows = (np.arange(mask.shape[1]) - shifts[1][:, None]) % mask.shape[1]
    columns = (np.arange(mask.shape[2]) - shifts[0][:, None]) % mask.shape[2]
    return mask[frames, rows[:, :, None], columns[:, None, :]], np.stack(shifts, axis=1)


def _segment(clip: Clip, palette: Array) -> Array:
    """Soft masks of each palette colour, float32 [colour t h w] in 0..1; one owner per pixel."""
    background = np.median(clip, axis=(0, 1, 2)).astype(np.float32)
    difference = clip.astype(np.float32) - background
    targets = palette - background
    contrast = np.maximum(np.linalg.norm(targets, axis=1), 1e-6)
    along = difference @ (targets / contrast[:, None]).T
    along[..., contrast < LEAST_CONTRAST] = 0
    owner = along.argmax(axis=-1)
    projection = np.take_along_axis(along, owner[..., None], axis=-1)[..., 0]
    similar = projection >= LEAST_COSINE * np.linalg.norm(difference, axis=-1)
    alpha = projection / contrast[owner] * similar
    masks = alpha * (owner == np.arange(len(palette))[:, None, None, None])
    for mask in masks:
        # The colour as the clip shows it: a dim shape keeps its area, and so its outline.
        seen = mask[mask > 0.5]
        peak = float(np.clip(np.percentile(seen, 80), *PEAK_RANGE)) if seen.size else 1.0
        low, high = ALPHA_RAMP
        np.clip((mask / peak - low) / (high - low), 0, 1, out=mask)
    return masks


def _locate(mask: Array, reach: float) -> tuple[Array, Array]:
    """Centres (x, y) [t 2] of the blob in each frame and the mask's sum [t] within `reach`.

    Starts from the median of the mask's pixels, which stray pixels move little, and then takes
    the mean of the pixels around the last centre.
    """
    positions = [np.arange(mask.shape[axis]) + 0.5 for axis in (2, 1)]
    marginals = [mask.sum(axis=1), mask.sum(axis=2)]
    halves = [(np.cumsum(m, axis=1) < 0.5 * m.sum(axis=1, keepdims=True)) for m in marginals]
    centres = np.stack([half.sum(axis=1) + 0.5 for half in halves], axis=1)
    inside = mask
    for _ in range(3):
        x = positions[0][None, None, :] - centres[:, 0, None, None]
        y = positions[1][None, :, None] - centres[:, 1, None, None]
        inside = mask * (x * x + y * y <= reach * reach)
        weight = np.maximum(inside.sum(axis=(1, 2)), 1e-6)
        shift = [(inside * x).sum(axis=(1, 2)) / weight, (inside * y).sum(axis=(1, 2)) / weight]
        centres = centres + np.stack(shift, axis=1)
    return centres, inside.sum(axis=(1, 2))


def _cut_windows(mask: Array, centres: Array, window: int) -> tuple[Array, Array, Array]:
    """The mask around each centre [t k k], and its pixels' x [t 1 k] and y [t k 1] from there."""
    frame = np.array(mask.shape[:0:-1])
    origin = np.clip(np.floor(centres - window / 2 + 0.5), 0, frame - window).astype(np.int64)
    pixels = origin[:, :, None] + np.arange(window)
    frames = np.arange(len(mask))[:, None, None]
    patch = mask[frames, pixels[:, 1, :, None], pixels[:, 0, None, :]]
    offsets = (pixels + 0.5 - centres[:, :, None]).astype(np.float32)
    return patch, offsets[:, 0, None, :], offsets[:, 1, :, None]


def _mean_length(errors: Array) -> float:
    return float(np.linalg.norm(errors, axis=1).mean())


def _is_close(errors: Array, size: int) -> bool:
    """Whether centres [t 2], relative to a fitted path, stay near it and do not jump."""
    largest = max(np.linalg.norm(part, axis=1).max() for part in (errors, np.diff(errors, axis=0)))
    near = _mean_length(errors) <= MEAN_PATH_ERROR * size
    return near and bool(largest <= LARGEST_PATH_ERROR * size)


def _fit_bouncing_line(
    path: Array, time: Array, walls: tuple[float, Array] | None
) -> tuple[Array, Array]:
    """Fits a straight path of constant speed that bounces off the frame's walls.

    time: of each place, in frames. walls: the shape's reach and the frame's (width, height); None
    without walls. Returns the velocity (x, y) at the start in pixels per frame and the observed
    centres relative to the fit, [t 2]. The line is fitted to the frames before the first bounce; as
    these are unknown, every number of them is tried and the best explanation of all frames wins.
    """
    lowest, highest = path.min(axis=0), path.max(axis=0)
    best = (np.zeros(2), path + np.inf)
    for count in range(min(3, len(path)) if walls else len(path), len(path) + 1):
        centred = time[:count] - time[:count].mean()
        velocity = centred @ path[:count] / (centred @ centred)
        start = path[:count].mean(axis=0) - velocity * time[:count].mean()
        straight = start + velocity * time[:, None]
        if walls is None:
            return velocity, path - straight
        reach, frame = walls
        # A shape may turn back only where it can touch the wall, and it does so up to half a step
        # beyond the last seen position: [low high t xy] holds every pair of places tried.
        slack = reach + np.abs(velocity) + 0.02 * frame
        beyond = np.abs(velocity) * np.linspace(0, 0.5, 4)[:, None, None]
        low = np.where(lowest <= slack, lowest - beyond, -np.inf)[:, None]
        high = np.where(highest >= frame - slack, highest + beyond, np.inf)[None]
        bounced = np.where(straight > high, 2 * high - straight, straight)
        bounced = np.where(bounced < low, 2 * low - bounced, bounced)
        bounced = np.where(bounced > high, 2 * high - bounced, bounced)
        errors = (path - bounced).reshape(-1, len(path), 2)
        errors = errors[(errors**2).sum(axis=1).argmin(axis=0), :, np.arange(2)].T
        if _mean_length(errors) < _mean_length(best[1]):
            best = (velocity, errors)
    return best


def fit_orbit(
    path: Array, time: Array, *, least_radius: float
) -> tuple[Array, Callable[[Array], Array]] | None:
    """The best steady orbit of centres [t 2] seen at `time` [t]: the errors [t 2] and the places
    [m 2] at other times [m]; `None` if they do not run around one.

    The circle is the least squares fit of x^2 + y^2 = 2 a x + 2 b y + c (Kasa 1976); the angle on
    it is then fitted as a linear function of time.
    """
    if len(path) < 4:
        return None
    origin = path.mean(axis=0)
    centred = path - origin
    design = np.concatenate([2 * centred, np.ones((len(path), 1))], axis=1)
    a, b, c = np.linalg.lstsq(design, (centred**2).sum(axis=1), rcond=None)[0]
    radius = math.sqrt(max(c + a * a + b * b, 0.0))
    from_middle = centred - (a, b)
    angle = np.unwrap(np.arctan2(from_middle[:, 1], from_middle[:, 0]))
    if radius < least_radius or abs(angle[-1] - angle[0]) < LEAST_ORBIT_TURNS * 2 * math.pi:
        return None
    middle = time.mean()
    rate = (time - middle) @ angle / ((time - middle) @ (time - middle))

    def place(at: Array) -> Array:
        steady = angle.mean() + rate * (at - middle)
        return origin + (a, b) + radius * np.stack([np.cos(steady), np.sin(steady)], axis=1)

    return path - place(time), place


def _turns(overlaps: Array, time: Array) -> bool:
    """Whether the overlaps [angle t] turn steadily; true of round shapes."""
    if np.ptp(overlaps.mean(axis=1)) < LEAST_SPIN_GAIN:
        return True
    steps, frames = overlaps.shape
    turned = SPIN_RATES[:, None] * (time - time[0]) * (steps / (2 * math.pi))
    rows = np.rint(np.arange(steps)[:, None, None] + turned).astype(int) % steps
    scores = overlaps[rows, np.arange(frames)].mean(axis=-1).max(axis=0)
    turning = np.abs(SPIN_RATES) >= LEAST_SPIN_RATE
    gain = scores[turning].max() - scores[~turning].max()
    loss = overlaps.max(axis=0).mean() - scores[turning].max()
    return bool(gain >= LEAST_SPIN_GAIN and loss <= LARGEST_SPIN_LOSS)


def label_agreement(tracker: ShapeTracker, clips: Clips, labels: Sequence[str]) -> dict[str, float]:
    """Shares of `clips` whose tracked label matches the asked one, and what guessing would give.

    clips: uint8 [n t h w c]; labels: n names "colour shape motion". Returns shares in 0..1:
    `label_agreement` (all three right), `shape_agreement`, `colour_agreement`,
    `motion_agreement`, and `label_chance`, `shape_chance`, `colour_chance`, `motion_chance` of a
    uniform guess. Raises `ValueError` on no clips, another number of labels, or a label that the
    tracker does not know.
    """
    if len(clips) == 0 or len(clips) != len(labels):
        raise ValueError(f"label_agreement needs a label per clip: {len(clips)}, {len(labels)}.")
    known = {"colour": tracker.palette, "shape": tracker.shapes, "motion": tracker.motions}
    right = dict.fromkeys(("label", *known), 0)
    for clip, label in zip(clips, labels, strict=True):
        asked = tracker.parse(label)
        seen = tracker.describe(clip)
        matches = {part: getattr(seen, part) == asked[part] for part in known}
        for part, match in matches.items():
            right[part] += match
        right["label"] += all(matches.values())
    chances = {part: 1 / len(names) for part, names in known.items()}
    chances["label"] = math.prod(chances.values())
    return {f"{part}_agreement": count / len(clips) for part, count in right.items()} | {
        f"{part}_chance": chances[part] for part in right
    }
