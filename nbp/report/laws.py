# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Fitted scaling laws as tables and charts."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nbp.metrics.scaling_law import Fit, Interval, Multiplier, Optimum, describe
from nbp.report.svg import Chart, Curve

AGREEMENT = "label_agreement"
SHOWN = 60  # points of a drawn law


@dataclass(frozen=True)
class Point:
    """A run as a point of a law. compute: operations. missed: 1 - label agreement, None without."""

    name: str
    design: str
    group: str
    compute: float
    parameters: float
    tokens: float
    loss: float
    missed: float | None


@dataclass
class Laws:
    """What could be fitted to a group; None where its runs do not allow it, which `notes` tell.

    compute: L(C) of its efficient runs. agreement: the same of 1 - label agreement. size: L(N, D).
    """

    points: list[Point]
    compute: Fit | None = None
    agreement: Fit | None = None
    size: Fit | None = None
    optima: list[Optimum] = field(default_factory=list)


@dataclass
class Study:
    """All that was found. predictions: by run and law. multipliers: by group and score."""

    laws: dict[str, Laws]
    predictions: list[dict[str, Any]] = field(default_factory=list)
    multipliers: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def to_json(study: Study) -> dict[str, Any]:
    """All results for JSON: values with their errors and intervals, null for infinite ones."""

    def list_law(fit: Fit | None) -> dict[str, Any] | None:
        if fit is None:
            return None
        draws, law = fit.draws, fit.law
        pairs = zip(law.exponents, draws.exponents.T, strict=True)
        return {
            "constant": dataclasses.asdict(Interval.of(float(law.constant), draws.constant)),
            "factors": law.factors.tolist(),
            "exponents": [dataclasses.asdict(Interval.of(v, d)) for v, d in pairs],
            "runs": len(fit.residuals),
            "low": fit.low.tolist(),
            "high": fit.high.tolist(),
        }

    laws = {
        group: {
            "points": [dataclasses.asdict(point) for point in found.points],
            **{name: list_law(getattr(found, name)) for name in ("compute", "agreement", "size")},
            "optima": [dataclasses.asdict(optimum) for optimum in found.optima],
        }
        for group, found in study.laws.items()
    }
    rest = dataclasses.replace(study, laws={})
    return describe({**dataclasses.asdict(rest), "laws": laws})


def write_markdown(study: Study, loss: str) -> str:
    """All results as tables; errors are half of the bootstrap's central 68%."""
    parts = [f"# Scaling laws of {loss}"]
    rows = []
    for group, laws in study.laws.items():
        named = (("C", loss, laws.compute), ("C", f"1 - {AGREEMENT}", laws.agreement))
        for axis, what, fit in (*named, ("N, D", loss, laws.size)):
            if fit is not None:
                rows.append([group, what, axis, str(len(fit.residuals)), *list_parameters(fit)])
    heads = ["group", "score", "of", "runs", "constant E", "exponent a", "exponent b", "scatter"]
    parts.append(make_table(heads, rows))
    rows = [
        [group, f"{o.compute:.3g}", *map(show, (o.parameters, o.tokens, o.loss)),
         "yes" if o.extrapolated else "no"]
        for group, laws in study.laws.items()
        for o in laws.optima
    ]  # fmt: skip
    if rows:
        heads = ["group", "operations", "parameters", "tokens", loss, "extrapolated"]
        parts += ["## Best size for a budget", make_table(heads, rows)]
    rows = [
        [p["run"], p["law"], p["group"], show(p["predicted"]), f"{p['measured']:.4g}",
         f"{p['error_percent']:+.2f}%"]
        for p in study.predictions
    ]  # fmt: skip
    if rows:
        heads = ["run", "law", "of group", "predicted", "measured", "error"]
        parts += ["## Held-out runs", make_table(heads, rows)]
    rows = [[m["group"], m["score"], str(m["runs"]), *list_multiplier(m["multiplier"])]
            for m in study.multipliers]  # fmt: skip
    if rows:
        heads = ["group", "same", "runs", "times the compute", "95%", "note"]
        parts += ["## Compute multipliers", make_table(heads, rows)]
    parts += [f"* {note}" for note in study.notes]
    return "\n\n".join(parts)


def list_parameters(fit: Fit) -> list[str]:
    """Constant, exponents and the scatter of the residuals, as texts."""
    law, draws = fit.law, fit.draws
    told = [show(Interval.of(float(law.constant), draws.constant))]
    for axis in range(2):
        some = axis < len(law.exponents)
        told.append(
            show(Interval.of(law.exponents[axis], draws.exponents[:, axis])) if some else ""
        )
    return [*told, f"{100 * float(np.std(fit.spread)):.2g}%"]


def list_multiplier(told: Multiplier) -> list[str]:
    interval, note = told.interval, "extrapolated" if told.extrapolated else ""
    if told.unreached:
        note = f"never reached in {told.unreached:.0%} of the draws"
    return [show(interval), f"{interval.low:.3g} to {interval.high:.3g}", note]


def show(interval: Interval) -> str:
    return f"{interval.value:.4g} ± {interval.error:.2g}"


def make_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw_laws(study: Study, loss: str) -> list[Chart]:
    """Loss, and 1 - agreement, against compute: efficient runs and the law of each group."""
    charts = []
    for title, name, read in (
        (loss, "compute", lambda p: p.loss),
        (f"1 - {AGREEMENT}", "agreement", lambda p: p.missed),
    ):
        curves = []
        for group, laws in study.laws.items():
            fit = getattr(laws, name)
            rows = sorted((p.compute, read(p)) for p in laws.points if read(p) is not None)
            curves += [Curve(group, rows, joined=False)] if rows else []
            if fit is not None:
                x = np.geomspace(fit.low[0], 10 * fit.high[0], SHOWN)
                curves.append(
                    Curve(f"law of {group}", list(zip(x, fit.law(x[:, None]), strict=True)))
                )
        if curves:
            chart = Chart(title, tuple(curves), x_name="operations")
            charts.append(replace(chart, logarithmic=True, x_logarithmic=True))
    return charts
