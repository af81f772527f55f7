# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`nbp.fit` over tables of made runs with known laws, and over workdirs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nbp import fit
from nbp.config import load_config
from nbp.errors import CheckpointError, ConfigError, DataError
from nbp.lowering import measure_training
from nbp.report.sweep_table import Row, write_table
from nbp.stages import adopt_config
from nbp.training.metrics import MetricsTable
from nbp.workdir import save_labels
from tests import tiny

SIZES = np.geomspace(1e5, 3e6, 4)
TOKENS = np.geomspace(1e6, 1e8, 4)
CONSTANT, FACTORS, EXPONENTS = 1.1, (30.0, 150.0), (0.3, 0.35)


def bits(n: float, d: float) -> float:
    return CONSTANT + FACTORS[0] * n ** -EXPONENTS[0] + FACTORS[1] * d ** -EXPONENTS[1]


def missed(compute: float) -> float:
    return 0.05 + 900.0 * compute**-0.25


def make_row(
    group: str, n: float, d: float, seed: int, *, gain: float = 1.0, noise: float = 0.002
) -> Row:
    """A run that reaches what the law says of `gain` times its tokens."""
    rng = np.random.default_rng([seed, int(n), int(d)])
    design = f"{group}-n={n:.0f},d={d:.0f}"
    loss = bits(n, gain * d) * np.exp(noise * rng.normal())
    agreement = 1 - missed(6 * n * d * gain) * np.exp(noise * rng.normal())
    return Row(
        run=f"{design}-s{seed}",
        design=design,
        group=group,
        seed=seed,
        dial="default",
        overrides={},
        dial_overrides={},
        scores={"bits_per_token": float(loss), "label_agreement": float(agreement)},
        passes=31,
        seconds_per_clip=0.1,
        clips=256,
        training_flops=float(6 * n * d),
        parameters=int(n),
        updates=10,
        tokens=int(d),
        training_seconds=1.0,
        workdir=f"runs/{design}",
    )


def write_rows(folder: Path, rows: list[Row]) -> Path:
    write_table(folder, {"sweep": "made"}, rows, {})
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups, the second as good as the first with 2.5 times its tokens; and a large run."""
    rows = []
    for seed in (0, 1):
        rows += [make_row("row", n, d, seed) for n in SIZES for d in TOKENS]
        rows += [make_row("token", n, d, seed, gain=2.5) for n in SIZES for d in TOKENS[:2]]
        rows += [make_row("large", 2e7, 1e9, seed)]
    return write_rows(tmp_path_factory.mktemp("sweep"), rows)


def test_a_sweep_gives_its_laws(table: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "fit"
    fit.main([str(table), "--out", str(out), "--holdout", "large", "--draws", "100",
              "--baseline", "row", "--against", "token", "--budgets", "1e16"])  # fmt: skip
    found = json.loads((out / "fit.json").read_text())
    row = found["laws"]["row"]
    exponents = [exponent["value"] for exponent in row["size"]["exponents"]]
    np.testing.assert_allclose(exponents, EXPONENTS, rtol=0.1)
    assert row["size"]["constant"]["value"] == pytest.approx(CONSTANT, rel=0.05)
    (budget,) = row["optima"]
    (a, b), (big_a, big_b) = EXPONENTS, FACTORS
    best = (a * big_a / (b * big_b)) ** (1 / (a + b)) * (1e16 / 6) ** (b / (a + b))
    assert budget["parameters"]["value"] == pytest.approx(best, rel=0.3)
    told = {p["law"]: p for p in found["predictions"] if p["group"] == "row"}
    assert abs(told["L(N, D)"]["error_percent"]) < 2
    assert told["L(N, D)"]["run"] == "large-n=20000000,d=1000000000"
    (of_loss, of_agreement) = found["multipliers"]
    assert (of_loss["score"], of_agreement["score"]) == ("bits_per_token", "label_agreement")
    interval = of_agreement["multiplier"]["interval"]
    assert interval["value"] == pytest.approx(2.5, rel=0.2)
    text = (out / "fit.md").read_text()
    assert text in capsys.readouterr().out
    for title in ("Best size for a budget", "Held-out runs", "Compute multipliers"):
        assert f"## {title}" in text
    assert any(note.startswith("token: no law of size and tokens") for note in found["notes"])
    with Image.open(out / "fit.png") as image:
        assert image.width > 400


def test_without_out_nothing_is_written(table: Path, capsys: Any) -> None:
    before = sorted(table.rglob("*"))
    fit.main([f"mine={table}", "--draws", "50"])
    assert "| mine | bits_per_token | C |" in capsys.readouterr().out
    assert sorted(table.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (("--holdout", "huge"), ConfigError, "no such run; there are row-n=100000"),
        (("--baseline", "row", "--against", "x"), ConfigError, "no group x; there are row, token"),
        (("--baseline", "row"), ConfigError, "give both, or neither"),
        (("--budgets", "-1"), ConfigError, "write operations"),
        (("--loss", "fvd"), DataError, "has no score fvd; it has bits_per_token"),
        (("--dial", "cold"), DataError, "has no rows with the dial cold"),
    ],
)
def test_mistakes(
    table: Path, arguments: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit.main([str(table), *arguments, "--draws", "50"])


def test_too_few_runs_and_one_size_are_one_line(tmp_path: Path) -> None:
    rows = [make_row("row", 1e5, d, 0) for d in TOKENS[:2]]
    with pytest.raises(DataError, match="row: no law of compute: 2 runs are too few") as caught:
        fit.main([str(write_rows(tmp_path / "few", rows))])
    assert "\n" not in str(caught.value)
    rows = [make_row("row", 1e5, 1e6, seed) for seed in range(8)]
    with pytest.raises(DataError, match="1 different values of compute"):
        fit.main([str(write_rows(tmp_path / "alike", rows))])


def test_one_size_has_a_law_of_compute_alone(tmp_path: Path, capsys: Any) -> None:
    rows = [make_row("row", 1e6, d, 0) for d in np.geomspace(1e6, 1e9, 6)]
    fit.main([str(write_rows(tmp_path, rows)), "--draws", "50"])
    text = capsys.readouterr().out
    assert "| row | bits_per_token | C | 6 |" in text
    assert "no law of size and tokens: the runs have 1 different values of parameters" in text


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"rows": [{"run": 3}]}')
    with pytest.raises(DataError, match=r"sweep\.json is no table of nbp\.sweep"):
        fit.main([str(tmp_path)])


def make_workdir(folder: Path, width: int, steps: int, *, done: int | None = None) -> Path:
    """What a training leaves that a fit reads."""
    keys = {"generator.width": str(width), "train.generator.steps": str(steps), "name": "made"}
    config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, **keys})
    folder.mkdir(parents=True)
    adopt_config(config, folder, report=lambda text: None)
    save_labels(folder, ["a", "b"])
    (folder / "generator").mkdir()
    metrics = MetricsTable(folder / "generator" / "metrics.csv")
    flops = measure_training(config, 2).flops
    metrics.add(done or steps, {"bits_per_token": 9.0, "validation/bits_per_token": flops**-0.1})
    return folder


def test_workdirs_are_runs(tmp_path: Path, capsys: Any) -> None:
    runs = [
        str(make_workdir(tmp_path / f"{width}-{steps}", width, steps))
        for width, steps in ((8, 100), (16, 200), (32, 400), (64, 800))
    ]
    fit.main([*runs, "--draws", "50"])
    (line,) = (li for li in capsys.readouterr().out.splitlines() if li.startswith("| made"))
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[2:5] == ["bits_per_token", "C", "4"]
    assert float(cells[6].split(" ")[0]) == pytest.approx(0.1, abs=0.02)


def test_a_run_that_is_not_at_its_end_counts_for_what_it_did(tmp_path: Path) -> None:
    whole = fit.read_workdir(make_workdir(tmp_path / "a", 16, 100), "", "bits_per_token")
    half = fit.read_workdir(make_workdir(tmp_path / "b", 16, 100, done=50), "x", "bits_per_token")
    assert half.compute == pytest.approx(whole.compute / 2)
    assert half.tokens == pytest.approx(whole.tokens / 2)
    assert (half.group, whole.group) == ("x", "made")
    assert half.parameters == whole.parameters


def test_a_workdir_without_a_generator_is_told(tmp_path: Path) -> None:
    folder = make_workdir(tmp_path / "a", 16, 100)
    (folder / "generator" / "metrics.csv").unlink()
    with pytest.raises(CheckpointError, match="no metrics of a generator"):
        fit.main([str(folder)])
