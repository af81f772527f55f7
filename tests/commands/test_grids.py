# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""One run on clips of two sizes through the commands: trained, broken off, drawn and scored."""

import csv
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import nbp
from nbp import build, evaluate, sample, train
from nbp.data.buckets import BucketStream
from nbp.errors import CheckpointError, ConfigError
from nbp.training.checkpoint import Checkpointer
from nbp.workdir import read_config, read_labels
from tests import tiny

# The first four updates are of the main clips, twice of the further ones, and of the main ones.
CHANGES = {
    "data.grids": "((3, 16, 24),)",
    "generator.positions": "rotary",
    "generator.opening_blocks": "1",
    "train.evaluate_every": "4",
    "train.tokenizer.ema": "0",
    "train.generator.ema": "0",
    "train.generator.grid_batches": "(4,)",
    "sampling.top_p": "1",
    "sampling.guidance": "0",
}


def run(workdir: Path, **changes: str) -> Path:
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    flags = tiny.flags({**CHANGES, **keys})
    train.main(["--config", tiny.CONFIG, "--workdir", str(workdir), *flags])
    return workdir


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("grids") / "run")


def read_state(workdir: Path, stage: str) -> Any:
    """The final checkpoint: everything, and the position in the data."""
    config = read_config(workdir)
    task = build.make_tokenizer_task(config)
    if stage == "generator":
        params = jax.eval_shape(task.network.init, jax.random.key(0))
        task = build.make_generator_task(config, read_labels(workdir), params)
    template = jax.eval_shape(task.init, jax.random.key(0))
    with Checkpointer(workdir / stage / "checkpoints", read_only=True) as checkpointer:
        return checkpointer.restore(template, step=4)


def read_rows(workdir: Path, stage: str) -> dict[int, dict[str, str]]:
    with (workdir / stage / "metrics.csv").open() as file:
        return {int(row["step"]): row for row in csv.DictReader(file)}


def test_both_grids_are_measured(workdir: Path) -> None:
    row = read_rows(workdir, "generator")[4]
    for name in ("bits_per_token", "bits_3x16x24_clips"):
        assert 0 < float(row[f"validation/{name}"]) < 20
    row = read_rows(workdir, "tokenizer")[4]
    assert float(row["validation/psnr_3x16x24_clips"]) != float(row["validation/psnr"])
    rows = read_rows(workdir, "generator").values()
    shares = {float(row["tokens_per_s"]) / float(row["clips_per_s"]) for row in rows}
    # Clips of 3x4x4 tokens and of 2x4x6 tokens are as many; those of an update are 8 or 4.
    assert shares == {pytest.approx(48.0, rel=1e-4)}


@pytest.mark.parametrize("stage", ["tokenizer", "generator"])
def test_a_run_that_is_broken_off_ends_with_the_same_bits(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    draw, broken = BucketStream.__next__, []

    def break_off(stream: BucketStream) -> Any:
        wanted = 4 if stage == "generator" else 8
        if stream.position == 3 and stream.streams[1].spec.batch == wanted and not broken:
            broken.append(stage)
            raise OSError("the machine is gone")
        return draw(stream)

    monkeypatch.setattr(BucketStream, "__next__", break_off)
    with pytest.raises(OSError, match="the machine is gone"):
        run(tmp_path / "run", train__evaluate_every="0")
    run(tmp_path / "run", train__evaluate_every="0")
    assert broken == [stage]
    for name in ("tokenizer", "generator"):
        ours, theirs = read_state(tmp_path / "run", name), read_state(workdir, name)
        for a, b in zip(jax.tree.leaves(ours.state), jax.tree.leaves(theirs.state), strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
        assert ours.data["next"] == theirs.data["next"] == 32
        assert ours.data["fingerprint"] == theirs.data["fingerprint"]


def test_other_shares_are_other_data(workdir: Path) -> None:
    with pytest.raises(CheckpointError, match="the data differ from those before"):
        run(workdir, data__grid_shares="(0.25,)", train__generator__steps="5")


def draw(workdir: Path, out: Path, *flags: str) -> dict[str, np.ndarray]:
    sample.main(["--workdir", str(workdir), "--num", "2", "--out", str(out), *flags])
    with np.load(out / "samples.npz") as file:
        return dict(file)


@pytest.mark.parametrize(
    "flags, videos, tokens, notes",
    [
        ((), (5, 16, 16), (3, 4, 4), ()),
        (("--size", "16", "24", "--num_frames", "3"), (3, 16, 24), (2, 4, 6), ()),
        (("--num_frames", "2"), (2, 16, 16), (2, 4, 4), ("3x16x16 is generated and cut to 2x",)),
        (
            ("--size", "18", "--num_frames", "1"),
            (1, 18, 18),
            (1, 5, 5),
            ("1x20x20 is generated and cut to 1x18x18", "warning: 1x18x18 was not trained on"),
        ),
        (("--size", "16", "24", "--num_frames", "8"), (8, 16, 24), (5, 4, 6), ("5x16x24 was not",)),
    ],
    ids=["plain", "trained", "cut", "new", "long"],
)
def test_clips_of_other_sizes_and_lengths(
    workdir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    videos: tuple[int, ...],
    tokens: tuple[int, ...],
    notes: tuple[str, ...],
) -> None:
    found = draw(workdir, tmp_path, *flags)
    assert found["videos"].shape == (2, *videos, 3)
    assert found["tokens"].shape == (2, *tokens)
    told = [line for line in capsys.readouterr().err.splitlines() if "nbp.sample: " in line]
    assert len(told) == len(notes)
    assert all(note in line for note, line in zip(notes, told, strict=True))


def test_the_library_draws_what_the_command_draws(workdir: Path, tmp_path: Path) -> None:
    loaded = nbp.load(workdir)
    with pytest.warns(UserWarning, match="1x20x20 is generated and cut"):
        clips = loaded.sample(num=2, num_frames=1, size=18)
    found = draw(workdir, tmp_path, "--size", "18", "--num_frames", "1")
    np.testing.assert_array_equal(clips, found["videos"])
    given = loaded.sample(num=2, num_frames=3, size=(16, 24), frames=np.zeros((1, 16, 24, 3), "u1"))
    assert given.shape == (2, 3, 16, 24, 3)
    assert loaded.sample(num=1).shape == (1, *loaded.shape)


def test_a_shorter_clip_is_the_beginning_of_a_longer_one(workdir: Path, tmp_path: Path) -> None:
    whole = draw(workdir, tmp_path / "whole")
    short = draw(workdir, tmp_path / "short", "--num_frames", "3")
    np.testing.assert_array_equal(short["tokens"], whole["tokens"][:, :2])
    np.testing.assert_array_equal(short["videos"], whole["videos"][:, :3])


def test_a_protocol_at_another_size(workdir: Path, tmp_path: Path) -> None:
    flags = ["--workdir", str(workdir), "--protocol", "moving-shapes", "--clips", "4"]
    out = tmp_path / "large.json"
    evaluate.main([*flags, "--size", "24", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["token_bits"]["plan"]["grid"] == {"t": 3, "h": 6, "w": 6}
    assert 0 < found["scores"]["bits_per_token"] < 20
    with pytest.raises(ConfigError, match="a protocol scores whole clips, and 5x18x18 would be"):
        evaluate.main([*flags, "--size", "18", "--out", str(out)])
    with pytest.raises(ConfigError, match="protocols score squares: give one side"):
        evaluate.main([*flags, "--size", "16", "24", "--out", str(out)])
