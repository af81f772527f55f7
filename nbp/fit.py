# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Fits scaling laws to runs of several sizes and budgets, and says what follows from them.

Of which size a budget is best spent, what a larger run will reach, and how many times the compute
a baseline needs for what another model reaches.

    python -m nbp.fit RUN [RUN ...] [--out DIR] [--holdout RUN] [--baseline NAME --against NAME]
"""

from pathlib import Path

from nbp.errors import run_command
from nbp.flags import SEED, Parser, Whole


def make_parser() -> Parser:
    parser = Parser(
        "nbp.fit",
        __doc__,
        examples=(
            "runs/scaling --out runs/scaling/fit",
            "runs/scaling --baseline row --against token --out runs/scaling/fit",
            "small=runs/a small=runs/b small=runs/c large=runs/d --holdout large",
        ),
    )
    add = parser.add_argument_group("runs").add_argument
    add(
        "runs",
        metavar="RUN",
        nargs="+",
        help="folder or sweep.json of nbp.sweep, or a trained workdir; GROUP=RUN names its group",
    )
    add("--out", type=Path, help="folder for fit.md, fit.json and fit.png")
    add("--loss", default="bits_per_token", metavar="SCORE", help="the lower the better")
    add("--dial", default="default", help="of a sweep: its scores are taken")
    add = parser.add_argument_group("questions").add_argument
    add("--holdout", metavar="RUN", help="left out of the fits, then predicted: run, kind or group")
    add("--baseline", metavar="NAME", help="group that others are held against")
    add("--against", action="append", default=[], metavar="NAME", help="such a group; repeatable")
    add(
        "--budgets",
        default="",
        metavar="C,C",
        help="operations to spend; default: 1, 10, 100 times the most that was spent",
    )
    add = parser.add_argument_group("intervals").add_argument
    add("--draws", type=Whole(50, 100_000), default=500, help="of the bootstrap")
    add("--seed", type=SEED, default=0, help="of the bootstrap")
    return parser


if __name__ == "__main__":
    run_command("nbp.fit", make_parser)  # help and mistakes end there, before the imports


import argparse
import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from nbp.build import stage_directory
from nbp.errors import CheckpointError, ConfigError, DataError
from nbp.files import make_folder, read_json, write_text
from nbp.lowering import measure_training
from nbp.metrics.scaling_law import (
    Cost,
    Fit,
    compute_multiplier,
    find_optimum,
    fit_law,
    predict,
    select_efficient,
)
from nbp.report.laws import AGREEMENT, Laws, Point, Study, draw_laws, to_json, write_markdown
from nbp.report.plots import write_charts_png
from nbp.report.sweep_table import TABLE, read_measures, read_table, summarize
from nbp.training.metrics import MetricsTable
from nbp.workdir import read_config, read_labels

BUDGETS = (1.0, 10.0, 100.0)


def main(argv: list[str] | None = None) -> None:
    """The command. argv: its arguments; default: those of the process."""
    arguments = make_parser().parse_args(argv)
    if bool(arguments.baseline) != bool(arguments.against):
        raise ConfigError("--baseline NAME and --against NAME: give both, or neither")
    budgets = read_budgets(arguments.budgets)
    # Nothing is computed on an accelerator.
    jax.config.update("jax_platforms", "cpu")

    points = [p for text in arguments.runs for p in read_points(text, arguments)]
    study = make_study(points, arguments, budgets)
    text = write_markdown(study, arguments.loss)
    print(text)
    if arguments.out is not None:
        make_folder(arguments.out)
        write_text(arguments.out / "fit.md", text + "\n")
        write_text(arguments.out / "fit.json", json.dumps(to_json(study), indent=1) + "\n")
        write_charts_png(arguments.out / "fit.png", draw_laws(study, arguments.loss), title="")
        print(f"written to {arguments.out}")


def read_budgets(text: str) -> list[float]:
    """The numbers of `--budgets`; ConfigError."""
    try:
        found = [float(part) for part in text.split(",") if part]
    except ValueError:
        found = [math.nan]
    if not all(0 < number < math.inf for number in found):
        raise ConfigError(f"--budgets {text[:40]}: write operations, such as 1e18,1e19")
    return found


# Runs --------------------------------------------------------------------------------------------


def read_points(text: str, arguments: argparse.Namespace) -> list[Point]:
    """The runs that an argument names. Raises DataError, CheckpointError for what is no run."""
    group, equals, place = text.partition("=")
    if not equals or os.path.exists(text):
        group, place = "", text
    path = Path(os.path.expanduser(place))
    table = path / TABLE if os.path.isdir(path) else path
    if os.path.isfile(table):
        rows = [row for row in read_table(table) if row.dial == arguments.dial]
        if not rows:
            raise DataError(f"{table} has no rows with the dial {arguments.dial}")
        return [
            make_point(
                (row.run, row.design, group or row.group),
                dataclasses.asdict(row) | {"flops": row.training_flops},
                row.scores,
                arguments.loss,
                clips=row.clips,
            )
            for row in rows
        ]
    return [read_workdir(path, group, arguments.loss)]


def read_workdir(workdir: Path, group: str, loss: str) -> Point:
    """A trained workdir: its held-out measures, and the scores of its evaluations."""
    config = read_config(workdir)
    table = stage_directory(workdir, "generator") / "metrics.csv"
    steps = max(MetricsTable(table).rows, default=0)
    if not steps:
        raise CheckpointError(f"{workdir} has no metrics of a generator: train it first")
    only = dataclasses.replace(config, stages=("generator",))
    amount = measure_training(only, len(read_labels(workdir)))
    share = steps / amount.updates  # of a run that is not at its end
    scores, clips = read_measures(table), None
    for path in sorted((workdir / "report").glob("*.json")):
        report = read_json(path, object)
        if isinstance(report, dict) and AGREEMENT in (report.get("scores") or {}):
            scores |= {AGREEMENT: float(report["scores"][AGREEMENT])}
            clips = (report.get("generation") or {}).get("clips")
    amounts = {
        "flops": share * amount.flops,
        "tokens": share * amount.tokens,
        "parameters": amount.parameters,
    }
    names = (workdir.name, workdir.name, group or config.name)
    return make_point(names, amounts, scores, loss, clips=clips)


def make_point(
    names: tuple[str, str, str],
    amounts: Mapping[str, Any],
    scores: Mapping[str, float],
    loss: str,
    *,
    clips: int | None,
) -> Point:
    """names: of the run, its design and its group. DataError where it has no such loss."""
    if loss not in scores:
        known = ", ".join(sorted(scores)) or "none"
        raise DataError(f"{names[0]} has no score {loss}; it has {known}")
    missed = None
    if AGREEMENT in scores:  # none of n missed: less than one, by half
        missed = max(1.0 - scores[AGREEMENT], 0.5 / (clips or 256))
    sizes = (float(amounts[name]) for name in ("flops", "parameters", "tokens"))
    return Point(*names, *sizes, loss=scores[loss], missed=missed)


# Laws --------------------------------------------------------------------------------------------


def make_study(
    points: Sequence[Point], arguments: argparse.Namespace, budgets: Sequence[float]
) -> Study:
    """Fits all groups; DataError where nothing could be fitted, ConfigError for names of none."""
    wanted = arguments.holdout
    held = [p for p in points if wanted in (p.name, p.design, p.group)] if wanted else []
    if wanted and not held:
        names = ", ".join(dict.fromkeys(p.design for p in points))
        raise ConfigError(f"--holdout {wanted}: no such run; there are {names}")
    kept = [p for p in points if p not in held]
    study = Study({})
    for group in dict.fromkeys(p.group for p in kept):
        members = [p for p in kept if p.group == group]
        study.laws[group] = fit_group(group, members, arguments, budgets, study.notes)
    if not any(laws.compute or laws.size for laws in study.laws.values()):
        raise DataError(study.notes[0] if study.notes else "all runs are held out")
    study.predictions = predict_held(held, study, arguments.seed)
    if arguments.baseline:
        study.multipliers = hold_against(study, arguments)
    return study


def fit_group(
    group: str,
    points: list[Point],
    arguments: argparse.Namespace,
    budgets: Sequence[float],
    notes: list[str],
) -> Laws:
    """The laws of a group; what cannot be fitted is told in `notes`."""
    laws, options = Laws(points), {"draws": arguments.draws, "seed": arguments.seed}

    def attempt(what: str, fit: Callable[[], Fit]) -> Fit | None:
        try:
            return fit()
        except DataError as error:
            notes.append(f"{group}: no {what}: {error}")
            return None

    def fit_compute(read: Callable[[Point], float | None]) -> Fit:
        rows = choose_efficient([p for p in points if read(p) is not None], read)
        values = np.array([read(p) for p in rows], float)
        return fit_law(np.array([[p.compute] for p in rows]), values, **options)

    laws.compute = attempt("law of compute", lambda: fit_compute(lambda p: p.loss))
    if any(p.missed is not None for p in points):
        laws.agreement = attempt("law of agreement", lambda: fit_compute(lambda p: p.missed))
    sizes = np.array([[p.parameters, p.tokens] for p in points])
    losses = np.array([p.loss for p in points])
    laws.size = attempt("law of size and tokens", lambda: fit_law(sizes, losses, **options))
    if laws.size is not None:
        computes = np.array([p.compute for p in points])
        cost = Cost.of(sizes[:, 0], sizes[:, 1], computes)
        chosen = budgets or [factor * float(computes.max()) for factor in BUDGETS]
        laws.optima = [find_optimum(laws.size, budget, cost) for budget in chosen]
    return laws


def choose_efficient(points: Sequence[Point], read: Callable[[Point], float | None]) -> list[Point]:
    """The runs of those designs that no cheaper one beats by more than the scatter of seeds."""
    designs: dict[str, list[Point]] = {}
    for point in points:
        designs.setdefault(point.design, []).append(point)
    pairs = [summarize([float(read(p) or 0.0) for p in runs]) for runs in designs.values()]
    scatter = [deviation / mean for mean, deviation in pairs if deviation and mean]
    tolerance = 2 * float(np.median(scatter)) if scatter else 0.01
    computes = np.array([np.mean([p.compute for p in runs]) for runs in designs.values()])
    means = np.array([mean for mean, _ in pairs])
    kept = select_efficient(computes, means, tolerance=tolerance)
    return [point for place in kept for point in list(designs.values())[place]]


def predict_held(held: Sequence[Point], study: Study, seed: int) -> list[dict[str, Any]]:
    """What the laws say of designs that were held out: those of their group, else all."""
    found = []
    for design in dict.fromkeys(p.design for p in held):
        runs = [p for p in held if p.design == design]
        own = {runs[0].group: study.laws[runs[0].group]} if runs[0].group in study.laws else {}
        loss = float(np.mean([p.loss for p in runs]))
        size = np.array([runs[0].parameters, np.mean([p.tokens for p in runs])])
        compute = np.array([np.mean([p.compute for p in runs])])
        for group, laws in (own or study.laws).items():
            for law, fit, x in (("L(C)", laws.compute, compute), ("L(N, D)", laws.size, size)):
                if fit is None:
                    continue
                told = predict(fit, x, seed=seed)
                found.append(
                    {
                        "run": design,
                        "law": law,
                        "group": group,
                        "predicted": told,
                        "measured": loss,
                        "error_percent": 100 * (told.value / loss - 1),
                    }
                )
    return found


def hold_against(study: Study, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The multipliers of the groups of `--against`, of loss and agreement."""
    for name in (arguments.baseline, *arguments.against):
        if name not in study.laws:
            known = ", ".join(study.laws)
            raise ConfigError(f"--baseline, --against: no group {name}; there are {known}")
    baseline = study.laws[arguments.baseline]
    if baseline.compute is None:
        raise DataError(next(n for n in study.notes if n.startswith(f"{arguments.baseline}: ")))
    found = []
    for name in arguments.against:
        points = study.laws[name].points
        sides: list[tuple[str, Fit | None, Callable[[Point], float | None]]] = [
            (arguments.loss, baseline.compute, lambda p: p.loss),
            (AGREEMENT, baseline.agreement, lambda p: p.missed),
        ]
        for score, fit, read in sides:
            rows = [p for p in points if read(p) is not None]
            if fit is None or not rows:
                continue
            rows = choose_efficient(rows, read)
            values = np.array([read(p) for p in rows], float)
            computes = np.array([p.compute for p in rows])
            told = compute_multiplier(fit, computes, values, seed=arguments.seed)
            found.append({"group": name, "score": score, "runs": len(rows), "multiplier": told})
    return found
