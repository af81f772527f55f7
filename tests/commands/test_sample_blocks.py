# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""One trained run drawn, scored and adapted in several blocks, through the commands."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbp
from nbp import evaluate, sample, train
from nbp.errors import ConfigError
from nbp.evaluation import gallery
from tests import tiny


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blocks") / "run"
    changes = {
        "generator.blocks": "('frame', 'token')",
        "generator.opening_blocks": "1",
        "train.evaluate_every": "4",
        "sampling.guidance": "0",
        "sampling.top_p": "1",
    }
    train.main(["--config", tiny.CONFIG, "--workdir", str(folder), *tiny.flags(changes)])
    return folder


def draw(workdir: Path, out: Path, *flags: str) -> np.ndarray:
    sample.main(["--workdir", str(workdir), "--num", "2", "--out", str(out), *flags])
    with np.load(out / "samples.npz") as file:
        return file["videos"]


def test_clips_in_each_block(workdir, tmp_path, capsys):
    passes, run = {}, nbp.load(workdir)
    for block in ("row", "frame", "token"):
        drawn = draw(workdir, tmp_path / block, "--block", block)
        passes[block] = float(capsys.readouterr().out.split(" passes per clip")[0].split()[-1])
        np.testing.assert_array_equal(run.sample(num=2, block=block), drawn)
    assert passes == {"row": 15.0, "frame": 18.0, "token": 48.0}
    by_sides = draw(workdir, tmp_path / "sides", "--block", "1,4,4")
    np.testing.assert_array_equal(by_sides, drawn_frame(tmp_path))
    plain = draw(workdir, tmp_path / "plain")
    with np.load(tmp_path / "row" / "samples.npz") as file:
        np.testing.assert_array_equal(plain, file["videos"])


def test_rows_draft_and_tokens_check(workdir, tmp_path, capsys):
    drawn = draw(workdir, tmp_path / "drafted", "--decoding", "self_speculative")
    passes = float(capsys.readouterr().out.split(" passes per clip")[0].split()[-1])
    assert 4 + 1 + 2 * 11 <= passes <= 4 + 1 + 5 * 11 + 1  # the first row by tokens
    run = nbp.load(workdir)
    np.testing.assert_array_equal(run.sample(num=2, decoding="self_speculative"), drawn)
    frames = run.sample(num=2, decoding="self_speculative", block="frame")
    assert np.any(frames != drawn)
    greedy: dict[str, Any] = {"num": 2, "top_k": 1}
    np.testing.assert_array_equal(
        run.sample(decoding="self_speculative", **greedy), run.sample(block="token", **greedy)
    )


def drawn_frame(tmp_path: Path) -> np.ndarray:
    with np.load(tmp_path / "frame" / "samples.npz") as file:
        return file["videos"]


def test_a_block_that_was_not_learned_is_refused(workdir, tmp_path):
    with pytest.raises(
        ConfigError, match=r"block \(1, 2, 2\).*row, frame, token.*generator.blocks"
    ):
        draw(workdir, tmp_path / "out", "--block", "1,2,2")
    assert not (tmp_path / "out").exists()


def test_scores_in_each_block(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "EACH", 1)
    found = {}
    for block in ("row", "token"):
        out = tmp_path / f"{block}.json"
        flags = ["--workdir", str(workdir), "--protocol", "moving-shapes", "--clips", "4"]
        evaluate.main([*flags, f"--config.sampling.block={block}", "--out", str(out)])
        found[block] = json.loads(out.read_text())
    rows, tokens = (found[block]["scores"] for block in ("row", "token"))
    assert rows["bits_token_blocks"] == pytest.approx(tokens["bits_per_token"], rel=1e-5)
    assert tokens["bits_row_blocks"] == pytest.approx(rows["bits_per_token"], rel=1e-5)
    assert found["row"]["generation"]["passes"] == 15
    assert found["token"]["generation"]["passes"] == 48
    plan = found["token"]["token_bits"]["plan"]
    assert plan["block"] == [1, 1, 1]
    assert np.mean(found["token"]["token_bits"]["bits"]) == pytest.approx(
        tokens["bits_per_token"], rel=1e-5
    )


def test_validation_tells_the_bits_of_each_block_and_frame(workdir):
    header = (workdir / "generator" / "metrics.csv").read_text().splitlines()[0].split(",")
    names = ("bits_token_blocks", "bits_frame_blocks", "bits_self_drawn", "bits_frame_2")
    assert {f"validation/{name}" for name in names} <= set(header)


def test_a_model_of_rows_goes_on_with_frames(workdir, tmp_path, capsys):
    """As docs/blocks.md says: another workdir, the same tokenizer, the generator's weights."""
    out = tmp_path / "frames"
    out.mkdir()
    shutil.copytree(workdir / "tokenizer", out / "tokenizer")
    changes = {"generator.block": "frame", "train.generator.start_from": str(workdir)}
    changes |= {"stages": "('generator',)", "train.generator.steps": "2"}
    changes |= {"generator.opening_blocks": "1", "sampling.guidance": "0", "sampling.top_p": "1"}
    train.main(["--config", tiny.CONFIG, "--workdir", str(out), *tiny.flags(changes)])
    assert "[generator] started from" in capsys.readouterr().out
    assert draw(out, tmp_path / "drawn").shape[0] == 2
