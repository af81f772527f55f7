# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""How long videos of moving shapes drift, a line for each folder that `nbp.sample` wrote.

    python -m nbp.sample --workdir runs/quickstart --num 16 --num_frames 129 --out runs/reencode
    python -m benchmarks.long_videos --workdir runs/quickstart runs/reencode [FOLDER ...]

Beside the curves of `drift.json`: agreement with the labels in the first and the last segment, and
mean differences of neighbouring frames, where a window begins (each latent frame, where it rolls)
and elsewhere behind the first clip. `reconstructed` has the same of held-out videos that went
through the tokenizer, which knows no windows.
"""

import argparse
import functools
import json
from pathlib import Path

import numpy as np

import nbp
from benchmarks.measure import print_row
from nbp import build
from nbp.evaluation.long_videos import real_videos
from nbp.layout import frames_of_latents
from nbp.metrics.label_agreement import label_agreement
from nbp.workdir import read_config


def main(argv: list[str] | None = None) -> None:
    """Prints a line per folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--workdir", required=True, type=Path)
    arguments = parser.parse_args(argv)
    config = read_config(arguments.workdir)
    tracker = build.make_tracker(config)
    stride, run = config.tokenizer.stride[0], nbp.load(arguments.workdir)

    @functools.cache  # folders that are compared mostly have as many
    def reconstruct(frames: int, count: int) -> np.ndarray:
        real = real_videos(config, frames, count)
        return np.concatenate([run.decode(run.encode(batch)) for batch in real])

    for folder in arguments.folders:
        report = json.loads((folder / "drift.json").read_text(encoding="utf8"))
        with np.load(folder / "samples.npz") as arrays:
            videos = arrays["videos"]
        names = [path.stem[5:].replace("-", " ") for path in sorted(folder.glob("*.mp4"))]
        window = report["window_frames"]
        # Frames that each window adds.
        rolls = report["slide"] == "rolling"
        new = stride if rolls else window - frames_of_latents(report["keep_frames"], stride)
        again = reconstruct(videos.shape[1], len(videos))
        segments = report["segments"]
        row = {
            "slide": report["slide"],
            "keep_frames": report["keep_frames"],
            "videos": report["videos"],
            "frames": report["frames"],
            **measure_changes(videos[:, window - 1 :], new),
            "reconstructed": measure_changes(again[:, window - 1 :], new),
        }
        for name in ("sharpness", "colour_shift"):
            parts = [report[name][s["frame"] : s["frame"] + s["frames"]] for s in segments]
            row[name] = [round(float(np.mean(part)), 2) for part in parts]
        for name in ("perplexity", "code_distance"):
            row[name] = [round(segment[name], 3) for segment in segments]
        for place, clips in (("first", videos[:, :window]), ("last", videos[:, -window:])):
            scores = label_agreement(tracker, clips, names)
            row |= {f"{place}_{key}": round(value, 3) for key, value in scores.items()}
        print_row("long_videos", row)


def measure_changes(videos: np.ndarray, new: int) -> dict[str, float]:
    """Mean differences of neighbouring frames [n t h w c]; each `new`-th begins a window."""
    change = np.abs(np.diff(videos.astype(np.float32), axis=1)).mean((0, 2, 3, 4))
    begins = np.arange(len(change)) % new == 0
    return {
        "change_at_windows": round(float(change[begins].mean()), 2),
        "change_elsewhere": round(float(change[~begins].mean()), 2),
    }


if __name__ == "__main__":
    main()
