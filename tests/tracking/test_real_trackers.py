# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The real packages together, offline: what was logged is read back from their stores."""

import importlib.util
import json
import shutil

import numpy as np
import pytest

from nbp.data.video.encode import write_gif
from nbp.tracking.packages import OPTIONAL, TrackerName
from nbp.tracking.tracker import RunInfo, flatten
from nbp.tracking.tracking import RUN_IDS, make_tracking
from nbp.training.metrics import MetricsWriter
from tests.tracking.stores import agree_in_float32, read_csv, read_store, read_tensorboard
from tests.training import toy

VARIABLES = (
    *("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_NAME"),
    *("WANDB_DATA_DIR", "WANDB_CACHE_DIR"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"),
    *("TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"),
)
CONFIG = {"name": "toy", "train": {"steps": 5, "tracking": ["mlflow", "wandb"], "ema": None}}


def is_missing(package):
    return importlib.util.find_spec(package) is None


INSTALLED: list[TrackerName] = ["tensorboard", *(name for name in OPTIONAL if not is_missing(name))]


def needs(package):
    reason = f"{package} is not installed: pip install {package}"
    return pytest.param(package, marks=pytest.mark.skipif(is_missing(package), reason=reason))


def train(workdir, trackers, *, start, stop):
    """Rows as training writes them, with an evaluation, an alarm and clips; then the report."""
    with make_tracking(trackers, RunInfo("toy:small", workdir, CONFIG)) as tracking:
        for stage in ("tokenizer", "generator"):
            with MetricsWriter(
                workdir / stage, name=stage, save_gif=write_gif, tracking=tracking, console=False
            ) as writer:
                writer.start(start, total_steps=stop)
                for step in range(start + 1, stop + 1):
                    writer.write(step, {"loss": stop / step, "step_time_s": 0.1 * stop})
                writer.write(stop, {"validation/loss": 1 / 3})
                writer.write_alarm(stop, "grad_norm", value=1.0, text="!")
                frames = np.full((3, 8, 12, 3), stop, np.uint8)
                writer.write_preview(stop, "clips", frames, fps=8.0)
        page = workdir / "report" / "index.html"
        page.parent.mkdir(exist_ok=True)
        page.write_text(f"<p>report of {stop}")
        tracking.report([page])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of all trackers there are, stopped and resumed: steps 3 and 4 come again."""
    workdir = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        for variable in VARIABLES:
            patch.delenv(variable, raising=False)
        train(workdir, INSTALLED, start=0, stop=4)
        shutil.copy(workdir / RUN_IDS, workdir / "first.json")
        train(workdir, INSTALLED, start=2, stop=5)
        yield workdir


@pytest.mark.parametrize("tracker", [needs(name) for name in OPTIONAL])
def test_a_store_holds_table_configuration_clips_and_report_after_a_resume(tracker, workdir):
    first, ids = (json.loads((workdir / name).read_text()) for name in ("first.json", RUN_IDS))
    assert ids[tracker] == first[tracker]
    expected = read_csv(workdir)
    assert len(expected) == 10
    rows, config = read_store(workdir, tracker)
    for key in (("tokenizer", 4), ("generator", 4)):  # evaluated then, which the table forgot
        assert rows[key].pop("validation/loss") == float(f"{1 / 3:.8g}")
        assert rows[key].pop("alarm/grad_norm") == 1.0
    assert rows == expected
    assert config == flatten(CONFIG)
    files = [path for path in (workdir / "tracking" / tracker).rglob("*") if path.is_file()]
    stored = {path.read_bytes() for path in files}
    shown = [*workdir.glob("*/previews/*.gif"), workdir / "report" / "index.html"]
    assert len(shown) == 5
    assert {path.read_bytes() for path in shown} <= stored
    if tracker != "mlflow":  # which keeps the latest file of a name
        assert b"<p>report of 4" in stored


@pytest.mark.skipif(is_missing("tensorboard"), reason="it only writes: pip install tensorboard")
def test_tensorboard_reads_the_table(workdir):
    assert agree_in_float32(read_tensorboard(workdir), read_csv(workdir))


@pytest.mark.skipif(len(INSTALLED) == 1, reason="no tracker is installed beside TensorBoard")
@pytest.mark.usefixtures("workdir")
def test_training_has_the_same_bits_with_all_of_them(tmp_path, capsys):
    plain = toy.train(tmp_path / "plain", steps=6)
    with make_tracking(INSTALLED, RunInfo("toy", tmp_path / "tracked", CONFIG)) as tracking:
        tracked = toy.train(tmp_path / "tracked", steps=6, tracking=tracking)
    assert toy.to_bytes(plain) == toy.to_bytes(tracked)
    output = capsys.readouterr().out
    assert output.count("[tracking] ") == len(INSTALLED) - 1  # where to find each, no warning
