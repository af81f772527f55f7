# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs as their folders are after a training and an evaluation, made in milliseconds."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nbp.config import load_config, to_json
from nbp.config.schema import Config
from nbp.data.video.encode import tile_clips, write_gif, write_video
from tests import tiny
from tests.report.report_example import make_report

LABELS = ("red square right", "green disk left", "blue triangle up")
UPDATES = 400


@functools.cache
def load_tiny() -> Config:
    return load_config(tiny.CONFIG, tiny.OVERRIDES)


def make_clip(seed: int) -> np.ndarray:
    """[5 16 16 3], smooth, so that it survives a codec."""
    t, y, x = np.mgrid[:5, :16, :16]
    wave = 127 + 90 * np.sin((x + y + 2 * t + 5 * seed) / 6)
    colours = np.array([1.0, 0.4 + 0.02 * (seed % 25), 0.3 + 0.03 * (seed % 20)])
    return (wave[..., None] * colours).astype(np.uint8)


def make_run(folder: Path, number: int = 0, **changes: Any) -> Path:
    """A workdir with curves of both stages, an evaluation, and a sample of each class.

    changes: of keys at the top of the configuration.
    """
    config = dataclasses.replace(load_tiny(), **{"seed": number, **changes})
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(to_json(config))
    add_metrics(folder, number)
    add_report(folder, scores={"label_agreement": 0.5 + number / 100, "psnr": 30.0 - number})
    add_samples(folder, number)
    return folder


def add_metrics(folder: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    for stage, name in (("tokenizer", "psnr"), ("generator", "bits_per_token")):
        lines = [f"step,loss,step_time_s,validation/{name}"]
        for step in range(10, UPDATES + 1, 10):
            loss = 3 / (1 + step / 40) + 0.02 * number + 0.1 * rng.random()
            held_out = f"{loss:.4g}" if step % 100 == 0 else ""
            lines.append(f"{step},{loss:.6g},{0.2 + 0.01 * rng.random():.4g},{held_out}")
        (folder / stage).mkdir()
        (folder / stage / "metrics.csv").write_text("\n".join(lines) + "\n")


def add_report(folder: Path, file: str = "moving-shapes", **changes: Any) -> None:
    """An evaluation, as JSON below `report/`."""
    (folder / "report").mkdir(exist_ok=True)
    text = json.dumps(make_report(worst=[], **changes))
    (folder / "report" / f"{file}.json").write_text(text)


def add_samples(folder: Path, number: int) -> None:
    (folder / "samples").mkdir()
    videos = np.stack([make_clip(7 * i + number) for i in range(len(LABELS))])
    np.savez_compressed(folder / "samples" / "samples.npz", videos=videos)
    for i, label in enumerate(LABELS):
        (folder / "samples" / f"{i:04d}-{label.replace(' ', '-')}.mp4").touch()


def add_clips(folder: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Kept clips of an evaluation by their file, with what their rows say of them."""
    listed = []
    for i, (file, row) in enumerate(rows.items()):
        write_video(folder / "report" / file, make_clip(i).repeat(6, 1).repeat(6, 2), fps=8.0)
        known = {"protocol": "moving-shapes", "id": i, "kind": "generated", "label": ""}
        listed.append({**known, "file": file, "given_frames": 0, "why": "spread", **row})
    (folder / "report" / "clips.json").write_text(json.dumps(listed))


def add_previews(folder: Path, step: int = UPDATES) -> None:
    """Four held-out clips (10, 11, ...) above their reconstructions, and four generated ones."""
    real, made, drawn = ([make_clip(first + i) for i in range(4)] for first in (10, 20, 30))
    for stage, clips in (("tokenizer", [*real, *made]), ("generator", drawn)):
        path = folder / stage / "previews" / f"{step:08d}-clips.gif"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_gif(path, tile_clips(np.stack(clips), columns=4), fps=8.0)
