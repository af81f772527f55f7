# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Small videos for tests: made with PyAV's encoders, so the arrays are the reference."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

# (suffix, encoder, pixel format) of the containers and codecs that users have.
CODINGS = {
    "mp4": ("libx264", "yuv420p"),
    "avi": ("mpeg4", "yuv420p"),
    "webm": ("libvpx", "yuv420p"),
    "mov": ("mjpeg", "yuvj420p"),
    "mkv": ("ffv1", "bgr0"),  # lossless
}


def make_clip(frames: int = 20, height: int = 24, width: int = 32, *, seed: int = 0) -> np.ndarray:
    """A smooth pattern that drifts and changes tint: [t h w 3], no two frames alike."""
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi, 3)
    t, y, x = np.ogrid[:frames, :height, :width]
    waves = [
        127 + 80 * np.sin(phase[c] + 0.21 * t + 0.12 * (c + 1) * x + 0.2 * y) for c in range(3)
    ]
    return np.stack(np.broadcast_arrays(*waves), axis=-1).astype(np.uint8)


def encode(
    path: Path, clip: np.ndarray, *, fps: float = 10, options: Any = None, title: str = ""
) -> Path:
    """Writes the clip with the coding that the suffix stands for, at high quality."""
    encoder, pixels = CODINGS[path.suffix[1:]]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as out:
        if title:
            out.metadata["title"] = title
        stream: Any = out.add_stream(encoder, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = pixels
        stream.bit_rate = 4_000_000
        for image in clip:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
    return path


def encode_sound(path: Path) -> Path:
    """An mp4 with a sound track and no picture."""
    with av.open(str(path), "w", format="mp4") as out:
        stream: Any = out.add_stream("aac", rate=16000)
        stream.layout = "mono"
        for start in range(0, 8192, 1024):
            samples = np.sin(np.arange(start, start + 1024) * 0.05, dtype=np.float32)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def psnr(found: np.ndarray, wanted: np.ndarray) -> float:
    """Of two uint8 clips, in dB."""
    error = np.mean((found.astype(np.float64) - wanted) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


# (a, b, c, d) of the eight orientations that a display matrix can state; see `picture`.
ORIENTATIONS = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [
    (0, b, c, 0) for b in (1, -1) for c in (1, -1)
]


def mark_orientation(mp4: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """The mp4 with (a, b, c, d) in its track header's matrix (a b u, c d v, x y w)."""
    data = bytearray(mp4)
    place = data.index(b"tkhd") + 4 + 40
    numbers = np.frombuffer(bytes(data[place : place + 36]), ">i4").copy()
    assert numbers.tolist() == [65536, 0, 0, 0, 65536, 0, 0, 0, 2**30]
    numbers[[0, 1, 3, 4]] = np.array(matrix) * 65536
    data[place : place + 36] = numbers.tobytes()
    return bytes(data)
