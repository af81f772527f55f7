# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What the report page shows: plain records, whatever files they come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nbp.report.svg import Chart

Kind = Literal["real", "reconstructed", "generated"]
KINDS: tuple[Kind, ...] = ("real", "reconstructed", "generated")


@dataclass(frozen=True)
class Picture:
    """All frames of a clip in one picture, row by row: see `nbp.report.clips`."""

    uri: str
    frames: int
    columns: int
    height: int
    width: int


@dataclass(frozen=True)
class ShownClip:
    """A clip of the page.

    protocol: of the evaluation that it is from, "" if of none. group: clips of one group (a real
    one, what was made of it) stand side by side. label: "" where
    there are no classes. feature_distance: how far from the real clips, in the space of the
    features; psnr in dB, also of each frame. None and () where not measured. given_frames: the
    first ones, which the model was given. paired: a generated clip has the condition (label or
    given frames) of the others of its group. facts: further values to show, by name. run: of a page
    of several runs, the number of the one that made it.
    """

    name: str
    group: str
    kind: Kind
    label: str
    picture: Picture
    fps: float
    protocol: str = ""
    feature_distance: float | None = None
    psnr: float | None = None
    psnr_per_frame: tuple[float, ...] = ()
    given_frames: int = 0
    paired: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)
    run: int | None = None


@dataclass(frozen=True)
class PreviewStrip:
    """Previews of the same conditions at several steps of a training, drawn with the same seed.

    columns: what each shows ("step 500", "held out"), and a picture of all conditions, one below
    the other.
    """

    stage: str
    columns: tuple[tuple[str, Picture], ...]
    fps: float


@dataclass(frozen=True)
class Evaluation:
    """What one protocol gave.

    protocol: all fields of its record. conditions: the rest of the JSON file, by name. notes: what
    a reader must know before the numbers: deviations from the protocol, leaks.
    frame_curves: by name, PSNR (dB) of each frame. per_class: rows of a table, each with "label".
    code_curves: by name, which share of all tokens the most frequent codes make: at equal steps up
    to all codes. codes: how many there are.
    stride: frames of a latent frame, for marks in the curve over frames.
    """

    name: str
    version: int
    scores: Mapping[str, Any]
    protocol: Mapping[str, Any]
    conditions: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    frame_curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    per_class: tuple[Mapping[str, Any], ...] = ()
    code_curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    codes: int = 0
    stride: int = 1


@dataclass(frozen=True)
class Speed:
    """A measured speed or amount, and what it is of."""

    what: str
    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class DriftReport:
    """How the long videos in a folder change with time.

    slopes: rows of a table, cell by cell. survival: by number of frames, shares of videos in which
    label, shape, colour and motion survive them. story: (first frame, label) of scenes.
    """

    name: str
    title: str
    charts: tuple[Chart, ...]
    slopes: tuple[tuple[str, ...], ...] = ()
    survival: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    story: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Page:
    """All that is on the page; what is empty is left out.

    curves: charts of learning by stage. machine: charts of how the machine did. left_out: what
    could not be shown, in words. distance_name: what `ShownClip.feature_distance` is.
    """

    title: str
    facts: Mapping[str, str]
    evaluations: tuple[Evaluation, ...] = ()
    clips: tuple[ShownClip, ...] = ()
    curves: Mapping[str, tuple[Chart, ...]] = field(default_factory=dict)
    machine: Mapping[str, tuple[Chart, ...]] = field(default_factory=dict)
    speeds: tuple[Speed, ...] = ()
    drifts: tuple[DriftReport, ...] = ()
    previews: tuple[PreviewStrip, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    distance_name: str = "feature distance"
