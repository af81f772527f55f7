# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
import csv
import json

import numpy as np
from PIL import Image

from nbp.tracking.tensorboard_events import TensorBoard
from nbp.tracking.tracking import Tracking
from nbp.training.metrics import (
    MetricsTable,
    MetricsWriter,
    WindowMeter,
)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_columns_grow_and_rows_merge(tmp_path):
    table = MetricsTable(tmp_path / "metrics.csv")
    table.add(10, {"loss": 2.0})
    table.add(20, {"loss": 1.0})
    table.add(20, {"validation/psnr": 25.5})
    assert read(table.path) == [
        {"step": "10", "loss": "2", "validation/psnr": ""},
        {"step": "20", "loss": "1", "validation/psnr": "25.5"},
    ]


def test_a_plain_row_is_appended_without_rewriting(tmp_path):
    table = MetricsTable(tmp_path / "metrics.csv")
    table.add(10, {"loss": 2.0})
    inode = table.path.stat().st_ino
    table.add(20, {"loss": 1.0})
    assert table.path.stat().st_ino == inode
    table.add(30, {"loss": 1.0, "new": 0.0})
    assert table.path.stat().st_ino != inode
    assert [row["step"] for row in read(table.path)] == ["10", "20", "30"]


def test_resume_drops_later_rows_and_a_torn_line(tmp_path):
    table = MetricsTable(tmp_path / "metrics.csv")
    for step in (10, 20, 30):
        table.add(step, {"loss": step / 10, "psnr": 1.5})
    with table.path.open("a") as file:
        file.write("40,4")  # killed in the middle of a line
    again = MetricsTable(table.path)
    again.drop_after(20)
    again.add(30, {"loss": 7.0, "psnr": 1.5})
    assert [(row["step"], row["loss"]) for row in read(table.path)] == [
        ("10", "1"),
        ("20", "2"),
        ("30", "7"),
    ]


def test_the_meter_averages_a_window_and_starts_anew():
    meter = WindowMeter({"clips": 8, "tokens": 80})
    meter.add_time(1.0, waiting_for_input=True)
    meter.add_time(3.0)
    meter.add({"loss": 1.0})
    meter.add({"loss": 3.0, "rare": 5.0})
    found = meter.pop()
    assert found["loss"] == 2.0
    assert found["rare"] == 5.0
    assert found["step_time_s"] == 2.0
    assert found["input_wait_s"] == 0.5
    assert found["clips_per_s"] == 4.0
    assert found["tokens_per_s"] == 40.0
    assert 10 < found["host_memory_mib"] < 1e6
    meter.add_time(1.0)
    meter.add({"loss": 9.0})
    assert meter.pop()["loss"] == 9.0


def test_plain_lines_without_a_terminal(tmp_path, capsys):
    with MetricsWriter(tmp_path, name="toy") as writer:
        writer.start(0, total_steps=100)
        writer.progress(10)
        writer.write(10, {"learning_rate": 1.0, "loss": 0.5, "step_time_s": 0.25})
        writer.write(10, {"validation/loss": 0.75})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[toy] 10/100  loss 0.5  step 0.25 s  ETA ")
    assert lines[1] == "[toy] 10/100  validation/loss 0.75"


def test_a_bar_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with MetricsWriter(tmp_path, name="toy") as writer:
        writer.start(40, total_steps=100)
        writer.progress(50)
        writer.write(50, {"loss": 0.5, "step_time_s": 0.25})
        writer.note("hello")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "50/100" in captured.err
    assert "loss 0.5" in captured.err
    assert "[toy] hello" in captured.err


def test_events_and_previews(tmp_path):
    saved = []

    def save_gif(path, frames, *, fps):
        saved.append((path, frames.shape, fps))
        Image.fromarray(frames[0]).save(path)

    tracking = Tracking([TensorBoard()])
    with MetricsWriter(tmp_path, save_gif=save_gif, tracking=tracking, console=False) as writer:
        writer.start(0, total_steps=10)
        writer.write(1, {"loss": 0.5})
        frames = np.zeros((3, 8, 12, 3), np.uint8)
        path = writer.write_preview(5, "validation/samples", frames, fps=8)
    assert path is not None
    assert path == tmp_path / "previews" / "00000005-validation-samples.gif"
    assert saved == [(path, (3, 8, 12, 3), 8)]
    (events,) = tmp_path.glob("events.out.tfevents.*")
    content = events.read_bytes()
    assert b"loss" in content
    assert path.read_bytes() in content, "TensorBoard gets the GIF itself"
    assert MetricsWriter(tmp_path, console=False).write_preview(5, "x", frames, fps=8) is None


def test_going_back_rewrites_the_table_and_opens_new_events(tmp_path, capsys):
    with MetricsWriter(tmp_path, name="toy", tracking=Tracking([TensorBoard()])) as writer:
        writer.start(0, total_steps=100)
        for step in (10, 20, 30):
            writer.write(step, {"loss": step / 10})
        writer.rewind(10)
        writer.write_alarm(10, "rollback", value=30.0, text="gone back")
        writer.write(20, {"loss": 7.0})
    assert [
        (row["step"], row["loss"], row["alarm/rollback"]) for row in read(writer.table.path)
    ] == [
        ("10", "1", "30"),
        ("20", "7", ""),
    ]
    assert "[toy] warning: gone back\n" in capsys.readouterr().out
    events = sorted(tmp_path.glob("events.out.tfevents.*"))
    assert len(events) == 2, "also within one second"
    assert b"alarm/rollback" in events[1].read_bytes()


def test_a_window_that_is_stored_goes_on_as_if_nothing_had_happened():
    """The values are no short decimals: a sum that was rounded would differ in its last bits."""
    rows = [{"loss": 1 / (3 + i), "skipped": 0.1 * i} if i % 2 else {"loss": 0.7} for i in range(9)]
    whole, first, second = (WindowMeter({"clips": 4}) for _ in range(3))
    for row in rows:
        whole.add(row)
    for row in rows[:5]:
        first.add(row)
    first.add_time(2.0, waiting_for_input=True)
    second.load(json.loads(json.dumps(first.save())))
    assert second.steps == 5
    for row in rows[5:]:
        second.add(row)
    found, wanted = second.pop(), whole.pop()
    assert (found["loss"], found["skipped"]) == (wanted["loss"], wanted["skipped"])
    assert found["input_wait_s"] == 2.0 / 9
    assert second.save() == {}
    second.load({})
    assert second.steps == 0
