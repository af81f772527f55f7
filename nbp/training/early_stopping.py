# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The best state so far by one score, and when there is no use in going on.

All decisions follow from the scores of a run by their steps. These lie in every checkpoint, so a
run that was stopped decides as one that was not, and a run that goes back forgets later ones.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nbp.parallel.distributed import decide
from nbp.training.metrics import MetricsWriter
from nbp.training.preemption import StopSignals
from nbp.training.state import TrainState
from nbp.training.task import Evaluator


@dataclass(frozen=True)
class BestSpec:
    """How states are compared.

    Attributes:
        score: of an evaluator, "validation/loss". A metric that says more behind this name counts
            as well: "evaluation/fvd_random_features_64" for "evaluation/fvd".
        mode: whether a low or a high value is better.
        patience: evaluations in a row without a better score after which training ends; 0: never.
    """

    score: str
    mode: Literal["min", "max"]
    patience: int = 0

    @property
    def evaluator(self) -> str:
        """The name of the evaluator that gives the score."""
        return self.score.partition("/")[0]

    def find(self, scores: Mapping[str, float]) -> float | None:
        """The score among those of an evaluation; None where it is not there."""
        if self.score in scores:
            return scores[self.score]
        found = [value for name, value in scores.items() if name.startswith(f"{self.score}_")]
        return found[0] if found else None


class ScoreHistory:
    """The score of each evaluation of a run; of a `spec` that is None there are none."""

    def __init__(self, spec: BestSpec | None, saved: Mapping[str, Any] | None = None) -> None:
        """saved: what `save` gave; of another score it is forgotten."""
        self.spec = spec
        self._scores: dict[int, float] = {}
        if spec is not None and saved and saved["of"] == spec.score:
            self._scores = {int(step): _read(value) for step, value in saved["values"]}

    def save(self) -> dict[str, Any]:
        """All scores, as JSON; empty for none."""
        if self.spec is None or not self._scores:
            return {}
        values = [[step, value if math.isfinite(value) else None] for step, value in self._pairs]
        return {"of": self.spec.score, "values": values}

    @property
    def _pairs(self) -> list[tuple[int, float]]:
        return sorted(self._scores.items())

    def observe(self, step: int, scores: Mapping[str, float]) -> bool:
        """Takes the scores of an evaluation. True where the state is the best so far."""
        if self.spec is None or (score := self.spec.find(scores)) is None:
            return False
        self._scores[step] = score
        return self.best_step == step

    def forget(self, step: int) -> None:
        """Drops what was measured after `step`."""
        self._scores = {at: score for at, score in self._scores.items() if at <= step}

    def metrics(self, step: int) -> dict[str, float]:
        """The score of a step under the name of the specification, if there is one."""
        if self.spec is None or step not in self._scores:
            return {}
        return {self.spec.score: self._scores[step]}

    @property
    def best_step(self) -> int | None:
        """The step of the best score, the first of equal ones; None before the first finite one."""
        if self.spec is None:
            return None
        sign = 1.0 if self.spec.mode == "min" else -1.0
        finite = [(sign * score, step) for step, score in self._pairs if math.isfinite(score)]
        return min(finite)[1] if finite else None

    @property
    def is_over(self) -> bool:
        """Whether the score has not improved for as long as patience lasts."""
        if self.spec is None or not self.spec.patience:
            return False
        best = self.best_step or 0
        return sum(step > best for step in self._scores) >= self.spec.patience

    def describe(self) -> str:
        """Why training ends, for the log."""
        assert self.spec is not None
        if (best := self.best_step) is None:
            return f"{self.spec.score} was not finite in {self.spec.patience} evaluations"
        return (
            f"{self.spec.score} was {self._scores[best]:.6g} at step {best} and not better in "
            f"{self.spec.patience} evaluations since"
        )


def _read(value: float | None) -> float:
    return math.nan if value is None else float(value)


class Evaluations:
    """The evaluators of a run, and what follows from their scores."""

    def __init__(
        self,
        evaluators: Sequence[Evaluator],
        best: BestSpec | None,
        writer: MetricsWriter,
        stop: StopSignals,
        *,
        saved: Mapping[str, Any] | None,
    ) -> None:
        self._evaluators, self._best = evaluators, best
        self._writer, self._stop = writer, stop
        self.history = ScoreHistory(best, saved)

    def describe_end(self, step: int, total: int) -> str:
        """Says that nothing is left to train."""
        text = f"already trained for {step} of {total} steps"
        return f"{text}: {self.history.describe()}" if self.history.is_over else text

    def list_due(self, step: int, *, final: bool) -> list[Evaluator]:
        """What is measured after a step."""
        return [e for e in self._evaluators if e.is_due(step, final=final)]

    def run(
        self, due: Sequence[Evaluator], state: TrainState, *, step: int, final: bool
    ) -> tuple[dict[str, float], bool, bool]:
        """The scores, whether the state is the best so far, and whether training ends with it."""
        scores = self._measure(due, state, step)
        if not due or self._best is None:
            return scores, False, final
        better, over = decide([self.history.observe(step, scores), self.history.is_over])
        if over and not final:
            self._writer.note(f"ends early: {self.history.describe()}")
            ending = self.list_due(step, final=True)
            scores |= self._measure([e for e in ending if e not in due], state, step)
        return scores | self.history.metrics(step), better, final or over

    def _measure(self, due: Sequence[Evaluator], state: TrainState, step: int) -> dict[str, float]:
        """Runs evaluators and records their results under `name/...`.

        A stop signal skips them, but for the one whose score decides how training goes on.
        """
        scores: dict[str, float] = {}
        best = self._best
        for evaluator in due:
            if self._stop and (best is None or evaluator.name != best.evaluator):
                continue
            result = evaluator.run(state)
            found = {f"{evaluator.name}/{name}": float(v) for name, v in result.items()}
            if found:  # a preview measures nothing
                self._writer.write(step, found)
            scores |= found
        return scores
