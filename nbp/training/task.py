# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What the training loop asks of an objective, of a data stream and of an evaluator.

A new objective is a new class with this shape, never a new loop.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from nbp.errors import ConfigError
from nbp.shapes import Array, PyTree
from nbp.training.state import TrainState


@runtime_checkable
class Task(Protocol):
    """One training objective.

    Attributes:
        name: the stage, e.g. "tokenizer" or "generator".
        frozen: arrays that the step reads and never changes, `{}` if none. They are an argument of
            the compiled step, so they are neither compile-time constants nor checkpointed.

    A task may also have `items_per_clip: Mapping[str, int]`, e.g. `{"tokens": 108}`: the loop then
    reports `tokens_per_s` beside `clips_per_s`; and `axes: Mapping[str, Axes]`, the names of the
    axes of its parameters, by path, which place them on a mesh (see `nbp.parallel.sharding`). It
    may have `soften(state, factor) -> TrainState`, which is applied after the loop has gone back to
    an earlier state, e.g. to weaken an adversary; it returns the very same state where there is
    nothing to weaken. And `begin(state) -> TrainState` or None, which changes the state before the
    first update, outside of `jax.jit`: large arrays that come from elsewhere would be constants of
    the compiled `init`. And `with_statistics() -> Task`, the same task whose metrics also have
    measures of each layer, named "LAYER/MEASURE", for `LoopSpec.statistics_every`.
    """

    @property
    def name(self) -> str: ...

    @property
    def frozen(self) -> PyTree: ...

    def init(self, key: Array) -> TrainState:
        """Makes the state before the first update. Traceable by `jax.jit`."""
        ...

    def step(
        self, state: TrainState, frozen: PyTree, batch: Mapping[str, Array], key: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        """Performs one update (gradient accumulation inside). Pure and traceable.

        Returns the state with `step` one higher, and scalar metrics, among them `loss` and
        `grad_norm`. A metric that is not finite is a fault; see `nbp.training.guards`.
        """
        ...


@runtime_checkable
class Stream(Protocol):
    """An endless stream of batches that is a pure function of the batch index.

    Attributes:
        position: batches drawn so far, counted from the start of training.
        fingerprint: text that changes when the stream would yield other batches.
    """

    @property
    def position(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def __next__(self) -> Mapping[str, Any]:
        """Returns the rows of the next batch that belong to this process, as numpy arrays."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Evaluator:
    """A measurement of the current state, made every `every` steps and after the last one.

    Attributes:
        name: prefix of its columns in the metrics, e.g. "validation".
        every: interval in steps, at least 1.
        run: maps the state to named numbers. The next step donates the state's buffers, so `run`
            must not keep them.
        until: for one of the first updates alone: the last step at which it may be made; it is not
            made after the last one for being that.
    """

    name: str
    every: int
    run: Callable[[TrainState], Mapping[str, float]]
    until: int | None = None

    def is_due(self, step: int, *, final: bool) -> bool:
        """Whether it is made after update `step`, the last one of the training if `final`."""
        regular = step % self.every == 0
        return regular or final if self.until is None else regular and step <= self.until

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(
                f"evaluator {self.name!r}: interval {self.every} is not a number of steps. "
                "Use 1 or more."
            )
