# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Every published protocol from prepared clips to its report, on models of random weights."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbp.evaluate import evaluate_workdir
from nbp.evaluation import gallery
from nbp.evaluation.result import EvaluationResult
from nbp.evaluation.setup import EvaluateRequest, EvaluationSetup
from nbp.protocols.clip_lists import draw_clips
from nbp.protocols.published import PUBLISHED
from tests.evaluated import (
    SMALL_SETUP,
    add_generator,
    make_prepared,
    make_workdir,
    shrink_protocol,
)

SMALLER = {protocol.name: shrink_protocol(protocol) for protocol in PUBLISHED}
FAST = ("magvit-ucf", "larp-ucf")
NAMES = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in SMALLER]


SETUP = dataclasses.replace(SMALL_SETUP, protocols=SMALLER)


def make_run(folder: Path, kind: str, **changes: str) -> Path:
    splits = {"train": 6, "test": 3} if kind == "ucf101" else {"train": 6, "validation": 6}
    data = make_prepared(folder / "data", splits, kind=kind)
    keys = {"data.kind": "records", "data.root": str(data), "data.frames": "11", "data.size": "16"}
    # Few passes and no filters: programs that are quick to compile.
    keys |= {"generator.block": "frame", "generator.opening": "bov", "sampling.top_p": "1"}
    keys |= {"generator.opening_blocks": "1", "sampling.guidance": "0"}
    return add_generator(make_workdir(folder / "run", {**keys, **changes}))


@pytest.fixture(autouse=True)
def few_clips_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording two dozen clips for the page takes longer than scoring them."""
    monkeypatch.setattr(gallery, "EACH", 1)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("a"), "ucf101", **{"generator.prompt": "label"})


@pytest.fixture(scope="module")
def predicting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = {"generator.prompt": "none", "generator.opening": "prefix"}
    return make_run(tmp_path_factory.mktemp("b"), "k600", **changes)


def evaluate(
    workdir: Path, name: str, *, setup: EvaluationSetup = SETUP, cache: Path | None = None
) -> dict[str, Any]:
    request = EvaluateRequest(workdir, name, features="random-i3d", setup=setup, cache=cache)
    result = evaluate_workdir(request, lambda text: None)
    report = json.loads(json.dumps(result.to_json()))
    again = EvaluationResult.from_json(report)
    assert json.dumps(again.to_json()) == json.dumps(report)
    return report


@pytest.mark.parametrize("name", NAMES)
def test_every_published_protocol_runs_end_to_end(
    name: str, request: pytest.FixtureRequest
) -> None:
    protocol = SMALLER[name]
    workdir = request.getfixturevalue("predicting" if name.endswith("k600") else "labelled")
    report = evaluate(workdir, name)
    assert report["protocol"]["version"] == 2
    expected = ("random-i3d", "stored as H.264")  # neither is about which clips are there
    incomplete = [t for t in report["deviations"] if not any(word in t for word in expected)]
    small_test_split = protocol.reconstruction and protocol.clips[0].split == "test"
    assert bool(incomplete) == small_test_split  # three of "six" videos
    score = "rfvd" if protocol.reconstruction else "fvd"
    ending = "_3" if small_test_split else ""
    assert np.isfinite(report["scores"][f"{score}_random_features{ending}"])
    if protocol.generation is not None:
        assert report["generated"]["clips"] == protocol.generation.clips
        assert [row["seed"] for row in report["repeats"]] == [
            protocol.seed + i for i in range(protocol.repeats)
        ]
    if name == "magvit-ucf":
        check_repeats(report)


def check_repeats(report: dict[str, Any]) -> None:
    """Each repeat has real clips of its own, and the deviation is divided by their number."""
    repeats = report["repeats"]
    assert len({row["real"] for row in repeats}) == 4
    values = [row["value"] for row in repeats]
    scores = report["scores"]
    assert scores["fvd_random_features"] == pytest.approx(np.mean(values))
    assert scores["fvd_random_features_std"] == pytest.approx(np.std(values))
    rule = SMALLER["magvit-ucf"].clips[0]
    labels = draw_clips(rule, 6, 0).rows % 2
    counts = {row["label"]: row["count"] for row in report["per_class"]}
    assert counts == {"one": int((labels == 0).sum()), "two": int((labels == 1).sum())}


@pytest.mark.slow
def test_repeats_with_other_clips_go_on_where_they_stopped(labelled: Path) -> None:
    """Folders of each repeat are found again, those of one that is missing are made anew."""
    two = dataclasses.replace(SMALLER["magvit-ucf"], repeats=2)
    setup = dataclasses.replace(SMALL_SETUP, protocols={**SMALLER, "magvit-ucf": two})
    first = evaluate(labelled, "magvit-ucf", setup=setup, cache=labelled.parent / "cache")
    folders = sorted((labelled.parent / "cache").iterdir())
    assert [folder.name.split("-")[0] for folder in folders] == ["generated"] * 2 + ["real"] * 2
    folders[1].joinpath("000000.npz").unlink()
    folders[3].joinpath("000000.npz").unlink()
    again = evaluate(labelled, "magvit-ucf", setup=setup, cache=labelled.parent / "cache")
    assert sorted((labelled.parent / "cache").iterdir()) == folders
    assert again["scores"] == first["scores"]
    assert again["repeats"] == first["repeats"]
