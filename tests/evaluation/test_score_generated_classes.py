# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`nbp.evaluate --c3d`: the Inception score of generated clips, by C3D of random weights."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from nbp import build_sampling, evaluate
from nbp.build_sampling import make_sampling
from nbp.errors import run_main
from nbp.evaluation.generation import ClipScorer, Made, finish_clips
from nbp.evaluation.score_generated import score_probabilities
from nbp.evaluation.setup import EvaluationSetup
from nbp.metrics.inception_score import ClassProbabilities, inception_score, score_classes
from nbp.models.c3d import C3dNetwork, C3dSpec
from nbp.nn.conv3d import taps_conv
from nbp.protocols import PROTOCOLS
from nbp.protocols.protocol import GenerationRule
from nbp.workdir import read_config, read_labels
from tests.evaluated import add_generator, make_workdir, save_params

SPEC = C3dSpec(classes=5, widths=(2, 2, 2, 2, 3), hidden=4, size=16, resized=(18, 20))
NETWORK = C3dNetwork(SPEC, taps_conv)


def make_params() -> Any:
    params = NETWORK.init(jax.random.key(2))
    params["fc8"] = jax.tree.map(lambda leaf: leaf * 0.01, params["fc8"])  # undecided
    return params


def test_a_chunk_holds_the_probabilities_of_the_scored_clips() -> None:
    """At the protocol's size, not at the model's."""
    classes = ClassProbabilities(NETWORK, make_params())
    rng = np.random.default_rng(0)
    videos = rng.integers(0, 256, (2, 16, 20, 20, 3), dtype=np.uint8)
    made = Made(videos, np.zeros((2, 1, 1, 1), int), np.array([0, 1]), np.zeros(2))
    rule = GenerationRule(2)
    measure = ClipScorer(rule, size=24, codes=1, classes=classes)
    rows = measure(np.arange(1, 3), made)["classes"]
    scaled = finish_clips(made, rule, size=24, pixels=0)
    np.testing.assert_allclose(rows, classes(scaled), rtol=1e-5)
    assert np.abs(rows - classes(videos)).max() > 1e-4
    assert "classes" not in ClipScorer(rule, size=24, codes=1)(np.arange(1, 3), made)


def test_inception_scores_of_repeats_are_averaged_as_the_protocol_says() -> None:
    """magvit-ucf: one part of each repeat's clips, the deviation over repeats divided by n."""
    rng = np.random.default_rng(0)
    sets = [rng.dirichlet(np.full(5, 0.3), 30) for _ in range(4)]
    values = [inception_score(rows, splits=1).value for rows in sets]
    assert score_probabilities(sets, PROTOCOLS["magvit-ucf"], name="x") == {
        "x": pytest.approx(np.mean(values)),
        "x_std": pytest.approx(np.std(values)),
    }
    assert set(score_probabilities(sets[:1], PROTOCOLS["nbp-ucf"], name="x")) == {
        f"x_parts_{parts}{ending}" for parts in (1, 10) for ending in ("", "_std")
    }


@pytest.mark.slow
def test_the_inception_score_is_that_of_all_clips_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = EvaluationSetup(c3d=lambda: NETWORK, chunk=8)
    main = functools.partial(evaluate.main, setup=setup)
    params = make_params()
    save_params(tmp_path, "c3d", params)
    (tmp_path / "c3d" / "converted.json").write_text('{"file": "c3d.pth", "sha256": "ab"}')
    changes = {
        "data.size": "16",
        "data.validation_clips": "3",
        "data.frames": "17",
        "generator.prompt": "label",
    }
    workdir = add_generator(make_workdir(tmp_path / "run", changes))
    out = tmp_path / "scores.json"
    asked = ["--workdir", str(workdir), "--protocol", "moving-shapes", "--out", str(out)]
    asked += ["--c3d", str(tmp_path), "--clips"]
    with pytest.raises(SystemExit):
        run_main(main, [*asked, "9"])
    assert "an inception score needs at least 10 generated clips" in capsys.readouterr().err
    main([*asked, "21"])
    report = json.loads(out.read_text())
    config = read_config(workdir)
    sampling = make_sampling(config)
    names = read_labels(workdir)
    sampler, _ = build_sampling.load_sampler(config, workdir, labels=names, sampling=sampling)
    labels = [i % len(names) for i in range(21)]
    made = sampler.sample(21, seed=0, labels=labels)
    rows = ClassProbabilities(NETWORK, params)(made.videos)
    want = score_classes(rows, name="inception_score_21")
    found = {name: report["scores"][name] for name in want}
    assert found == pytest.approx(want, rel=1e-5)
    assert found["inception_score_21_parts_1"] > 1
    assert found["inception_score_21_parts_10"] > 1
    assert report["c3d"] == {"file": "c3d.pth", "sha256": "ab"}
