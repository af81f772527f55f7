# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the report page of a workdir from its files; what is missing is left out of the page.

Read are `config.json`, `STAGE/metrics.csv`, and below `report/` the `PROTOCOL.json` of every
evaluation and `clips.json` with its media; and the `drift.json` of long videos in any folder.
"""

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nbp import files
from nbp.build import stage_directory
from nbp.config.schema import Config
from nbp.errors import DataError
from nbp.evaluation.leakage import describe_leaks
from nbp.evaluation.result import EvaluationResult
from nbp.files import make_folder, read_json
from nbp.report.clips import Shown, collect_clips, collect_gallery, read_previews
from nbp.report.drift import read_drifts
from nbp.report.page import build_gallery, build_page
from nbp.report.plots import MACHINE, Panel, arrange_panels, find_unit
from nbp.report.records import Evaluation, Page, Speed
from nbp.report.svg import Chart, Curve
from nbp.stages import STAGES
from nbp.training.metrics import MetricsTable
from nbp.workdir import read_config

MOST_POINTS = 300  # of a curve: more than a panel has pixels would make the page large
# Of an evaluation's JSON, what has a place of its own on the page.
PLACED = ("protocol", "scores", "deviations", "per_class", "code_usage", "worst")
SHOWN = (".html", ".png", ".gif", ".json")  # files of a report that stand for themselves
SPEEDS = (  # metric, what it is, unit
    ("step_time_s", "one update", "s"),
    ("clips_per_s", "clips in training", "1/s"),
    ("tokens_per_s", "tokens in training", "1/s"),
    ("host_memory_mib", "peak memory of the host", "MiB"),
    ("device_memory_mib", "peak memory of the fullest device", "MiB"),
)


def write_page(workdir: Path, out: Path | None = None) -> Path:
    """Writes the page, whole or not at all, and returns its path.

    Raises CheckpointError where there is no workdir, DataError where it has nothing to show, and
    ConfigError where the place cannot be written.
    """
    return _write(workdir, out or workdir / "report" / "index.html", collect_page, build_page)


def write_gallery(workdir: Path, out: Path | None = None) -> Path:
    """The same of a page of generated clips, for a model card."""
    out = out or workdir / "report" / "gallery.html"
    return _write(workdir, out, collect_gallery_page, build_gallery)


def _write(
    workdir: Path, out: Path, collect: Callable[[Path], Page], build: Callable[[Page], str]
) -> Path:
    read_config(workdir)  # a place is no question where there is no workdir
    files.check_writable_file(out, "Name another with --out FILE.html.")
    text = build(collect(workdir))
    make_folder(out.parent)
    files.write_text(out, text)
    return out


def list_report_files(workdir: Path) -> list[Path]:
    """The page, curves, clips and scores of `report/`, sorted; what is cached there is left out."""
    folder = workdir / "report"
    return sorted(path for path in folder.glob("*.*") if path.suffix in SHOWN and path.is_file())


def is_stale(workdir: Path) -> bool:
    """Whether the page is not there, or older than curves and scores that it should show."""
    page = workdir / "report" / "index.html"
    sources = [stage_directory(workdir, stage) / "metrics.csv" for stage in STAGES]
    sources += [*(workdir / "report").glob("*.json"), *workdir.glob("*/drift.json")]
    times = [path.stat().st_mtime_ns for path in sources if path.is_file()]
    return bool(times) and (not page.is_file() or page.stat().st_mtime_ns < max(times))


def collect_page(workdir: Path) -> Page:
    """Everything of a workdir that the page shows."""
    config = read_config(workdir)
    results, left_out = read_reports(workdir / "report")
    reports = list(results.values())
    tables = {
        stage: MetricsTable(path)
        for stage in STAGES
        if (path := stage_directory(workdir, stage) / "metrics.csv").is_file()
    }
    shown = collect_clips(workdir, config, reports)
    charts = {stage: make_charts(table) for stage, table in tables.items()}
    drifts, unread = read_drifts(workdir)
    strips = [read_previews(stage_directory(workdir, stage), stage, config) for stage in STAGES]
    if not reports and not any(charts.values()) and not shown.clips and not drifts:
        raise DataError(
            f"{workdir} has nothing to show yet. Train it, or score it: "
            f"python -m nbp.evaluate --workdir {workdir} --protocol {_suggest(config)}"
        )
    return Page(
        title=config.name,
        facts=list_facts(workdir, tables, reports, shown),
        evaluations=tuple(read_evaluation(report, config) for report in reports),
        clips=shown.clips,
        curves={s: tuple(c for c in found if not _is_machine(c)) for s, found in charts.items()},
        machine={s: tuple(c for c in found if _is_machine(c)) for s, found in charts.items()},
        speeds=(*list_drawing(reports), *list_training(tables)),
        config=json.loads((workdir / "config.json").read_text(encoding="utf8")),
        drifts=tuple(drifts),
        previews=tuple(strip for strip in strips if strip is not None),
        left_out=(*left_out, *shown.left_out, *unread),
    )


def collect_gallery_page(workdir: Path) -> Page:
    """What the page for a model card shows of a workdir."""
    config = read_config(workdir)
    results, left_out = read_reports(workdir / "report")
    shown, origin = collect_gallery(workdir, config)
    if not shown.clips:
        raise DataError(
            f"{workdir} has no generated clips to show. Draw some: "
            f"python -m nbp.sample --workdir {workdir} --num 16 --out {workdir / 'samples'}"
        )
    frames, height, width = config.data.clip
    return Page(
        title=config.name,
        facts={
            "clips": f"{len(shown.clips)} of {frames} frames, {width}x{height} px",
            "chosen": origin,
        },
        evaluations=tuple(read_evaluation(result, config) for result in results.values()),
        clips=shown.clips,
        config=dataclasses.asdict(config.sampling),
        left_out=(*left_out, *shown.left_out),
    )


def read_reports(folder: Path) -> tuple[dict[str, EvaluationResult], list[str]]:
    """Every evaluation's JSON by the file's name without its ending, and what could not be read."""
    found: dict[str, EvaluationResult] = {}
    left_out = []
    for path in sorted(folder.glob("*.json")):
        try:
            report = read_json(path, object)
        except (OSError, ValueError):
            left_out.append(f"{path.name} is left out: it cannot be read")
            continue
        if isinstance(report, dict) and {"protocol", "scores"} & set(report):
            try:
                found[path.stem] = EvaluationResult.from_json(report)
            except DataError as error:
                left_out.append(f"{path.name} is left out: it is damaged ({error})")
    return found, left_out


def read_evaluation(result: EvaluationResult, config: Config) -> Evaluation:
    protocol, usage, made = result.protocol, result.code_usage, result.generated_set
    notes = [f"not the whole protocol: {text}" for text in result.deviations]
    split = next((str(rule.get("split", "")) for rule in protocol["clips"]), "")
    curves = {
        "reconstructed": result.psnr_per_frame,
        "generated": [] if made is None else made.generated_psnr_per_frame or [],
    }
    return Evaluation(
        name=protocol["name"],
        version=protocol["version"],
        scores=result.scores,
        protocol=protocol,
        conditions={
            name: value
            for name, value in result.to_json().items()
            if name not in PLACED and not name.endswith("psnr_per_frame")
        },
        notes=(*notes, *describe_leaks(result.leaks, split=split)),
        frame_curves={name: tuple(map(float, curve)) for name, curve in curves.items() if curve},
        per_class=() if made is None else tuple(made.per_class),
        code_curves={
            f"{name}: {use['used']:,} used": tuple(map(float, use["curve"]))
            for name, use in usage.items()
            if use["curve"]
        },
        codes=next((use["codes"] for use in usage.values()), 0),
        stride=config.tokenizer.stride[0],
    )


def list_facts(
    workdir: Path,
    tables: Mapping[str, MetricsTable],
    reports: list[EvaluationResult],
    shown: Shown,
) -> dict[str, str]:
    """What is said under the title."""
    facts = {"workdir": workdir.resolve().name}
    for stage, table in tables.items():
        if table.rows:
            facts[stage] = f"{max(table.rows):,} updates"
    if reports:
        last = reports[-1].conditions
        facts["scored on"] = last.device
        facts["versions"] = ", ".join(f"{k} {v}" for k, v in last.versions.items())
    if shown.clips:
        facts["clips shown"] = shown.summary
    return {name: value for name, value in facts.items() if value}


def make_charts(table: MetricsTable) -> list[Chart]:
    """The panels of `nbp.report.plots` as charts of the page."""
    panels, alarms = arrange_panels(table)
    events = tuple((float(step), kind) for kind, steps in alarms.items() for step in steps)
    return [make_chart(panel, events) for panel in panels]


def name_chart(metrics: Sequence[str], title: str) -> tuple[str, str]:
    """(title, unit) of a chart of these metrics. title: of its panel, where they are several."""
    title = metrics[0] if len(metrics) == 1 else title
    unit = find_unit(metrics)
    if title.endswith("_per_s"):
        title, unit = f"{title.removesuffix('_s')}_second", ""
    title = title.removesuffix("_s").removesuffix("_mib")
    return title.replace("_", " "), unit


def make_chart(panel: Panel, events: tuple[tuple[float, str], ...]) -> Chart:
    metrics = list(dict.fromkeys(metric for metric, _ in panel.curves))
    curves = []
    for (metric, source), points in panel.curves.items():
        words = [metric.replace("_", " ")] if len(metrics) > 1 else []
        words += [source] if source else [] if words else ["training"]
        curves.append(Curve(" ".join(words), thin_out(points)))
    title, unit = name_chart(metrics, panel.title)
    machine = metrics[0].endswith(MACHINE)
    return Chart(
        title,
        tuple(curves),
        unit=unit,
        logarithmic=panel.logarithmic,
        from_zero=machine,  # so that noise does not look like a trend
        events=() if machine else events,
    )


def thin_out(
    points: list[tuple[int, float]], most: int = MOST_POINTS
) -> tuple[tuple[float, float], ...]:
    """At most `most` points: means of neighbours where there are more."""
    size = -(-len(points) // most)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return tuple((float(g[-1][0]), statistics.fmean(value for _, value in g)) for g in groups)


def _is_machine(chart: Chart) -> bool:
    return chart.from_zero


def list_training(tables: Mapping[str, MetricsTable]) -> list[Speed]:
    """Medians over the logged windows of each stage; memory is the last value, its peak."""
    found = []
    for stage, table in tables.items():
        for metric, what, unit in SPEEDS:
            values = [float(row[metric]) for row in table.rows.values() if row.get(metric)]
            if values:
                peak = metric.endswith("_mib")
                value = max(values) if peak else statistics.median(values)
                found.append(Speed(what, value, unit, f"{stage} training"))
    return found


def list_drawing(reports: list[EvaluationResult]) -> list[Speed]:
    """How fast clips were drawn in each evaluation, and how long it took in all."""
    found = []
    for result in reports:
        source = f"evaluation {result.protocol['name']}"
        if (made := result.generated_set) is not None:
            drawn = made.generation
            for value, what, unit in (
                (drawn["clips_per_second"], "clips generated", "1/s"),
                (drawn["frames_per_second"], "frames generated", "1/s"),
                (drawn["passes"], "passes of the generator for a clip", ""),
                (drawn.get("opener_passes"), "of these, passes of the opener", ""),
            ):
                if value is not None:
                    found.append(Speed(what, float(value), unit, source))
            parts = drawn["seconds_of"].items()
            found += [Speed(f"time of {name}", float(value), "s", source) for name, value in parts]
        found.append(Speed("whole evaluation", float(result.conditions.seconds), "s", source))
    return found


def _suggest(config: Config) -> str:
    return config.evaluation.protocol or "reconstruction"
