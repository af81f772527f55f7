# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The table of a sweep and the curves that are drawn of it."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from nbp.errors import DataError
from nbp.report.sweep_page import AXES, choose_scores, gather, make_charts, write_page
from nbp.report.sweep_table import Row, format_csv, read_measures, read_table, write_table
from nbp.training.metrics import MetricsTable
from tests.report.page_example import EVIL


def make_row(design: str, seed: int, dial: str, **values: Any) -> Row:
    passes, agreement = values.pop("passes", 31), values.pop("agreement", 0.5)
    scores = {"label_agreement": agreement, "bits_per_token": 1.2, **values.pop("scores", {})}
    fields: dict[str, Any] = {
        "overrides": {"generator.block": (1, 2, 2)},
        "dial_overrides": {} if dial == "default" else {"sampling.top_p": 1.0},
        "seconds_per_clip": 0.5,
        "clips": 64,
        "training_flops": 1e12,
        "parameters": 1000,
        "updates": 10,
        "tokens": 500,
        "training_seconds": 3.0,
        "workdir": "runs/x",
    }
    names = {"run": f"{design}-s{seed}", "design": design, "group": "g", "seed": seed}
    return Row(**names, dial=dial, scores=scores, passes=passes, **{**fields, **values})


ROWS = [
    make_row("row", 0, "default", passes=87, agreement=0.8),
    make_row("row", 1, "default", passes=87, agreement=0.9),
    make_row("row", 0, "short", passes=31, agreement=0.6),
    make_row("row", 1, "short", passes=31, agreement=0.6),
    make_row("token", 0, "default", passes=192, agreement=0.95),
]


def test_points_are_means_over_seeds_with_their_deviation() -> None:
    passes = AXES["passes of the generator for a clip"]
    found = gather(ROWS, "label_agreement", passes)
    deviation = ((0.05**2 + 0.05**2) / 1) ** 0.5
    assert list(found) == ["row", "token"]
    short, default = found["row"]
    assert short == (31.0, pytest.approx(0.6), 0.0)
    assert default == (87.0, pytest.approx(0.85), pytest.approx(deviation))
    assert found["token"] == [(192.0, 0.95, 0.0)]
    assert gather(ROWS, "label_agreement", lambda row: None) == {}


def test_what_differs_is_drawn() -> None:
    charts = make_charts(ROWS)
    assert {chart.title for chart in charts} == {
        "label agreement, higher is better",
        "bits per token, lower is better",
    }
    assert {chart.x_name for chart in charts} == {"passes of the generator for a clip"}
    assert all(chart.x_logarithmic for chart in charts)


def test_one_score_of_a_family_is_drawn() -> None:
    scores = {"fvd_random_features_64": 3.0, "fvd_infinity": 2.0, "fvd_random_features_64_std": 0.1}
    rows = [make_row("row", 0, "default", scores=scores)]
    assert choose_scores(rows) == ["label_agreement", "fvd_random_features_64", "bits_per_token"]


def test_the_table_has_a_column_for_all_that_was_changed() -> None:
    rows = [*ROWS, make_row("box", 0, "default", overrides={"generator.width": 8}, passes=None)]
    table = list(csv.DictReader(io.StringIO(format_csv(rows))))
    assert [row["generator.block"] for row in table][::5] == ["(1, 2, 2)", ""]
    assert [row["generator.width"] for row in table][::5] == ["", "8"]
    assert [row["dial:sampling.top_p"] for row in table] == ["", "", "1.0", "1.0", "", ""]
    assert [row["passes"] for row in table] == ["87", "87", "31", "31", "192", ""]
    assert float(table[0]["label_agreement"]) == 0.8
    columns = list(table[0])
    assert columns.index("label_agreement") < columns.index("bits_per_token")


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_table(tmp_path, {"sweep": "s"}, ROWS, {"x": "not finished"})
    found = read_table(tmp_path / "sweep.json")
    assert [row.run for row in found] == [row.run for row in ROWS]
    assert found[0].scores == ROWS[0].scores
    with pytest.raises(DataError, match="is no table of"):
        read_table(tmp_path / "sweep.csv")


def test_the_page_shows_all_rows_and_runs_nothing(tmp_path: Path) -> None:
    text = write_page(tmp_path, EVIL, [*ROWS, make_row(EVIL, 0, EVIL)]).read_text()
    assert "<script>alert" not in text
    assert text.count('<svg class="chart"') == 2
    assert text.count("<tr>") == 1 + 6
    assert (tmp_path / "sweep.png").is_file()
    alone = tmp_path / "alone"
    assert "<svg" not in write_page(alone, "s", ROWS[:1]).read_text()
    assert not (alone / "sweep.png").exists()


def test_held_out_measures_come_before_those_of_training(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "metrics.csv")
    table.add(10, {"loss": 3.0, "validation/loss": 3.5, "validation/bits_per_token": 5.0})
    table.add(20, {"loss": 2.0, "validation/bits_per_token": 4.0, "grad_norm": 1.0})
    table.add(30, {"loss": 1.0, "accuracy": 0.5})
    found = read_measures(table.path)
    assert found == {"loss": 3.5, "accuracy": 0.5, "bits_per_token": 4.0}
    assert read_measures(tmp_path / "none.csv") == {}
