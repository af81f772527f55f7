# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of good and bad videos of every kind that users have met, with what each should become.

The pictures come from `make_clip` with the file's own seed, so that the truth need not be kept.
"""

import multiprocessing
import os
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.data.videos import encode_sound, make_clip

CLASSES = ("archery", "bowling", "Übung 3")
OK = "ok"


@dataclass(frozen=True)
class Made:
    """A file of the tree. heading: what the report should say. turns: clockwise quarters that a
    player makes; gray: the picture is the mean of its colours.
    """

    path: str
    heading: str
    shape: tuple[int, int, int] = (0, 0, 0)  # frames, height, width as coded
    seed: int = 0
    turns: int = 0
    gray: bool = False

    def truth(self) -> np.ndarray:
        """The upright frames that were encoded."""
        clip = make_clip(*self.shape, seed=self.seed)
        if self.gray:
            clip = np.repeat(clip.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)
        return np.rot90(clip, -self.turns, axes=(1, 2))


def write_clip(
    path: Path,
    clip: np.ndarray,
    encoder: str,
    *,
    pixels: str = "yuv420p",
    fps: float = 25,
    sound: bool = False,
    uneven: bool = False,
    container: str | None = None,
) -> None:
    """Writes a video with PyAV. uneven: frames are shown for one or two ticks in turn."""
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", format=container) as out:
        stream: Any = out.add_stream(encoder, rate=rate)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = pixels
        stream.bit_rate = 60 * clip.shape[1] * clip.shape[2]
        audio: Any = out.add_stream("aac", rate=16000) if sound else None
        if sound:
            audio.layout = "mono"
        tick = 0
        for image in clip:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = tick, 1 / rate
            tick += 1 + (uneven and tick % 3 == 0)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if sound:
            for start in range(0, 8192, 1024):
                samples = np.sin(np.arange(start, start + 1024) * 0.05, dtype=np.float32)[None]
                piece = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                piece.sample_rate, piece.pts = 16000, start
                out.mux(audio.encode(piece))
            out.mux(audio.encode())


def mark_rotated(path: Path, turns: int) -> None:
    """Sets the turn (clockwise quarters) in the track header of an mp4, as phones do."""
    a, b, c, d = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)][turns]
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    numbers = np.frombuffer(bytes(data[matrix : matrix + 36]), ">i4").copy()
    numbers[[0, 1, 3, 4]] = np.array([a, b, c, d]) * 65536
    data[matrix : matrix + 36] = numbers.tobytes()
    path.write_bytes(data)


# Suffix, encoder and options of the good kinds; then the file's peculiarity.
GOOD: dict[str, tuple[str, str, dict[str, Any]]] = {
    "avi mpeg4": ("avi", "mpeg4", {}),
    "mp4 h264": ("mp4", "libx264", {}),
    "webm vp8": ("webm", "libvpx", {}),
    "mkv h264": ("mkv", "libx264", {}),
    "avi msmpeg4": ("avi", "msmpeg4", {}),
    "mp4 mpeg4": ("mp4", "mpeg4", {}),
    "webm vp9": ("webm", "libvpx-vp9", {}),
    "mov mjpeg": ("mov", "mjpeg", {"pixels": "yuvj420p"}),
    "mkv mpeg2": ("mkv", "mpeg2video", {}),
    "mkv ffv1": ("mkv", "ffv1", {"pixels": "bgr0"}),
    "odd sizes": ("webm", "libvpx", {}),
    "variable rate": ("mkv", "libx264", {"uneven": True}),
    "rotated": ("mp4", "libx264", {}),
    "gray": ("mkv", "ffv1", {"pixels": "gray"}),
    "sound": ("mp4", "libx264", {"sound": True}),
    "upper case": ("AVI", "mpeg4", {"container": "avi"}),
    "ntsc": ("mp4", "libx264", {"fps": 30000 / 1001}),
}


def _make_good(root: Path, number: int, kind: str, rng: np.random.Generator) -> Made:
    suffix, encoder, options = GOOD[kind]
    frames, height, width = (
        int(rng.integers(17, 40)),
        2 * int(rng.integers(18, 72)),
        2 * int(rng.integers(24, 90)),
    )
    if kind == "odd sizes":
        height, width = height + 1, width + 1
    turns = int(rng.integers(1, 4)) if kind == "rotated" else 0
    stems = {"sound": f"длинное имя 日本語 {number}", "mp4 mpeg4": f"{number}-" + "x" * 230}
    name = f"{CLASSES[number % 3]}/{stems.get(kind, f'clip{number}')}.{suffix}"
    made = Made(name, OK, (frames, height, width), number, turns, kind == "gray")
    if (root / name).exists():  # a large tree that is used again
        return made
    clip = made.truth() if made.gray else make_clip(frames, height, width, seed=number)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    write_clip(root / name, clip, encoder, **options)
    if turns:
        mark_rotated(root / name, turns)
    return made


def _write_bad(path: Path, kind: str, seed: int) -> str:
    """Writes a bad file and returns its heading."""
    clip = make_clip(40, 48, 64, seed=seed)
    rng = np.random.default_rng(seed)
    match kind:
        case "zero bytes":
            path.write_bytes(b"")
            return "zero bytes"
        case "web page":
            path.write_bytes(b"<!DOCTYPE html><html><body>404</body></html>" * 20)
            return "not a video"
        case "random bytes":
            path.write_bytes(rng.bytes(3000))
            return "not a video"
        case "playlist":
            path.write_text("ffconcat version 1.0\nfile '/etc/passwd'\n")
            return "not a video"
        case "one frame":
            write_clip(path, clip[:1], "libx264")
            return "too short"
        case "ten frames":
            write_clip(path, clip[:10], "libx264")
            return "too short"
        case "no frames":
            with av.open(str(path), "w") as out:
                stream: Any = out.add_stream("libx264", rate=25)
                stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
                out.start_encoding()
            return "no video stream|corrupt"
        case "cut":
            write_clip(path, clip, "libx264")
            data = path.read_bytes()
            path.write_bytes(data[: len(data) // 2])
            return "corrupt"
        case "head only":
            write_clip(path, clip, "libx264")
            path.write_bytes(path.read_bytes()[:24])
            return "corrupt"
        case "damaged":
            write_clip(path, clip, "mpeg4", container="avi")
            data = bytearray(path.read_bytes())
            starts = [match.end() + 4 for match in re.finditer(b"00dc", data)]
            sizes = [int.from_bytes(data[s - 4 : s], "little") for s in starts]
            # Inside one packet: over a packet's header the demuxer just skips a few frames.
            size, start = max(zip(sizes[1:40], starts[1:40], strict=True))
            data[start + 16 : start + size] = b"\x55" * (size - 16)
            path.write_bytes(data)
            return "corrupt"
        case "sound only":
            encode_sound(path)
            return "no video stream"
        case "pipe":
            os.mkfifo(path)
            return "unreadable"
        case "dangling link":
            path.symlink_to("nowhere.mp4")
            return "unreadable"
        case "link to itself":
            path.symlink_to(path.name)
            return "unreadable"
    raise AssertionError(kind)


BAD = (
    "zero bytes",
    "web page",
    "random bytes",
    "playlist",
    "one frame",
    "ten frames",
    "no frames",
    "cut",
    "head only",
    "damaged",
    "sound only",
    "pipe",
    "dangling link",
    "link to itself",
)


def _make_numbered(job: tuple[Path, int, int]) -> Made:
    root, number, seed = job
    kinds = list(GOOD)
    return _make_good(
        root, number, kinds[number % len(kinds)], np.random.default_rng((seed, number))
    )


def build_tree(root: Path, *, good: int, bad: int, seed: int = 0, workers: int = 1) -> list[Made]:
    """Writes `good` good and `bad` bad videos, folder loops and stray files."""
    jobs = [(root, number, seed) for number in range(good)]
    if workers == 1:
        made = [_make_numbered(job) for job in jobs]
    else:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            made = list(pool.map(_make_numbered, jobs, chunksize=8))
    for number in range(bad):
        name = f"{CLASSES[number % 3]}/bad{number}.mp4"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).unlink(missing_ok=True)
        made.append(Made(name, _write_bad(root / name, BAD[number % len(BAD)], number)))
    # Loops must neither hang the walk nor list a file twice.
    for link, target in ((root / CLASSES[0] / "loop", ".."), (root / CLASSES[1] / "self", "self")):
        link.unlink(missing_ok=True)
        link.symlink_to(target, target_is_directory=True)
    (root / CLASSES[0] / "notes.txt").write_text("not a video by its name\n")
    (root / CLASSES[0] / ".hidden.mp4").write_bytes(b"")
    return made
