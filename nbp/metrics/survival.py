# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Does a long video of moving shapes stay right? What survives, where the shape is, what switches.

A video is cut into segments as long as clips of training, each of which begins with the last frame
of the one before. In each the shape is tracked (`nbp.metrics.label_agreement`) and held against the
label in force. Rules:

* Motion. The first segment has to move as the label says. In a later one of a world that bounces,
  the direction before and that after any bounces are both right: a shape called `right` may move
  right or left, one called `northeast` on all diagonals. A path that turns back away from the
  border is no motion at all. Where the border wraps, directions last.
* Segments in which the label changes are not judged. Where something may be in front of the shape,
  frames in which it is not whole are left out: with fewer than four others a segment is not judged,
  and a motion that they do not tell is not. But that excuses three segments in a row at most.
* A part of the label (shape, colour, motion) survives n frames if all segments up to there that
  are judged agree; the label survives with all of them.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nbp.metrics.drift import mean_columns
from nbp.metrics.label_agreement import Observation, ShapeTracker, fit_orbit
from nbp.shapes import Array, Bool, Clip, Clips, Float

# (first frame, label) of each stretch with one label; the first one begins at 0.
Script = Sequence[tuple[int, str]]
History = Literal["last", "first"]

PARTS = ("colour", "shape", "motion")
HORIZONS = (33, 65, 129, 257)
MOST_HIDDEN = 3  # segments in a row that something in front of the shape excuses
LEAST_HISTORY = 4  # frames that a prediction is made from
LEAST_SWITCHED = 4  # frames that a switch is judged by
# Of a shape that is not seen: the mean distance of two random places in a frame, in frames.
LOST = 0.52
# A bounce is believed where a straight line is off by more than this (root mean square, in frames)
# and by twice as much as the line with the bounce.
BENT = 0.0015


@dataclass(frozen=True)
class SurvivalRules:
    """How videos are cut, and what may be in front of the shape. Borders are the tracker's.

    step: frames from the beginning of a segment to that of the next, one less than a clip of
    training has. stride: frames of a latent frame. occluded: whether something may be in front of
    the shape.
    """

    step: int
    stride: int
    occluded: bool = False

    def starts(self, frames: int) -> range:
        """First frames of the segments of a video."""
        return range(0, max(1, frames - self.step), self.step)


@dataclass(frozen=True)
class Survival:
    """Scores of long videos; shares of videos in 0..1.

    matches: 1, 0 or NaN (not judged) for colour, shape and motion of each segment, [n s 3].
    agreement: share of the judged videos that agree, of each part and of the label, by segment.
    survival: by number of frames, what survives them. position_error: mean distance of the shape
    from where its last frames and the rules of the world say that it must be, by segment, as a
    share of the frame; position_error_from_start: from where its first clip says (a constant speed
    is one of the rules). None for the first segment, which nothing predicts. switches: share of
    videos that obey all changes of the label within one latent frame; None without any.
    """

    matches: Float[np.ndarray, "n s 3"]
    agreement: dict[str, list[float | None]]
    survival: dict[int, dict[str, float]]
    position_error: list[float | None]
    position_error_from_start: list[float | None]
    switches: dict[str, float] | None

    @property
    def parts(self) -> dict[str, Float[np.ndarray, "n s"]]:
        """The matches of each part and of the label."""
        return split_parts(self.matches)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, with four digits."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {str(name): plain(inner) for name, inner in value.items()}
            if isinstance(value, list):
                return [plain(inner) for inner in value]
            return round(value, 4) if isinstance(value, float) else value

        names = ("agreement", "survival", "position_error", "position_error_from_start", "switches")
        return {name: plain(getattr(self, name)) for name in names}


def score_survival(
    tracker: ShapeTracker,
    clips: Clips,
    scripts: Sequence[str | Script],
    rules: SurvivalRules,
    *,
    horizons: Sequence[int] = HORIZONS,
) -> Survival:
    """Scores of videos [n t h w 3] of bytes, of which each has a label or a script of labels.

    horizons: numbers of frames; those beyond the videos are left out, and all their frames are
    added. Raises `ValueError` on no videos, another number of scripts, or an unknown label.
    """
    if len(clips) == 0 or len(clips) != len(scripts):
        raise ValueError(f"survival needs a script per video: {len(clips)}, {len(scripts)}.")
    watcher = Watcher(tracker, rules)
    frames = clips.shape[1]
    told = [((0, s),) if isinstance(s, str) else tuple(s) for s in scripts]
    matches = np.stack([watcher.judge(c, s) for c, s in zip(clips, told, strict=True)])
    parts = split_parts(matches)
    paths = [watcher.follow(clip, script) for clip, script in zip(clips, told, strict=True)]
    errors: dict[History, list[float | None]] = {}
    for history in ("last", "first"):
        rows = [
            watcher.position_errors(path, script, history=history)
            for path, script in zip(paths, told, strict=True)
        ]
        starts = rules.starts(frames)
        found = np.stack([[_mean(row[s + 1 : s + rules.step + 1]) for s in starts] for row in rows])
        errors[history] = mean_columns(found)
    switches = [
        np.stack(judged)
        for clip, script in zip(clips, told, strict=True)
        if (judged := watcher.judge_switches(clip, script))
    ]
    ends = [n for n in horizons if rules.step < n <= frames]
    return Survival(
        matches,
        {part: mean_columns(found) for part, found in parts.items()},
        {
            end: {
                part: float(np.mean([survives(row) for row in found[:, : _count(rules, end)]]))
                for part, found in parts.items()
            }
            for end in dict.fromkeys([*ends, frames])
        },
        errors["last"],
        errors["first"],
        _share_obeyed(switches) if switches else None,
    )


def split_parts(matches: Float[np.ndarray, "n s 3"]) -> dict[str, Float[np.ndarray, "n s"]]:
    """The matches of each part and of the label, which fails with any part."""
    label = np.where((matches == 0).any(axis=-1), 0.0, matches.min(axis=-1))
    return {part: matches[..., i] for i, part in enumerate(PARTS)} | {"label": label}


def _count(rules: SurvivalRules, frames: int) -> int:
    return len(rules.starts(frames))


def _share_obeyed(switches: Sequence[Bool[np.ndarray, "k 3"]]) -> dict[str, float]:
    whole = [np.concatenate([s, s.all(axis=1, keepdims=True)], axis=1) for s in switches]
    shares = np.mean([s.all(axis=0) for s in whole], axis=0)
    return dict(zip((*PARTS, "label"), shares.tolist(), strict=True))


def survives(matches: Float[np.ndarray, "s"]) -> bool:
    """Whether all judged segments agree, and no more than a few in a row are not judged."""
    unjudged = 0
    for match in matches:
        unjudged = unjudged + 1 if np.isnan(match) else 0
        if match == 0 or unjudged > MOST_HIDDEN:
            return False
    return True


def _mean(values: Array) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else np.nan


@dataclass(frozen=True)
class ShapePath:
    """Where the shape of a video is: centres (x, y) in pixels, NaN where it is not seen, [t 2], its
    whole area in pixels with the label in force [t], and the frame's (width, height)."""

    centres: Float[np.ndarray, "t 2"]
    whole: Float[np.ndarray, "t"]
    frame: Float[np.ndarray, "2"]


class Watcher:
    """Tracks the shape of long videos by the rules of their world."""

    def __init__(self, tracker: ShapeTracker, rules: SurvivalRules) -> None:
        self.rules, self.asked = rules, tracker
        motions, self._legal = mirror_motions(tracker.motions)
        # It knows a name for each direction that a bounce can give.
        self._tracker = ShapeTracker(
            tracker.palette,
            tracker.shapes,
            motions,
            turning=tracker.turning,
            border=tracker.border,
        )

    def judge(self, clip: Clip, script: Script) -> Float[np.ndarray, "s 3"]:
        """1, 0 or NaN (not judged) for colour, shape and motion of each segment."""
        starts, path = self.rules.starts(len(clip)), self.follow(clip, script)
        occluded = self.rules.occluded
        found = np.full((len(starts), len(PARTS)), np.nan)
        for row, start in enumerate(starts):
            end = min(start + self.rules.step + 1, len(clip))
            changes = [frame for frame, _ in script if start < frame < end]
            if changes and changes[0] < end - 1:
                continue
            asked = self.asked.parse(label_at(script, start))
            piece = clip[start : changes[0] if changes else end]
            seen = self._describe(piece, path.whole[start])
            if seen.hidden:
                continue
            bounces = start > 0 and self.asked.border == "bounce"
            legal = self._legal[asked["motion"]] if bounces else {asked["motion"]}
            agrees = (seen.colour == asked["colour"], seen.shape == asked["shape"])
            found[row] = (*agrees, seen.motion in legal)
            if seen.motion is None and np.isnan(path.centres[start:end]).any() and occluded:
                found[row, PARTS.index("motion")] = np.nan
        return found

    def judge_switches(self, clip: Clip, script: Script) -> list[Bool[np.ndarray, "3"]]:
        """Which parts of each new label the video shows one latent frame after its first frame.

        It is held against the frames from there to the next switch, as many as a segment has at
        most. The direction has to be the new one itself; along an axis on which the shape is so
        near to the border that it may have bounced since the switch, its mirror image will do. A
        switch with fewer than four such frames is left out, as is one that something hides.
        """
        found, path = [], self.follow(clip, script)
        starts = [*(frame for frame, _ in script), len(clip)]
        for (frame, label), end in zip(script[1:], starts[2:], strict=True):
            start = frame + self.rules.stride
            piece = clip[start : min(end, start + self.rules.step + 1)]
            if len(piece) < LEAST_SWITCHED:
                continue
            asked, seen = self.asked.parse(label), self._describe(piece, path.whole[start])
            if seen.hidden:
                continue
            legal = {asked["motion"]}
            if self.asked.border == "bounce":
                legal |= self._mirrored_near(path, slice(start, start + len(piece)), asked)
            agrees = (seen.colour == asked["colour"], seen.shape == asked["shape"])
            found.append(np.array([*agrees, seen.motion in legal]))
        return found

    def _describe(self, piece: Clip, whole: float) -> Observation:
        area = float(whole) if self.rules.occluded else None
        return self._tracker.describe(piece, whole_area=area)

    def _mirrored_near(self, path: ShapePath, piece: slice, asked: dict[str, str]) -> set[str]:
        """Names of motions that a bounce within the latent frame before the piece may have made."""
        centres = path.centres[piece]
        first = centres[np.isfinite(centres[:, 0])][:1]
        direction = np.array(self.asked.motions[asked["motion"]])
        if not len(first) or not direction.any():
            return set()
        low, high = self._walls(path, asked, piece.start)
        moved = np.nanmax(np.abs(np.diff(centres, axis=0)), axis=0, initial=0.0)
        near = np.minimum(first[0] - low, high - first[0]) <= (self.rules.stride + 2) * moved
        signs = [(1, -1) if each else (1,) for each in near]
        mirrored = [direction * (x, y) for x in signs[0] for y in signs[1]]
        names = self._legal[asked["motion"]]
        known = self._tracker.motions
        return {n for n in names if any(np.allclose(known[n], m) for m in mirrored)}

    def follow(self, clip: Clip, script: Script) -> ShapePath:
        """Where the largest shape is in each frame, whatever it is, segment by segment."""
        centres, areas = np.full((len(clip), 2), np.nan), np.zeros(len(clip))
        whole, blobs = np.zeros(len(clip)), []
        frame = np.array(clip.shape[2:0:-1], np.float64)
        occluded = self.rules.occluded
        cuts = {*range(0, len(clip), self.rules.step), *(f for f, _ in script if f < len(clip))}
        for start, end in itertools.pairwise([*sorted(cuts), len(clip)]):
            piece = slice(start, end)
            blob = self._tracker.locate(clip[piece], occluded=occluded)
            areas[piece] = blob.areas
            blobs.append((piece, blob))
        for (start, _), end in zip(script, [*(f for f, _ in script[1:]), len(clip)], strict=True):
            whole[start:end] = np.percentile(areas[start:end], 90 if occluded else 50)
        for piece, blob in blobs:
            if not blob.plausible:
                continue
            seen = blob.steady(float(whole[piece.start]) if occluded else None)
            path = blob.path % frame if self.asked.border == "wrap" else blob.path
            centres[piece][seen] = path[seen]
        return ShapePath(centres, whole, frame)

    def position_errors(
        self, path: ShapePath, script: Script, *, history: History = "last"
    ) -> Float[np.ndarray, "t"]:
        """Distance of the shape from its predicted place in each frame, as a share of the frame.

        The frames of a segment are predicted from those of the segment before (`last`), or from the
        first ones with its label (`first`), as many as a segment has. NaN where nothing is
        predicted: the first segment, the frames after a change of the label that are the first of
        their label, what is hidden. A shape that is lost counts as far as one at a random place.
        """
        frames, step = len(path.centres), self.rules.step
        errors = np.full(frames, np.nan)
        seen = np.isfinite(path.centres[:, 0])
        changes = [frame for frame, _ in script] + [frames]
        for start in range(step, frames, step):
            begin = max(frame for frame in changes if frame <= start)
            end = min(start + step + 1, min(frame for frame in changes if frame > start))
            first = begin if history == "first" else max(begin, start - step)
            last = min(start, first + step)
            if start - begin < LEAST_HISTORY:
                continue
            at = np.arange(start + 1, min(end, frames))
            known = first + np.flatnonzero(seen[first : last + 1])
            errors[at] = np.nan if self.rules.occluded else LOST
            if len(known) < LEAST_HISTORY:
                continue
            predicted = self._predict(path, script, known=known, at=at)
            far = predicted - path.centres[at]
            if self.asked.border == "wrap":
                far = (far + path.frame / 2) % path.frame - path.frame / 2
            distance = np.linalg.norm(far, axis=1) / path.frame.max()
            errors[at] = np.where(seen[at], distance, errors[at])
        return errors

    def _predict(self, path: ShapePath, script: Script, *, known: Array, at: Array) -> Array:
        """Places [m 2] at the frames `at` from those at the frames `known`."""
        places, asked = path.centres[known], self.asked.parse(label_at(script, int(known[0])))
        time, ahead = known.astype(np.float64), at.astype(np.float64)
        if asked["motion"] == "spin":
            return np.broadcast_to(places.mean(axis=0), (len(at), 2))
        if self.asked.border == "wrap":
            period = path.frame
            places = np.stack([np.unwrap(places[:, i], period=period[i]) for i in (0, 1)], axis=1)
        if asked["motion"] == "orbit":
            orbit = fit_orbit(places, time, least_radius=0.0)
            if orbit is not None:
                return orbit[1](ahead)
        if self.asked.border == "wrap":
            return predict_line(places, time, ahead)
        walls = self._walls(path, asked, int(known[0]))
        return predict_bounces(places, time, ahead, walls)

    def _walls(self, path: ShapePath, asked: dict[str, str], frame: int) -> tuple[Array, Array]:
        """Lowest and highest centre (x, y) of the shape in the frame."""
        tracker, shape = self.asked, asked["shape"]
        radius = float(np.sqrt(path.whole[frame] / tracker.unit_areas[shape]))
        extents = tracker.extents[shape]
        if tracker.turning or asked["motion"] == "spin":
            extents = np.full((2, 2), tracker.reaches[shape])
        return extents[0] * radius, path.frame - extents[1] * radius


def label_at(script: Script, frame: int) -> str:
    """The label in force in a frame."""
    return [label for start, label in script if start <= frame][-1]


def mirror_motions(
    motions: dict[str, tuple[float, float]],
) -> tuple[dict[str, tuple[float, float]], dict[str, set[str]]]:
    """The motions and all their mirror images, and the names of those that each has.

    Mirror images that have no name get one: that of the motion with signs behind it.
    """
    known, legal = dict(motions), {}
    for name, (x, y) in motions.items():
        names = {name}
        for sign_x in (1, -1):
            for sign_y in (1, -1):
                image = (sign_x * x, sign_y * y)
                same = [n for n, d in known.items() if any(d) and np.allclose(d, image)]
                if any(image):
                    found = same[0] if same else f"{name}{sign_x:+d}{sign_y:+d}"
                    known[found] = known.get(found, image)
                    names.add(found)
        legal[name] = names
    return known, legal


def predict_line(places: Float[Array, "n 2"], time: Array, at: Array) -> Float[Array, "m 2"]:
    """Places at the times `at` [m] on the least squares line through those at `time` [n]."""
    middle = time.mean()
    velocity = (time - middle) @ places / ((time - middle) @ (time - middle))
    return places.mean(axis=0) + (at - middle)[:, None] * velocity


def predict_bounces(
    places: Float[Array, "n 2"], time: Array, at: Array, walls: tuple[Array, Array]
) -> Float[Array, "m 2"]:
    """Places at the times `at` of a shape of constant speed that turns back at the walls.

    On each axis the line goes through the places as if a wall that it turned back at were a mirror:
    no wall, or either one, before any of the places; a bounce is believed where a straight line
    does not fit. walls: lowest and highest (x, y).
    """
    found = np.empty((len(at), 2))
    n = len(time)
    for axis in (0, 1):
        low, high = float(walls[0][axis]), float(walls[1][axis])
        x = places[:, axis]
        after = np.arange(n)[None] >= np.arange(1, n)[:, None]
        rows = [x[None], *(np.where(after, 2 * wall - x, x) for wall in (low, high))]
        unfolded = np.concatenate(rows)
        centred = time - time.mean()
        slopes = unfolded @ centred / (centred @ centred)
        errors = unfolded - unfolded.mean(axis=1, keepdims=True) - slopes[:, None] * centred
        square = (errors**2).mean(axis=1)
        bent = square[0] > max(4 * square.min(), (BENT * (high + low)) ** 2)  # walls lie alike
        best = int(square.argmin()) if bent else 0
        line = unfolded[best].mean() + slopes[best] * (at - time.mean())
        if high > low:
            offset = (line - low) % (2 * (high - low))
            line = low + np.minimum(offset, 2 * (high - low) - offset)
        found[:, axis] = line
    return found
