# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Small synthetic sets that both sides are run on: lists of videos, video files, features."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CLASSES = 101
VIDEOS = 997


@dataclass(frozen=True)
class Video:
    """One line of a list: the file's path, its class, its frames and their rate."""

    path: str
    label: str
    frames: int
    fps: float


def list_videos(count: int = VIDEOS, *, seed: int = 7, shortest: int = 5) -> list[Video]:
    """Videos of 101 classes, of 5 to 400 frames at 8 to 30 a second, in no order.

    Names differ in capital letters alone at their third letter, as HammerThrow and Hammering do,
    so that alphabets disagree.
    """
    rng = np.random.default_rng(seed)
    rates = np.array([8, 10, 12.5, 15, 23.976, 24, 25, 29.97, 30])
    names = [f"Cl{'aA'[number % 2]}{number // 2:02d}" for number in range(CLASSES)]
    videos = []
    for number in range(count):
        name = names[number if number < CLASSES else int(rng.integers(CLASSES))]
        # Lengths where rules turn: around 16 and 17, multiples of 16, and any.
        near = rng.choice([16, 17, 18, 32, 33, 48, 160, int(rng.integers(shortest, 401))])
        frames = max(int(near), shortest) if number % 3 else int(rng.integers(shortest, 401))
        path = f"{name}/v_{name}_g{rng.integers(1, 26):02d}_c{number:04d}.avi"
        videos.append(Video(path, name, frames, float(rng.choice(rates))))
    return [videos[place] for place in rng.permutation(count)]


# Height and width of the files: UCF101's and Kinetics' shapes in small, upright, square, odd spare
# widths, and one that is smaller than the clips.
SHAPES = ((240, 320), (144, 256), (176, 144), (128, 128), (90, 160), (256, 340))


def draw_frames(height: int, width: int, count: int, *, seed: int) -> np.ndarray:
    """Frames [count height width 3]: waves, a moving rectangle with hard edges, fine stripes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    phases = rng.uniform(0, 2 * np.pi, (3, 4))
    rates = rng.uniform(0.02, 0.6, (3, 4, 2))
    frames = []
    for time in range(count):
        places = [rates[c, :, 0, None, None] * x + rates[c, :, 1, None, None] * y for c in range(3)]
        steps = 0.3 * time * np.arange(1, 5)
        waves = [np.sin(places[c] + (phases[c] + steps)[:, None, None]).sum(0) for c in range(3)]
        frame = 127 + 30 * np.stack(waves, axis=-1)
        left = (7 * time) % max(1, width - 30)
        frame[height // 4 : height // 2, left : left + 25] = (250, 20, 30)
        frame[height // 2 :, :, 1] += 60 * ((x // 3 + y // 5 + time) % 2)[height // 2 :]
        frames.append(np.clip(frame, 0, 255).astype(np.uint8))
    return np.stack(frames)


def write_files(folder: Path, *, frames: int = 6) -> list[Path]:
    """One video file for each of `SHAPES`: MPEG-4 avi, as UCF101's, and H.264 mp4, as Kinetics'."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (height, width) in enumerate(SHAPES):
        codec, suffix = (("mpeg4", "avi"), ("libx264", "mp4"))[number % 2]
        path = folder / f"{number}_{height}x{width}.{suffix}"
        write_file(path, draw_frames(height, width, frames, seed=number), codec=codec)
        paths.append(path)
    return paths


def write_file(path: Path, clip: np.ndarray, *, codec: str, fps: int = 25) -> None:
    """Writes a video file, yuv420p, at a quality near to transparent."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        if codec == "libx264":
            stream.options = {"crf": "12"}
        else:
            stream.codec_context.qmin, stream.codec_context.qmax = 2, 3
        for image in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def draw_pixels(clips: int = 2, frames: int = 17, size: int = 128, *, seed: int = 3) -> np.ndarray:
    """Float clips [n t size size 3] in [0, 1], as a decoder makes them: no whole bytes."""
    rng = np.random.default_rng(seed)
    drawn = [draw_frames(size, size, frames, seed=seed + clip) for clip in range(clips)]
    noise = rng.uniform(-0.5, 0.5, (clips, frames, size, size, 3))
    return np.clip((np.stack(drawn) + noise) / 255, 0, 1).astype(np.float32)


def draw_features(count: int, *, seed: int, dimensions: int = 400, shift: float = 0) -> np.ndarray:
    """Correlated features [count dimensions] of the scale of I3D's logits, float32."""
    rng = np.random.default_rng(seed)
    scales = np.exp(0.5 * np.random.default_rng(1).standard_normal(dimensions))
    rows = rng.standard_normal((count, dimensions))
    mixed = rows + 0.5 * np.roll(rows, 1, axis=1) + 0.25 * np.roll(rows, 7, axis=1)
    return (mixed * scales + shift).astype(np.float32)
