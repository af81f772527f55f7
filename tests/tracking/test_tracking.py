# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
import csv
import importlib.util
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nbp.train
from nbp.config import load_config
from nbp.errors import ConfigError
from nbp.parallel import distributed
from nbp.tracking.packages import check_packages
from nbp.tracking.tracker import Preview, flatten
from nbp.tracking.tracking import RunIds, TrackerThread, Tracking
from nbp.training.metrics import MetricsWriter
from tests import tiny
from tests.training import toy


class Fake:
    """Notes its calls. `fail_at`: the call that raises. `hold`: what a log waits for."""

    name = "fake"

    def __init__(self, fail_at=None, hold=None, name="fake"):
        self.calls, self.fail_at, self.hold, self.name = [], fail_at, hold, name
        self.threads = set()
        self.entered = threading.Event()

    def _note(self, *call):
        self.threads.add(threading.current_thread())
        self.calls.append(call)
        if len(self.calls) == self.fail_at:
            raise OSError("no route\nto host")

    def open(self, known):
        self._note("open", known)
        return known or "id-1"

    def describe(self):
        return "run id-1"

    def start(self, stage, step, *, directory):
        self._note("start", stage, step)

    def log(self, stage, step, values):
        self.entered.set()
        if self.hold is not None:
            self.hold.wait(20)
        self._note("log", stage, step, values)

    def show(self, stage, step, preview):
        self._note("show", stage, step, preview)

    def end(self, stage):
        self._note("end", stage)

    def report(self, files):
        self._note("report", files)

    def close(self, *, ok):
        self._note("close", ok)


def make(tmp_path, *fakes, size=64):
    said = []
    ids = RunIds(tmp_path / "tracking.json")
    threads = [TrackerThread(fake, ids, size=size, say=said.append) for fake in fakes]
    return Tracking([], threads), said


def test_calls_arrive_in_order_in_one_thread(tmp_path):
    fake = Fake()
    tracking, said = make(tmp_path, fake, size=1024)
    with tracking:
        tracking.start("tokenizer", 0, directory=tmp_path)
        for step in range(1, 300):
            tracking.log("tokenizer", step, {"loss": 1 / step})
        preview = Preview("clips", tmp_path / "a.gif", (2, 4, 4, 3))
        tracking.show("tokenizer", 300, preview)
        tracking.end("tokenizer")
        tracking.report([tmp_path / "index.html"])
    assert fake.calls == [
        ("open", ""),
        ("start", "tokenizer", 0),
        *(("log", "tokenizer", step, {"loss": 1 / step}) for step in range(1, 300)),
        ("show", "tokenizer", 300, preview),
        ("end", "tokenizer"),
        ("report", (tmp_path / "index.html",)),
        ("close", True),
    ]
    assert len(fake.threads) == 1
    assert threading.current_thread() not in fake.threads
    assert said == ["fake: run id-1"]


def test_values_are_those_of_the_call_and_not_of_later(tmp_path):
    gate, values = threading.Event(), {"loss": 1.0}
    fake = Fake(hold=gate)
    tracking, _ = make(tmp_path, fake)
    with tracking:
        tracking.log("a", 1, values)
        values["loss"] = 2.0
        gate.set()
    assert ("log", "a", 1, {"loss": 1.0}) in fake.calls


def test_a_resumed_run_gets_its_id_and_an_idle_one_is_not_opened(tmp_path):
    for known in ("", "id-1"):
        fake = Fake()
        tracking, said = make(tmp_path, fake)
        with tracking:
            tracking.log("a", 1, {})
        assert fake.calls[0] == ("open", known)
        assert said == [f"fake: {'resumes ' if known else ''}run id-1"]
    assert json.loads((tmp_path / "tracking.json").read_text()) == {"fake": "id-1"}
    idle = Fake()
    with make(tmp_path, idle)[0]:
        pass
    assert idle.calls == []


def test_a_failing_tracker_is_dropped_with_one_warning_and_others_go_on(tmp_path):
    bad, good = Fake(fail_at=3, name="bad"), Fake(name="good")
    tracking, said = make(tmp_path, bad, good)
    with tracking:
        for step in range(1, 10):
            tracking.log("a", step, {"loss": 0.5})
    assert [call[0] for call in bad.calls] == ["open", "log", "log", "close"]
    assert bad.calls[-1] == ("close", False)
    assert len(good.calls) == 11
    (warning,) = [text for text in said if "warning" in text]
    assert warning.startswith("warning: bad failed (OSError: no route to host); the run goes on")


def test_a_slow_tracker_is_dropped_when_its_queue_is_full(tmp_path):
    gate = threading.Event()
    fake = Fake(hold=gate)
    tracking, said = make(tmp_path, fake, size=4)
    tracking.log("a", 0, {})
    assert fake.entered.wait(10)
    began = time.monotonic()
    for step in range(1, 1000):
        tracking.log("a", step, {})
    assert time.monotonic() - began < 2.0
    assert [text for text in said if "warning" in text] == [
        "warning: fake is 4 calls behind; the run goes on without it. metrics.csv has all metrics"
    ]
    (thread,) = fake.threads
    gate.set()
    tracking.close(ok=True)
    thread.join(10)
    assert [call[0] for call in fake.calls] == ["open", "log", "close"]
    assert fake.calls[-1] == ("close", False)


def test_a_hanging_tracker_holds_up_the_end_no_longer_than_allowed(tmp_path):
    gate = threading.Event()
    fakes = [Fake(hold=gate, name=name) for name in ("one", "two")]
    tracking, said = make(tmp_path, *fakes)
    tracking.log("a", 1, {})
    began = time.monotonic()
    tracking.close(ok=True, seconds=0.3)
    assert 0.25 < time.monotonic() - began < 3.0  # together, not each
    warnings = [text.split(";")[0] for text in said if "warning" in text]
    assert warnings == [f"warning: {name} has not finished in time" for name in ("one", "two")]
    gate.set()


def test_a_run_that_ends_with_an_error_says_so(tmp_path):
    fake = Fake()
    tracking, _ = make(tmp_path, fake)
    tracking.log("a", 1, {})
    with pytest.raises(KeyError), tracking:
        raise KeyError
    assert fake.calls[-1] == ("close", False)


def test_training_has_the_same_bits_with_trackers_that_work_fail_and_hang(tmp_path):
    plain = toy.train(tmp_path / "plain", steps=6)
    gate = threading.Event()
    good, bad = Fake(name="good"), Fake(fail_at=4, name="bad")
    tracking, said = make(tmp_path, good, bad, Fake(hold=gate, name="hangs"), size=32)
    tracked = toy.train(tmp_path / "tracked", steps=6, tracking=tracking)
    tracking.close(ok=True, seconds=1.0)
    gate.set()
    assert toy.to_bytes(plain) == toy.to_bytes(tracked)
    assert sum("warning" in text for text in said) == 2

    def read(run):
        with (tmp_path / run / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    for name in ("loss", "grad_norm", "largest"):
        assert [row[name] for row in read("plain")] == [row[name] for row in read("tracked")]
    logged = [
        {"step": str(call[2]), **{name: f"{value:.8g}" for name, value in call[3].items()}}
        for call in good.calls
        if call[0] == "log"
    ]
    assert logged == read("tracked")


def test_previews_and_a_rewind_pass_through_the_writer(tmp_path):
    fake = Fake()
    tracking, _ = make(tmp_path, fake)

    def save_gif(path, frames, *, fps):
        Image.fromarray(frames[0]).save(path)

    with (
        tracking,
        MetricsWriter(
            tmp_path, name="a", save_gif=save_gif, tracking=tracking, console=False
        ) as writer,
    ):
        writer.write(0, {"ignored": 1.0})  # before the start: the table alone
        writer.start(4, total_steps=9)
        writer.write_alarm(5, "grad_norm", value=1.0, text="!")
        writer.write_preview(5, "clips", np.zeros((3, 8, 12, 3), np.uint8), fps=8)
        writer.rewind(4)
    gif = tmp_path / "previews" / "00000005-clips.gif"
    assert fake.calls[1:] == [
        ("start", "a", 4),
        ("log", "a", 5, {"alarm/grad_norm": 1.0}),
        ("show", "a", 5, Preview("clips", gif, (3, 8, 12, 3))),
        ("end", "a"),
        ("start", "a", 4),
        ("end", "a"),
        ("close", True),
    ]
    assert not list(tmp_path.glob("events.*"))


def test_only_the_first_process_tracks(tmp_path, monkeypatch):
    config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, "train.tracking": "('wandb',)"})
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    tracking = nbp.train.open_tracking(config, tmp_path)
    tracking.start("a", 0, directory=tmp_path)
    tracking.close(ok=True)
    assert not list(tmp_path.iterdir())
    fake = Fake()
    tracking, _ = make(tmp_path, fake)
    writer = MetricsWriter(tmp_path / "a", tracking=tracking, silent=True)
    writer.start(0, total_steps=1)
    writer.write(1, {"loss": 1.0})
    writer.close()
    assert fake.calls == []


def test_a_missing_package_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    missing = ("wandb", "trackio")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else find_spec(name)
    )
    changes = {**tiny.OVERRIDES, "train.tracking": "('tensorboard', 'wandb', 'trackio')"}
    config = load_config(tiny.CONFIG, changes)
    with pytest.raises(ConfigError) as refusal:
        nbp.train.train_workdir(config, tmp_path / "run")
    assert str(refusal.value) == (
        "train.tracking: not installed: wandb, trackio. Use: pip install wandb trackio; or leave "
        "out what is missing"
    )
    assert not (tmp_path / "run").exists()
    check_packages(("tensorboard",))


def test_an_unknown_tracker_is_refused():
    with pytest.raises(ConfigError, match=r"train\.tracking"):
        load_config(tiny.CONFIG, {**tiny.OVERRIDES, "train.tracking": "('tensorbord',)"})


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {
        "a.b": 1,
        "a.c.d": [2],
        "e": None,
    }


def test_damaged_ids_are_as_none(tmp_path):
    path = Path(tmp_path / "tracking.json")
    path.write_text('{"wandb": "a')
    ids = RunIds(path)
    assert ids.read("wandb") == ""
    ids.write("wandb", "b")
    assert RunIds(path).read("wandb") == "b"
