# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Both stages with LFQ and VQ: trained, resumed from a checkpoint, sampled, encoded, scored."""

import csv
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from nbp import build, encode, evaluate, sample, train
from nbp.config import load_config
from nbp.data.token_cache import open_cache
from nbp.errors import ConfigError
from nbp.training.checkpoint import Checkpointer
from nbp.workdir import read_config
from tests import tiny

KINDS = {
    "lfq": {"tokenizer.quantizer": "lfq", "tokenizer.codes": "8"},
    "vq": {
        "tokenizer.quantizer": "vq",
        "tokenizer.codes": "6",
        "tokenizer.code_channels": "2",
        "train.tokenizer.accumulate": "2",
        "train.tokenizer.batch": "16",
    },
}
FEW = {
    "tokenizer.levels": "()",
    "data.moving_shapes.train_clips": "16",
    "data.validation_clips": "8",
    "train.evaluate_every": "4",
    "train.checkpoint_every": "2",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_everything_works_with_other_quantizers(kind: str, tmp_path: Path) -> None:
    workdir, codes = tmp_path / "run", int(KINDS[kind]["tokenizer.codes"])
    for stages, steps in (("('tokenizer',)", "2"), ("('tokenizer', 'generator')", "4")):
        changes = {**FEW, **KINDS[kind], "stages": stages, "train.tokenizer.steps": steps}
        train.main(["--config", tiny.CONFIG, "--workdir", str(workdir), *tiny.flags(changes)])
    with (workdir / "tokenizer" / "metrics.csv").open(encoding="utf8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    assert {"quantizer", "commitment"} <= set(rows[0])
    assert all(np.isfinite(float(row["quantizer"])) for row in rows)
    assert float(rows[0]["code_usage"]) * codes > 1

    sample.main(["--workdir", str(workdir), "--num", "2", "--out", str(tmp_path / "samples")])
    with np.load(tmp_path / "samples" / "samples.npz") as arrays:
        assert arrays["tokens"].shape == (2, 3, 4, 4)
        assert 0 <= arrays["tokens"].min() <= arrays["tokens"].max() < codes
    if kind == "vq":
        check_cache_and_scores(workdir, tmp_path, codes)
    check_parameters(workdir, kind)


def check_cache_and_scores(workdir: Path, tmp_path: Path, codes: int) -> None:
    encode.main(["--workdir", str(workdir), "--out", str(tmp_path / "cache")])
    cache = open_cache(tmp_path / "cache")
    assert (cache.provenance["codes"], cache.grid) == (codes, (3, 4, 4))
    out = tmp_path / "scores.json"
    evaluate.main(["--workdir", str(workdir), "--protocol", "moving-shapes", "--out", str(out)])
    scores = json.loads(out.read_text())["scores"]
    assert 0 < scores["code_usage"] <= 1
    assert np.isfinite([scores["psnr"], scores["bits_per_token"]]).all()


def check_parameters(workdir: Path, kind: str) -> None:
    config, codes = read_config(workdir), int(KINDS[kind]["tokenizer.codes"])
    assert config.vocabulary(7).size == codes + 7 + config.plan.special_count
    with Checkpointer(workdir / "tokenizer" / "checkpoints", read_only=True) as checkpointer:
        network = build.make_tokenizer_network(config)
        template = jax.eval_shape(network.init, jax.random.key(0))
        params, average = (
            checkpointer.restore_params(template, use_ema=use_ema) for use_ema in (False, True)
        )
    assert ("quantizer" in params) == (kind == "vq")
    jax.tree.map(np.testing.assert_array_equal, params.get("quantizer"), average.get("quantizer"))
    kernels = params["encoder"][0]["kernel"], average["encoder"][0]["kernel"]
    assert not np.array_equal(*kernels)
    if kind == "vq":
        start = jax.jit(network.init)(jax.random.key(0))["quantizer"]
        assert not np.allclose(params["quantizer"]["sums"], start["sums"])


@pytest.mark.parametrize(
    "changes,message",
    [
        (KINDS["lfq"], r"tokenizer: quantizer lfq is made of codes alone, not of levels \(4, 4\)"),
        (KINDS["vq"] | FEW | {"tokenizer.codes": "0"}, "tokenizer: VQ with 0 codes of 2 channels"),
        ({"tokenizer.codes": "8"}, "tokenizer: quantizer fsq is made of levels alone"),
        ({"tokenizer.taps": "1"}, "tokenizer: tokenizer of taps 1 with time stride 2"),
    ],
)
def test_configurations_that_cannot_be(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes})
