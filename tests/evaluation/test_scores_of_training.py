# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The scores that `keep_best` accepts are those that evaluations during training give."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import pytest

from nbp import build, build_data
from nbp.config import load_config
from nbp.config.schema import Config, StageName
from nbp.config.validation import LPIPS_LEAST, SSIM_LEAST, list_scores
from nbp.encode import EncodeRequest, encode_workdir
from nbp.evaluation import during_training
from nbp.evaluation.during_training import PeriodicScore, Validation
from nbp.metrics import psnr_ssim
from nbp.metrics.score_table import find_score
from nbp.models import lpips
from nbp.stages import STAGES
from nbp.train_plan import make_best_spec
from nbp.training.metrics import MetricsWriter
from tests import tiny
from tests.data.prepared import make_records
from tests.data.videos import encode, make_clip
from tests.evaluated import SMALL_SETUP, make_workdir
from tests.metrics.test_score_table import ZeroLpips

CHANGES = {
    "train.evaluate_every": "2",
    "train.tokenizer.ema": "0",
    "train.generator.ema": "0",
    "data.validation_clips": "4",
}
SCORED = {"evaluation.every": "2", "evaluation.every_clips": "2", "data.frames": "9"}
MORE = {  # all that adds scores of the generator
    "generator.draft": "True",
    "generator.blocks": "('frame',)",
    "generator.positions": "rotary",
    "generator.width": "24",
    "generator.opening_blocks": "1",
    "data.grids": "((5, 16, 24),)",
}


def make_folder(root: Path) -> Mapping[str, str]:
    for i in range(4):
        encode(root / ("one", "two")[i % 2] / f"{i}.avi", make_clip(12, 20, 24, seed=i))
    return {"data.kind": "folder", "data.root": str(root), "data.validation": "0"}


def make_prepared(root: Path) -> Mapping[str, str]:
    make_records(root, {"train": 4, "test": 3}, frames=12)
    return {"data.kind": "records", "data.root": str(root)}


def make_tokens(root: Path) -> Mapping[str, str]:
    workdir = make_workdir(root / "run", {"data.moving_shapes.train_clips": "4", **CHANGES})
    encode_workdir(EncodeRequest(workdir, root / "cache"), report=lambda line: None)
    return {"data.kind": "tokens", "data.root": str(root / "cache"), "stages": "('generator',)"}


# Of each kind of data: how it is made, and further keys of the configuration.
KINDS: dict[str, tuple[Callable[[Path], Mapping[str, str]], Mapping[str, str]]] = {
    "moving_shapes": (lambda root: {}, SCORED),
    "folder": (make_folder, SCORED),
    "records": (make_prepared, {**SCORED, "generator.head": "joint", "data.size": "8"}),
    "tokens": (make_tokens, {}),
    "more": (lambda root: {}, MORE),
}


def measure(config: Config, stage: StageName, workdir: Path) -> set[str]:
    """The names of what the evaluators of a stage give of a new state, as the loop calls them."""
    record, (_, held_out) = STAGES[stage], build_data.make_data(config)
    params = {}
    if record.follows:
        params = jax.jit(build.make_tokenizer_network(config).init)(jax.random.key(0))
    task = record.make_task(config, held_out.label_names, params)
    score = None
    if config.evaluation.every:
        score = PeriodicScore(config, workdir, held_out.label_names, setup=SMALL_SETUP)
    made = record.make_evaluators(config, task, Validation(config, held_out), params, score)
    state = jax.jit(task.init)(jax.random.key(0))
    with MetricsWriter(workdir / stage, name=stage) as writer:
        evaluators = made.make(writer)
    found = {f"{e.name}/{name}": value for e in evaluators for name, value in e.run(state).items()}
    assert all(isinstance(value, float) for value in found.values())
    return set(found)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] * (kind in ("folder", "records", "tokens")))
        for kind in KINDS
    ],
)
def test_what_is_accepted_is_measured_and_the_reverse(kind: str, tmp_path: Path) -> None:
    make, changes = KINDS[kind]
    keys = {**tiny.OVERRIDES, **CHANGES, **changes, **make(tmp_path / "data")}
    config = load_config(tiny.CONFIG, keys)
    for stage in config.stages:
        measured = measure(config, stage, tmp_path / "run")
        better = {name for name in measured if find_score(name.rpartition("/")[2]).better}
        # FVD has the features and the number of clips in its name.
        fvd = {name for name in better if name.startswith("evaluation/fvd_random_features_2")}
        if fvd:
            better = better - fvd | {"evaluation/fvd"}
        assert set(list_scores(config, stage)) == better
        for name in list_scores(config, stage):  # and training takes it
            best = {**keys, f"train.{stage}.keep_best": name, f"train.{stage}.early_stop": "1"}
            spec = make_best_spec(getattr(load_config(tiny.CONFIG, best).train, stage))
            assert spec is not None
            assert spec.find(dict.fromkeys(measured, 1.0)) == 1.0


def test_lpips_is_accepted_where_its_weights_are(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(during_training, "LpipsScorer", ZeroLpips)
    monkeypatch.setattr(build, "load_lpips", lambda *_: {})
    keys = {**tiny.OVERRIDES, **CHANGES, "stages": "('tokenizer',)"}
    for width, there in (("16", True), ("8", False)):
        more = {"data.width": width, "losses.lpips_root": "somewhere"}
        config = load_config(tiny.CONFIG, {**keys, **more})
        measured = measure(config, "tokenizer", tmp_path / width)
        assert ("validation/lpips" in measured) == there
        assert ("validation/lpips" in list_scores(config, "tokenizer")) == there
        assert ("validation/ssim" in list_scores(config, "tokenizer")) == there


def test_least_sides_are_those_of_the_scores() -> None:
    assert (SSIM_LEAST, LPIPS_LEAST) == (psnr_ssim.SSIM_LEAST, lpips.LEAST_SIZE)
