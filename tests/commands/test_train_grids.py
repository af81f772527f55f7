# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""One run on clips of two sizes: measured in each, resumed exactly, scored at another."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from nbp import build, evaluate, train
from nbp.data.buckets import BucketStream
from nbp.encode import EncodeRequest, encode_workdir
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


@pytest.mark.slow
def test_both_grids_are_measured(workdir: Path) -> None:
    row = read_rows(workdir, "generator")[4]
    for name in ("bits_per_token", "bits_3x16x24_clips"):
        assert 0 < float(row[f"validation/{name}"]) < 20
    row = read_rows(workdir, "tokenizer")[4]
    assert float(row["validation/psnr_3x16x24_clips"]) != float(row["validation/psnr"])
    rows = read_rows(workdir, "generator").values()
    # A clip has 48 tokens in both; updates have 8, 4, 4, 8 clips.
    shares = [float(row["tokens_per_s"]) / float(row["clips_per_s"]) for row in rows]
    np.testing.assert_allclose(shares, 48.0, rtol=1e-4)
    clips = [float(row["clips_per_s"]) * float(row["step_time_s"]) for row in rows]
    np.testing.assert_allclose(clips, [8, 4, 4, 8], rtol=1e-4)


@pytest.mark.slow
def test_a_run_that_is_broken_off_ends_with_the_same_bits(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, broken = BucketStream.__next__, []

    def break_off(stream: BucketStream) -> Any:
        batch = stream.streams[1].spec.batch  # 8 of the tokenizer, 4 of the generator
        if stream.position == 3 and batch not in broken:
            broken.append(batch)
            raise OSError("the machine is gone")
        return draw(stream)

    monkeypatch.setattr(BucketStream, "__next__", break_off)
    for _ in range(2):
        with pytest.raises(OSError, match="the machine is gone"):
            run(tmp_path / "run", train__evaluate_every="0")
    run(tmp_path / "run", train__evaluate_every="0")
    assert broken == [8, 4]
    for name in ("tokenizer", "generator"):
        ours, theirs = read_state(tmp_path / "run", name), read_state(workdir, name)
        for a, b in zip(jax.tree.leaves(ours.state), jax.tree.leaves(theirs.state), strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
        assert ours.data["next"] == theirs.data["next"] == 32
        assert ours.data["fingerprint"] == theirs.data["fingerprint"]


@pytest.mark.slow
def test_other_shares_are_other_data(workdir: Path) -> None:
    with pytest.raises(CheckpointError, match="the data differ from those before"):
        run(workdir, data__grid_shares="(0.25,)", train__generator__steps="5")


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_token_cache_of_each_grid(workdir: Path, tmp_path: Path) -> None:
    clips = {"data.moving_shapes.train_clips": "12", "data.validation_clips": "8"}
    request = EncodeRequest(workdir, tmp_path / "cache", overrides=clips)
    encode_workdir(request, report=lambda line: None)
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "generator")
    tokens = {"data.kind": "tokens", "data.root": str(tmp_path / "cache")}
    run(tmp_path / "run", **clips, **tokens, stages="('generator',)")
    row = read_rows(tmp_path / "run", "generator")[4]
    assert 0 < float(row["validation/bits_3x16x24_clips"]) < 20
