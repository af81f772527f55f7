# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Re-encoding, and a pool whose workers are stopped and killed over a file."""

import hashlib
import math
import os
import resource
import signal
import threading
import time
from multiprocessing.connection import Connection

import numpy as np
import pytest

from nbp.data.augmentation import resize_frame
from nbp.data.prepare import reencode
from nbp.data.prepare.reencode import (
    CRASHED,
    TIMED_OUT,
    VANISHED,
    Recipe,
    WorkerPool,
    reencode_video,
)
from nbp.data.video.clip_codec import Coding, decode_clip
from nbp.data.video.decode import VideoInfo, read_clip
from nbp.errors import ConfigError, RestartError
from nbp.files import VideoError
from tests.data.videos import encode, make_clip, psnr


@pytest.mark.parametrize(
    "options, size",
    [
        ({}, (40, 60)),  # smaller than 128: as it is
        ({"size": 20}, (20, 30)),
        ({"size": 20, "fit": "squash"}, (20, 20)),
        ({"size": 20, "fit": "native"}, (40, 60)),
    ],
)
def test_stored_size(tmp_path, options, size):
    clip = make_clip(20, 40, 60)
    path = encode(tmp_path / "clip.mkv", clip)  # lossless
    stored = reencode_video(path, Recipe(Coding(), **options))
    assert stored.info == VideoInfo(20, 10.0, *size)
    assert stored.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    found = decode_clip(stored.clip, np.arange(20), name="x")
    wanted = np.stack([resize_frame(frame, *size) for frame in clip])
    assert psnr(found, wanted) > 40


def test_too_short_counts_at_the_rate_asked_for(tmp_path):
    path = encode(tmp_path / "clip.avi", make_clip(33), fps=10)
    assert reencode_video(path, Recipe(Coding(), fps=5.2)).info.frames == 33
    with pytest.raises(VideoError, match=r"too short .16 frames at 5 fps .33 at 10 fps"):
        reencode_video(path, Recipe(Coding(), fps=5.0))


def test_files_that_vanish_or_refuse(tmp_path, monkeypatch):
    with pytest.raises(VideoError) as caught:
        reencode_video(tmp_path / "gone.mp4", Recipe(Coding()))
    assert caught.value.reason == VANISHED
    path = encode(tmp_path / "clip.avi", make_clip())

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # root may read everything
    with pytest.raises(VideoError) as caught:
        reencode_video(path, Recipe(Coding()))
    assert (caught.value.reason, caught.value.detail) == ("unreadable", "Permission denied")


def drain(pool: WorkerPool, count: int) -> dict:
    results: dict = {}
    began = time.monotonic()
    while len(results) < count:
        results.update(pool.collect(0.1))
        assert time.monotonic() - began < 60
    return results


def test_a_worker_takes_down_only_its_own_file(tmp_path):
    """One worker is killed, one is stopped, over files that would never end: a pipe's reader."""
    good = [encode(tmp_path / f"{i}.avi", make_clip(17 + i, seed=i)) for i in range(4)]
    long = encode(tmp_path / "long.avi", make_clip(600, 96, 128))
    with WorkerPool(Recipe(Coding(quality=0)), workers=2, timeout=4.0) as pool:
        assert pool.room == 4
        pool.submit("warm", os.fspath(good[0]))
        pool.submit("too", os.fspath(good[0]))
        assert drain(pool, 2)["warm"].info.frames == 17
        pool.submit("stopped", os.fspath(long))
        pool.submit("killed", os.fspath(long))
        assert pool.room == 2
        first, second = (worker.process.pid for worker in pool._workers)
        stopped, killed = (
            worker.process.pid
            for key in ("stopped", "killed")
            for worker in pool._workers
            if worker.task is not None and worker.task[0] == key
        )
        assert {stopped, killed} == {first, second}
        os.kill(stopped, signal.SIGSTOP)
        os.kill(killed, signal.SIGKILL)
        for i, path in enumerate(good):
            pool.submit(i, os.fspath(path))
        # The grace for starting was for the first file only.
        for worker in pool._workers:
            if worker.task is not None and worker.task[0] == "stopped":
                assert worker.deadline < time.monotonic() + 70
                worker.deadline = time.monotonic() + 1
        results = drain(pool, 6)
        left = [worker.process.pid for worker in pool._workers]
        assert not {stopped, killed} & set(left)
    assert (results["killed"].reason, results["killed"].path) == (CRASHED, os.fspath(long))
    assert (results["stopped"].reason, results["stopped"].detail) == (TIMED_OUT, "after 4 s")
    for i, path in enumerate(good):
        wanted = read_clip(path, frames=17 + i)
        found = decode_clip(results[i].clip, np.arange(17 + i), name="x")
        assert psnr(found, wanted) > 42
    for pid in left:  # the pool leaves no process behind
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("hard", [resource.RLIM_INFINITY, 10, 10**9])
@pytest.mark.parametrize("most", [0, 1.5, 600.0, 1e12, 1e30, math.inf, math.nan])
def test_limits_that_cannot_be_set_are_left_alone(monkeypatch, hard, most):
    """As the kernel does: whole numbers of 64 bits, the hard limit not exceeded nor raised."""
    held = [5, hard]

    def set_limit(_, limits):
        soft, new = limits
        if not isinstance(soft, int) or new != hard:
            raise ValueError("not allowed to raise maximum limit")
        if soft >= 2**63:
            raise OverflowError("Python int too large to convert to C long")
        assert hard == resource.RLIM_INFINITY or soft <= hard
        held[0] = soft

    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(held))
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    reencode._limit(resource.RLIMIT_CPU, most)
    assert held[1] == hard
    if math.isfinite(most) and most < 2**62:
        assert held[0] == (math.ceil(most) if hard < 0 else min(math.ceil(most), hard))


class Ending:
    """A process that ends at once, or when it has been given a file."""

    exitcode = 7

    def __init__(self, *, args, seconds, **_):
        # Its end of the pipe, as long as it lives.
        self._pipe = Connection(os.dup(args[0].fileno()))
        self._timer = threading.Timer(seconds, self._pipe.close)

    def start(self):
        self._timer.start()

    def join(self, _):
        self._timer.join()

    def kill(self):
        pass


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_workers_that_end_before_a_file_is_opened_are_no_files_fault(monkeypatch, seconds):
    """Refused memory or a broken installation: one line, and not every file a crash."""
    results: dict = {}

    def give_files():
        with WorkerPool(Recipe(Coding()), workers=2, timeout=4.0) as pool:
            context = pool._context
            monkeypatch.setattr(
                context, "Process", lambda **given: Ending(seconds=seconds, **given), raising=False
            )
            for i in range(4):
                pool.submit(i, "a.avi")
            for _ in range(100):
                results.update(pool.collect(0.1))

    with pytest.raises(RestartError, match=r"end before they open a file \(exit code 7\)"):
        give_files()
    assert results == {}


def test_wrong_settings():
    with pytest.raises(ConfigError, match="--size 0"):
        Recipe(Coding(), size=0)
    with pytest.raises(ConfigError, match="--min_frames 0"):
        Recipe(Coding(), min_frames=0)
    with pytest.raises(ConfigError, match="--fps"):
        Recipe(Coding(), fps=float("nan"))
    with pytest.raises(ConfigError, match="--workers 0"):
        WorkerPool(Recipe(Coding()), workers=0, timeout=1.0)
    with pytest.raises(ConfigError, match="--timeout 0"):
        WorkerPool(Recipe(Coding()), workers=1, timeout=0.0)
    assert reencode.MEMORY_LIMIT > 2**30
