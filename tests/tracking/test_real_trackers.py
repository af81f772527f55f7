# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The real packages, offline: what was logged is read back from their stores."""

import importlib.util
import json

import numpy as np
import pytest

from nbp.data.video.encode import write_gif
from nbp.tracking.tracker import RunInfo
from nbp.tracking.tracking import RUN_IDS, make_tracking
from nbp.training.metrics import MetricsWriter
from tests.tracking.stores import read_csv, read_store

VARIABLES = (
    *("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_NAME"),
    *("WANDB_DATA_DIR", "WANDB_CACHE_DIR"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"),
    *("TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"),
)


def needs(package):
    missing = importlib.util.find_spec(package) is None
    reason = f"{package} is not installed: pip install {package}"
    return pytest.param(package, marks=pytest.mark.skipif(missing, reason=reason))


def train(workdir, tracker, *, start, stop):
    """Rows as training writes them, with an evaluation, an alarm and clips; then the report."""
    config = {"name": "toy", "train": {"steps": stop, "tracking": [tracker]}}
    tracking = make_tracking([tracker], RunInfo("toy", workdir, config))
    with tracking:
        for stage in ("tokenizer", "generator"):
            with MetricsWriter(
                workdir / stage, name=stage, save_gif=write_gif, tracking=tracking, console=False
            ) as writer:
                writer.start(start, total_steps=stop)
                for step in range(start + 1, stop + 1):
                    writer.write(step, {"loss": stop / step, "step_time_s": 0.1 * stop})
                writer.write(stop, {"validation/loss": 1 / 3})
                writer.write_alarm(stop, "grad_norm", value=1.0, text="!")
                frames = np.zeros((3, 8, 12, 3), np.uint8)
                writer.write_preview(stop, "clips", frames, fps=8)
        page = workdir / "report" / "index.html"
        page.parent.mkdir(exist_ok=True)
        page.write_text("<p>report")
        tracking.report([page])


@pytest.mark.parametrize("tracker", [needs("wandb"), needs("mlflow"), needs("trackio")])
def test_a_store_holds_the_rows_of_the_table_after_a_resume(tracker, tmp_path, monkeypatch, capsys):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    train(tmp_path, tracker, start=0, stop=4)
    identity = json.loads((tmp_path / RUN_IDS).read_text())[tracker]
    train(tmp_path, tracker, start=2, stop=5)  # steps 3 and 4 come again, with other values
    assert "warning" not in capsys.readouterr().out
    assert json.loads((tmp_path / RUN_IDS).read_text())[tracker] == identity
    expected = read_csv(tmp_path)
    assert len(expected) == 10
    found = read_store(tmp_path, tracker)
    for key in (("tokenizer", 4), ("generator", 4)):  # evaluated then, which the table forgot
        assert found[key].pop("validation/loss") == f"{1 / 3:.8g}"
        assert found[key].pop("alarm/grad_norm") == "1"
    assert found == expected
    stored = list((tmp_path / "tracking").rglob("*"))
    assert sum(path.suffix == ".gif" for path in stored) >= 4
