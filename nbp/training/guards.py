# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Detectors that watch the metrics of every update and say when training goes wrong.

They are plain Python on numbers that every process sees alike, so all processes decide alike. What
they remember (medians, streaks) is not saved: it begins anew when a run resumes or goes back. A
healthy run has the same bits with and without them.
"""

import abc
import dataclasses
import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from nbp.errors import ConfigError
from nbp.ranges import Count, Natural, NonNegative, Range, Share
from nbp.shapes import Array
from nbp.training.state import TrainState

WINDOW = 100  # healthy updates whose median a value is compared with
SETTLED = 20  # healthy updates that make a median worth comparing with

ADVERSARY = "adversarial.learning_rate"  # the key for the discriminator's

Action = Literal["warn", "skip", "rollback", "stop"]


@dataclass(frozen=True)
class GuardSpec:
    """What is watched, and what is done about it. A threshold of 0 switches its detector off.

    The section `train.guards` of a configuration; see docs/guard_rails.md.

    Attributes:
        non_finite: stop, leave out the update (skip), or go back (rollback).
        divergence: what to do about all other alarms; ignore looks for none.
        loss_ratio: largest multiple of its recent median that the loss may reach.
        gradient_ratio: the same for gradient norms.
        code_usage: smallest part of its best value that code usage and perplexity may fall to.
        code_warmup: updates before that is looked at: random parameters use many codes, which a
            tokenizer first gives up before it finds better ones.
        accuracy: distance from 0 and 1 that the discriminator's accuracy must keep.
        patience: updates in a row that an alarm takes, except for non-finite numbers.
        rollbacks: how many times a stage may go back.
        soften: what `task.soften` scales the adversarial weight by when going back.
    """

    non_finite: Literal["stop", "skip", "rollback"] = "stop"
    divergence: Literal["ignore", "warn", "rollback"] = "warn"
    loss_ratio: NonNegative = 10.0
    gradient_ratio: NonNegative = 100.0
    code_usage: Share = 0.1
    code_warmup: Natural = 500
    accuracy: Annotated[float, Range(0.0, high=0.5, below=True)] = 0.01
    patience: Count = 50
    rollbacks: Natural = 3
    soften: Annotated[float, Range(0.0, above=True, high=1.0)] = 0.5

    def __post_init__(self) -> None:
        ratio = "more than 1, or 0 for never"
        for name, fits, allowed in (
            ("loss_ratio", self.loss_ratio == 0 or self.loss_ratio > 1, ratio),
            ("gradient_ratio", self.gradient_ratio == 0 or self.gradient_ratio > 1, ratio),
            ("code_usage", 0 <= self.code_usage < 1, "0 for never, or less than 1"),
            ("code_warmup", self.code_warmup >= 0, "0 or more"),
            ("accuracy", 0 <= self.accuracy < 0.5, "0 for never, or less than 0.5"),
            ("patience", self.patience >= 1, "1 or more"),
            ("rollbacks", self.rollbacks >= 0, "0 or more"),
            ("soften", 0 < self.soften <= 1, "more than 0, at most 1"),
        ):
            if not fits:
                raise ConfigError(f"train.guards.{name} is {getattr(self, name)}. Use {allowed}.")


@dataclass(frozen=True)
class Alarm:
    """What a detector found.

    Attributes:
        kind: "non_finite", "skipped", or the metric that is out of bounds.
        action: what is to be done about it.
        step: the update whose metrics rang.
        since: the first update of the streak; those before it looked healthy.
        what: value, limit and duration.
        remedy: what a user can do.
    """

    kind: str
    action: Action
    step: int
    since: int
    what: str
    remedy: str

    @property
    def last_good(self) -> int:
        """The newest step that is above suspicion.

        Update `since` measured the state of step `since - 1`. A number that is not finite is
        blamed on its batch; a streak, which is one of many batches, on that state.
        """
        return max(self.since - (1 if self.kind == "non_finite" else 2), 0)

    def __str__(self) -> str:
        return f"{self.what} at step {self.step}. {self.remedy}"


class Guards:
    """Looks at the metrics of each update, in order.

    A number that is not finite rings at once; anything else once it has held for `patience`
    updates in a row, and not again before it was healthy in between.
    """

    def __init__(self, spec: GuardSpec) -> None:
        self.spec = spec
        self.restart()

    def restart(self) -> None:
        """Forgets what was seen."""
        spec = self.spec
        self._skips = _Streak(spec.patience)
        self._detectors: list[_Detector] = []
        if spec.divergence == "ignore":
            return
        if spec.loss_ratio:
            self._detectors += [_Ratio(name, spec) for name in ("loss", "reconstruction")]
        if spec.gradient_ratio:
            self._detectors += [_Ratio(name, spec) for name in _GRADIENTS]
        if spec.loss_ratio:
            self._detectors.append(_Astray("discriminator_loss", spec))
        if spec.accuracy:
            self._detectors.append(_Pinned("discriminator_accuracy", spec))
        if spec.code_usage:
            self._detectors += [_Collapse(name, spec) for name in ("code_usage", "code_perplexity")]

    def observe(self, step: int, values: Mapping[str, float]) -> list[Alarm]:
        """Takes the metrics of update `step`; returns the alarms that ring now.

        Args:
            step: number of the update, counted from 1.
            values: its metrics. Detectors of metrics that are absent stay silent.
        """
        bad = {name: value for name, value in values.items() if not math.isfinite(value)}
        if bad:
            return [self._judge_non_finite(step, bad)]
        self._skips.hold(step, False)
        found = [detector.look(step, values) for detector in self._detectors]
        return [alarm for alarm in found if alarm is not None]

    def _judge_non_finite(self, step: int, bad: Mapping[str, float]) -> Alarm:
        spec = self.spec
        order = sorted(bad, key=lambda name: name not in ("loss", "grad_norm"))
        names = [f"{name} is {bad[name]}" for name in order]
        what = ", ".join([*names[:4], *([f"{len(names) - 4} more"] if names[4:] else [])])
        if spec.non_finite == "skip" and self._skips.hold(step, True):
            return Alarm(
                kind="skipped",
                action="rollback" if spec.divergence == "rollback" else "stop",
                step=step,
                since=self._skips.since,
                what=f"{spec.patience} updates in a row were not finite and were left out ({what})",
                remedy="Lower the learning rate or lengthen the warm-up.",
            )
        rate = "the learning rate"
        if all(name.startswith(("discriminator_", "adversarial")) for name in bad):
            rate = f"the learning rate of the discriminator ({ADVERSARY})"
        elif any(name.startswith(("discriminator_", "adversarial")) for name in bad):
            rate = f"the learning rate or {ADVERSARY}"
        remedy = f"Lower {rate}, lengthen the warm-up or look at the data of this step."
        return Alarm("non_finite", spec.non_finite, step=step, since=step, what=what, remedy=remedy)


def leave_out_non_finite(
    before: TrainState, after: TrainState, metrics: Mapping[str, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """Undoes an update, but for its step number, unless all its metrics are finite. Traceable.

    Returns:
        The state to go on with, and the metrics with `skipped` (1 if the update is left out).
    """
    # The update must be compiled as it would be alone, or healthy runs would differ in last bits.
    after, metrics = jax.lax.optimization_barrier((after, dict(metrics)))
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(value)) for value in metrics.values()]))
    kept = jax.tree.map(lambda old, new: jnp.where(finite, new, old), before, after)
    skipped = 1.0 - finite.astype(jnp.float32)
    return dataclasses.replace(kept, step=after.step), {**metrics, "skipped": skipped}


class _Streak:
    """Counts for how many updates in a row something holds."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._length = 0
        self.since = 0

    def hold(self, step: int, holds: bool) -> bool:
        """Returns whether it has now held for exactly `patience` updates."""
        if not holds:
            self._length = 0
            return False
        if self._length == 0:
            self.since = step
        self._length += 1
        return self._length == self._patience


_GRADIENTS = ("grad_norm", "discriminator_grad_norm")


class _Detector(abc.ABC):
    """Rings once its metric has looked bad for `patience` updates in a row."""

    remedy: str

    def __init__(self, metric: str, spec: GuardSpec) -> None:
        self._metric, self._spec = metric, spec
        self._streak = _Streak(spec.patience)

    def look(self, step: int, values: Mapping[str, float]) -> Alarm | None:
        if self._metric not in values:
            return None
        what = self._judge(values[self._metric]) if _plays(self._metric, values) else None
        if not self._streak.hold(step, what is not None):
            return None
        self._restart()
        return Alarm(
            self._metric,
            "rollback" if self._spec.divergence == "rollback" else "warn",
            step=step,
            since=self._streak.since,
            what=f"{what} for {self._spec.patience} updates",
            remedy=self.remedy,
        )

    @abc.abstractmethod
    def _judge(self, value: float) -> str | None:
        """What is wrong with a value; None if nothing is."""

    def _restart(self) -> None:  # noqa: B027 - most have nothing to forget
        """Begins anew, as an alarm has rung."""


class _Ratio(_Detector):
    """A magnitude stays above a multiple of the median of the last healthy updates."""

    def __init__(self, metric: str, spec: GuardSpec) -> None:
        super().__init__(metric, spec)
        learns = metric.startswith("discriminator_")
        self.remedy = _TAME if learns else "Lower the learning rate or adversarial.weight."
        self._ratio = spec.gradient_ratio if metric in _GRADIENTS else spec.loss_ratio
        self._restart()

    def look(self, step: int, values: Mapping[str, float]) -> Alarm | None:
        # A pause of the adversary does not end its streak.
        return super().look(step, values) if _plays(self._metric, values) else None

    def _restart(self) -> None:
        # If it stays like this, that is the new measure.
        self._healthy: deque[float] = deque(maxlen=WINDOW)
        self._largest = 0.0

    def _judge(self, value: float) -> str | None:
        # A total with an adversarial term may be negative: its size is what must not explode.
        value = abs(value)
        settled = len(self._healthy) >= SETTLED
        usual = statistics.median(self._healthy) if settled else math.inf
        if settled and self._metric == "discriminator_grad_norm":
            # It vanishes while the discriminator is far ahead, and its return is no explosion.
            usual = self._largest = max(self._largest, usual)
        if value <= self._ratio * usual:
            self._healthy.append(value)
            return None
        return f"{self._metric} is {value:.4g}, over {self._ratio:g} times its usual {usual:.4g}"


_TAME = f"Lower {ADVERSARY}, or regularize the discriminator more (adversarial.regularizer_weight)."


class _Astray(_Detector):
    """The discriminator is far worse than one that guesses, which loses about 1.

    A guess costs 1 with the hinge and 0.7 with the logistic loss. An adaptive weight hides such a
    discriminator from all other metrics.
    """

    remedy = _TAME

    def _judge(self, value: float) -> str | None:
        limit = self._spec.loss_ratio
        if value <= limit:
            return None
        return f"{self._metric} is {value:.4g}, over {limit:g} times that of guessing"


class _Pinned(_Detector):
    """The discriminator is always right, or always wrong, while the tokenizer learns from it."""

    remedy = _TAME

    def _judge(self, value: float) -> str | None:
        if min(value, 1 - value) > self._spec.accuracy:
            return None
        return f"{self._metric} is {value:.4g}, within {self._spec.accuracy:g} of 0 or 1"


class _Collapse(_Detector):
    """Codes fall out of use: a statistic stays below a part of the best value it had.

    A perplexity counts from 1, which is that of a single code.
    """

    remedy = "Lower the learning rate or adversarial.weight, or use fewer codes."

    def __init__(self, metric: str, spec: GuardSpec) -> None:
        super().__init__(metric, spec)
        self._least = 1.0 if metric == "code_perplexity" else 0.0
        self._best = self._least

    def look(self, step: int, values: Mapping[str, float]) -> Alarm | None:
        return super().look(step, values) if step > self._spec.code_warmup else None

    def _judge(self, value: float) -> str | None:
        self._best = max(self._best, value)
        part = self._spec.code_usage
        if value >= self._least + part * (self._best - self._least):
            return None
        return f"{self._metric} is {value:.4g}, below {part:g} of its best {self._best:.4g}"


def _plays(metric: str, values: Mapping[str, float]) -> bool:
    """Tells whether a metric counts yet: the adversary's do while the tokenizer learns from it."""
    return not metric.startswith("discriminator_") or values.get("adversarial_weight", 1.0) > 0
