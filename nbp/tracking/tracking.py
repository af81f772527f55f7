# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""All trackers of a run; those that may be slow or fail have a queue and a thread each.

Training is never kept waiting and never stopped: a tracker that raises, or falls a whole queue
behind, is dropped with one warning. `metrics.csv` is written beside, and has everything.
"""

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nbp import files
from nbp.tracking.mlflow_run import MlflowRun
from nbp.tracking.packages import TrackerName
from nbp.tracking.tensorboard_events import TensorBoard
from nbp.tracking.tracker import Preview, RunInfo, Tracker
from nbp.tracking.trackio_run import TrackioRun
from nbp.tracking.wandb_run import WandbRun

QUEUE = 4096  # calls that a tracker may be behind
DRAIN_SECONDS = 60.0  # that the end of a run waits for all trackers together
STOPPED_SECONDS = 10.0  # the same for a run that is stopped: a preempted machine is gone soon
RUN_IDS = "tracking.json"  # in the workdir: tracker -> id of its run
Call = Callable[[Tracker], None]
RUNS: dict[TrackerName, Callable[[RunInfo], Tracker]] = {
    "wandb": WandbRun,
    "mlflow": MlflowRun,
    "trackio": TrackioRun,
}


class RunIds:
    """The ids of a workdir's runs, so that a resumed training goes on with them."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()

    def read(self, tracker: str) -> str:
        """The id of a tracker's run; "" for none."""
        with self._lock:
            return self._read().get(tracker, "")

    def write(self, tracker: str, identity: str) -> None:
        with self._lock:
            known = self._read()
            if known.get(tracker) != identity:
                text = json.dumps({**known, tracker: identity}, indent=1)
                files.write_text(self._path, text + "\n")

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self._path.read_text(encoding="utf8"))
        except (OSError, ValueError):
            return {}
        return {str(key): str(value) for key, value in found.items()}


class TrackerThread:
    """Calls a tracker in a thread of its own, in order; the thread begins with the first call.

    ids: of the workdir's runs. size: calls that may wait. say: prints a line.
    """

    def __init__(
        self,
        tracker: Tracker,
        ids: RunIds,
        *,
        size: int = QUEUE,
        say: Callable[[str], None] = lambda text: print(f"[tracking] {text}", flush=True),
    ) -> None:
        self._tracker, self._ids, self._size, self._say = tracker, ids, size, say
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()  # None: the end
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._ok = True
        self._dropped = False

    def put(self, call: Call) -> None:
        """Has `call` made later; never waits."""
        if self._dropped:
            return
        if self._thread is None:
            name = f"tracker-{self._tracker.name}"
            self._thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._thread.start()
        if self._calls.qsize() < self._size:  # nobody else puts
            self._calls.put(call)
        else:
            self._drop(f"is {self._size} calls behind")

    def end(self, *, ok: bool) -> None:
        """Has the run closed after all calls; see `join`."""
        self._ok = ok
        self._calls.put(None)

    def join(self, seconds: float) -> None:
        """Waits for the end, but not longer than this."""
        if self._thread is None or self._dropped:
            return
        self._thread.join(max(seconds, 0.0))
        if self._thread.is_alive():
            self._drop("has not finished in time")

    def _work(self) -> None:
        name = self._tracker.name
        try:
            known = self._ids.read(name)
            self._ids.write(name, self._tracker.open(known))
            self._say(f"{name}: {'resumes ' if known else ''}{self._tracker.describe()}")
            while (call := self._calls.get()) is not None and not self._dropped:
                call(self._tracker)
            self._tracker.close(ok=self._ok and not self._dropped)
        except (Exception, SystemExit) as error:
            text = " ".join(str(error).split())[:300]
            self._drop(f"failed ({type(error).__name__}: {text})")
            with contextlib.suppress(Exception, SystemExit):  # keep what it has
                self._tracker.close(ok=False)

    def _drop(self, why: str) -> None:
        with self._lock:
            if self._dropped:
                return
            self._dropped = True
        self._calls.put(None)  # a thread that waits for calls ends
        self._say(
            f"warning: {self._tracker.name} {why}; the run goes on without it. metrics.csv has "
            "all metrics"
        )


class Tracking:
    """The trackers of a run, as one. With no trackers it does nothing.

    direct: called at once, by the caller, who gets their errors. threads: never waited for but at
    the end.
    """

    def __init__(
        self, direct: Sequence[Tracker] = (), threads: Sequence[TrackerThread] = ()
    ) -> None:
        self._direct, self._threads = tuple(direct), tuple(threads)

    def start(self, stage: str, step: int, *, directory: Path) -> None:
        """A stage begins, or goes on, after `step` updates."""
        self._call(lambda tracker: tracker.start(stage, step, directory=directory))

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Metrics of a step of a stage."""
        row = dict(values)
        self._call(lambda tracker: tracker.log(stage, step, row))

    def show(self, stage: str, step: int, preview: Preview) -> None:
        """Clips of a step of a stage."""
        self._call(lambda tracker: tracker.show(stage, step, preview))

    def end(self, stage: str) -> None:
        """A stage has ended, or goes back."""
        self._call(lambda tracker: tracker.end(stage))

    def report(self, files: Sequence[Path]) -> None:
        """The files of the final report."""
        kept = tuple(files)
        self._call(lambda tracker: tracker.report(kept))

    def close(self, *, ok: bool, seconds: float | None = None) -> None:
        """Ends all runs. Waits at most `seconds` for those with threads; default: by `ok`."""
        for tracker in self._direct:
            tracker.close(ok=ok)
        for thread in self._threads:
            thread.end(ok=ok)
        if seconds is None:
            seconds = DRAIN_SECONDS if ok else STOPPED_SECONDS
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(deadline - time.monotonic())

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(ok=kind is None)

    def _call(self, call: Call) -> None:
        for tracker in self._direct:
            call(tracker)
        for thread in self._threads:
            thread.put(call)


def make_tracking(names: Sequence[TrackerName], info: RunInfo) -> Tracking:
    """The trackers of these names for a run."""
    ids = RunIds(info.workdir / RUN_IDS)
    return Tracking(
        [TensorBoard()] if "tensorboard" in names else [],
        [TrackerThread(RUNS[name](info), ids) for name in dict.fromkeys(names) if name in RUNS],
    )
