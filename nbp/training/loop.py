# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The one training loop. It knows tasks, streams and evaluators only by their protocols.

Checkpoint N holds the state after N updates and the position of batch N, and the random key of an
update is folded from the seed and its step. So a run that was killed and started again gives the
same bits as one that was not.
"""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal, NoReturn

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from nbp.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NonFiniteError,
    Preempted,
    RestartError,
)
from nbp.shapes import Array, PyTree
from nbp.training.checkpoint import Checkpointer
from nbp.training.distributed import decide, wait_for_all
from nbp.training.metrics import MetricsWriter, WindowMeter
from nbp.training.sharding import (
    check_batch,
    describe_placement,
    make_state_shardings,
    place_batch,
    place_state,
    replicate,
)
from nbp.training.state import TrainState, count_parameters
from nbp.training.task import Evaluator, Stream, Task

# Random streams folded from the seed: `fold_in(fold_in(key(seed), stream), step)`.
INIT_STREAM = 0
STEP_STREAM = 1

# Metrics that must stay finite. Each task reports them.
FINITE = ("loss", "grad_norm")


@dataclass(frozen=True)
class LoopSpec:
    """How long to train and what to do how often, in steps.

    Attributes:
        total_steps: updates in all.
        global_batch: clips of one update, over all processes.
        log_every: length of the window that one row of metrics averages.
        checkpoint_every: interval of checkpoints; the last step is always saved.
        changed_data: whether to go on where the data are not those of the resumed checkpoint.
    """

    total_steps: int
    global_batch: int
    log_every: int = 50
    checkpoint_every: int = 500
    changed_data: Literal["refuse", "accept"] = "refuse"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and value < 1:
                raise ConfigError(f"train.{name} is {value}. Use 1 or more.")


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
    """Trains `task` up to `spec.total_steps`, resuming by itself from the newest good checkpoint.

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
        NonFiniteError: the loss or gradient is not finite; such a state is never saved.
        Preempted: SIGTERM or Ctrl-C came; the state is saved. A second Ctrl-C aborts at once.
        RestartError: checkpoints cannot be written.
    """
    check_batch(spec.global_batch, mesh)
    with jax.set_mesh(mesh), _StopSignals() as stop:
        state, start, data = _restore_or_init(task, checkpointer, mesh=mesh, seed=seed)
        if start >= spec.total_steps:
            writer.note(f"already trained for {start} of {spec.total_steps} steps")
            return state
        writer.start(start, total_steps=spec.total_steps)
        writer.note(_describe_start(state, start, mesh))
        accumulate = getattr(getattr(task, "optimizer", None), "accumulate", 1)
        for line in describe_placement(
            mesh, state, global_batch=spec.global_batch, accumulate=accumulate
        ):
            writer.note(line)
        frozen = place_state(task.frozen, mesh)
        key = jax.device_put(_make_key(seed, STEP_STREAM), replicate(mesh))
        reader = _MetricsReader(task, spec, writer=writer, checkpointer=checkpointer)
        update: Callable[..., tuple[TrainState, dict[str, Array]]] | None = None
        step = start
        with contextlib.closing(stream_factory(_find_batch(data, spec.global_batch))) as stream:
            _compare_data(data, stream, spec, writer=writer)
            while True:
                # On the current state: evaluate, save, stop.
                stop.look(step)
                final, fresh = step == spec.total_steps, step > start
                due = [e for e in evaluators if fresh and (final or step % e.every == 0)]
                save = fresh and (final or step % spec.checkpoint_every == 0)
                if due or save or stop:
                    reader.flush()
                scores = _evaluate(due, state, step=step, writer=writer, stop=stop)
                if save or (fresh and stop):
                    reader.flush()
                    position = {
                        "next": stream.position * spec.global_batch,
                        "fingerprint": stream.fingerprint,
                    }
                    checkpointer.save(step, state, data=position, meta=meta, metrics=scores)
                if stop:
                    _leave(stop, checkpointer, step=step)
                if final:
                    break

                # Draw.
                with reader.timed(waiting_for_input=True):
                    try:
                        batch = place_batch(next(stream), mesh)
                    except StopIteration:
                        raise DataError(
                            f"the data stream ended at step {step}; it must be endless."
                        ) from None
                    except Exception:
                        if not stop:
                            raise
                        continue  # the signal reached the loader's workers as well: save and stop

                # Update, and read what the previous update reported while this one runs.
                if update is None:
                    update = _compile(task, state, frozen, batch, key, writer=writer)
                    wait_for_all("compiled")
                with reader.timed():
                    state, metrics = update(state, frozen, batch, key)
                    step += 1
                    reader.push(step, metrics)
                writer.progress(step)
        checkpointer.wait()
        if decide(checkpointer.latest_step()) != step:
            raise RestartError(
                f"the final checkpoint {step} could not be written to {checkpointer.directory}; "
                f"the last good one is {checkpointer.latest_step()}. Free space and start again."
            )
        return state


class _MetricsReader:
    """Reads the metrics of an update one update late, checks them and records window means."""

    def __init__(
        self, task: Task, spec: LoopSpec, *, writer: MetricsWriter, checkpointer: Checkpointer
    ) -> None:
        items = {"clips": 1, **getattr(task, "items_per_clip", {})}
        self._meter = WindowMeter({name: n * spec.global_batch for name, n in items.items()})
        self._spec, self._writer, self._checkpointer = spec, writer, checkpointer
        self._unread: tuple[int, dict[str, Array]] | None = None

    @contextlib.contextmanager
    def timed(self, *, waiting_for_input: bool = False) -> Iterator[None]:
        """Counts the time inside as time of training steps."""
        began = time.perf_counter()
        yield
        self._meter.add_time(time.perf_counter() - began, waiting_for_input=waiting_for_input)

    def push(self, step: int, metrics: dict[str, Array]) -> None:
        """Takes the metrics of update `step`, still running, and reads those of the one before."""
        self._read()
        self._unread = (step, metrics)

    def flush(self) -> None:
        """Waits for the newest update and reads its metrics."""
        with self.timed():
            self._read()

    def _read(self) -> None:
        if self._unread is None:
            return
        (step, metrics), self._unread = self._unread, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        bad = {name: values[name] for name in FINITE if not math.isfinite(values[name])}
        if bad:
            self._checkpointer.wait()
            latest = self._checkpointer.latest_step()
            raise NonFiniteError(
                f"{' and '.join(f'{name} is {value}' for name, value in bad.items())} at step "
                f"{step}; the last good step is {step - 1}, "
                + ("no checkpoint exists." if latest is None else f"the last checkpoint {latest}.")
                + " Lower the learning rate, lengthen the warm-up or look at the data of this step."
            )
        self._meter.add(values)
        if step % self._spec.log_every == 0 or step == self._spec.total_steps:
            self._writer.write(step, self._meter.pop())


class _StopSignals:
    """Turns SIGTERM and the first Ctrl-C into a flag; true once one of them came.

    Job managers often send SIGTERM twice, so only a second Ctrl-C interrupts the saving. In a job
    of several processes JAX takes the SIGTERM that any of them gets, and names a step to all.
    """

    def __init__(self) -> None:
        self.name = ""
        self._previous: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return bool(self.name)

    def look(self, step: int) -> None:
        """Asks whether all processes are to stop at this step. Every one calls it at each step."""
        if multihost_utils.reached_preemption_sync_point(step):
            self.name = self.name or "SIGTERM"

    def __enter__(self) -> "_StopSignals":
        # A handler of ours would take the signal away from JAX.
        alone = jax.process_count() == 1
        if alone and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            # Once stopping, a late SIGTERM must not turn the exit into a kill.
            ignore = number == signal.SIGTERM and self
            signal.signal(number, signal.SIG_IGN if ignore else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.name == "SIGINT":
            signal.default_int_handler(number, frame)
        self.name = self.name or signal.Signals(number).name


def _leave(stop: _StopSignals, checkpointer: Checkpointer, *, step: int) -> NoReturn:
    checkpointer.wait()
    latest = checkpointer.latest_step()
    saved = f"checkpoint {latest} is saved" if latest is not None else "nothing to save yet"
    raise Preempted(f"{stop.name} at step {step}: {saved}; run the same command to go on.")


def _make_key(seed: int, stream: int) -> Array:
    return jax.random.fold_in(jax.random.key(seed), stream)


def _restore_or_init(
    task: Task, checkpointer: Checkpointer, *, mesh: Mesh, seed: int
) -> tuple[TrainState, int, dict[str, Any]]:
    """Returns the state, its step, and the saved data position (`{}` at the start)."""
    key = _make_key(seed, INIT_STREAM)
    shapes = jax.eval_shape(task.init, key)
    shardings = make_state_shardings(mesh, shapes, getattr(task, "axes", None))
    if checkpointer.is_empty():
        return jax.jit(task.init, out_shardings=shardings)(key), 0, {}
    template = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )
    restored = checkpointer.restore(template)
    return restored.state, restored.step, restored.data


def _find_batch(data: Mapping[str, Any], global_batch: int) -> int:
    """Returns the batch that starts at the saved example."""
    batch, rest = divmod(int(data.get("next", 0)), global_batch)
    if rest:
        raise ConfigError(
            f"the checkpoint stands at example {data['next']}, which is no multiple of the batch "
            f"of {global_batch}. Use the batch it was trained with, or a factor of it."
        )
    return batch


def _compare_data(
    data: Mapping[str, Any], stream: Stream, spec: LoopSpec, *, writer: MetricsWriter
) -> None:
    """Refuses to go on with other data than before, unless that is asked for."""
    then, now = data.get("fingerprint", stream.fingerprint), stream.fingerprint
    if then == now:
        return
    text = f"the data differ from those before ({then} then, {now} now)"
    if spec.changed_data == "refuse":
        raise CheckpointError(
            f"{text}: files, their order or their preprocessing have changed. Put the old data "
            "back, or go on with these: --config.train.changed_data=accept"
        )
    writer.note(f"warning: {text}")


def _describe_start(state: TrainState, start: int, mesh: Mesh) -> str:
    where = f"{mesh.size} {mesh.devices.flat[0].platform} device{'s' if mesh.size > 1 else ''}"
    how = f"resumes after step {start}" if start else "starts"
    return f"{how}: {count_parameters(state.params):,} parameters on {where}"


def _compile(
    task: Task, state: TrainState, frozen: PyTree, batch: PyTree, key: Array, *, writer: Any
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """Compiles the update once, for exactly these shapes; another shape is then an error."""

    def update(
        state: TrainState, frozen: PyTree, batch: PyTree, key: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        return task.step(state, frozen, batch, jax.random.fold_in(key, state.step))

    began = time.perf_counter()
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    compiled = jax.jit(update, donate_argnums=0, out_shardings=(shardings, None))
    compiled = compiled.lower(state, frozen, batch, key).compile()
    writer.note(f"compiled in {time.perf_counter() - began:.1f} s")
    return compiled


def _evaluate(
    due: Sequence[Evaluator],
    state: TrainState,
    *,
    step: int,
    writer: MetricsWriter,
    stop: _StopSignals,
) -> dict[str, float]:
    """Runs evaluators and records their results under `name/...`; a stop signal skips the rest."""
    scores: dict[str, float] = {}
    for evaluator in due:
        if stop:
            break
        found = {f"{evaluator.name}/{name}": float(v) for name, v in evaluator.run(state).items()}
        if found:  # a preview measures nothing
            writer.write(step, found)
        scores |= found
    return scores
