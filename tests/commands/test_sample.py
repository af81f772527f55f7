# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Requests to `nbp.sample` on a workdir with random weights: lengths, classes, prefixes, files."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import nbp
from nbp import build, build_sampling, progress, sample, sample_files
from nbp.build_sampling import choose_labels, make_sampling, plan_story
from nbp.config import load_config
from nbp.data.video.decode import probe_video, read_clip
from nbp.errors import ConfigError
from nbp.flags import Parser, Real, Whole, read_checkpoint
from nbp.sample_files import Files, Recording, find_earlier, write_samples
from nbp.sampling.long_video import Piece, Rollout
from nbp.sampling.request import (
    GUIDANCE,
    TEMPERATURE,
    SampleRequest,
    add_flags,
    make_request,
    read_block,
)
from nbp.sampling.sampler import Samples
from nbp.sampling.settings import SamplingConfig
from nbp.sampling.story import Scene, Story
from nbp.stages import adopt_config
from nbp.workdir import save_labels
from tests import tiny
from tests.data.videos import encode, make_clip
from tests.evaluated import SMALL, SmallNetwork, save_params

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


def draw(workdir: Path, out: Path, *flags: Any, **options: Any) -> dict[str, np.ndarray]:
    """The arrays that the command leaves."""
    sample.main(["--workdir", str(workdir), "--out", str(out), *map(str, flags)], **options)
    with np.load(out / "samples.npz") as arrays:
        return dict(arrays)


def test_long_videos_leave_the_files_of_short_ones_and_a_report(
    workdir, tmp_path, monkeypatch, capsys
):
    frames = 14
    monkeypatch.setattr(progress, "QUIET", -1.0)
    arrays = draw(workdir, tmp_path, "--num", 5, "--num_frames", frames)
    told = [line.split(",")[0] for line in capsys.readouterr().err.splitlines() if "/70" in line]
    assert told[-1] == "nbp: 70/70 frames"
    assert len(told) > 2, "a line for each piece"
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
        assert 2 <= getattr(image, "n_frames", 1) <= frames
    report = json.loads((tmp_path / "drift.json").read_text())
    assert (report["videos"], report["frames"], report["slide"]) == (5, frames, "reencode")
    assert len(report["sharpness"]) == frames
    assert [segment["frame"] for segment in report["segments"]] == [0, 4, 8]
    assert report["fvd"] is None
    assert {path.name for path in tmp_path.iterdir()} == {
        *(path.name for path in files),
        "grid.gif",
        "samples.npz",
        "samples.json",
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


def test_a_grid_of_many_frames_shows_some_of_them(tmp_path):
    frames = 14
    clips = np.random.default_rng(0).integers(0, 256, (4, frames, 16, 16, 3), np.uint8)
    few = 5 * (2 * 160 + 20) ** 2  # pixels
    files = Files(tmp_path, list("abcd"), fps=8.0, grid_pixels=few)
    with Recording(files, frames=frames, latents=2) as recording:
        recording.add(Piece(0, 0, clips, 0, np.zeros((4, 2, 4, 4), np.int32)))
    with Image.open(tmp_path / "grid.gif") as image:
        assert 2 <= getattr(image, "n_frames", 1) < frames
        assert image.info["duration"] > 125, "fewer frames, each for longer"
    with np.load(tmp_path / "samples.npz") as arrays:
        np.testing.assert_array_equal(arrays["videos"], clips)


class ShortNetwork(SmallNetwork):
    """Takes clips of the workdir's length."""

    @property
    def least_frames(self) -> int:
        return 5


def test_fvd_of_segments_is_named_by_its_features(workdir, tmp_path):
    flags = ("--num", 3, "--num_frames", 13, "--features", "random-i3d")
    network = ShortNetwork(SMALL, build.make_conv())
    draw(workdir, tmp_path, *flags, "--anchor", "--keep_frames", 2, i3d=lambda size: network)
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
        ("--num_frames 0", "--num_frames: 0 is not a whole number from 1"),
        ("--keep_frames 1", "--keep_frames is about videos longer than a clip of 5 frames"),
        ("--num_frames 5 --anchor", "--anchor is about videos longer"),
        ("--num_frames 9 --keep_frames 3", "--num_frames 9: 3 kept latent frames"),
        ("--num_frames 9 --anchor --slide reencode", "--anchor keeps codes as they are"),
        ("--num_frames 9 --features random-i3d", "I3D needs clips of 9 frames"),
        ("--num 2 --per_class 1", "--num and --per_class: give one"),
        ("--per_class 0", "--per_class: 0 is not a whole number from 1"),
        ("--per_class 1 --label red", "leave out --label"),
        ("--samples_per_condition 0", "--samples_per_condition: 0 is not a whole number"),
        ("--temperature_end -1", "temperature_end: -1 is not a number from 0.001"),
        ("--label red --unconditional", "--label and --unconditional: give one"),
        ("--per_class 1 --unconditional", "leave out --label, --unconditional"),
        ("--num 1000000 --samples_per_condition 1000", "clips of 5 frames take .* GiB"),
        ("--num 1000000 --num_frames 100000000", "GiB, the disk of .* has"),
        ("--guidance 1 --guidance_start 0.7 --guidance_end 0.2", "0 <= start < end <= 1"),
    ],
)
def test_impossible_requests(workdir, tmp_path, flags, message):
    with pytest.raises(ConfigError, match=message):
        draw(workdir, tmp_path, *flags.split())
    assert not list(tmp_path.iterdir())


def test_clips_of_each_class_stand_side_by_side(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "QUIET", -1.0)
    arrays = draw(workdir, tmp_path, "--per_class", 2, "--guidance", 1)
    told = [line.split(",")[0] for line in capsys.readouterr().err.splitlines() if "/6 " in line]
    assert told == ["nbp: 4/6 clips", "nbp: 6/6 clips"]
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


def test_a_story_changes_labels_on_the_way(workdir, tmp_path, monkeypatch):
    told = []

    def watch(sampler: Any, slide: Any, story: Any) -> Rollout:
        told.append(story)
        return Rollout(sampler, slide, story)

    monkeypatch.setattr(sample, "Rollout", watch)
    story = tmp_path / "story.txt"
    story.write_text(
        "7 red\n4 guidance=1000 green # one latent frame of two frames is a block\n2 none\n"
    )
    arrays = draw(workdir, tmp_path / "out", "--num", 2, "--story", story)
    assert arrays["videos"].shape == (2, 13, 16, 16, 3)
    listed = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert [clip["label"] for clip in listed["clips"]] == ["red then green then none"] * 2
    report = json.loads((tmp_path / "out" / "drift.json").read_text())
    assert report["story"] == [[0, "red"], [7, "green"], [11, "none"]]
    assert report["survival"] is None, "these labels name no shapes"
    assert set(report["slopes"]) == {
        "sharpness",
        "colour_shift",
        "usage",
        "entropy",
        "code_distance",
    }
    scenes = [(7, "red"), {"frames": 4, "label": 1, "guidance": 1000}, (2, "none")]
    videos = nbp.load(workdir).sample(num=2, story=scenes)
    np.testing.assert_array_equal(videos, arrays["videos"])
    # Until the first switch it is the video of the first label.
    red = draw(workdir, tmp_path / "red", "--num", 2, "--num_frames", 13, "--label", "red")
    np.testing.assert_array_equal(red["tokens"][:, :4], arrays["tokens"][:, :4])
    assert told == [Story((Scene(7, 0), Scene(4, 1, 1000.0), Scene(2, None)), stride=2), None]


@pytest.mark.parametrize(
    "text, flags, message",
    [
        ("5 red\n4 purple", "", "--story, scene 2: no label 'purple'; use 0..2 or one of: red"),
        ("5 red\n4 blue", "--num_frames 13", "--story has 9 frames, --num_frames 13: leave out"),
        ("5 red\n4 blue", "--label red", "--story tells the labels .* leave out --label"),
        ("5 red\n4 blue", "--per_class 2", "leave out --per_class"),
        ("5 red\n4 blue", "--unconditional", "leave out --unconditional"),
        ("4 red\n5 blue", "", "scene 2 begins with frame 4, within a block; .* 3 or 5 frames"),
        ("1 red\n8 blue", "", "first scene takes 1 of the 3 frames"),
    ],
)
def test_impossible_stories(workdir, tmp_path, text, flags, message):
    story = tmp_path / "story.txt"
    story.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        draw(workdir, tmp_path / "out", "--story", story, *flags.split())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_model_without_prompts_has_no_story(workdir):
    config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, "generator.prompt": "none"})
    with pytest.raises(ConfigError, match="--story: this model was trained without labels"):
        plan_story(config, LABELS, SampleRequest(1, story=[(5, "red")]))


def test_an_interrupted_recording_leaves_nothing(workdir, tmp_path, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "describe_drift", fail)
    with pytest.raises(KeyboardInterrupt):
        draw(workdir, tmp_path / "out", "--num", 2, "--num_frames", 9)
    assert not list((tmp_path / "out").iterdir())


NOT_IN_RANGE = {
    "--num": ("0", "-1", "1_000", "１", "1000001", str(2**63), "1e3"),
    "--per_class": ("0", "4294967296"),
    "--samples_per_condition": ("0", "nan"),
    "--given_frames": ("-1", "1.5"),
    "--top_k": ("-1", str(2**31)),
    "--top_p": ("0", "1.1", "nan", "-inf"),
    "--temperature": ("0", "nan", "inf", "1e-42", "1e300", "-1", "1_0"),
    "--temperature_end": ("nan", "1e-42", "inf"),
    "--guidance": ("nan", "inf", "-1", "1e300"),
    "--guidance_start": ("nan", "-1", "2"),
    "--guidance_end": ("inf", "1e300"),
    "--window": ("0", "-3"),
    "--radius": ("0", str(2**32)),
    "--refinements": ("0", "1.5", "-1"),
    "--opener_frames": ("0", "1.5", "-1"),
    "--entropy_bound": ("nan", "-0.1", "inf"),
    "--confidence_noise": ("-1", "1e9"),
    "--delta": ("nan", "1.5", "-0.1"),
    "--seed": ("-1", "4294967296", str(2**40), str(2**63), "0x1"),
    "--num_frames": ("0", str(2**31)),
    "--keep_frames": ("0", "inf"),
    "--sinks": ("-1", "0.5"),
    "--size": ("0", "-8", "8193", "1.5"),
}


@pytest.mark.parametrize("flag", NOT_IN_RANGE)
def test_every_number_has_a_range(tmp_path, flag):
    """Before the workdir is looked at."""
    for text in NOT_IN_RANGE[flag]:
        with pytest.raises(ConfigError, match=f"^{flag}: .* is not a (whole )?number"):
            sample.main(["--workdir", str(tmp_path), f"{flag}={text}"])
    assert not list(tmp_path.iterdir())


def test_no_number_is_without_a_range():
    parser = Parser("nbp.sample")
    add_flags(parser)
    numbers = {"--" + a.dest for a in parser._actions if isinstance(a.type, Real | Whole)}
    assert numbers == set(NOT_IN_RANGE)
    others = {a.type for a in parser._actions if not isinstance(a.type, Real | Whole)}
    assert others == {None, Path, read_block, read_checkpoint}


def test_the_ranges_of_flags_are_those_of_the_library():
    for value in (TEMPERATURE.low, TEMPERATURE.high):
        assert SamplingConfig(temperature=value, temperature_end=value).temperature == value
        config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, "sampling.temperature": f"{value}"})
        assert make_sampling(config).temperature == value
    assert SamplingConfig(guidance=GUIDANCE.high).guidance == GUIDANCE.high
    bad: list[dict[str, Any]] = [{"temperature": 1e-42}, {"temperature": math.inf}]
    bad.append({"temperature_end": 1e300})
    for options in bad:
        with pytest.raises(ValueError, match="must be from 0.001 to 1000"):
            SamplingConfig(**options)
    for scale in (math.nan, math.inf, -math.inf, 1e300):
        with pytest.raises(ValueError, match="guidance"):
            SamplingConfig(guidance=scale)


def test_a_class_wins_over_a_keyword_and_over_a_number(workdir):
    config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, "generator.prompt": "label"})

    def choose(text: str | None, labels: tuple[str, ...], **options: Any) -> list[int] | None:
        return choose_labels(config, labels, SampleRequest(1, label=text, **options))

    assert choose("none", ("b", "none")) == [1]
    assert choose("none", ("b", "None")) == [1]
    assert choose("none", ("b", "c")) is None
    assert choose(None, ("b", "none"), unconditional=True) is None
    assert choose("1", ("1", "b")) == [0]
    assert choose("1", ("a", "b")) == [1]
    assert choose("-x", ("a", "-x")) == [1]
    assert choose("t-shirt", ("a", "T-Shirt")) == [1]
    assert choose("t shirt", ("a", "t-shirt")) == [1]
    assert choose("cafe\u0301", ("a", "caf\u00e9")) == [1], "as macOS and Linux write one name"
    assert choose("a b", ("a_b", "a b")) == [1]
    for text, labels in (("A b", ("a_b", "a b")), ("１", ("a", "b")), ("9" * 5000, ("a",))):
        with pytest.raises(ConfigError, match="label"):
            choose(text, labels)


def list_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def make_samples(count: int, value: int = 0) -> Samples:
    videos = np.full((count, 2, 16, 16, 3), value, np.uint8)
    return Samples(videos, np.zeros((count, 1, 2, 2), np.int32), *np.ones((2, count), np.int32))


def test_a_smaller_set_takes_the_place_of_a_larger_one(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    write_samples(make_samples(4), Files(tmp_path, ["a", "b", "c", "d"], fps=8.0))
    (tmp_path / "0002-c.mp4").unlink()  # what is gone is gone
    write_samples(make_samples(2, 200), Files(tmp_path, ["x", "b"], fps=8.0))
    kept = {"0000-x.mp4", "0001-b.mp4", "grid.gif", "samples.npz", "samples.json"}
    assert list_names(tmp_path) == {"notes.txt", *kept}
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays["videos"].shape[0] == 2
        assert arrays["videos"].min() == 200
    listed = json.loads((tmp_path / "samples.json").read_text())
    assert listed["clips"][0] == {"file": "0000-x.mp4", "label": "x"}
    assert set(listed["files"]) == kept - {"samples.json"}


def test_a_set_of_an_older_version_is_replaced_and_strange_videos_are_kept(tmp_path):
    write_samples(make_samples(3), Files(tmp_path, ["a", "b", "c"], fps=8.0))
    (tmp_path / "samples.json").unlink()  # as older versions left it
    assert len(find_earlier(tmp_path)) == 5
    (tmp_path / "0007-holiday.mp4").write_text("precious")
    before = list_names(tmp_path)
    with pytest.raises(ConfigError, match="no known request, such as 0007-holiday.mp4"):
        find_earlier(tmp_path)
    with pytest.raises(ConfigError, match="0007-holiday"):
        write_samples(make_samples(1), Files(tmp_path, ["a"], fps=8.0))
    assert list_names(tmp_path) == before


@pytest.mark.parametrize("listed", ['["../precious"]', '["/etc/hosts", ""]', "3", "{"])
def test_a_list_that_is_damaged_removes_nothing_elsewhere(tmp_path, listed):
    (tmp_path / "precious").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / "samples.json").write_text(f'{{"files": {listed}}}')
    assert not find_earlier(out)
    write_samples(make_samples(1), Files(out, ["a"], fps=8.0))
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("prefix", [".samples-", ".arrays-"])
def test_what_a_killed_process_left_goes_with_the_next_set(tmp_path, prefix):
    """A folder that is in use has a lock, which ends with its process."""
    with sample_files.hidden_folder(tmp_path, prefix) as used:
        (used / "half.mp4").write_bytes(b"half")
        left = tmp_path / f"{prefix}killed"
        (left / "deep").mkdir(parents=True)
        (left / "deep" / "0000-a.mp4").write_bytes(b"half")
        with sample_files.hidden_folder(tmp_path, prefix) as other:
            assert set(tmp_path.iterdir()) == {used, other}
            assert not list(other.iterdir())
        assert (used / "half.mp4").is_file()
    assert not list(tmp_path.iterdir())


def test_a_set_clears_what_was_left(tmp_path):
    (tmp_path / ".samples-killed").mkdir()
    write_samples(make_samples(1), Files(tmp_path, ["a"], fps=8.0))
    assert list_names(tmp_path) == {"0000-a.mp4", "grid.gif", "samples.npz", "samples.json"}


def test_an_interrupted_set_leaves_the_earlier_one(tmp_path, monkeypatch):
    write_samples(make_samples(2), Files(tmp_path, ["a", "b"], fps=8.0))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sample_files, "write_grid", fail)
    with pytest.raises(KeyboardInterrupt):
        write_samples(make_samples(1), Files(tmp_path, ["c"], fps=8.0))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_file_names_are_safe_short_and_distinct(tmp_path):
    names = [
        "a" * 245,
        "a" * 246,
        "../../etc",
        "a/b\nc\x00",
        "日本" * 200,
        "con",
        "",
        ".",
        "b" * 9999,
    ]
    files = Files(tmp_path, names, fps=8.0)
    assert len(set(files.videos)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9.-]{1,150}", name) for name in files.videos)
    assert files.videos[1][5:] != files.videos[2][5:], "a hash tells what was cut"
    write_samples(make_samples(len(names)), files)
    assert set(files.videos) < list_names(tmp_path)


@pytest.mark.parametrize(
    "count, columns, side", [(3, 3, 30_000), (4, 1, 40_000), (2, 2, 16), (7, 3, 20_000)]
)
def test_a_grid_fits_into_a_gif(count, columns, side):
    shown, wide = sample_files.choose_shown(count, columns, frame=(side, side), frames=1)
    rows = -(-len(shown) // wide)
    assert wide * (side + 2) <= 65_535
    assert rows * (side + 2) <= 65_535
    assert {i % columns for i in shown} == set(range(wide))
    if side == 16:
        assert (shown, wide) == (list(range(count)), columns)


def test_a_place_is_tried_before_the_weights_are_read(workdir, tmp_path, monkeypatch):
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr(build_sampling, "load_sampler", load)
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("é" * 200)):
        with pytest.raises(ConfigError, match=r"folder .*\. Name another with --out DIR\.$"):
            draw(workdir, out, "--num", 1)
    with pytest.raises(ConfigError, match="cannot write into the folder /proc"):
        draw(workdir, Path("/proc"), "--num", 1)
    assert list_names(tmp_path) == {"file"}


def test_schedules_come_from_flags_else_from_the_configuration():
    changes = {
        "sampling.guidance": "2.0",
        "sampling.guidance_schedule": "ramp",
        "sampling.guidance_end": "0.5",
        "sampling.temperature": "1.2",
        "sampling.temperature_end": "0.8",
    }
    config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes})
    assert make_sampling(config) == config.sampling
    parser = Parser("nbp.sample")
    add_flags(parser)
    asked = {
        "top_p": 1.0,
        "temperature_end": 0.5,
        "temperature_schedule": "cosine",
        "guidance_schedule": "linear",
        "guidance_start": 0.25,
        "guidance_end": 1.0,
        "commit": "order",
        "entropy_bound": 0.25,
        "confidence_noise": 2.0,
        "weights": "int8",
        "cache": "bfloat16",
    }
    flags = [text for name, value in asked.items() for text in (f"--{name}", str(value))]
    request = make_request(parser.parse_args(flags))
    assert request.sampling == asked
    found = make_sampling(config, request.sampling)
    assert found == dataclasses.replace(config.sampling, **asked)
    assert (found.temperature, found.guidance, found.scheduled) == (1.2, 2.0, True)
    assert make_request(parser.parse_args([])).sampling == {}
    plain = load_config(tiny.CONFIG, tiny.OVERRIDES)
    assert not make_sampling(plain).scheduled
