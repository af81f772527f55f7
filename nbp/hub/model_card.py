# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The model card of a published model: what it was trained on, its scores, how to load it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nbp import __version__
from nbp.build import stage_directory
from nbp.config.schema import Config
from nbp.errors import DataError
from nbp.evaluation.result import EvaluationResult
from nbp.files import escape_name, write_text
from nbp.hub.folder import StageRecord
from nbp.metrics.score_table import find_score
from nbp.report.collect import read_evaluation, read_reports
from nbp.report.plots import write_curves_png

TAGS = ("video-generation", "next-block-prediction", "jax")
UNSTATED = "unknown"  # the licence that nobody named; hubs know the word

LOAD = """\
```python
import nbp

run = nbp.load("FOLDER")  # the path of this folder
clips = run.sample(num=4, seed=0)  # uint8 [n t h w c]
```

```bash
python -m nbp.sample --workdir FOLDER --num 4 --out samples
```"""

LOAD_TOKENIZER = """\
```python
import nbp

run = nbp.load("FOLDER")  # the path of this folder
codes = run.encode(clips)  # of uint8 [n t h w c]
```"""

PYTORCH = """\
```python
from pathlib import Path

from safetensors.torch import load_file

tensors = {}
for file in sorted(Path("FOLDER", "STAGE").glob("*.safetensors")):
    tensors |= load_file(file)
```"""


@dataclass(frozen=True)
class CardStage:
    """A stage as the card tells of it.

    sha256: of the checkpoint, as reports name it. averaged: whether the parameters are the averaged
    ones of a stage that keeps both.
    """

    record: StageRecord
    parameters: int
    sha256: str
    averaged: bool


def write_card(
    out: Path,
    workdir: Path,
    config: Config,
    *,
    stages: Mapping[str, CardStage],
    labels: Sequence[str],
    licence: str,
) -> None:
    """Writes `README.md` and the curves that it shows into `out`.

    Scores are those of `workdir/report/*.json`; of each it is told how it departs from its
    protocol, and whether it was made with other weights.
    """
    curves = {stage: _draw_curves(workdir, out, stage) for stage in stages}
    reports, left_out = read_reports(workdir / "report")
    parts = [
        _front_matter(config, licence),
        f"# {config.name}",
        f"A model of NBP {__version__} ({' and '.join(stages)}), video generation in JAX by Next "
        "Block Prediction (arXiv 2502.07737): a tokenizer makes codes of a video, a generator "
        "predicts them block by block.",
        "## Model",
        _describe_model(config, stages),
        "## Data",
        _describe_data(config, labels, converted=any(s.record.converted for s in stages.values())),
        "## Scores",
        *(_describe_report(report, config, stages) for report in reports.values()),
        *(["No evaluation was made of this run."] if not reports else []),
        *left_out,
    ]
    shown = [f"![{stage}: training curves]({name})" for stage, name in curves.items() if name]
    if shown:
        parts += ["## Training", *shown]
    parts += ["## Licence", _describe_licence(licence), "## Load it", _describe_loading(stages)]
    write_text(out / "README.md", "\n\n".join(parts) + "\n")


def _front_matter(config: Config, licence: str) -> str:
    """The fields that hubs read, as YAML; JSON strings are YAML."""
    lines = [f"license: {json.dumps(licence)}", 'library_name: "nbp"']
    if config.generator.prompt == "text":
        lines.append('pipeline_tag: "text-to-video"')
    lines += ["tags:", *(f"- {tag}" for tag in TAGS)]
    return "\n".join(("---", *lines, "---"))


def _describe_model(config: Config, stages: Mapping[str, CardStage]) -> str:
    generator = config.generator
    further = "".join(
        f", those of {_name_sizes(each.data.clip)} become {_name_sizes(each.grid.shape)}"
        for each in config.each_grid[1:]
    )
    lines = [
        f"* Clips of {_name_sizes(config.data.clip)} (frames, height, width) become "
        f"{_name_sizes(config.grid.shape)} codes of {config.tokenizer.make_quantizer().codes:,} "
        f"({config.tokenizer.quantizer}){further}."
    ]
    if "generator" in stages:
        blocks = " or ".join(map(str, (generator.block, *generator.blocks)))
        lines.append(
            f"* Generator: {generator.layers} layers, width {generator.width}, {generator.heads} "
            f"attention heads, recipe {generator.recipe}, {generator.positions} positions, block "
            f"{blocks}, opening {generator.opening}, output head {generator.head}, prompt "
            f"{generator.prompt}."
        )
    for name, stage in stages.items():
        kind = "averaged over training" if stage.record.averaged else "as after the last update"
        lines.append(
            f"* {name.capitalize()}: {stage.parameters:,} parameters, {stage.record.step:,} "
            f"updates, {kind}; float32."
        )
        if origin := stage.record.converted:
            lines[-1] += f" Converted from `{origin['file']}` (SHA-256 {origin['sha256']})."
    return "\n".join(lines)


def _name_sizes(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def _describe_data(config: Config, labels: Sequence[str], *, converted: bool) -> str:
    data = config.data
    kind = {
        "moving_shapes": "Moving shapes, drawn by the program",
        "folder": "Videos of a folder",
        "records": "A prepared set of videos",
        "tokens": "Codes of a prepared set of videos",
    }[data.kind]
    named = f" (`{Path(data.root).name}`)" if data.root else ""
    rate = f"{data.fps:g} frames/s" if data.fps else "the rate of each file"
    fields = [f"clips of {' or '.join(_name_sizes(each.data.clip) for each in config.each_grid)}"]
    if data.kind in ("folder", "records"):
        fields += [f"at {rate}", f"frames fitted by `{data.spatial}`"]
    if data.flip:
        fields.append("mirrored at random")
    lines = [f"{kind}{named}: {', '.join(fields)}."]
    if converted:
        lines.insert(0, "Their release tells what converted weights learned. Here they expect:")
    if labels:
        shown = ", ".join(map(escape_name, labels[:12])) + (", ..." if labels[12:] else "")
        lines.append(f"{len(labels)} classes (`labels.json`): {shown}.")
    return "\n\n".join(lines)


def _describe_report(
    result: EvaluationResult, config: Config, stages: Mapping[str, CardStage]
) -> str:
    """One evaluation: its scores, and all in which it is not the published protocol."""
    protocol, found = result.protocol, result.conditions
    rows = ["| score | value | unit | better |", "|---|---|---|---|"]
    for name, value in result.scores.items():
        score = find_score(name)
        rows.append(f"| {name} | {value:.{score.digits}f} | {score.unit} | {score.better} |")
    notes = [f"* {note}" for note in read_evaluation(result, config).notes]
    if result.complete:
        notes.append("* the whole protocol")
    made = {"tokenizer": found.averaged, "generator": found.averaged_generator}
    for name, stage in stages.items():
        used = found.checkpoints.get(f"{name}_sha256")
        if used is None:
            continue
        same = used == stage.sha256 and made.get(name, False) == stage.averaged
        if not same:
            at = found.checkpoints.get(f"{name}_step")
            kind = "averaged" if made.get(name) else "current"
            notes.append(f"* not of these weights: of the {kind} {name} at step {at}")
    title = f"### Protocol {protocol['name']}, version {protocol['version']}"
    return "\n\n".join((title, "\n".join(rows), "\n".join(notes)))


def _describe_licence(licence: str) -> str:
    if licence == UNSTATED:
        return "The licence of these weights was not stated: ask whoever published them."
    return f"The weights are published under: {licence}."


def _describe_loading(stages: Mapping[str, CardStage]) -> str:
    load = LOAD if "generator" in stages else LOAD_TOKENIZER
    stage = "generator" if "generator" in stages else "tokenizer"
    return "\n\n".join(
        (
            "With NBP:",
            load,
            "The weights alone, in PyTorch (`pip install torch safetensors`). A tensor is called "
            "as its parameter in NBP, with dots, and has the axes of JAX: kernels of linear layers "
            "are [in, out], those of convolutions [t, h, w, in, out], layers are stacked on a "
            "first axis.",
            PYTORCH.replace("STAGE", stage),
        )
    )


def _draw_curves(workdir: Path, out: Path, stage: str) -> str:
    """The name of a picture of the metrics of a stage; "" where there are none."""
    table = stage_directory(workdir, stage) / "metrics.csv"
    if not table.is_file():
        return ""
    name = f"{stage}_curves.png"
    try:
        write_curves_png(table, out / name, title=stage)
    except DataError:
        return ""
    return name
