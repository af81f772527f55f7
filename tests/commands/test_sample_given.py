# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`nbp.sample` of models with the draft channel: passes, masks, what lies between two videos."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import nbp
from nbp import build, evaluate, sample
from nbp.build_data import make_data, read_mask
from nbp.data.video.decode import read_clip
from nbp.data.video.encode import write_video
from nbp.errors import ConfigError
from nbp.evaluation import gallery
from nbp.workdir import read_config
from tests.evaluated import add_generator, make_workdir

DRAFT = {
    "generator.draft": "True",
    "generator.block": "frame",
    "generator.opening": "bov",
    "generator.opening_blocks": "1",
    "sampling.top_p": "1",
    "sampling.guidance": "0",
}


def make(folder: Path, **changes: str) -> Path:
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    return add_generator(make_workdir(folder, {**DRAFT, **keys}))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frame blocks of 4x4 tokens, 3 latent frames of 2 frames, 16 px."""
    return make(tmp_path_factory.mktemp("frames") / "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blocks as deep as the clip."""
    return make(tmp_path_factory.mktemp("whole") / "run", generator__block="(3, 2, 4)")


@pytest.fixture(scope="module")
def clip(workdir: Path) -> np.ndarray:
    return make_data(read_config(workdir))[1].source[0]["video"]


@pytest.fixture(scope="module")
def video(clip: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write_video(path, clip, fps=8.0)
    return path


def draw(workdir: Path, out: Path, *flags: Any) -> dict[str, np.ndarray]:
    sample.main(["--workdir", str(workdir), "--out", str(out), *map(str, flags)])
    with np.load(out / "samples.npz") as arrays:
        return dict(arrays)


def encode(workdir: Path, clips: np.ndarray) -> np.ndarray:
    config = read_config(workdir)
    network = build.make_tokenizer_network(config)
    return np.asarray(jax.jit(network.encode)(build.load_tokenizer(config, workdir).params, clips))


def test_passes_are_counted_and_bounded(workdir, tmp_path, capsys):
    plain = draw(workdir, tmp_path / "plain", "--num", 4)
    assert "3.0 passes per clip on average; the plan has 3" in capsys.readouterr().out
    flags = ("--commit", "order", "--refinements", 4)
    refined = draw(workdir, tmp_path / "refined", "--num", 4, *flags)
    assert "12.0 passes per clip on average; the plan has 3" in capsys.readouterr().out
    assert np.any(plain["tokens"] != refined["tokens"])
    run = nbp.load(workdir)
    again = run.sample(num=4, commit="order", refinements=4)
    np.testing.assert_array_equal(again, refined["videos"])
    draw(workdir, tmp_path / "long", "--num", 2, "--num_frames", 9, "--anchor", *flags)


def test_what_a_mask_leaves_is_kept(workdir, video, tmp_path):
    flags = ("--num", 3, "--frames", video, "--refinements", 4)
    drawn = draw(workdir, tmp_path / "box", *flags, "--mask", "box:0,4,8,16")["tokens"]
    codes = nbp.load(workdir).encode(read_frames(video))
    kept = np.ones((3, 4, 4), bool)
    kept[:, 1:, :2] = False
    for tokens in drawn:
        np.testing.assert_array_equal(tokens[kept], codes[0][kept])
    assert np.any(drawn[:, ~kept] != codes[0][~kept])
    assert np.any(drawn[0] != drawn[1]), "clips differ where they are drawn"
    around = draw(workdir, tmp_path / "outside", *flags, "--mask", "outside:0,4,8,16")["tokens"]
    np.testing.assert_array_equal(around[0][~kept], codes[0][~kept])
    assert np.any(around[0][kept] != codes[0][kept])
    # The same as a picture, as an array of the library, and with another condition for each clip.
    picture = np.zeros((16, 16), np.uint8)
    picture[4:, :8] = 255
    Image.fromarray(picture).save(tmp_path / "mask.png")
    seen = draw(workdir, tmp_path / "png", *flags, "--mask", tmp_path / "mask.png")
    np.testing.assert_array_equal(seen["tokens"], drawn)
    run = nbp.load(workdir)
    frames = read_frames(video)
    again = run.sample(num=3, frames=frames, mask=picture > 0, refinements=4)
    np.testing.assert_array_equal(again, seen["videos"])


def read_frames(video: Path) -> np.ndarray:
    return read_clip(video, frames=5)


def test_what_lies_between_two_videos(whole, clip, video, tmp_path):
    run = nbp.load(whole)
    still = clip[4]
    Image.fromarray(still).save(tmp_path / "last.png")
    flags = ("--num", 2, "--between", video, tmp_path / "last.png", "--refinements", 6)
    drawn = draw(whole, tmp_path / "between", *flags)
    frames = read_frames(video)
    held = np.concatenate([frames[-1:], np.repeat(still[None], 4, 0)])
    codes = run.encode(held)[0]
    for tokens in drawn["tokens"]:
        np.testing.assert_array_equal(tokens[[0, 2]], codes[[0, 2]])
    assert np.any(drawn["tokens"][0][1] != drawn["tokens"][1][1])
    again = run.sample(num=2, between=(frames, still), refinements=6)
    np.testing.assert_array_equal(again, drawn["videos"])


REFUSED: list[tuple[tuple[Any, ...], str]] = [
    (("--mask", "box:0,0,4,4"), "--mask: name the video of which the rest is kept"),
    (("--frames", "@", "--mask", "box:0,0,4,40"), "--mask box:0,0,4,40: a box is X0,Y0,X1,Y1"),
    (("--frames", "@", "--mask", "box:0,0,16,16"), "--mask: no cell is kept"),
    (("--frames", "@", "--mask", "box:0,0,4,4", "--num_frames", 9), "draws one clip of 5 frames"),
    (("--frames", "@", "--mask", "box:0,0,4,4", "--decoding", "jacobi"), "leave out --decoding"),
    (("--between", "@", "@"), "so the gap would not know its end"),
    (("--between", "@", "@", "--frames", "@"), "leave out --frames and --mask"),
    (("--refinements", 2, "--decoding", "jacobi"), "draws each block in one pass, not 2"),
]


@pytest.mark.parametrize("flags, message", REFUSED)
def test_requests_that_cannot_be(workdir, video, tmp_path, flags, message):
    given = [video if flag == "@" else flag for flag in flags]
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")) as caught:
        draw(workdir, tmp_path / "out", "--num", 1, *given)
    assert "\n" not in str(caught.value)


def test_a_gap_needs_frames(whole, video, tmp_path):
    flags = ("--between", video, video, "--given_frames", 2)
    with pytest.raises(ConfigError, match="3 latent frames leave no gap between the given"):
        draw(whole, tmp_path / "out", "--num", 1, *flags)


@pytest.mark.parametrize(
    "flags",
    [
        ("--mask", "box:0,0,4,4", "--frames", "@"),
        ("--between", "@", "@"),
        ("--refinements", "2"),
    ],
)
def test_a_model_without_the_channel_says_why(video, tmp_path, flags):
    plain = make(tmp_path / "run", generator__draft="False")
    given = [video if flag == "@" else flag for flag in flags]
    with pytest.raises(ConfigError, match="no draft channel: train with --config.generator.draft"):
        draw(plain, tmp_path / "out", "--num", 1, *given)


def test_masks_of_arrays(workdir):
    config = read_config(workdir)
    mask = np.zeros((16, 16), bool)
    assert read_mask(config, mask).shape == (5, 16, 16)
    for wrong in (mask.astype(np.uint8), mask[:8], np.zeros((4, 16, 16), bool)):
        with pytest.raises(ConfigError, match=r"mask: .*; give bool \[16, 16\] or \[5, 16, 16\]"):
            read_mask(config, wrong)


def test_evaluations_draw_as_they_are_told(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "EACH", 1)
    passes, scores = {}, {}
    command = ["--workdir", str(workdir), "--protocol", "moving-shapes"]
    for name, flags in {
        "plain": (),
        "refined": ("--config.sampling.refinements=3", "--config.sampling.commit=order"),
    }.items():
        out = tmp_path / f"{name}.json"
        evaluate.main([*command, "--clips", "4", "--out", str(out), *flags])
        report = json.loads(out.read_text())
        passes[name], scores[name] = report["generated"]["passes"], report["scores"]
        assert report["sampling"]["refinements"] == (3 if flags else 1)
    assert passes["refined"] != passes["plain"]
    assert scores["plain"]["bits_per_token"] == scores["refined"]["bits_per_token"]
    assert scores["plain"]["draft_bits_per_token"] > 0
    with pytest.raises(ConfigError, match="sampling.refinement"):
        evaluate.main([*command, "--config.sampling.refinement=3"])
