# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A page with everything on it, for tests: moving squares whose frame is seen in their colour."""

import dataclasses

import numpy as np

from nbp.report.clips import make_sheet
from nbp.report.records import KINDS, Evaluation, Page, Picture, ShownClip, Speed
from nbp.report.svg import Chart, Curve

EVIL = """<script>alert("x")</script><img src=x onerror='alert(1)'>&amp;"""
LABELS = ("red square right", "green disk left", EVIL, "blue triangle up")
FRAMES, SIZE = 5, 16


def make_clip(red: int, green: int) -> np.ndarray:
    """[t h w 3]: frame t has blue 50 * t everywhere."""
    clip = np.zeros((FRAMES, SIZE, SIZE, 3), np.uint8)
    clip[..., 0], clip[..., 1] = red, green
    clip[..., 2] = 50 * np.arange(FRAMES)[:, None, None]
    return clip


def make_shown(number: int, place: int) -> ShownClip:
    """Clip of kind `place` in group `number`; distances are 0, 7, 14, 1, 8, ... of 20."""
    kind = KINDS[place]
    sheet = make_sheet(make_clip(20 * place, 5 * number), quality=None)
    return ShownClip(
        name=f"{kind}-{number}.mp4",
        group=f"clip {number}",
        kind=kind,
        label=LABELS[number % len(LABELS)],
        picture=Picture(**dataclasses.asdict(sheet)),
        fps=8.0,
        feature_distance=float(7 * number % 20) if kind == "generated" else None,
        psnr=20.0 + number if kind == "reconstructed" else None,
        psnr_per_frame=tuple(20.0 + t for t in range(FRAMES)) if kind == "reconstructed" else (),
        given_frames=2 if kind == "generated" else 0,
        facts={"file": f"media/{EVIL}.mp4"},
    )


def make_page(groups: int = 16) -> Page:
    steps = tuple((float(step), 100 / step) for step in range(10, 410, 10))
    loss = Chart("loss", (Curve("training", steps), Curve(EVIL, steps[::5])), logarithmic=True)
    speed = Chart("step time", (Curve("training", ((1.0, 0.2), (2.0, 0.3))),), from_zero=True)
    classes = tuple(
        {"label": label, "count": 3 + i, "feature_distance": 10.0 - i, "label_agreement": None}
        for i, label in enumerate(LABELS)
    )
    evaluation = Evaluation(
        name="moving-shapes",
        version=1,
        scores={"fvd_random_features": 12.345, "psnr": 29.51, "psnr_worst": 26.2, "odd": 0.5},
        protocol={"name": "moving-shapes", "clips": [{"dataset": EVIL}], "limit": None},
        conditions={"seed": 0, "data": {"root": EVIL}},
        notes=(f"Not the whole protocol: {EVIL}",),
        frame_curves={
            "reconstructed": (30.0, 28.0, 29.0, 27.5, 28.5),
            "generated": (30.0, 25.0, 22.0, 20.0, 19.0),
        },
        per_class=classes,
        code_curves={"real": tuple(1 - 0.5**k for k in range(1, 65))},
        codes=1000,
        stride=2,
    )
    return Page(
        title=f"example {EVIL}",
        facts={"workdir": EVIL},
        evaluations=(evaluation,),
        clips=tuple(make_shown(n, place) for n in range(groups) for place in range(3)),
        curves={"tokenizer": (loss,)},
        machine={"tokenizer": (speed,)},
        speeds=(Speed("one update", 0.2, "s", "tokenizer training"),),
        config={"name": "example", "data": {"root": EVIL}},
        left_out=("one clip is left out",),
        distance_name="distance of features",
    )
