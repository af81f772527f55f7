# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What `nbp.sample` can be asked for, and the flags that ask for it."""

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from nbp.errors import ConfigError
from nbp.flags import COUNT, NATURAL, SEED, SHARE, Real, Whole, add_checkpoint_flag
from nbp.layout import Box
from nbp.ranges import CacheType, Checkpoint, WeightType
from nbp.sampling.settings import (
    COLDEST,
    HOTTEST,
    STRONGEST,
    CommitKind,
    GuidanceSchedule,
    RampShape,
    SamplingConfig,
)

CLIPS = Whole(1, 1_000_000)
SIDE = Whole(1, 8192)  # pixels
TEMPERATURE = Real(COLDEST, HOTTEST)
GUIDANCE = Real(0.0, STRONGEST)
BOUND = Real(0.0, 1e6)


DecodingKind = Literal["plain", "jacobi", "relaxed", "self_speculative"]


@dataclass(frozen=True)
class DecodingRequest:
    """How passes are made (`nbp.sampling.speculative`); None leaves a number to the decoding."""

    decoding: DecodingKind = "plain"
    window: int | None = None
    radius: int | None = None
    delta: float | None = None


@dataclass(frozen=True)
class LongRequest:
    """Videos of `num_frames` frames, more than a clip of training has or fewer.

    keep_frames: latent frames that a window takes over from the one before; None: half of them.
    slide: the form in which it takes them over, `anchor`: the first ones stay; see
    `nbp.sampling.long_video`. None: rolling with rotary positions, else reencode. sinks: latent
    frames that stay in a rolling cache. features: for the FVD of the drift report, or none.
    """

    num_frames: int | None = None
    keep_frames: int | None = None
    slide: Literal["reencode", "codes", "rolling"] | None = None
    sinks: int | None = None
    anchor: bool = False
    features: str = ""


@dataclass(frozen=True)
class SampleRequest:
    """What `nbp.sample` was asked for; None leaves a choice to the workdir's configuration.

    sampling: fields of `SamplingConfig` that replace those of the configuration.
    count: conditions to draw for, in turn the labels, or held-out clips to continue.
    samples_per_condition: clips drawn for each. per_class: clips of each class, in place of both.
    label: class name or id, or several, in turn. frames: what is continued, a file, or uint8
    [t h w c], or one for each condition. mask: what of them is drawn anew, a file or a box (see
    `nbp.build_data`). between: two of them, whose gap is drawn. story: labels over the time of
    each video, a file or a list (see `nbp.sampling.story`). size: height and width of the clips, or
    the side of squares. checkpoint: step of the generator, or the best; None: the newest.
    """

    count: int
    seed: int = 0
    label: str | tuple[str, ...] | None = None
    unconditional: bool = False
    frames: Path | Any | None = None
    mask: str | Any | None = None
    between: tuple[Any, Any] | None = None
    story: Path | Any | None = None
    given_frames: int | None = None
    size: tuple[int, ...] | None = None
    checkpoint: Checkpoint | None = None
    per_class: int | None = None
    samples_per_condition: int = 1
    sampling: Mapping[str, Any] = field(default_factory=dict)
    decoder: DecodingRequest = DecodingRequest()
    long: LongRequest = LongRequest()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of a request, named like its fields."""
    add = parser.add_argument_group("what is drawn").add_argument
    add("--num", type=CLIPS, help="clips to draw, or conditions; default 16")
    add("--per_class", type=CLIPS, help="clips of each class, in place of --num")
    add("--samples_per_condition", type=CLIPS, default=1, help="clips for each label or prefix")
    add("--label", help="class name or id; default: all in turn")
    add("--unconditional", action="store_true", help="clips of no class: as --label none")
    add("--seed", type=SEED, default=0, help="of all randomness; default 0")
    add = parser.add_argument_group("what is given").add_argument
    add("--frames", type=Path, help="video whose first frames are continued")
    add("--given_frames", type=NATURAL, help="latent frames taken from --frames")
    add(
        "--mask",
        help="what of --frames is drawn anew: box:X0,Y0,X1,Y1 in pixels, outside:X0,Y0,X1,Y1, or "
        "the white pixels of an image or a video",
    )
    add("--between", nargs=2, type=Path, metavar="FILE", help="draws from the first to the second")
    add = parser.add_argument_group("how tokens are drawn").add_argument
    add("--temperature", type=TEMPERATURE, help="divides the logits")
    add("--temperature_end", type=TEMPERATURE, help="temperature of the last pass")
    add("--temperature_schedule", choices=get_args(RampShape), help="how it gets there")
    add("--top_k", type=NATURAL, help="0: off")
    add("--top_p", type=Real(0.0, 1.0, above=True), help="1: off")
    add("--guidance", type=GUIDANCE, help="classifier-free guidance; 0: off")
    add(
        "--guidance_schedule",
        choices=get_args(GuidanceSchedule),
        help="how it changes over the passes",
    )
    add("--guidance_start", type=SHARE, help="share of the passes before guidance begins")
    add("--guidance_end", type=SHARE, help="share of the passes after which it is off")
    add = parser.add_argument_group("blocks and passes").add_argument
    add("--block", type=read_block, help="one that the model was trained with: row, frame, 1,2,4")
    add("--refinements", type=COUNT, help="passes over a block at most; needs the draft channel")
    add("--commit", choices=get_args(CommitKind), help="which draws a pass over a block accepts")
    add("--entropy_bound", type=BOUND, help="commit entropy: nats that are accepted at once")
    add("--confidence_noise", type=BOUND, help="commit confidence: noise on log-probabilities")
    add("--decoding", choices=get_args(DecodingKind), default="plain", help="of passes")
    add("--window", type=COUNT, help="passes that jacobi and relaxed look at at once")
    add("--radius", type=COUNT, help="relaxed: levels that mass may move")
    add("--delta", type=SHARE, help="relaxed: share of it that may move, 0..1")
    add = parser.add_argument_group("models and memory").add_argument
    add(
        "--opener", metavar="DIR", help="workdir of another generator, which draws the first frames"
    )
    add("--opener_frames", type=COUNT, help="latent frames that it draws; default 1")
    add("--weights", choices=get_args(WeightType), help="what decoding keeps the weights in")
    add("--cache", choices=get_args(CacheType), help="the same for keys and values")
    add = parser.add_argument_group("length and size").add_argument
    add("--num_frames", type=COUNT, help="length of the videos; longer than a clip: windows slide")
    add("--story", type=Path, help="labels over time: lines FRAMES LABEL, or JSON; one long video")
    add_checkpoint_flag(add, of="the generator")
    add("--size", nargs="+", type=SIDE, metavar="PX", help="height and width, or one side")
    add("--keep_frames", type=COUNT, help="latent frames a window keeps; default: half of them")
    add(
        "--slide",
        choices=("reencode", "codes", "rolling"),
        help="how it keeps them; default: rolling with rotary positions, else reencode",
    )
    add("--sinks", type=NATURAL, help="rolling: first latent frames that stay; default: one")
    add("--anchor", action="store_true", help="codes, and the first latent frame stays for good")
    add("--features", default="", help="DIR or random-i3d: FVD in the drift report")


def read_block(text: str) -> str | Box:
    """The name of a block, or its sides: "1,2,4", with or without brackets."""
    sides = text.strip("() ").split(",")
    if len(sides) == 3 and all(side.strip().isdecimal() for side in sides):
        t, h, w = (int(side) for side in sides)
        return (t, h, w)
    return text


def make_request(arguments: argparse.Namespace) -> SampleRequest:
    """The request of parsed flags."""
    values = vars(arguments)
    alone = arguments.samples_per_condition > 1 and arguments.frames is not None
    count = (1 if alone else 16) if arguments.num is None else arguments.num
    if arguments.num is not None and arguments.per_class is not None:
        raise ConfigError("--num and --per_class: give one of them; --per_class N draws N for each")

    def pick(kind: type) -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(kind)]
        found = {name: values[name] for name in names if values.get(name) is not None}
        return {n: tuple(v) if n in ("between", "size") else v for n, v in found.items()}

    return SampleRequest(
        count=count,
        sampling=pick(SamplingConfig),
        decoder=DecodingRequest(**pick(DecodingRequest)),
        long=LongRequest(**pick(LongRequest)),
        **pick(SampleRequest),
    )
