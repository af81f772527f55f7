# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The files that drawn clips become: an MP4 each, a grid of all, the arrays."""

import contextlib
import os
import re
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbp.data.recording import GifWriter, VideoWriter
from nbp.data.video import tile_clips, write_gif, write_video
from nbp.sampling.rollout import Piece
from nbp.sampling.sampler import Samples
from nbp.shapes import Clips
from nbp.training.distributed import is_main

GRID_SIDE = 160  # least height of one clip in a GIF grid: small clips are enlarged
GRID_PIXELS = 2**26  # of all frames of a GIF of long videos: of more frames every second, third ...


@dataclass(frozen=True)
class Files:
    """Where clips go. names: what each shows; columns: of the grid, None for a square one."""

    out: Path
    names: Sequence[str]
    fps: float
    columns: int | None = None

    @property
    def paths(self) -> list[Path]:
        """An MP4 for each clip."""
        slugs = [re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in self.names]
        return [self.out / f"{i:04d}-{slug or 'clip'}.mp4" for i, slug in enumerate(slugs)]


def write_samples(samples: Samples, files: Files) -> None:
    """Writes one MP4 per clip, `grid.gif` of all of them and `samples.npz`."""
    for path, clip in zip(files.paths, samples.videos, strict=True):
        write_video(path, clip, fps=files.fps)
    write_grid(files.out / "grid.gif", samples.videos, fps=files.fps, columns=files.columns)
    np.savez_compressed(files.out / "samples.npz", videos=samples.videos, tokens=samples.tokens)


def write_grid(path: Path, clips: Clips, *, fps: float, columns: int | None = None) -> None:
    """Writes clips side by side as one GIF, small ones enlarged. In a job, process 0 does."""
    if not is_main():
        return
    columns = columns or choose_columns(len(clips))
    path.parent.mkdir(parents=True, exist_ok=True)
    scale = choose_scale(len(clips), clips.shape[2])
    write_gif(path, tile_clips(clips, columns=columns), fps=fps, scale=scale)


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
        folder = tempfile.TemporaryDirectory(prefix=".recording-", dir=self.files.out)
        self._folder = Path(self._stack.enter_context(folder))
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
            paths = self.files.paths[piece.first : piece.first + len(piece.videos)]
            self._writers = [
                self._open.enter_context(VideoWriter(path, fps=self.files.fps)) for path in paths
            ]
        for writer, video in zip(self._writers, piece.videos, strict=True):
            writer.add(video)
        rows = slice(piece.first, piece.first + len(piece.videos))
        self.videos[rows, piece.frame : piece.frame + piece.videos.shape[1]] = piece.videos
        self.tokens[rows, piece.latent : piece.latent + piece.tokens.shape[1]] = piece.tokens

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        with self._stack:
            if kind is not None:
                self._open.__exit__(kind, error, trace)  # half a video is none
                return
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
        scale = choose_scale(n, height)
        grid = tile_clips(self.videos[:, :1], columns=columns)
        every = -(-frames * grid[0, ..., 0].size * scale**2 // GRID_PIXELS)
        fps = self.files.fps / every
        with GifWriter(self.files.out / "grid.gif", fps=fps, scale=scale) as writer:
            for frame in range(0, frames, every):
                clips = np.asarray(self.videos[:, frame : frame + 1])
                writer.add(tile_clips(clips, columns=columns))

    def _write_arrays(self) -> None:
        self.videos.flush()
        self.tokens.flush()
        whole = self._folder / "samples.npz"
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("videos.npy", "tokens.npy"):
                archive.write(self._folder / name, name)
        os.replace(whole, self.files.out / "samples.npz")
