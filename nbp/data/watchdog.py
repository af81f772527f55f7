# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Guards around the loader: a limit on waiting, and worker processes that start and end well.

grain waits for ever for a worker that hangs or has quietly left, its workers outlive a killed
parent, and they may need half a minute to stop. What is here ends each of these.
"""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nbp.errors import RestartError

Item = dict[str, Any]

BUS_ERROR = f"-{int(signal.SIGBUS)}"


def prepare_worker(worker_index: int, worker_count: int) -> None:
    """Runs in each worker: it must never touch an accelerator nor answer the job's signals."""
    del worker_index, worker_count
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax  # grain has imported it already, so the variable alone would come too late

    jax.config.update("jax_platforms", "cpu")
    # The parent decides when to stop: on Ctrl-C or preemption it still saves, then ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A parent killed outright cannot end us, and grain's workers would wait for it for ever.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _kill_workers() -> None:
    """Kills this process's loader workers: one that hangs would hold up the end for a minute."""
    for process in multiprocessing.active_children():
        if process.name.startswith("grain-"):
            process.kill()


class Feeder:
    """A thread that runs the iterator, so that waiting for it can have a limit."""

    def __init__(self, make_iterator: Callable[[], Iterator[Item]]):
        self._make_iterator = make_iterator
        self._ready: queue.Queue[Item | BaseException] = queue.Queue(maxsize=1)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nbp-batches", daemon=True)
        self._started = False

    def take(self, seconds: float, position: int) -> Item:
        """The next batch; raises what the iterator raised, `RestartError` after `seconds`."""
        if not self._started:
            self._started = True
            self._thread.start()
        try:
            item = self._ready.get(timeout=seconds)
        except queue.Empty:
            _kill_workers()
            raise RestartError(
                f"the loader gave no batch for {seconds:g} s at position {position}; a worker or "
                "the storage hangs. Start the same command again to continue from the last "
                "checkpoint."
            ) from None
        if isinstance(item, StopIteration):
            self._ready.put(item)  # stays at its end
            raise item
        if isinstance(item, RuntimeError) and "Worker process was terminated" in str(item):
            code = str(item).split(". ")[0].rsplit(" ", 1)[-1]
            cause = "/dev/shm is full" if code == BUS_ERROR else "out of memory"
            raise RestartError(
                f"a loader worker died at position {position} with exit code {code} (often: "
                f"{cause}). Use fewer workers if it does so again; start the same command to "
                "continue from the last checkpoint."
            ) from item
        if isinstance(item, BaseException):
            raise item
        return item

    def stop(self) -> None:
        """Ends the thread, which closes the iterator and its workers."""
        self._stopped.set()
        with contextlib.suppress(queue.Empty):
            self._ready.get_nowait()
        if self._started and self._thread is not threading.current_thread():
            # A hung transform must not hold up the end of the program; the thread is a daemon.
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        iterator = None
        try:
            iterator = self._make_iterator()
            while not self._stopped.is_set():
                batch = next(iterator)
                # Copies out of the workers' shared memory, which then is free for the next batch.
                self._put({name: np.array(value) for name, value in batch.items()})
        except BaseException as error:
            self._put(error)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                # At the end of the program grain closes it from another thread as well.
                with contextlib.suppress(Exception):
                    close()

    def _put(self, item: Item | BaseException) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=0.2)
                return
