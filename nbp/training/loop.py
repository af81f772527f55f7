# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The one training loop. It knows tasks, streams and evaluators only by their protocols.

Checkpoint N holds the state after N updates and the position of batch N, and the random key of an
update is folded from the seed and its step. So a run that was killed and started again gives the
same bits as one that was not. Guards watch the metrics; see `nbp.training.guards` and `recovery`.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, assert_never

import jax
import numpy as np
from jax.sharding import Mesh

from nbp.errors import CheckpointError, ConfigError, DataError, NonFiniteError, RestartError
from nbp.parallel.chips import measure_mfu
from nbp.parallel.distributed import decide, wait_for_all
from nbp.parallel.mesh import check_batch, describe_placement, place_batch, place_state, replicate
from nbp.shapes import Array, PyTree
from nbp.training.checkpoint import Checkpointer
from nbp.training.early_stopping import BestSpec, Evaluations, ScoreHistory
from nbp.training.goodput import Goodput, Profiler, check_steps
from nbp.training.guards import Alarm, Guards, GuardSpec, leave_out_non_finite
from nbp.training.metrics import MetricsWriter, WindowMeter
from nbp.training.preemption import StopSignals
from nbp.training.rollback import RollbackManager, list_examples
from nbp.training.state import TrainState, count_parameters
from nbp.training.task import Evaluator, Stream, Task

# Random streams folded from the seed: `fold_in(fold_in(key(seed), stream), step)`.
INIT_STREAM = 0
STEP_STREAM = 1


@dataclass(frozen=True)
class LoopSpec:
    """How long to train and what to do how often, in steps.

    Attributes:
        total_steps: updates in all.
        global_batch: clips of one update, over all processes.
        shapes: of batches that the stream may have, each with a compiled update of its own. Batches
            of other shapes may hold other numbers of clips; those of the first count positions.
        log_every: length of the window that one row of metrics averages.
        checkpoint_every: interval of checkpoints; the last step is always saved.
        changed_data: whether to go on where the data are not those of the resumed checkpoint.
        guards: what is watched, and what is done about alarms.
        profile_steps: first and last update of a trace in `profile/` beside the metrics; or none.
        deadline: when to save and end as if preempted, in seconds of `time.monotonic`.
        best: which score tells the best state, which is saved and kept, and when to end early.
        statistics_every: updates between measures of each layer; 0 for none.
    """

    total_steps: int
    global_batch: int
    shapes: int = 1
    log_every: int = 50
    checkpoint_every: int = 500
    changed_data: Literal["refuse", "accept"] = "refuse"
    guards: GuardSpec = field(default_factory=GuardSpec)
    profile_steps: tuple[int, ...] = ()
    deadline: float = math.inf
    best: BestSpec | None = None
    statistics_every: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and value < (name != "statistics_every"):
                raise ConfigError(f"train.{name} is {value}. Use 1 or more.")
        check_steps(self.profile_steps)


def run(
    task: Task,
    *,
    stream_factory: Callable[[int], Stream],
    checkpointer: Checkpointer,
    spec: LoopSpec,
    mesh: Mesh,
    writer: MetricsWriter,
    meta: Mapping[str, Any],
    seed: int,
    evaluators: Sequence[Evaluator] = (),
) -> TrainState:
    """Trains `task` to its (early) end, resuming by itself from the newest good checkpoint.

    At each step: due evaluators on the current state, a checkpoint if due, draw, update. The
    metrics of an update are read while the next one runs, so the device never waits for Python.

    Args:
        task: the objective.
        stream_factory: makes the stream that starts at the given batch.
        checkpointer: where the state is kept; not closed here.
        spec: intervals.
        mesh: devices; the batch is split over its data axes.
        writer: where metrics go; not closed here.
        meta: JSON stored with every checkpoint.
        seed: root of all randomness.
        evaluators: measurements of the current state.

    Returns:
        The final state. If the last checkpoint is already at `total_steps` nothing is run.

    Raises:
        ConfigError: the batch does not divide among the devices.
        CheckpointError: there are checkpoints and none can be used, or the data have changed.
        NonFiniteError: a metric is not finite and the guards say stop, or going back did not help;
            such a state is never saved.
        DivergedError: another alarm, and going back did not help.
        Preempted: SIGTERM, Ctrl-C or the deadline came; the state is saved. Ctrl-C again aborts.
        RestartError: checkpoints cannot be written.
    """
    check_batch(spec.global_batch, mesh)
    with jax.set_mesh(mesh), StopSignals(spec.deadline) as stop:
        recovery = RollbackManager(
            task,
            checkpointer,
            writer=writer,
            spec=spec.guards,
            mesh=mesh,
            key=_make_key(seed, INIT_STREAM),
            first_save=spec.checkpoint_every,
        )
        goodput = Goodput(None if writer.silent else writer.directory / "goodput.json")
        with goodput.timed("start"):
            state, start, data = recovery.resume()
        measures = Evaluations(evaluators, spec.best, writer, stop, saved=data.get("scores"))
        if start >= spec.total_steps or measures.history.is_over:
            writer.note(measures.describe_end(start, spec.total_steps))
            return state
        writer.start(start, total_steps=spec.total_steps)
        for line in _describe_start(task, state, start, mesh=mesh, batch=spec.global_batch):
            writer.note(line)
        frozen = place_state(task.frozen, mesh)
        key = jax.device_put(_make_key(seed, STEP_STREAM), replicate(mesh))
        reader = _MetricsReader(
            task, spec, writer=writer, checkpointer=checkpointer, goodput=goodput, mesh=mesh
        )
        reader.meter.load(data.get("window", {}))
        goodput.go_on_from(start)
        profiler = Profiler(writer.directory / "profile", spec.profile_steps)
        statistics = _LayerStatistics(task, spec.statistics_every, writer=writer, goodput=goodput)
        updates: dict[Any, Callable[..., tuple[TrainState, dict[str, Array]]]] = {}
        step = start
        with contextlib.closing(stream_factory(find_batch(data, spec.global_batch))) as stream:
            if warning := compare_data(data, stream.fingerprint, spec.changed_data):
                writer.note(f"warning: {warning}")
            while True:
                # On the current state: go back if it went wrong, evaluate, save, stop.
                stop.look(step)
                final, fresh = step == spec.total_steps, step > start
                due = measures.list_due(step, final=final) if fresh else []
                save = fresh and (final or step % spec.checkpoint_every == 0)
                if due or save or stop:
                    reader.flush()
                if reader.alarm is not None:
                    del state  # its memory is needed
                    position = stream.position * spec.global_batch
                    state, step = recovery.go_back(reader.alarm, step=step, position=position)
                    start = step
                    measures.history.forget(step)
                    reader.restart()
                    goodput.go_on_from(step)
                    continue
                with goodput.timed("evaluation"):
                    scores, better, final = measures.run(due, state, step=step, final=final)
                save |= better or final
                if save or (fresh and stop):
                    if reader.flush():
                        continue  # a signal came just now, and the newest update is a bad one
                    position = _describe_position(stream, spec, reader, measures.history)
                    with goodput.timed("checkpoint"):
                        checkpointer.save(step, state, data=position, meta=meta, metrics=scores)
                if stop:
                    stop.leave(checkpointer, step=step)
                if ended := profiler.look(step, state):
                    writer.note(ended)
                if final:
                    break

                # Draw.
                with reader.timed(waiting_for_input=True):
                    try:
                        rows = next(stream)
                        batch = place_batch(rows, mesh)
                    except StopIteration:
                        raise DataError(
                            f"the data stream ended at step {step}; it must be endless."
                        ) from None
                    except Exception:
                        if not stop:
                            raise
                        continue  # the signal reached the loader's workers as well: save and stop

                statistics.look(step + 1, state, frozen, batch, key)
                # Update, and read what the previous update reported while this one runs.
                shapes = tuple(sorted((name, array.shape) for name, array in batch.items()))
                if shapes not in updates:
                    if len(updates) == spec.shapes:
                        raise ValueError(f"a batch of other shapes than those before: {shapes}")
                    with goodput.timed("compile"):
                        updates[shapes] = _compile(
                            task, state, frozen, batch, key, spec=spec, writer=writer
                        )
                        wait_for_all(f"compiled {len(updates)}")
                    if len(updates) == 1:
                        writer.start_clock(step)
                with reader.timed():
                    state, metrics = updates[shapes](state, frozen, batch, key)
                    step += 1
                    reader.push(step, metrics, rows, items=reader.count_items(batch, shapes))
                writer.progress(step)
        with goodput.timed("checkpoint"):
            checkpointer.wait()
        goodput.save()
        writer.note(goodput.describe())
        if decide(checkpointer.latest_step()) != step:
            raise RestartError(
                f"the final checkpoint {step} could not be written to {checkpointer.directory}; "
                f"the last good one is {checkpointer.latest_step()}. Free space and start again."
            )
        return state


class _MetricsReader:
    """Reads the metrics of an update one update late, has them watched, records window means.

    Attributes:
        alarm: why the run must go back, if it must.
        meter: the window that the next row of metrics averages.
    """

    def __init__(
        self,
        task: Task,
        spec: LoopSpec,
        *,
        writer: MetricsWriter,
        checkpointer: Checkpointer,
        goodput: Goodput,
        mesh: Mesh,
    ) -> None:
        self._task, self._items = task, _count_items(task, spec.global_batch)
        self._known: dict[Any, dict[str, int | float]] = {}
        self._spec, self._writer, self._checkpointer = spec, writer, checkpointer
        self._goodput = goodput
        self._mesh = mesh
        self._guards = Guards(spec.guards)
        self.restart()

    def restart(self) -> None:
        """Forgets everything, also metrics that were not yet read."""
        self.alarm: Alarm | None = None
        self._guards.restart()
        self.meter = WindowMeter(self._items)
        self._unread: tuple[int, dict[str, Array], Sequence[int], Any] | None = None

    @contextlib.contextmanager
    def timed(self, *, waiting_for_input: bool = False) -> Iterator[None]:
        """Counts the time inside as time of training steps."""
        began = time.perf_counter()
        with self._goodput.timed("input" if waiting_for_input else "step"):
            yield
        self.meter.add_time(time.perf_counter() - began, waiting_for_input=waiting_for_input)

    def count_items(self, batch: Mapping[str, Array], shapes: Any) -> dict[str, int | float] | None:
        """What an update on a batch of these shapes counts for; None: what it always does."""
        if self._spec.shapes == 1:
            return None
        if shapes not in self._known:
            clips = len(batch["codes"] if "codes" in batch else batch["video"])
            on_grid = getattr(self._task, "on_grid", None)
            task = self._task if on_grid is None else on_grid(batch)
            self._known[shapes] = _count_items(task, clips)
        return self._known[shapes]

    def push(
        self,
        step: int,
        metrics: dict[str, Array],
        rows: Mapping[str, Any],
        *,
        items: Mapping[str, int | float] | None,
    ) -> None:
        """Takes the metrics of update `step`, still running, and reads those of the one before."""
        self._read()
        self._unread = (step, metrics, np.ravel(rows.get("index", ())).tolist(), items)
        self._goodput.count_update(step)

    def flush(self) -> bool:
        """Waits for the newest update and reads its metrics. True if the run must go back."""
        with self.timed():
            self._read()
        return self.alarm is not None

    def _read(self) -> None:
        if self._unread is None:
            return
        (step, metrics, examples, items), self._unread = self._unread, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        for alarm in self._guards.observe(step, values):
            if alarm.kind == "non_finite":
                list_examples(self._writer.directory / "skipped.csv", step, examples)
                values = {name: values[name] for name in ("skipped",) if name in values}
            self._handle(alarm)
        self.meter.add(values, items)
        if step % self._spec.log_every == 0 or step == self._spec.total_steps:
            self._write_row(step)

    def _write_row(self, step: int) -> None:
        row = self.meter.pop()
        flops = row.pop("flops_per_s") / self._mesh.size
        row |= measure_mfu(flops, self._mesh.devices.flat[0])
        self._writer.write(step, {**row, "goodput": self._goodput.share})
        self._goodput.save()

    def _handle(self, alarm: Alarm) -> None:
        match alarm.action:
            case "warn":
                self._writer.write_alarm(alarm.step, alarm.kind, value=1.0, text=str(alarm))
            case "skip":
                text = f"{alarm} The update is left out; its examples are listed in skipped.csv."
                self._writer.write_alarm(alarm.step, alarm.kind, value=1.0, text=text)
            case "rollback":
                self.alarm = self.alarm or alarm
            case "stop":
                if self.meter.steps:  # the last updates that were healthy
                    self._write_row(alarm.step)
                self._writer.write_alarm(alarm.step, alarm.kind, value=1.0, text=str(alarm))
                self._checkpointer.wait()
                latest = self._checkpointer.latest_step()
                saved = (
                    "no checkpoint exists" if latest is None else f"the last checkpoint {latest}"
                )
                raise NonFiniteError(
                    f"{alarm.what} at step {alarm.step}; the last good step is {alarm.since - 1}, "
                    f"{saved}. {alarm.remedy}"
                )
            case _:
                assert_never(alarm.action)


def _count_items(task: Any, clips: int) -> dict[str, int | float]:
    """What an update on so many clips counts for in the rates."""
    items = {"clips": 1, **getattr(task, "items_per_clip", {})}
    items["flops"] = getattr(task, "flops_per_clip", 0.0)
    return {name: n * clips for name, n in items.items()}


def _describe_position(
    stream: Stream, spec: LoopSpec, reader: _MetricsReader, history: ScoreHistory
) -> dict[str, Any]:
    """What a checkpoint says of the data, of a row that has begun, and of scores so far."""
    parts = {
        "window": reader.meter.save(),  # the row that it ends in will be whole
        "scores": history.save(),
    }
    return {
        "next": stream.position * spec.global_batch,
        "fingerprint": stream.fingerprint,
        **{name: part for name, part in parts.items() if part},
    }


def _make_key(seed: int, stream: int) -> Array:
    return jax.random.fold_in(jax.random.key(seed), stream)


def find_batch(data: Mapping[str, Any], global_batch: int) -> int:
    """Returns the batch that starts at the saved example; ConfigError where none does."""
    batch, rest = divmod(int(data.get("next", 0)), global_batch)
    if rest:
        raise ConfigError(
            f"the checkpoint stands at example {data['next']}, which is no multiple of the batch "
            f"of {global_batch}. Use the batch it was trained with, or a factor of it."
        )
    return batch


def compare_data(
    data: Mapping[str, Any], fingerprint: str, changed: Literal["refuse", "accept"]
) -> str:
    """Refuses other data than a checkpoint's by CheckpointError, unless they are asked for.

    Returns a warning where they are; empty where nothing has changed.
    """
    then, now = data.get("fingerprint", fingerprint), fingerprint
    if then == now:
        return ""
    text = f"the data differ from those before ({then} then, {now} now)"
    if changed == "refuse":
        raise CheckpointError(
            f"{text}: files, their order or their preprocessing have changed. Put the old data "
            "back, or go on with these: --config.train.changed_data=accept"
        )
    return text


def _describe_start(
    task: Task, state: TrainState, start: int, *, mesh: Mesh, batch: int
) -> list[str]:
    where = f"{mesh.size} {mesh.devices.flat[0].platform} device{'s' if mesh.size > 1 else ''}"
    how = f"resumes after step {start}" if start else "starts"
    parts = getattr(getattr(task, "optimizer", None), "accumulate", 1)
    placement = describe_placement(mesh, state, global_batch=batch, accumulate=parts)
    return [f"{how}: {count_parameters(state.params):,} parameters on {where}", *placement]


def _compile(
    task: Task,
    state: TrainState,
    frozen: PyTree,
    batch: PyTree,
    key: Array,
    *,
    spec: LoopSpec,
    writer: MetricsWriter,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """Compiles the update once, for exactly these shapes; another shape is then an error."""

    def update(
        state: TrainState, frozen: PyTree, batch: PyTree, key: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        after, metrics = task.step(state, frozen, batch, jax.random.fold_in(key, state.step))
        if spec.guards.non_finite == "skip":
            return leave_out_non_finite(state, after, metrics)
        return after, metrics

    writer.note("compiling")
    began = time.perf_counter()
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    compiled = jax.jit(update, donate_argnums=0, out_shardings=(shardings, None))
    compiled = compiled.lower(state, frozen, batch, key).compile()
    writer.note(f"compiled in {time.perf_counter() - began:.1f} s")
    return compiled


class _LayerStatistics:
    """Measures the layers in some updates, by a program of its own: the update stays as it is."""

    def __init__(self, task: Any, every: int, *, writer: MetricsWriter, goodput: Goodput) -> None:
        self._every, self._writer, self._goodput = every, writer, goodput
        measured = task.with_statistics() if every else task

        def measure(state: TrainState, frozen: PyTree, batch: PyTree, key: Array) -> PyTree:
            _, found = measured.step(state, frozen, batch, jax.random.fold_in(key, state.step))
            return {name: value for name, value in found.items() if "/" in name}

        self._measure = jax.jit(measure)

    def look(self, step: int, *arguments: PyTree) -> None:
        """Measures update `step`, which is about to be made with these arguments, if it is due."""
        if not self._every or step % self._every:
            return
        with self._goodput.timed("evaluation"):
            found = jax.device_get(self._measure(*arguments))
        self._writer.write(step, {name: float(v) for name, v in found.items()}, quiet=True)
