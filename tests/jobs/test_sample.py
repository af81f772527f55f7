# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Requests to `nbp.sample` on a workdir with random weights: lengths, classes, prefixes, files."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from nbp import build, sample
from nbp.config import load_config
from nbp.data.video import probe_video, read_clip
from nbp.errors import ConfigError
from nbp.jobs import clip_files, long_videos
from nbp.jobs.sample import make_drawing
from nbp.jobs.sample_request import SampleRequest, ScheduleRequest
from nbp.jobs.workdir import adopt_config, save_labels
from nbp.sampling.filters import Filter
from nbp.sampling.schedules import Guidance
from tests import tiny
from tests.data.videos import encode, make_clip
from tests.jobs.evaluated import SMALL, SmallNetwork, save_params

LABELS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    changes = {"train.tokenizer.ema": "0", "train.generator.ema": "0", "sampling.batch": "4"}
    # Few passes and no filters: programs that are quick to compile.
    changes |= {"generator.block": "frame", "generator.opening": "bov", "sampling.top_p": "1"}
    changes |= {"generator.opening_blocks": "1", "sampling.guidance": "0"}
    config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes})
    adopt_config(config, folder, report=lambda text: None)
    save_labels(folder, LABELS)
    networks = {
        "tokenizer": build.make_tokenizer_network(config),
        "generator": build.make_generator_network(config, LABELS),
    }
    for stage, network in networks.items():
        save_params(folder, stage, network.init(jax.random.key(0)))
    return folder


def draw(workdir: Path, out: Path, *flags: Any) -> dict[str, np.ndarray]:
    """The arrays that the command leaves."""
    sample.main(["--workdir", str(workdir), "--out", str(out), *map(str, flags)])
    with np.load(out / "samples.npz") as arrays:
        return dict(arrays)


def test_long_videos_leave_the_files_of_short_ones_and_a_report(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(clip_files, "GRID_PIXELS", 2 * (2 * 160 + 20) * 3 * 160)  # few frames
    frames = 14
    arrays = draw(workdir, tmp_path, "--num", 5, "--num_frames", frames)
    videos = arrays["videos"]
    assert (videos.dtype, videos.shape) == (np.uint8, (5, frames, 16, 16, 3))
    assert (arrays["tokens"].dtype, arrays["tokens"].shape) == (np.int32, (5, 8, 4, 4))
    names = ["0000-red", "0001-green", "0002-blue", "0003-red", "0004-green"]
    files = sorted(tmp_path.glob("*.mp4"))
    assert [path.stem for path in files] == names
    for path, video in zip(files, videos, strict=True):
        assert probe_video(path).frames == frames
        assert np.abs(read_clip(path, frames=frames).astype(int) - video).mean() < 24
    with Image.open(tmp_path / "grid.gif") as image:
        assert 2 <= getattr(image, "n_frames", 1) < frames
        assert image.info["duration"] > 125, "fewer frames, each for longer"
    report = json.loads((tmp_path / "drift.json").read_text())
    assert (report["videos"], report["frames"], report["slide"]) == (5, frames, "reencode")
    assert len(report["sharpness"]) == frames
    assert [segment["frame"] for segment in report["segments"]] == [0, 4, 8]
    assert report["fvd"] is None
    assert {path.name for path in tmp_path.iterdir()} == {
        *(path.name for path in files),
        "grid.gif",
        "samples.npz",
        "drift.json",
        "drift.png",
    }
    # The first window is the clip of the same seed; a shorter video is the start of a longer one.
    clips = draw(workdir, tmp_path / "clips", "--num", 5)
    np.testing.assert_array_equal(clips["videos"], videos[:, :5])
    few = draw(workdir, tmp_path / "few", "--num", 5, "--num_frames", 2)
    np.testing.assert_array_equal(few["videos"], videos[:, :2])
    np.testing.assert_array_equal(few["tokens"], arrays["tokens"][:, :2])
    assert not (tmp_path / "few" / "drift.json").exists()


def test_fvd_of_segments_is_named_by_its_features(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr("nbp.jobs.weights.LEAST_FRAMES", 5)
    monkeypatch.setattr(
        "nbp.jobs.weights.I3dNetwork", lambda *_: SmallNetwork(SMALL, build.make_conv())
    )
    flags = ("--num", 3, "--num_frames", 13, "--features", "random-i3d")
    draw(workdir, tmp_path, *flags, "--anchor", "--keep_frames", 2)
    report = json.loads((tmp_path / "drift.json").read_text())
    assert report["fvd"] == "fvd_random_features_3_to_first_segment"
    assert report["features"]["detector"] == "random-i3d"
    assert report["slide"] == "anchor"
    distances = [segment["fvd"] for segment in report["segments"]]
    assert distances[0] == pytest.approx(0, abs=1e-4)
    assert all(distance >= 0 for distance in distances)


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--num_frames 0", "--num_frames 0: draw at least 1"),
        ("--keep_frames 1", "--keep_frames is about videos longer than a clip of 5 frames"),
        ("--num_frames 5 --anchor", "--anchor is about videos longer"),
        ("--num_frames 9 --keep_frames 3", "--num_frames 9: 3 kept latent frames"),
        ("--num_frames 9 --anchor --slide reencode", "--anchor keeps codes as they are"),
        ("--num_frames 9 --features random-i3d", "I3D needs clips of 9 frames"),
        ("--num 2 --per_class 1", "--num and --per_class: give one"),
        ("--per_class 0", "--per_class 0: draw at least 1"),
        ("--per_class 1 --label red", "leave out --label"),
        ("--samples_per_condition 0", "--samples_per_condition 0: draw at least 1"),
        ("--temperature_end -1", "temperature_end: -1 is not a number from 0.001"),
        ("--guidance 1 --guidance_start 0.7 --guidance_end 0.2", "0 <= start < end <= 1"),
    ],
)
def test_impossible_requests(workdir, tmp_path, flags, message):
    with pytest.raises(ConfigError, match=message):
        draw(workdir, tmp_path, *flags.split())
    assert not list(tmp_path.iterdir())


def test_clips_of_each_class_stand_side_by_side(workdir, tmp_path):
    arrays = draw(workdir, tmp_path, "--per_class", 2, "--guidance", 1)
    names = [path.stem for path in sorted(tmp_path.glob("*.mp4"))]
    assert names == [f"{2 * i + j:04d}-{LABELS[i]}" for i in range(3) for j in range(2)]
    tokens = arrays["tokens"]
    assert all(np.any(tokens[i] != tokens[j]) for i in range(6) for j in range(i))
    with Image.open(tmp_path / "grid.gif") as image:
        assert image.size == ((2 * 16 + 2) * 10, (3 * 16 + 4) * 10), "a row for each class"


def test_several_samples_of_each_prefix(workdir, tmp_path):
    """Held-out prefixes: each is continued in different ways."""
    config = json.loads((workdir / "config.json").read_text())
    config["evaluation"]["given_frames"] = 1
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "config.json").write_text(json.dumps(config))
    for name in ("labels.json", "tokenizer", "generator"):
        (copy / name).symlink_to(workdir / name)
    out = tmp_path / "out"
    flags = ("--num", 2, "--samples_per_condition", 3, "--temperature", 2)
    tokens = draw(copy, out, *flags)["tokens"]
    assert tokens.shape == (6, 3, 4, 4)
    for start in (0, 3):
        group = tokens[start : start + 3]
        assert np.all(group[:, 0] == group[0, 0])
        assert np.any(group[0, 1:] != group[1, 1:])
        assert np.any(group[1, 1:] != group[2, 1:])
    assert np.any(tokens[0, 0] != tokens[3, 0])
    with Image.open(out / "grid.gif") as image:
        assert image.size == ((3 * 16 + 4) * 10, (2 * 16 + 2) * 10)


def test_a_wide_video_of_another_rate_is_continued(workdir, tmp_path):
    video = encode(tmp_path / "wide.mp4", make_clip(20, 40, 96), fps=24)
    flags = ("--frames", video, "--given_frames", 2, "--samples_per_condition", 2)
    arrays = draw(workdir, tmp_path / "out", *flags, "--num_frames", 12)
    assert arrays["videos"].shape == (2, 12, 16, 16, 3)
    tokens = arrays["tokens"]
    np.testing.assert_array_equal(tokens[0, :2], tokens[1, :2])
    assert np.any(tokens[0, 2:] != tokens[1, 2:])
    report = json.loads((tmp_path / "out" / "drift.json").read_text())
    assert report["videos"] == 2


def test_an_interrupted_recording_leaves_nothing(workdir, tmp_path, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(long_videos, "measure_drift", fail)
    with pytest.raises(KeyboardInterrupt):
        draw(workdir, tmp_path / "out", "--num", 2, "--num_frames", 9)
    assert not list((tmp_path / "out").iterdir())


def test_schedules_come_from_flags_else_from_the_configuration():
    changes = {
        "sampling.guidance": "2.0",
        "sampling.guidance_schedule": "ramp",
        "sampling.guidance_end": "0.5",
        "sampling.temperature": "1.2",
        "sampling.temperature_end": "0.8",
    }
    config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes})
    filtering, guidance = make_drawing(config, SampleRequest(1))
    assert guidance == Guidance(2.0, "ramp", 0.0, 0.5)
    assert filtering == Filter(1.2, top_p=0.8, temperature_end=0.8)
    asked = ScheduleRequest(0.5, "cosine", "linear", 0.25, 1.0)
    filtering, guidance = make_drawing(config, SampleRequest(1, top_p=1.0, schedules=asked))
    assert guidance == Guidance(2.0, "linear", 0.25, 1.0)
    assert filtering == Filter(1.2, temperature_end=0.5, temperature_schedule="cosine")
    plain = load_config(tiny.CONFIG, tiny.OVERRIDES)
    assert not make_drawing(plain, SampleRequest(1))[0].scheduled
