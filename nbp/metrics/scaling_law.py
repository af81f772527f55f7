# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Scaling laws: a constant and a power of the compute, or of parameters and tokens.

    L(C) = E + A * C^-a                    (Henighan et al. 2020, arXiv 2010.14701)
    L(N, D) = E + A * N^-a + B * D^-b      (Hoffmann et al. 2022, arXiv 2203.15556, approach 3)

C: operations of training. N: parameters. D: tokens of training. As there, the Huber loss of log L
is minimised from several starts; its width is 1.345 deviations of the residuals (Huber's), where
Hoffmann et al. take 0.001 for all. What the laws say of optima and multipliers has errors from a
bootstrap of the residuals.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbp.errors import DataError
from nbp.shapes import Array, Float, Int

NARROW, WIDTH = 1e-3, 1.345  # of the Huber loss of log L: at least, and in deviations
LOWEST = 20.0  # log E is at most so far below the log of the least loss
LEAST_EXPONENT, LARGEST_EXPONENT = 1e-3, 10.0
FLAT, ALIKE = 1e-9, 0.01  # what counts as converged; relative difference that is none
ITERATIONS = 200
CENTRE, WHOLE = (16.0, 84.0), (2.5, 97.5)  # percentiles: an error, an interval
DISTINCT = 3  # values of each axis, without which constant and power cannot be told apart


@dataclass(frozen=True)
class Law:
    """constant + sum over k of factors[k] * x[k]^-exponents[k]; any leading axes are many laws.

    constant: [*b], in the unit of the loss. factors, exponents: [*b k], positive.
    """

    constant: Float[np.ndarray, "*b"]
    factors: Float[np.ndarray, "*b k"]
    exponents: Float[np.ndarray, "*b k"]

    def __call__(self, x: Float[Array, "n k"]) -> Float[np.ndarray, "*b n"]:
        """The loss at each row of x."""
        powers = np.asarray(x, float) ** -self.exponents[..., None, :]
        return self.constant[..., None] + np.sum(self.factors[..., None, :] * powers, axis=-1)

    def invert_log(self, loss: Float[Array, "*b n"]) -> Float[np.ndarray, "*b n"]:
        """Of a law of one axis the log of the x that gives a loss; infinite at or below its
        constant, else finite, however flat the law is."""
        rest = np.asarray(loss, float) - self.constant[..., None]
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = (np.log(self.factors) - np.log(rest)) / self.exponents
        return np.where(rest > 0, logs, np.inf)


@dataclass(frozen=True)
class Fit:
    """A fitted law. residuals: [n] of log loss. draws: laws of the bootstrap, one leading axis.

    low, high: [k] ends of the data's range.
    """

    law: Law
    draws: Law
    residuals: Float[np.ndarray, "n"]
    low: Float[np.ndarray, "k"]
    high: Float[np.ndarray, "k"]

    @property
    def spread(self) -> Float[np.ndarray, "n"]:
        """The residuals with mean 0, widened for the parameters that were fitted to them."""
        return _widen(self.residuals, 1 + 2 * len(self.low))

    def draw_noise(self, count: int, *, seed: int) -> Float[np.ndarray, "b m"]:
        """How `count` further runs may scatter, in log loss, for each draw of the bootstrap."""
        rng, draws = np.random.default_rng(seed), len(self.draws.constant)
        sizes = _draw_sizes(rng, len(self.residuals) - 1 - 2 * len(self.low), draws)
        return rng.choice(self.spread, (draws, count)) * sizes[:, None]

    def covers(self, x: Float[Array, "n k"]) -> bool:
        """Whether all points lie in the data's range: else the law is extrapolated."""
        rows = np.asarray(x, float)
        return bool(np.all((rows >= self.low * (1 - ALIKE)) & (rows <= self.high * (1 + ALIKE))))


@dataclass(frozen=True)
class Interval:
    """A value; its error, half of the central 68% of the bootstrap; the ends of its 95%."""

    value: float
    error: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: Float[np.ndarray, "b"]) -> "Interval":
        with np.errstate(invalid="ignore"):  # infinite ends
            low, below, above, high = np.percentile(
                draws, [WHOLE[0], *CENTRE, WHOLE[1]], method="inverted_cdf"
            )
            return cls(float(value), float(above - below) / 2, float(low), float(high))


def fit_law(
    x: Float[Array, "n k"], loss: Float[Array, "n"], *, draws: int = 500, seed: int = 0
) -> Fit:
    """Fits the law of k axes to n runs.

    x: positive, such as operations [n 1], or parameters and tokens [n 2]. loss: positive.
    draws: of the bootstrap, which keeps x and draws residuals anew; their size is drawn too, as
    few runs tell little of it. Raises DataError where the runs are too few or too much alike.
    """
    rows, values = np.asarray(x, float), np.asarray(loss, float)
    check_runs(rows, values)
    centre = np.log(rows).mean(axis=0)
    logs, targets = np.log(rows) - centre, np.log(values)
    parameters = 1 + 2 * rows.shape[1]
    starts = _choose_starts(logs, targets)
    narrow = np.full(len(starts), NARROW)
    first = _minimize(logs, np.tile(targets, (len(starts), 1)), starts, narrow)
    best = first[0][np.argmin(first[1])]
    residuals = targets - _predict(logs, best[None])[0]
    share = math.sqrt(len(values) / (len(values) - parameters))
    width = max(NARROW, WIDTH * 1.4826 * float(np.median(np.abs(residuals))) * share)
    starts = np.concatenate([best[None], starts])
    found = _minimize(logs, np.tile(targets, (len(starts), 1)), starts, np.full(len(starts), width))
    best = found[0][np.argmin(found[1])]
    residuals = targets - _predict(logs, best[None])[0]
    again = _bootstrap(logs, best, residuals, draws=draws, width=width, seed=seed)
    return Fit(
        _unpack(best, centre), _unpack(again, centre), residuals, rows.min(axis=0), rows.max(axis=0)
    )


def check_runs(x: Float[np.ndarray, "n k"], loss: Float[np.ndarray, "n"]) -> None:
    """Raises DataError where a law of k axes cannot be fitted to these runs."""
    axes = x.shape[1]
    if not (np.all(np.isfinite(x)) and np.all(x > 0)):
        raise DataError("a scaling law needs sizes and budgets that are positive numbers")
    if not (np.all(np.isfinite(loss)) and np.all(loss > 0)):
        raise DataError("a scaling law needs losses that are positive numbers")
    if len(loss) < 2 + 2 * axes:
        raise DataError(
            f"{len(loss)} runs are too few for a scaling law of {1 + 2 * axes} parameters: "
            f"at least {2 + 2 * axes} are needed"
        )
    for axis in range(axes):
        count = count_distinct(x[:, axis])
        if count < DISTINCT:
            name = ("parameters", "tokens")[axis] if axes == 2 else "compute"
            raise DataError(
                f"the runs have {count} different values of {name}: at least {DISTINCT} are needed"
            )


def count_distinct(values: Float[Array, "n"]) -> int:
    """How many values differ by more than 1%."""
    ordered = np.sort(np.asarray(values, float))
    return 1 + int(np.sum(np.diff(np.log(ordered)) > ALIKE)) if len(ordered) else 0


def _choose_starts(logs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """[starts, 1 + 2k]: log E, log factors, log exponents, through the mean of the data."""
    axes, least = logs.shape[1], targets.min()
    found = []
    exponents = itertools.product((0.1, 0.3, 0.8), repeat=axes)
    for share, powers in itertools.product((0.1, 0.6, 0.95), exponents):
        rest = math.exp(targets.mean()) - share * math.exp(least)
        factors = [math.log(rest / axes)] * axes
        found.append([math.log(share) + least, *factors, *np.log(powers)])
    return np.array(found)


def _predict(logs: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """log L [b n] of packed parameters [b, 1 + 2k]."""
    return np.logaddexp.reduce(_terms(logs, packed), axis=1)


def _terms(logs: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """Logs of the constant and of each power, [b, 1 + k, n]."""
    axes = logs.shape[1]
    powers = packed[:, 1 : 1 + axes, None] - np.exp(packed[:, 1 + axes :, None]) * logs.T[None]
    constant = np.broadcast_to(packed[:, :1, None], (len(packed), 1, len(logs)))
    return np.concatenate([constant, powers], axis=1)


def _minimize(
    logs: np.ndarray, targets: np.ndarray, starts: np.ndarray, width: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Levenberg-Marquardt on the Huber loss of many problems at once: parameters, losses.

    targets: [b n]. starts: [b, 1 + 2k]. width: [b].
    """
    axes = logs.shape[1]
    low, high = _limits(targets, axes)
    packed = np.clip(starts, low, high)
    cost = _huber(targets - _predict(logs, packed), width)
    damping = np.full(len(packed), 1e-2)
    active = np.arange(len(packed))
    for _ in range(ITERATIONS):
        here = packed[active]
        terms = _terms(logs, here)
        total = np.logaddexp.reduce(terms, axis=1, keepdims=True)
        shares = np.exp(terms - total)
        slopes = -shares[:, 1:] * np.exp(here[:, 1 + axes :, None]) * logs.T[None]
        jacobian = np.concatenate([shares, slopes], axis=1)  # [b, 1 + 2k, n]
        residuals = targets[active] - total[:, 0]
        limits = width[active, None]
        weighted = (
            jacobian * np.minimum(1.0, limits / np.maximum(np.abs(residuals), 1e-300))[:, None]
        )
        matrix = weighted @ jacobian.swapaxes(1, 2)
        diagonal = np.einsum("bpp->bp", matrix)
        ridge = diagonal + 1e-9 * diagonal.max(axis=1, keepdims=True) + 1e-12
        damped = matrix + (damping[active, None] * ridge)[:, :, None] * np.eye(matrix.shape[1])
        steps = np.linalg.solve(damped, weighted @ residuals[:, :, None])[..., 0]
        tried = np.clip(here + np.clip(steps, -2.0, 2.0), low[active], high[active])
        lower = _huber(targets[active] - _predict(logs, tried), width[active])
        better = lower < cost[active]
        gained = np.where(better, cost[active] - lower, 0.0)
        packed[active] = np.where(better[:, None], tried, here)
        cost[active] = np.where(better, lower, cost[active])
        factor = np.where(better, 0.25, 6.0)
        damping[active] = np.clip(damping[active] * factor, 1e-9, 1e9)
        over = (gained <= FLAT * (cost[active] + FLAT)) & (better | (damping[active] >= 1e3))
        active = active[~over]
        if not len(active):
            break
    return packed, cost


def _huber(residuals: np.ndarray, width: np.ndarray) -> np.ndarray:
    """The Huber loss of each row: residuals [b n], width [b]."""
    size, limit = np.abs(residuals), width[:, None]
    return np.where(size <= limit, size**2 / 2, limit * (size - limit / 2)).sum(axis=1)


def _limits(targets: np.ndarray, axes: int) -> tuple[np.ndarray, np.ndarray]:
    """Within which parameters are looked for, [b, 1 + 2k] each."""
    least = targets.min(axis=1)
    rest = np.ones((len(targets), axes))
    low = np.c_[least - LOWEST, -50 * rest, math.log(LEAST_EXPONENT) * rest]
    high = np.c_[least + 0.5, 50 * rest, math.log(LARGEST_EXPONENT) * rest]
    return low, high


def _widen(residuals: np.ndarray, parameters: int) -> np.ndarray:
    free = max(len(residuals) - parameters, 1)
    return (residuals - residuals.mean()) * math.sqrt(len(residuals) / free)


def _bootstrap(
    logs: np.ndarray,
    best: np.ndarray,
    residuals: np.ndarray,
    *,
    draws: int,
    width: float,
    seed: int,
) -> np.ndarray:
    """Packed parameters [draws, 1 + 2k] of data made from the law with residuals drawn anew."""
    rng = np.random.default_rng(seed)
    count, parameters = len(residuals), len(best)
    free = max(count - parameters, 1)
    spread = _widen(residuals, parameters)
    sizes = _draw_sizes(rng, free, draws)
    noise = spread[rng.integers(count, size=(draws, count))] * sizes[:, None]
    targets = _predict(logs, best[None]) + noise
    # From the law itself, and from others far from it.
    others = np.random.default_rng(seed + 1).normal(0.0, 0.5, (2, parameters)) + best
    starts = np.concatenate([best[None], others])
    repeated = np.repeat(targets, len(starts), axis=0)
    widths = np.repeat(width * sizes, len(starts))
    found, cost = _minimize(logs, repeated, np.tile(starts, (draws, 1)), widths)
    chosen = np.argmin(cost.reshape(draws, -1), axis=1)
    return found.reshape(draws, len(starts), -1)[np.arange(draws), chosen]


def _draw_sizes(rng: np.random.Generator, free: int, draws: int) -> np.ndarray:
    """Factors of a scatter that is known as well as `free` values tell it, as in Student's t."""
    return np.minimum(np.sqrt(free / rng.chisquare(free, draws)), 5.0)


def _unpack(packed: np.ndarray, centre: np.ndarray) -> Law:
    """Parameters for x itself instead of x divided by its geometric mean."""
    axes = len(centre)
    exponents = np.exp(packed[..., 1 + axes :])
    factors = np.exp(packed[..., 1 : 1 + axes] + exponents * centre)
    return Law(np.asarray(np.exp(packed[..., 0])), factors, exponents)


# What laws tell ----------------------------------------------------------------------------------


def predict(fit: Fit, x: Float[Array, "k"], *, seed: int = 0) -> Interval:
    """The loss of a run that the law has not seen; its interval holds the scatter of one run."""
    row = np.asarray(x, float)[None]
    noise = fit.draw_noise(1, seed=seed)[:, 0]
    return Interval.of(float(fit.law(row)[0]), fit.draws(row)[:, 0] * np.exp(noise))


def select_efficient(
    compute: Float[Array, "n"], loss: Float[Array, "n"], *, tolerance: float = 0.0
) -> Int[np.ndarray, "m"]:
    """Places of the runs that no cheaper one beats, cheapest first: of these is L(C) the law.

    tolerance: by how much a cheaper run's loss must be lower, as a share of it, to count.
    """
    cost, values = np.asarray(compute, float), np.asarray(loss, float)
    kept = [
        i
        for i in np.argsort(cost, kind="stable")
        if not np.any((cost <= cost[i] * (1 + ALIKE)) & (values < values[i] * (1 - tolerance)))
    ]
    return np.array(kept, int)


@dataclass(frozen=True)
class Optimum:
    """What a budget is best spent on: parameters, tokens and the loss that follows."""

    compute: float
    parameters: Interval
    tokens: Interval
    loss: Interval
    extrapolated: bool


def find_optimum(fit: Fit, compute: float, cost: "Cost") -> Optimum:
    """The size with the least L(N, D) where D is what the compute leaves, by a fine search.

    fit: of parameters and tokens.
    """
    centre = float(np.log(fit.low[0]) + np.log(fit.high[0])) / 2
    sizes = np.exp(np.linspace(centre - 16, centre + 16, 4001))
    tokens = compute / cost(sizes)
    rows = np.stack([sizes, tokens], axis=-1)

    place = int(np.argmin(fit.law(rows)))
    of_draws = fit.draws(rows)
    places, losses = np.argmin(of_draws, axis=1), of_draws.min(axis=1)
    best = rows[place]
    return Optimum(
        compute,
        Interval.of(sizes[place], sizes[places]),
        Interval.of(tokens[place], tokens[places]),
        Interval.of(float(fit.law(best[None])[0]), losses),
        extrapolated=not fit.covers(best[None]),
    )


@dataclass(frozen=True)
class Cost:
    """Operations of training for a token of a model with N parameters: scale * N^power."""

    scale: float
    power: float

    def __call__(self, parameters: Float[Array, "n"]) -> Float[np.ndarray, "n"]:
        return self.scale * np.asarray(parameters, float) ** self.power

    @classmethod
    def of(
        cls,
        parameters: Float[Array, "n"],
        tokens: Float[Array, "n"],
        compute: Float[Array, "n"],
    ) -> "Cost":
        """The straight line through the logs of these runs; of one size, with power 1."""
        sizes = np.log(np.asarray(parameters, float))
        each = np.log(np.asarray(compute, float) / np.asarray(tokens, float))
        power = 1.0
        if np.ptp(sizes) > ALIKE:
            power = float(np.polyfit(sizes, each, 1)[0])
        return cls(float(np.exp(np.mean(each - power * sizes))), power)


@dataclass(frozen=True)
class Multiplier:
    """How many times its own compute a baseline needs for the same loss.

    unreached: share of the bootstrap in which no compute would do. extrapolated: whether the
    baseline would need less or more than it was ever given.
    """

    interval: Interval
    unreached: float
    extrapolated: bool


def compute_multiplier(
    baseline: Fit, compute: Float[Array, "m"], loss: Float[Array, "m"], *, seed: int = 0
) -> Multiplier:
    """Geometric mean over m runs of what the baseline's law of compute needs, by what they took.

    Infinite where a loss is at or below the constant of the law. In the bootstrap the law is drawn
    anew, the runs are, and each gets a residual of the baseline: they are taken to scatter alike.
    """
    cost, values = np.asarray(compute, float), np.asarray(loss, float)
    needed = baseline.law.invert_log(values)
    rng = np.random.default_rng(seed)
    draws = len(baseline.draws.constant)
    rows = rng.integers(len(cost), size=(draws, len(cost)))
    noise = baseline.draw_noise(len(cost), seed=seed + 1)
    many = baseline.draws.invert_log(values[rows] * np.exp(noise)) - np.log(cost[rows])
    with np.errstate(over="ignore"):  # as good as never
        value = float(np.exp(np.mean(needed - np.log(cost))))
        means = np.exp(np.mean(many, axis=1))
        inside = baseline.covers(np.exp(needed)[:, None])
    return Multiplier(Interval.of(value, means), float(np.mean(np.isinf(means))), not inside)


def describe(value: Any) -> Any:
    """Numbers of a result as JSON has them: infinite ones are null."""
    if isinstance(value, dict):
        return {name: describe(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [describe(inner) for inner in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
