# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Re-encoding video files in worker processes that a hostile file may hang or kill.

The parent hands out one file at a time and knows who works on what, so a worker that dies or
exceeds its time takes down only its own file, is replaced, and the file is reported.
"""

import contextlib
import hashlib
import math
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nbp.data.video.clip_codec import ClipEncoder, Coding
from nbp.data.video.decode import (
    MAX_FRAMES,
    MAX_PIXELS,
    VideoInfo,
    read_frames,
    resample_frames,
    too_short,
)
from nbp.data.video.resize import Kernel, LongSide, Scaling, scale_frame
from nbp.errors import ConfigError, RestartError
from nbp.files import VideoError

# Reasons of this module beside those of `video.REASONS`.
CRASHED = "decoder crashed"
TIMED_OUT = "timed out"
VANISHED = "vanished"
# A worker's address space. Frames are capped at 200 MB each; a decoder holds a few of them.
MEMORY_LIMIT = 8 * 2**30
MAX_WORKERS = 4096
# Seconds for one file; the kernel's clock of a process takes no fraction and no infinity.
MIN_TIMEOUT, MAX_TIMEOUT = 0.1, 604_800
MIN_RATE, MAX_RATE = 0.001, 1000  # frames per second
# Workers that end in a row before they are ready for a file: not the files' fault.
MAX_STARTS = 3
_READY = "ready"
Fit = Literal["short", "squash", "native"]


def check_number(flag: str, value: int | float, low: int | float, high: int | float) -> None:
    """ConfigError with the range, unless `value` lies in it; not-a-number does not."""
    if not low <= value <= high:
        raise ConfigError(f"--{flag} {str(value)[:40]}; allowed: {low:.12g} .. {high:.12g}")


def check_timeout(timeout: int | float) -> None:
    check_number("timeout", timeout, MIN_TIMEOUT, MAX_TIMEOUT)


@dataclass(frozen=True)
class Recipe:
    """How each file is stored.

    fit: "short" scales the short side down to `size` and keeps the aspect ratio (smaller files
        stay as they are), "squash" scales to size x size as the official loader does, "native"
        keeps the size of the source.
    resize, long_side: the kernel that scales, and how the side that is not given becomes whole.
    min_frames, fps: files with fewer than `min_frames` frames at `fps` are left out as too short.
    """

    coding: Coding
    size: int = 128
    fit: Fit = "short"
    min_frames: int = 17
    fps: float | None = None
    resize: Kernel = "bicubic"
    long_side: LongSide = "round"

    def __post_init__(self) -> None:
        check_number("size", self.size, 1, math.isqrt(MAX_PIXELS))
        check_number("min_frames", self.min_frames, 1, MAX_FRAMES)
        if self.fps is not None:
            check_number("fps", self.fps, MIN_RATE, MAX_RATE)

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The stored height and width of a file of this size."""
        if self.fit == "native" or (self.fit == "short" and min(height, width) <= self.size):
            return height, width
        scaling = Scaling(self.size, squash=self.fit == "squash", long_side=self.long_side)
        return scaling.target(height, width)

    def scale(self, frame: Any, width: int | None = None, turned: bool = False) -> np.ndarray:
        """A decoded frame, of PyAV or RGB [h w 3], as RGB at its target's size.

        width: that the frame has with square pixels; None: its own. turned: the target is that of
        the frame with height and width exchanged.
        """
        height, own = (
            frame.shape[:2] if isinstance(frame, np.ndarray) else (frame.height, frame.width)
        )
        sides = (height, width or own)
        target = self.target(*(sides[::-1] if turned else sides))
        return scale_frame(frame, *(target[::-1] if turned else target), kernel=self.resize)


@dataclass(frozen=True)
class Stored:
    """A file's content as it goes into a record."""

    clip: bytes
    info: VideoInfo
    sha256: str


def reencode_video(path: str | Path, recipe: Recipe) -> Stored:
    """Decodes the whole file, scales and encodes it. Raises `VideoError`."""
    name = os.fspath(path)
    digest = _hash_file(name)
    encoder: list[ClipEncoder] = []
    # FFmpeg's kernel starts from the decoded YUV, the others from the upright picture.
    early = recipe.resize == "swscale-bilinear" and recipe.fit != "native"

    def begin(rate: float) -> Any:
        encoder.append(ClipEncoder(recipe.coding, rate))
        add = encoder[0].add
        return add if early else lambda frame: add(recipe.scale(frame))

    info = read_frames(name, begin, scale=recipe.scale if early else None)
    stored = VideoInfo(info.frames, info.fps, *encoder[0].size, notes=info.notes)
    if len(resample_frames(info.frames, info.fps, recipe.fps)) < recipe.min_frames:
        raise too_short(name, info, frames=recipe.min_frames, fps=recipe.fps)
    return Stored(encoder[0].finish(), stored, digest)


def _hash_file(name: str) -> str:
    digest = hashlib.sha256()
    try:
        if os.path.isfile(name):  # else reading would wait at a pipe; decoding says what it is
            with open(name, "rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        elif not os.path.lexists(name):
            raise VideoError(name, VANISHED, "it was there when the folder was listed")
    except OSError as error:
        raise VideoError(name, "unreadable", error.strerror or str(error)) from None
    return digest.hexdigest()


def run_worker(pipe: Any, recipe: Recipe, timeout: float, parent: int) -> None:
    """A worker process: paths in, `Stored` or `VideoError` out, until the pipe closes."""
    # The parent stops its workers; a terminal sends Ctrl-C to all of them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _limit(resource.RLIMIT_AS, MEMORY_LIMIT)
    _limit(resource.RLIMIT_CORE, 0)

    def follow_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send(_READY)
        while (path := pipe.recv()) is not None:
            # The kernel ends what even the parent's timer could not.
            used = resource.getrusage(resource.RUSAGE_SELF)
            _limit(resource.RLIMIT_CPU, used.ru_utime + used.ru_stime + timeout + 10)
            try:
                result: Stored | VideoError = reencode_video(path, recipe)
            except VideoError as error:
                result = error
            except Exception as error:  # anything else is this file's fault as well
                result = VideoError(path, "corrupt", f"{type(error).__name__}: {error}"[:200])
            pipe.send(result)


def _limit(kind: int, most: int | float) -> None:
    """Lowers a soft limit of this process, or leaves it: no limit is no reason to fail."""
    with contextlib.suppress(ValueError, OSError, OverflowError):
        _, hard = resource.getrlimit(kind)
        most = math.ceil(most)
        resource.setrlimit(
            kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard)
        )


@dataclass
class _Worker:
    """A worker process. ready: it has said so, so whatever ends it now is its file's fault."""

    process: Any
    pipe: Any
    task: tuple[Any, str] | None = None
    deadline: float = 0.0
    ready: bool = False


class WorkerPool:
    """Re-encodes files in `workers` processes; a context manager that leaves none behind.

    timeout: seconds for one file, then its worker is killed. Results come in any order.
    """

    def __init__(self, recipe: Recipe, *, workers: int, timeout: float):
        check_number("workers", workers, 1, MAX_WORKERS)
        check_timeout(timeout)
        self._recipe, self._timeout = recipe, timeout
        self._context = multiprocessing.get_context("spawn")
        self._count = workers
        self._workers: list[_Worker] = []
        self._waiting: deque[tuple[Any, str]] = deque()
        self._failed_starts = 0

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            self._end(worker)
        self._workers.clear()

    @property
    def room(self) -> int:
        """How many more files keep all workers busy, with as many in reserve."""
        return 2 * self._count - len(self._waiting) - sum(w.task is not None for w in self._workers)

    def submit(self, key: Any, path: str) -> None:
        self._waiting.append((key, path))
        self._hand_out()

    def collect(self, patience: float = 0.5) -> Iterator[tuple[Any, Stored | VideoError]]:
        """What has become of files within `patience` seconds: (key, result), maybe nothing."""
        self._hand_out()
        busy = {worker.pipe: worker for worker in self._workers if worker.task is not None}
        if not busy:
            return
        nearest = min(worker.deadline for worker in busy.values()) - time.monotonic()
        ready = connection.wait(list(busy), timeout=max(0.0, min(patience, nearest)))
        for pipe in ready:
            worker = busy[pipe]
            assert worker.task is not None
            key, path = worker.task
            try:
                result = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join(5)
                code = worker.process.exitcode
                self._replace(worker)
                if not worker.ready:
                    self._count_failed_start(code)
                    self._waiting.appendleft(worker.task)
                    continue
                worker.task = None  # it died over this file
                yield key, VideoError(path, CRASHED, f"worker ended with code {code}")
                continue
            if not worker.ready:
                worker.ready, self._failed_starts = True, 0
                worker.deadline = time.monotonic() + self._timeout
                continue
            worker.task = None
            yield key, result
        now = time.monotonic()
        for worker in [w for w in busy.values() if w.task is not None and w.deadline <= now]:
            assert worker.task is not None
            key, path = worker.task
            self._replace(worker)
            if not worker.ready:
                self._count_failed_start("none, it hangs")
                self._waiting.appendleft(worker.task)
                continue
            yield key, VideoError(path, TIMED_OUT, f"after {self._timeout:g} s")
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting:
            idle = next((w for w in self._workers if w.task is None), None)
            if idle is None:
                if len(self._workers) == self._count:
                    return
                idle = self._start()
            task = self._waiting.popleft()
            try:
                idle.pipe.send(task[1])
            except OSError:  # it died while idle: no file's fault
                self._waiting.appendleft(task)
                self._replace(idle)
                if not idle.ready:
                    self._count_failed_start(idle.process.exitcode)
                continue
            idle.task, idle.deadline = task, time.monotonic() + self._timeout + idle_grace(idle)

    def _count_failed_start(self, code: object) -> None:
        self._failed_starts += 1
        if self._failed_starts >= MAX_STARTS:
            raise RestartError(
                f"worker processes end before they open a file (exit code {code}). Is there memory "
                "for --workers of them? Run the same command again; finished shards are kept"
            )

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=run_worker, args=(theirs, self._recipe, self._timeout, os.getpid()), daemon=True
        )
        process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _replace(self, worker: _Worker) -> None:
        self._end(worker)
        self._workers.remove(worker)

    @staticmethod
    def _end(worker: _Worker) -> None:
        worker.pipe.close()
        worker.process.kill()
        worker.process.join(10)


def idle_grace(worker: _Worker) -> float:
    """Seconds a worker that has just been started gets to import its modules."""
    return 60.0 if worker.deadline == 0.0 else 0.0
