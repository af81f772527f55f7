# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Waiting with a limit, and workers that neither outlive their parent nor answer its signals."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest

from nbp.data.watchdog import Feeder, prepare_worker
from nbp.errors import RestartError


def _count(
    upto: int, closed: threading.Event | None = None, error: Exception | None = None
) -> Iterator[dict[str, Any]]:
    try:
        for number in range(upto):
            yield {"number": np.array([number])}
        if error is not None:
            raise error
    finally:
        if closed is not None:
            closed.set()


def test_items_come_in_order_and_the_end_stays():
    feeder = Feeder(lambda: _count(5))
    assert [int(feeder.take(10.0, 0)["number"][0]) for _ in range(5)] == list(range(5))
    for _ in range(2):
        with pytest.raises(StopIteration):
            feeder.take(10.0, 5)
    feeder.stop()


def test_an_item_is_a_copy():
    shared = np.zeros(3)
    feeder = Feeder(lambda: iter([{"x": shared}]))
    found = feeder.take(10.0, 0)["x"]
    feeder.stop()
    shared[:] = 1
    np.testing.assert_array_equal(found, 0)


def test_errors_arrive_as_they_are():
    feeder = Feeder(lambda: _count(1, error=KeyError("mistake")))
    feeder.take(10.0, 0)
    with pytest.raises(KeyError, match="mistake"):
        feeder.take(10.0, 1)
    feeder.stop()


def test_a_failing_start_arrives_too():
    def fail() -> Iterator[dict[str, Any]]:
        raise ValueError("cannot start")

    feeder = Feeder(fail)
    with pytest.raises(ValueError, match="cannot start"):
        feeder.take(10.0, 0)


@pytest.mark.parametrize(
    "code, cause", [(-9, "out of memory"), (-int(signal.SIGBUS), "/dev/shm is full")]
)
def test_a_dead_worker_is_explained(code, cause):
    died = RuntimeError(f"Worker process was terminated unexpectedly with exit code {code}. See")
    feeder = Feeder(lambda: _count(0, error=died))
    with pytest.raises(
        RestartError, match=rf"position 7 with exit code {code} .*{cause}"
    ) as caught:
        feeder.take(10.0, 7)
    assert caught.value.exit_code == 42


def test_a_stall_has_a_limit():
    release = threading.Event()

    def hang() -> Iterator[dict[str, Any]]:
        yield {"x": np.zeros(1)}
        release.wait(20)

    feeder = Feeder(hang)
    feeder.take(10.0, 0)
    with pytest.raises(RestartError, match=r"no batch for 0\.2 s at position 1"):
        feeder.take(0.2, 1)
    release.set()
    feeder.stop()


def test_stop_closes_the_iterator_though_nobody_takes():
    closed = threading.Event()
    feeder = Feeder(lambda: _count(10**6, closed))
    feeder.take(10.0, 0)
    feeder.stop()
    assert closed.wait(10)
    Feeder(lambda: _count(1)).stop()  # never started


def _run_worker(reports: Connection) -> None:
    prepare_worker(0, 1)
    reports.send((os.getpid(), os.environ["JAX_PLATFORMS"]))
    while True:
        reports.send("alive")
        time.sleep(0.05)


def _run_parent(reports: Connection) -> None:
    worker = multiprocessing.get_context("spawn").Process(target=_run_worker, args=(reports,))
    worker.start()
    reports.close()
    time.sleep(120)


def test_workers_ignore_signals_and_end_with_their_parent():
    reports, ours = multiprocessing.Pipe(duplex=False)
    parent = multiprocessing.get_context("spawn").Process(target=_run_parent, args=(ours,))
    parent.start()
    ours.close()
    try:
        assert reports.poll(60)
        worker, platforms = reports.recv()
        assert platforms == "cpu"
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(worker, number)
        time.sleep(0.3)
        for _ in range(30):  # far more than were sent before the signals
            assert reports.poll(10)
            assert reports.recv() == "alive"
    finally:
        parent.kill()  # as the kernel does when memory runs out: no clean-up
        parent.join()
    assert _wait_for_end(reports, seconds=20)


def _wait_for_end(reports: Connection, *, seconds: float) -> bool:
    """Whether the writing end closes, as it does when every process that holds it is gone."""
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline and reports.poll(seconds):
            reports.recv()
    except EOFError:
        return True
    return False
