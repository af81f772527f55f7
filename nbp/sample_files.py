# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The files that drawn clips become: an MP4 each, a grid of all, the arrays, a list of them.

A set of files takes the place of the one that an earlier request left in the same folder, and only
when it is complete: arrays and grid are always those of the videos beside them.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbp import locks
from nbp.data.video.encode import GifWriter, VideoWriter, tile_clips, write_gif
from nbp.errors import ConfigError
from nbp.files import make_folder, read_json, write_text
from nbp.layout import Box
from nbp.parallel.distributed import is_main
from nbp.sampling.long_video import Piece
from nbp.sampling.sampler import Samples
from nbp.shapes import Clips

GRID_SIDE = 160  # least height of one clip in a GIF grid: small clips are enlarged
GRID_PIXELS = 2**26  # of all frames of a GIF of long videos
MOST_GRID_PIXELS = 2**29  # of all frames of a GIF of clips: of more clips the first ones
GIF_SIDE = 2**16 - 1  # the largest width or height that a GIF can have
GAP = 2  # pixels between the clips of a grid
LONGEST_SLUG = 100  # characters of a file's name that come from a class name
LIST, GRID, ARRAYS = "samples.json", "grid.gif", "samples.npz"
DRIFT = ("drift.json", "drift.png")  # of long videos
VIDEO = re.compile(r"([0-9]{4,})-[^/]*\.mp4")


@dataclass(frozen=True)
class Files:
    """Where clips go. names: what each shows; columns: of the grid, None for a square one.

    grid_pixels: of all frames of the grid of long videos; of more every second, third ... is in it.
    """

    out: Path
    names: Sequence[str]
    fps: float
    columns: int | None = None
    grid_pixels: int = GRID_PIXELS

    @property
    def videos(self) -> list[str]:
        """The name of an MP4 for each clip: its number, and what can be read of its class."""
        return [f"{i:04d}-{make_slug(name)}.mp4" for i, name in enumerate(self.names)]


def make_slug(name: str) -> str:
    """ASCII letters and digits of a name with hyphens between, safe on every file system.

    A long one is cut, and ends in a hash of the whole name.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "clip"
    if len(slug) <= LONGEST_SLUG:
        return slug
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{slug[: LONGEST_SLUG - 9].rstrip('-')}-{digest}"


def find_earlier(out: Path) -> list[str]:
    """Names of the files that an earlier request left in a folder.

    Those that it listed; without a list (older versions made none) the videos of its arrays. Raises
    ConfigError where there are other videos with names like ours: nobody knows whose they are.
    """
    if not os.path.isdir(out):
        return []
    present = set(os.listdir(out))
    listed = _read_list(out / LIST)
    if listed is None:
        count = _count_videos(out / ARRAYS)
        listed = [n for n in present if (m := VIDEO.fullmatch(n)) and int(m[1]) < count]
        listed += [GRID, ARRAYS, *DRIFT] if count else []
    foreign = sorted(n for n in present.difference(listed) if VIDEO.fullmatch(n))
    if foreign:
        raise ConfigError(
            f"{out} holds videos that are of no known request, such as {foreign[0]} "
            f"({len(foreign)} in all): remove them, or name another folder with --out"
        )
    return sorted(present.intersection(listed))


def _read_list(path: Path) -> list[str] | None:
    """Plain names in a list of files; None where there is none that can be read."""
    try:
        files = read_json(path)["files"]
        return [name for name in map(str, files) if name == os.path.basename(name) and name]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _count_videos(path: Path) -> int:
    """How many videos an archive of arrays has; 0 where it is none."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("videos.npy") as file:
            np.lib.format.read_magic(file)
            return np.lib.format.read_array_header_1_0(file)[0][0]
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile):
        return 0


@contextlib.contextmanager
def replacing(files: Files) -> Iterator[Path]:
    """A hidden folder for the files of a set; if the block ends well they replace the earlier set.

    Until then the folder shows that one. While files are moved there are no arrays: they come last.
    """
    earlier = find_earlier(files.out)
    make_folder(files.out)
    with hidden_folder(files.out, ".samples-") as folder:
        yield folder
        made = [name for name in os.listdir(folder) if not name.startswith(".")]
        made.sort(key=lambda name: (name == ARRAYS, name == GRID, name))
        _write_list(files, [*earlier, *made])  # so that it can be cleared if this is interrupted
        for old in (ARRAYS, GRID, *earlier):
            (files.out / old).unlink(missing_ok=True)
        for new in made:
            os.replace(folder / new, files.out / new)
        _write_list(files, made)


@contextlib.contextmanager
def hidden_folder(out: Path, prefix: str) -> Iterator[Path]:
    """An empty folder in `out`, which is gone after the block.

    Those of processes that were killed go before: a folder in use has a lock. Without locks nobody
    can tell, and they stay.
    """
    for left in sorted(out.glob(f"{prefix}*")):
        with contextlib.suppress(locks.Held, OSError), locks.lock_folder(left) as lock:
            if lock.held:
                shutil.rmtree(left)
    folder, lock = _make_locked(out, prefix)
    with lock:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _make_locked(out: Path, prefix: str) -> tuple[Path, locks.Lock]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=out))
        # Before it has its lock, another process may take it for one that was left.
        with contextlib.suppress(locks.Held, FileNotFoundError):
            lock = locks.lock_folder(folder)
            if folder.is_dir():
                return folder, lock
            lock.close()


def _write_list(files: Files, names: Sequence[str]) -> None:
    """The list of files, and which clip is of which class."""
    clips = [
        {"file": video, "label": name}
        for video, name in zip(files.videos, files.names, strict=True)
    ]
    found = {"files": sorted(set(names)), "clips": clips}
    write_text(files.out / LIST, json.dumps(found, indent=1) + "\n")


def check_room(out: Path, *, count: int, clip: Box, streamed: bool) -> None:
    """ConfigError where the frames do not fit into memory, or, where `streamed`, on the disk.

    clip: (frames, height, width) of each.
    """
    needed = count * math.prod(clip) * 3
    if streamed:
        place = out.absolute()
        while not os.path.exists(place):
            place = place.parent
        free, where = float(shutil.disk_usage(place).free), f"the disk of {out} has"
    else:
        needed *= 2  # parts, then all of them in one array
        free, where = _find_free_memory(), "this machine's memory has"
    if needed > free:
        raise ConfigError(
            f"{count} clips of {clip[0]} frames take {needed / 2**30:.1f} GiB, {where} "
            f"{free / 2**30:.1f} GiB: draw fewer with --num, others with another --seed and --out"
        )


def _find_free_memory() -> float:
    """Bytes of memory that a process can have; infinity where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="utf8").splitlines()
        kibibytes = next(line for line in lines if line.startswith("MemAvailable:")).split()[1]
        return float(int(kibibytes) * 1024)
    return float("inf")


def write_samples(samples: Samples, files: Files) -> None:
    """Writes one MP4 per clip, `grid.gif` of all of them, `samples.npz` and `samples.json`."""
    with replacing(files) as folder:
        for name, clip in zip(files.videos, samples.videos, strict=True):
            with VideoWriter(folder / name, fps=files.fps) as writer:
                writer.add(clip)
        write_grid(folder / GRID, samples.videos, fps=files.fps, columns=files.columns)
        np.savez_compressed(folder / ARRAYS, videos=samples.videos, tokens=samples.tokens)


def write_grid(path: Path, clips: Clips, *, fps: float, columns: int | None = None) -> None:
    """Writes clips side by side as one GIF, small ones enlarged. In a job, process 0 does.

    Of more clips than a GIF has room for the first of each row are shown, and the first rows.
    """
    if not is_main():
        return
    columns = columns or choose_columns(len(clips))
    path.parent.mkdir(parents=True, exist_ok=True)
    shown, columns = choose_shown(
        len(clips), columns, frame=clips.shape[2:4], frames=clips.shape[1]
    )
    scale = choose_scale(len(clips), clips.shape[2])
    height = -(-len(shown) // columns) * (clips.shape[2] + GAP)
    width = columns * (clips.shape[3] + GAP)
    while scale > 1 and (
        scale * max(height, width) > GIF_SIDE
        or scale**2 * height * width * clips.shape[1] > MOST_GRID_PIXELS
    ):
        scale -= 1
    if len(shown) < len(clips):
        clips = clips[shown]
    write_gif(path, tile_clips(clips, columns=columns), fps=fps, scale=scale)


def choose_shown(
    count: int, columns: int, *, frame: tuple[int, ...], frames: int
) -> tuple[list[int], int]:
    """Which of `count` clips a GIF has room for, in how many columns."""
    rows = -(-count // columns)
    wide = min(columns, max(1, GIF_SIDE // (frame[1] + GAP)))
    area = (frame[0] + GAP) * (frame[1] + GAP) * frames
    high = min(GIF_SIDE // (frame[0] + GAP), MOST_GRID_PIXELS // (area * wide))
    rows = min(rows, max(1, high))
    shown = [r * columns + c for r in range(rows) for c in range(wide) if r * columns + c < count]
    return shown, wide


def choose_columns(count: int) -> int:
    """Of a grid that is about as wide as it is high."""
    return max(1, round(count**0.5))


def choose_scale(count: int, height: int) -> int:
    """How much a grid of `count` clips enlarges each pixel."""
    return max(1, GRID_SIDE // height if count <= 32 else 2)


class Recording:
    """The same files for videos of any length, written as their pieces come; a context manager.

    The arrays are files mapped into memory, `videos` uint8 [n t h w c] and `tokens` int32
    [n T H W]; they are gone after the `with` block, at whose end grid and `samples.npz` are made.
    """

    def __init__(self, files: Files, *, frames: int, latents: int) -> None:
        self.files, self._frames, self._latents = files, frames, latents
        self.videos: Any = None
        self.tokens: Any = None
        self._writers: list[VideoWriter] = []
        self._first = -1

    def __enter__(self) -> "Recording":
        self._stack = contextlib.ExitStack()
        self.folder = self._stack.enter_context(replacing(self.files))
        self._folder = self._stack.enter_context(hidden_folder(self.files.out, ".arrays-"))
        self._open = self._stack.enter_context(contextlib.ExitStack())
        return self

    def add(self, piece: Piece) -> None:
        """Takes the next piece; the pieces of one batch come one after the other."""
        if self.videos is None:
            self.videos = self._map("videos", piece.videos, self._frames)
            self.tokens = self._map("tokens", piece.tokens, self._latents)
        if piece.first != self._first:
            self._open.close()  # the videos of the batch before are complete
            self._first = piece.first
            names = self.files.videos[piece.first : piece.first + len(piece.videos)]
            self._writers = [
                self._open.enter_context(VideoWriter(self.folder / name, fps=self.files.fps))
                for name in names
            ]
        for writer, video in zip(self._writers, piece.videos, strict=True):
            writer.add(video)
        rows = slice(piece.first, piece.first + len(piece.videos))
        self.videos[rows, piece.frame : piece.frame + piece.videos.shape[1]] = piece.videos
        self.tokens[rows, piece.latent : piece.latent + piece.tokens.shape[1]] = piece.tokens

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)  # half a video is none, nothing is replaced
            return
        with self._stack:
            self._open.close()
            self._write_grid()
            self._write_arrays()
            del self.videos, self.tokens

    def _map(self, name: str, piece: np.ndarray, length: int) -> Any:
        """A file for an array of all videos, as long as the whole."""
        shape = (len(self.files.names), length, *piece.shape[2:])
        path = self._folder / f"{name}.npy"
        return np.lib.format.open_memmap(path, mode="w+", dtype=piece.dtype, shape=shape)

    def _write_grid(self) -> None:
        n, frames, height = self.videos.shape[:3]
        columns = self.files.columns or choose_columns(n)
        shown, columns = choose_shown(n, columns, frame=self.videos.shape[2:4], frames=1)
        grid = tile_clips(self.videos[shown, :1], columns=columns)
        scale = min(choose_scale(n, height), GIF_SIDE // max(grid.shape[1:3]))
        every = -(-frames * grid[0, ..., 0].size * scale**2 // self.files.grid_pixels)
        fps = self.files.fps / every
        with GifWriter(self.folder / GRID, fps=fps, scale=scale) as writer:
            for frame in range(0, frames, every):
                clips = np.asarray(self.videos[shown, frame : frame + 1])
                writer.add(tile_clips(clips, columns=columns))

    def _write_arrays(self) -> None:
        self.videos.flush()
        self.tokens.flush()
        whole = self._folder / "samples.npz"
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("videos.npy", "tokens.npy"):
                archive.write(self._folder / name, name)
        os.replace(whole, self.folder / ARRAYS)
