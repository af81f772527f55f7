# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The clips that an evaluation of generated clips keeps for display, and how they are listed.

`WORKDIR/report/media/PROTOCOL/KIND-ID.mp4` are at most 24 clips of each kind: `real`,
`reconstructed` (the real one through the tokenizer) and `generated`. The same ID in all three means
the same real clip; `generated` has its label or its first frames where the protocol pairs them.
Where it does not, a real clip of the generated one's label is taken, if there is one.
`WORKDIR/report/clips.json` is a list with an object for each file:

    protocol          name of the protocol
    id                number of the clip in the evaluated order
    kind              "real", "reconstructed" or "generated"
    file              path below `report/`, with /
    label             class name, "" where there is none
    why               "best", "worst" (by `feature_distance` of the generated clip) or "spread"
                      (of different classes where there are labels)
    paired            whether the generated clip shares its label or first frames with the real one
    given_frames      pixel frames at its start that were given, 0 for none
    feature_distance  of its features from the mean of the real ones, in the metric of their
                      covariance (about the square root of the dimensions for a typical real clip);
                      null where it was not computed
    psnr              dB, from the real clip: `reconstructed`, and `generated` after the given
                      frames; else null
    psnr_per_frame    the same for each frame of the clip, or null
    seconds           of drawing and decoding a `generated` clip, its share of a batch; else null

An evaluation replaces the rows and the files of its own protocol and leaves others alone. Reports
(`WORKDIR/report/PROTOCOL.json`) of protocols that generate clips have, beside the older keys:

    generation   clips, seed, passes, seconds, seconds_per_clip (median), clips_per_second,
                 frames_per_second, seconds_of
                 {part: seconds}: "draw", "features", "real"
    reference    what the real set was: clips, fingerprint, file of its cached features
    per_class    [{label, count, feature_distance, label_agreement}]: means over generated clips;
                 null where not measured; [] without labels
    code_usage   {"real" | "generated": {codes, used, usage, perplexity, curve}}: `curve` is the
                 share of all tokens that the k/64 most frequent codes make, k = 1..64
    leaks        {checked, train_test_names: [...], duplicates: [[path or id, path or id], ...],
                 duplicate_clips}: see nbp.evaluation.leakage
    repeats      [{seed, score, value}], and `scores` has NAME (their mean) and NAME_std
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbp.data.video.encode import write_video
from nbp.evaluation.generation import ClipGenerator
from nbp.evaluation.real_clips import RealClips
from nbp.evaluation.score_reconstruction import Codec
from nbp.files import read_json, write_text
from nbp.metrics.psnr_ssim import PSNR_LIMIT, psnr_per_clip, psnr_per_frame
from nbp.protocols.pixels import to_bytes
from nbp.shapes import Clips

EACH = 8  # clips of each reason to be shown
LOOKED_AT = 2000  # real clips, in search of one with the label of a generated one
LEAST_SIDE = 96  # px: smaller clips are enlarged, pixel by pixel, so that a player shows them

Row = dict[str, Any]


@dataclass(frozen=True)
class Gallery:
    """What the clips of a gallery are made with.

    real: None where there are no real clips at the model's size. paired: see `paired` above.
    distances: feature distance of each generated clip, None where not computed. pixels: frames
    that were given. seconds: of each generated clip.
    """

    protocol: str
    maker: ClipGenerator
    codec: Codec
    real: RealClips | None
    label_names: Sequence[str]
    paired: bool
    fps: float
    pixels: int
    seconds: np.ndarray
    distances: np.ndarray | None = None

    @property
    def count(self) -> int:
        return len(self.seconds)


def choose_shown(
    count: int, distances: np.ndarray | None, labels: np.ndarray | None = None
) -> dict[int, str]:
    """Numbers of the clips to show and why: the nearest, the farthest, and some evenly spread.

    labels: class ids of all clips. The spread ones are then of as many classes as can be, evenly
    over the classes: evenly over the numbers they could all be of one (labels come in turn).
    """
    chosen: dict[int, str] = {}
    if distances is not None:
        order = np.argsort(distances, kind="stable").tolist()
        few = min(EACH, count // 3)
        chosen |= dict.fromkeys(order[:few], "best")
        chosen |= dict.fromkeys(order[count - few :], "worst")
    for number in spread_evenly(count, labels):
        chosen.setdefault(number, "spread")
    return dict(sorted(chosen.items()))


def spread_evenly(count: int, labels: np.ndarray | None) -> list[int]:
    """Up to EACH numbers below `count`, of different classes where there are labels."""
    if count <= EACH:
        return list(range(count))
    if labels is None:
        return (np.arange(EACH) * count // EACH).tolist()
    classes = np.unique(labels)
    chosen: list[int] = []
    for k in range(EACH):
        members = np.flatnonzero(labels == classes[k * len(classes) // EACH])
        # From the k-th part of the class: the first clips are not all that is looked at.
        members = np.roll(members, -(k * len(members) // EACH))
        fresh = [number for number in members.tolist() if number not in chosen]
        chosen += fresh[:1]
    return chosen


def write_gallery(gallery: Gallery, folder: Path) -> list[Row]:
    """Draws the clips to show again, writes them below the report's `folder`; the rows for them."""
    shown = choose_shown(gallery.count, gallery.distances, gallery.maker.labels)
    numbers = np.array(list(shown))
    made = gallery.maker(numbers)
    media = folder / "media" / gallery.protocol
    shutil.rmtree(media, ignore_errors=True)
    sets: dict[str, Clips] = {"generated": made.videos}
    labels_of = {"generated": made.labels}
    if gallery.real is not None:
        read = gallery.real.read(find_partners(gallery, gallery.real, numbers, made.labels))
        sets["real"] = to_bytes(read["video"])
        sets["reconstructed"] = reconstruct(gallery.codec, read)
        labels_of["real"] = labels_of["reconstructed"] = read["label"]
    rows = []
    for i, (number, why) in enumerate(shown.items()):
        for kind in ("real", "reconstructed", "generated"):
            if kind not in sets:
                continue
            file = Path("media") / gallery.protocol / f"{kind}-{number}.mp4"
            clip = sets[kind][i]
            scale = math.ceil(LEAST_SIDE / min(clip.shape[1:3]))
            write_video(
                folder / file, clip.repeat(scale, axis=1).repeat(scale, axis=2), fps=gallery.fps
            )
            row = describe_clip(
                gallery, kind, number, clip, sets["real"][i] if "real" in sets else None
            )
            name = name_label(gallery, labels_of[kind][i])
            if "real" in labels_of and name and name == name_label(gallery, labels_of["real"][i]):
                row["paired"] = True
            rows.append({**row, "label": name, "why": why, "file": file.as_posix()})
    return rows


def name_label(gallery: Gallery, label: int | np.integer) -> str:
    return gallery.label_names[int(label)] if 0 <= label < len(gallery.label_names) else ""


def find_partners(
    gallery: Gallery, real: RealClips, numbers: np.ndarray, labels: Sequence[int] | np.ndarray
) -> list[int]:
    """Numbers of the real clips to show beside generated ones."""
    starts = [int(number) % len(real.rows) for number in numbers]
    if gallery.paired or not gallery.label_names:
        return starts
    wanted = [name_label(gallery, label) for label in labels]

    def find_label(index: int) -> str:
        return str(real.describe(index).get("label", ""))

    return choose_partners(starts, wanted, len(real.rows), find_label)


def choose_partners(
    starts: Sequence[int],
    wanted: Sequence[str],
    count: int,
    find_label: Callable[[int], str],
    *,
    most: int = LOOKED_AT,
) -> list[int]:
    """For each start the first clip of the wanted label from there on, each clip once if it can be.

    Looks at no more than `most` clips; where none fits, the start itself is taken.
    """
    labels: dict[int, str] = {}
    chosen: list[int] = []
    for start, label in zip(starts, wanted, strict=True):
        fitting: list[int] = []
        for step in range(count):
            index = (start + step) % count
            if index not in labels:
                if len(labels) >= most:
                    continue
                labels[index] = find_label(index)
            if labels[index] == label:
                fitting.append(index)
                if index not in chosen:
                    break
        fresh = [index for index in fitting if index not in chosen]
        chosen.append((fresh or fitting or [start])[0])
    return chosen


def reconstruct(codec: Codec, rows: Mapping[str, np.ndarray]) -> Clips:
    """Clips through the tokenizer, a batch at a time."""
    video = rows["video"]
    parts = [video[i : i + codec.batch] for i in range(0, len(video), codec.batch)]
    return np.concatenate([np.asarray(codec.start(part)[2])[: len(part)] for part in parts])


def describe_clip(
    gallery: Gallery, kind: str, number: int, clip: np.ndarray, real: np.ndarray | None
) -> Row:
    """The numbers of a row."""
    row: Row = {
        "protocol": gallery.protocol,
        "id": number,
        "kind": kind,
        "paired": gallery.paired,
        "given_frames": gallery.pixels if kind == "generated" else 0,
        "feature_distance": None,
        "psnr": None,
        "psnr_per_frame": None,
        "seconds": None,
    }
    if kind == "generated":
        row["seconds"] = round(float(gallery.seconds[number]), 4)
        if gallery.distances is not None:
            row["feature_distance"] = round(float(gallery.distances[number]), 4)
    first = gallery.pixels if kind == "generated" else 0
    if real is not None and (kind == "reconstructed" or (kind == "generated" and first)):
        a, b = real[None], clip[None]
        curve = np.minimum(psnr_per_frame(a, b)[0], PSNR_LIMIT)
        row["psnr"] = round(min(float(psnr_per_clip(a[:, first:], b[:, first:])[0]), PSNR_LIMIT), 3)
        row["psnr_per_frame"] = [round(float(value), 3) for value in curve]
    return row


def update_listing(path: Path, protocol: str, rows: Sequence[Row]) -> None:
    """Puts the rows of a protocol in place of its old ones."""
    try:
        before = read_json(path, list)
        kept = [row for row in before if row["protocol"] != protocol]
    except (OSError, ValueError, KeyError, TypeError):
        kept = []  # there is none yet, or it is of no use
    write_text(path, json.dumps([*kept, *rows], indent=1) + "\n")
