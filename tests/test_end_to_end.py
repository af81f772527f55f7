# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Train, rerun, sample, continue a video, evaluate: the files are there and can be read back.

In the slow set the same with several data sets, the best checkpoint, and an early end.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nbp import evaluate, sample, train
from nbp.data.video.decode import probe_video, read_clip
from tests import tiny
from tests.data.videos import encode, make_clip

CHANGES = {
    "train.evaluate_every": "4",
    "train.preview_every": "4",
    "evaluation.protocol": "moving-shapes",
    "evaluation.samples": "2",
    "train.tokenizer.optimizer": "muon",
    "train.generator.optimizer": "muon",
    # Few passes and no filters where nothing else is asked for: programs that are quick to compile.
    "generator.block": "frame",
    "generator.opening_blocks": "1",
    "sampling.top_p": "1",
    "sampling.guidance": "0",
}


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf8") as file:
        return list(csv.DictReader(file))


def check_samples(folder: Path, count: int) -> np.ndarray:
    """Reads back all that a sampling leaves; returns the clips."""
    with np.load(folder / "samples.npz") as arrays:
        assert set(arrays) == {"videos", "tokens"}
        videos, tokens = arrays["videos"], arrays["tokens"]
    assert (videos.dtype, videos.shape) == (np.uint8, (count, 5, 16, 16, 3))
    assert (tokens.dtype, tokens.shape) == (np.int32, (count, 3, 4, 4))
    assert tokens.min() >= 0
    assert tokens.max() < 16
    files = sorted(folder.glob("*.mp4"))
    assert len(files) == count
    for path, video in zip(files, videos, strict=True):
        info = probe_video(path)
        assert (info.frames, info.height, info.width) == (5, 16, 16)
        decoded = read_clip(path, frames=5, fps=None, start=0.0)
        assert np.abs(decoded.astype(int) - video).mean() < 24  # lossy, at 16 pixels
    with Image.open(folder / "grid.gif") as image:
        assert getattr(image, "n_frames", 1) == 5
    return videos


def test_from_training_to_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workdir = tmp_path / "run"
    command = ["--config", tiny.CONFIG, "--workdir", str(workdir), *tiny.flags(CHANGES)]
    train.main(command)
    for stage in ("tokenizer", "generator"):
        assert {p.name for p in (workdir / stage / "checkpoints").iterdir() if p.is_dir()} >= {"4"}
        rows = read_rows(workdir / stage / "metrics.csv")
        assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
        assert all(np.isfinite(float(row["loss"])) for row in rows)
        assert list((workdir / stage).glob("events.out.tfevents*"))
        (preview,) = (workdir / stage / "previews").glob("*.gif")
        with Image.open(preview) as image:
            assert getattr(image, "n_frames", 1) == 5
        with Image.open(workdir / "report" / f"{stage}_curves.png") as image:
            assert image.format == "PNG"
            assert min(image.size) > 200
    check_samples(workdir / "samples", 2)
    report = json.loads((workdir / "report" / "moving-shapes.json").read_text())
    assert report["protocol"]["name"] == "moving-shapes"
    page = (workdir / "report" / "index.html").read_text()
    assert all(f'id="{name}"' in page for name in ("scores", "clips", "frames", "training"))
    assert report["held_out_clips"] == 8
    assert {"psnr", "ssim", "bits_per_token", "unigram_bits", "label_agreement"} <= set(
        report["scores"]
    )
    assert report["checkpoints"]["generator_step"] == 4

    # The same command again has nothing to do and changes nothing.
    def stamps() -> dict[str, int]:
        files = (p for p in workdir.rglob("*") if p.is_file())
        return {
            str(p): p.stat().st_mtime_ns
            for p in files
            if p.suffix in (".npz", ".mp4", ".gif", ".csv")
            or ("checkpoints" in p.parts and p.name != ".lock")
        }

    before = stamps()
    capsys.readouterr()
    train.main(command)
    assert capsys.readouterr().out.count("already trained for 4 of 4 steps") == 2
    assert stamps() == before

    # Clips of one label; the same seed gives the same clips, another seed others.
    labels = json.loads((workdir / "labels.json").read_text())

    def draw(name: str, *arguments: str) -> np.ndarray:
        out = tmp_path / name
        sample.main(["--workdir", str(workdir), "--num", "2", "--out", str(out), *arguments])
        return check_samples(out, 2)

    first = draw("labelled", "--label", labels[1], "--seed", "3", "--top_k", "8")
    slug = labels[1].replace(" ", "-")
    assert sorted(p.name for p in (tmp_path / "labelled").glob("*.mp4")) == [
        f"0000-{slug}.mp4",
        f"0001-{slug}.mp4",
    ]
    np.testing.assert_array_equal(
        first, draw("again", "--label", "1", "--seed", "3", "--top_k", "8")
    )
    assert (first != draw("other", "--label", "1", "--seed", "4", "--top_k", "8")).any()
    sure = draw("sure", "--label", "1", "--top_k", "1")
    capsys.readouterr()
    ahead = draw("ahead", "--label", "1", "--top_k", "1", "--decoding", "jacobi", "--window", "2")
    np.testing.assert_array_equal(ahead, sure)
    assert "passes per clip on average; the plan has" in capsys.readouterr().out

    # A video continued: both clips begin with its first latent frame.
    video = tmp_path / "labelled" / f"0000-{slug}.mp4"
    continued = draw("continued", "--frames", str(video))
    np.testing.assert_array_equal(continued[0, 0], continued[1, 0])
    with np.load(tmp_path / "continued" / "samples.npz") as arrays:
        np.testing.assert_array_equal(arrays["tokens"][0, 0], arrays["tokens"][1, 0])

    # An evaluation to a file of its own.
    out = tmp_path / "scores.json"
    capsys.readouterr()
    arguments = ["--protocol", "moving-shapes", "--clips", "4", "--out", str(out)]
    evaluate.main(["--workdir", str(workdir), *arguments])
    printed = capsys.readouterr().out
    scores = json.loads(out.read_text())["scores"]
    assert all(name in printed for name in scores)
    assert scores["psnr"] == pytest.approx(report["scores"]["psnr"])
    assert json.loads(out.read_text())["generated"]["clips"] == 4


@pytest.mark.slow
def test_two_sets_in_balance_and_the_best_of_a_run_that_ends_early(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label, count in (("waves", 5), ("ripples", 1)):
        for i in range(count):
            encode(tmp_path / "videos" / label / f"{i}.avi", make_clip(8, 20, 24, seed=i))
    workdir = tmp_path / "run"
    changes = CHANGES | {
        "data.mix": str(({"kind": "folder", "root": str(tmp_path / "videos"), "weight": 0.5},)),
        "data.balance": "True",
        "train.evaluate_every": "1",
        "train.preview_every": "0",
        "train.checkpoint_every": "100",
        "train.tokenizer.steps": "40",
        "train.tokenizer.keep_best": "validation/psnr",
        "train.tokenizer.early_stop": "3",
        # Too large a step: the loss rises at once.
        "train.generator.steps": "40",
        "train.generator.optimizer": "adamw",
        "train.generator.learning_rate": "3",
        "train.generator.keep_best": "validation/loss",
        "train.generator.early_stop": "2",
        "evaluation.samples": "0",
        "evaluation.protocol": "",
    }
    command = ["--config", tiny.CONFIG, "--workdir", str(workdir), *tiny.flags(changes)]
    train.main(command)
    told = capsys.readouterr().out
    assert "clips: 66.7% of moving shapes (1,000,000), 33.3% of " in told
    labels = json.loads((workdir / "labels.json").read_text())
    assert labels[-2:] == ["ripples", "waves"]
    rows = read_rows(workdir / "generator" / "metrics.csv")
    losses = [float(row["validation/loss"]) for row in rows]
    best = 1 + int(np.argmin(losses))
    assert len(losses) == best + 2 < 40, "two evaluations without a better one"
    assert f"ends early: validation/loss was {losses[best - 1]:.6g} at step {best}" in told
    steps = {p.name for p in (workdir / "generator" / "checkpoints").iterdir() if p.is_dir()}
    assert steps >= {str(best), str(best + 2)}
    capsys.readouterr()
    train.main(command)  # the same again says so, of both stages that ended
    assert "already trained for" in capsys.readouterr().out

    def draw(name: str, *flags: str) -> np.ndarray:
        out = tmp_path / name
        sample.main(["--workdir", str(workdir), "--num", "2", "--out", str(out), *flags])
        return check_samples(out, 2)

    chosen = draw("best", "--checkpoint", "best", "--label", "ripples")
    named = draw("named", "--checkpoint", str(best), "--label", "ripples")
    np.testing.assert_array_equal(chosen, named)
    assert (chosen != draw("latest", "--label", "ripples")).any()
    out = tmp_path / "scores.json"
    arguments = ["--protocol", "moving-shapes", "--clips", "4", "--out", str(out)]
    evaluate.main(["--workdir", str(workdir), "--checkpoint", "best", *arguments])
    report = json.loads(out.read_text())
    assert report["checkpoints"]["generator_step"] == best
    assert report["scores"]["loss"] == pytest.approx(losses[best - 1], rel=1e-3)
