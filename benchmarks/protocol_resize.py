# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Real frames as the published evaluations scale them, and as this package does: a line for each.

    python protocol_resize.py --videos DIR --write originals.npz      # with the originals
    python -m benchmarks.protocol_resize --videos DIR --originals originals.npz

The two commands run in different environments. The first one needs decord, torch, torchvision,
opencv-python and imageio-ffmpeg, and nothing of this package; it applies the very operation of each
repository to the first frames of each video (mp4 or avi, found below DIR) and keeps the results.
The second one applies ours to the same files and prints the differences: mean and largest in
levels of 255, PSNR over all frames of all videos; beside it what the bicubic of our own data gives.
"""

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

FRAMES = 17
SIZE = 128
# Name, size, what it is; the short name of each original below.
STORED = (("omni-ucf stored", 128), ("omni-k600 stored", 64))


def main(argv: list[str] | None = None) -> None:
    """Writes the originals' frames, or compares ours with them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--write", type=Path, help="file for the originals' frames")
    parser.add_argument("--originals", type=Path, help="file that --write made")
    arguments = parser.parse_args(argv)
    if (arguments.write is None) == (arguments.originals is None):
        sys.exit("give --write FILE (with the originals installed) or --originals FILE")
    videos = sorted(p for p in arguments.videos.rglob("*") if p.suffix in (".mp4", ".avi"))
    if not videos:
        sys.exit(f"{arguments.videos} holds no mp4 or avi file")
    if arguments.write is not None:
        np.savez_compressed(arguments.write, **write_originals(videos))
        return
    with np.load(arguments.originals) as found:
        compare(videos, dict(found))


# The originals -----------------------------------------------------------------------------------


def write_originals(videos: list[Path]) -> dict[str, np.ndarray]:
    """{"PROTOCOL/VIDEO": frames [t h w 3]}, bytes or floats in [0, 1]."""
    try:
        import cv2
        import decord
        import torch
        import torch.nn.functional as functional
        from torchvision.transforms import CenterCrop, Resize
    except ImportError as error:
        sys.exit(f"{error.name} is missing: --write runs where the originals' packages are")

    def decode(video: Path, **size: int) -> np.ndarray:
        reader = decord.VideoReader(str(video), **size)
        return reader.get_batch(np.arange(FRAMES)).asnumpy()

    found = {}
    for video in videos:
        name = video.stem
        frames = decode(video)
        floats = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255.0
        for size in (64, 128, 256):  # nbp/video_utils.py:256 of NBP, and OmniTokenizer's
            found[f"decord {size}/{name}"] = decode(video, width=size, height=size)
        larp = CenterCrop(SIZE)(Resize(SIZE, antialias=True)(floats))
        found[f"larp/{name}"] = larp.permute(1, 2, 3, 0).numpy()
        height, width = frames.shape[1:3]
        scale = SIZE / min(height, width)  # tats/data.py:119-131
        short = height < width
        target = (SIZE, math.ceil(width * scale)) if short else (math.ceil(height * scale), SIZE)
        tats = functional.interpolate(
            floats.permute(1, 0, 2, 3), size=target, mode="bilinear", align_corners=False
        )
        top, left = (target[0] - SIZE) // 2, (target[1] - SIZE) // 2
        tats = tats[:, :, top : top + SIZE, left : left + SIZE] - 0.5
        tats_bytes = ((tats.permute(0, 2, 3, 1) + 0.5) * 255).byte()  # sample script, line 113
        found[f"tats/{name}"] = tats_bytes.numpy()
        long = int(SIZE * max(height, width) / min(height, width))  # data/functional.py:66-74
        size = (long, SIZE) if height <= width else (SIZE, long)
        seed = np.stack([cv2.resize(f, size, interpolation=cv2.INTER_LINEAR) for f in frames])
        found[f"seed/{name}"] = cut_centre(seed)
        if decode_256 := found[f"decord 256/{name}"].any():
            stored = torch.from_numpy(found[f"decord 256/{name}"]).float() / 255.0 - 0.5
            stored = torch.clamp(stored + 0.5, 0, 1)
            for label, size_read in STORED:
                found[f"{label}/{name}"] = store(stored.numpy(), size_read, decord)
        del decode_256
    return found


def store(clip: np.ndarray, size: int, decord: Any) -> np.ndarray:
    """OmniTokenizer/utils.py:222-247, then evaluation/fvd_external.py:31."""
    import imageio_ffmpeg

    padded = np.pad((clip * 255).astype("uint8"), ((0, 0), (1, 1), (1, 1), (0, 0)))
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "clip.mp4")
        shape = (padded.shape[2], padded.shape[1])
        # As imageio's plugin for mimsave calls it, which passes no quality on.
        writer = imageio_ffmpeg.write_frames(
            file, shape, fps=6, quality=None, macro_block_size=16, ffmpeg_log_level="error"
        )
        writer.send(None)
        for frame in padded:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        reader = decord.VideoReader(file, width=size, height=size)
        return reader.get_batch(np.arange(len(clip))).asnumpy()


def cut_centre(frames: np.ndarray) -> np.ndarray:
    """The centre square, as the repositories' crops cut it where nothing is drawn."""
    top, left = ((side - SIZE) // 2 for side in frames.shape[1:3])
    return frames[:, top : top + SIZE, left : left + SIZE]
