# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Where a run starts from: at first, after a stop, and after an alarm that makes it go back.

Going back restores the newest checkpoint above suspicion, but the data go on from where they are:
the batches that led astray are not drawn again. A checkpoint knows its own position in the data
only, so `checkpoints/rollbacks.json` holds what it lacks. At each start the entries whose position
lies beyond that of the restored checkpoint are applied to it; one saved after going back has both
the softened state and the new position itself. Hence a run that is killed at any moment goes on
as if it had not been.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from nbp.errors import CheckpointError, DivergedError, NonFiniteError
from nbp.files import write_text
from nbp.parallel.mesh import make_state_shardings, place_state
from nbp.shapes import Array
from nbp.training import integrity
from nbp.training.checkpoint import Checkpointer, Restored
from nbp.training.guards import Alarm, GuardSpec
from nbp.training.metrics import MetricsWriter
from nbp.training.state import TrainState
from nbp.training.task import Task

JOURNAL = "rollbacks.json"


@dataclass(frozen=True)
class Rollback:
    """One entry of the journal.

    Attributes:
        step: the step that the run went back to.
        from_step: the step that it had come to.
        next: the example that training went on with.
        soften: what the adversarial weight was scaled by.
        reason: the alarm.
        discard: checkpoints under suspicion that are not yet known to be removed.
    """

    step: int
    from_step: int
    next: int
    soften: float
    reason: str
    discard: tuple[int, ...] = ()


class RollbackManager:
    """Finds the state to go on with.

    Args:
        task: makes the first state; its `soften(state, factor)`, if it has one, is applied after
            going back.
        checkpointer: holds the states.
        writer: is told, and forgets what is undone.
        spec: how often to go back and how much to soften.
        mesh: where states live.
        key: makes the first state.
        first_save: if the oldest checkpoint is not after this step, none was deleted.

    Raises:
        CheckpointError: the journal cannot be read.
    """

    def __init__(
        self,
        task: Task,
        checkpointer: Checkpointer,
        *,
        writer: MetricsWriter,
        spec: GuardSpec,
        mesh: Mesh,
        key: Array,
        first_save: int,
    ) -> None:
        self._task, self._checkpointer, self._writer = task, checkpointer, writer
        self._spec, self._mesh, self._key = spec, mesh, key
        self._first_save = first_save
        self._axes = getattr(task, "axes", None)
        self._path = checkpointer.directory / JOURNAL
        self.entries = read_journal(self._path)
        if jax.process_count() > 1:  # all must have read the same before one of them writes
            multihost_utils.sync_global_devices("read journal")

    def resume(self) -> tuple[TrainState, int, dict[str, Any]]:
        """Returns the newest good state, its step, and the data position (`{}` at the start).

        Raises:
            CheckpointError: there are checkpoints and none can be used.
        """
        self._discard()  # what a kill in the middle of going back has left
        restored = self._read(0 if self._checkpointer.is_empty() else None)
        state, step, data = self._amend(restored)
        if data != restored.data:
            self._writer.note(f"goes on as decided before: {self.entries[-1].reason}")
        return state, step, data

    def go_back(self, alarm: Alarm, *, step: int, position: int) -> tuple[TrainState, int]:
        """Goes back to the newest state that is above suspicion.

        Args:
            alarm: why.
            step: the step that the run has come to.
            position: the example that the data go on with.

        Returns:
            The state and its step.

        Raises:
            NonFiniteError, DivergedError: the run has gone back often enough.
            CheckpointError: there are checkpoints and none can be used.
        """
        self._checkpointer.wait()
        steps = self._checkpointer.all_steps()
        if len(self.entries) >= self._spec.rollbacks:
            good = max((saved for saved in steps if saved <= alarm.last_good), default=None)
            error = NonFiniteError if alarm.kind in ("non_finite", "skipped") else DivergedError
            self._writer.write_alarm(alarm.step, alarm.kind, value=1.0, text=str(alarm))
            raise error(
                f"{alarm} The run has gone back {len(self.entries)} times already, as often as "
                f"train.guards.rollbacks allows. {_tell_way_on(good, steps)}"
            )
        restored = self._read_before(alarm.last_good, steps)
        entry = Rollback(
            step=restored.step,
            from_step=step,
            next=position,
            soften=self._spec.soften,
            reason=str(alarm),
            discard=tuple(saved for saved in steps if saved > restored.step),
        )
        self.entries.append(entry)
        self._write_journal()
        self._discard()
        state, _, _ = self._amend(restored)
        self._report(entry, softened=state is not restored.state)
        return state, restored.step

    def _read_before(self, last_good: int, steps: list[int]) -> Restored:
        """Reads the newest whole state up to step `last_good`."""
        good = [saved for saved in reversed(steps) if saved <= last_good]
        if not steps or steps[0] <= self._first_save:
            good.append(0)
        elif not good:
            good = steps[:1]
            self._writer.note(
                f"warning: the first sign of trouble, after step {last_good}, is older than all "
                "checkpoints; going back to the oldest. Keep more of them: --config.train.keep"
            )
        for saved in good[:-1]:
            try:
                return self._read(saved)
            except CheckpointError as error:
                self._writer.note(f"warning: {error}")
        return self._read(good[-1])

    def _read(self, step: int | None) -> Restored:
        """Reads a step as it was saved (0: the first state, made anew; None: the newest whole)."""
        shapes = jax.eval_shape(self._task.init, self._key)
        shardings = make_state_shardings(self._mesh, shapes, self._axes)
        if step == 0:
            state = jax.jit(self._task.init, out_shardings=shardings)(self._key)
            begin = getattr(self._task, "begin", None)
            state = state if begin is None else self._place(begin(state))
            return Restored(step=0, state=state, data={}, meta={})
        template = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            shardings,
        )
        return self._checkpointer.restore(template, step=step)

    def _amend(self, restored: Restored) -> tuple[TrainState, int, dict[str, Any]]:
        """Applies the entries of the journal that a restored state does not know of."""
        state, data = restored.state, restored.data
        for entry in self.entries:
            if entry.next > int(data.get("next", 0)):
                data = {**data, "next": entry.next}
                state = self._soften(state, entry.soften)
        return state, restored.step, data

    def _soften(self, state: TrainState, factor: float) -> TrainState:
        soften = getattr(self._task, "soften", None)
        softer = state if soften is None else soften(state, factor)
        return state if softer is state else self._place(softer)

    def _place(self, state: TrainState) -> TrainState:
        return place_state(state, self._mesh, self._axes)

    def _discard(self) -> None:
        """Removes the checkpoints that the last entry condemns, and notes that they are gone."""
        if self.entries and self.entries[-1].discard:
            self._checkpointer.discard(self.entries[-1].discard)
            self.entries[-1] = dataclasses.replace(self.entries[-1], discard=())
            self._write_journal()

    def _write_journal(self) -> None:
        if jax.process_index() == 0:
            write_text(self._path, json.dumps([dataclasses.asdict(e) for e in self.entries]))

    def _report(self, entry: Rollback, *, softened: bool) -> None:
        weaker = f" and the adversarial weight scaled by {entry.soften:g}" if softened else ""
        self._writer.rewind(entry.step)
        self._writer.write_alarm(
            entry.step,
            "rollback",
            value=float(entry.from_step),
            text=f"{entry.reason} Back from step {entry.from_step} to "
            f"{f'checkpoint {entry.step}' if entry.step else 'the start'}, with other data{weaker} "
            f"(time {len(self.entries)} of {self._spec.rollbacks}).",
        )


def _tell_way_on(good: int | None, steps: list[int]) -> str:
    """What is left to do after the last rollback. good: the newest step above suspicion."""
    if good is None:
        what = "is under suspicion" if steps else "was saved before"
        return (
            f"{'Every checkpoint' if steps else 'No checkpoint'} {what}: change what the alarm "
            "names and begin again in another --workdir."
        )
    text = f"The last checkpoint above suspicion is {good}"
    if good == steps[-1]:
        return f"{text}; it is the newest, so the same command goes on from there."
    return f"{text}; remove younger ones to go on from there."


def read_journal(path: Path) -> list[Rollback]:
    """The entries of a journal, none without one; CheckpointError where it is unreadable."""
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text())
        return [Rollback(**{**entry, "discard": tuple(entry["discard"])}) for entry in entries]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is unreadable ({integrity.first_line(error)}). It says where the data go on "
            "after a rollback; remove it to go on from the newest checkpoint as it was saved."
        ) from error


def list_examples(path: Path, step: int, examples: Sequence[int]) -> None:
    """Adds a row `step,examples` to a table of batches, unless it is there already.

    Of several processes each writes a file of its own, as each has other rows of the batch.
    """
    if jax.process_count() > 1:
        path = path.with_stem(f"{path.stem}_{jax.process_index()}")
    line = f"{step},{' '.join(map(str, examples))}"
    if not path.exists():
        path.write_text("step,examples\n")
    if line not in path.read_text().splitlines():
        with path.open("a") as file:
            file.write(f"{line}\n")
