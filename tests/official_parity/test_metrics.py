# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The parity checks of evaluation and data pass on stored reference cases, and notice faults."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from tests.official_parity.metrics import KINDS

FOLDER = Path(__file__).parent.parent / "golden" / "metrics"
CASES = {case["kind"]: case for case in json.loads((FOLDER / "golden.json").read_text())["cases"]}


def load(kind: str):
    case = copy.deepcopy(CASES[kind])
    with np.load(FOLDER / case["file"]) as arrays:
        return case, dict(arrays)


@pytest.mark.parametrize("kind", sorted(CASES))
def test_reference_cases_pass(kind):
    results = KINDS[kind](*load(kind))
    assert results
    assert all(result.passed for result in results), results


@pytest.mark.parametrize(
    "kind, array, change",
    [
        ("frechet", "scipy_sqrtm_f64_3", 0.01),
        ("frechet", "feats_sum_0", 1e-4),
        ("lr_schedule", "toy_acc2_lr", 1e-8),
        ("clip_sampling", "center_1", 1),
        ("clip_sampling", "all_7", 1),
        ("topk_topp_filter", "probs_0", 2e-5),
    ],
)
def test_one_wrong_reference_value_fails(kind, array, change):
    case, arrays = load(kind)
    arrays[array] = arrays[array] + np.asarray(change, arrays[array].dtype)
    assert sum(not result.passed for result in KINDS[kind](case, arrays)) == 1


def test_one_token_more_fails():
    case, arrays = load("topk_topp_filter")
    arrays["keep_5"][0, :2] = True
    failed = [r.name for r in KINDS["topk_topp_filter"](case, arrays) if not r.passed]
    assert failed == ["keep_5"]


@pytest.mark.parametrize("kind", ["clip_sampling", "lr_schedule", "topk_topp_filter"])
@pytest.mark.parametrize("place", ["case", "config", "arrays", "suggested_tolerance", "file"])
def test_unknown_fields_are_errors(kind, place):
    case, arrays = load(kind)
    if place == "case":
        case["news"] = 1
    elif place == "file":
        arrays["news"] = np.zeros(3)
    elif isinstance(case[place], str):
        case[place] = "near"
    else:
        case[place]["news"] = {}
        if place == "arrays":
            arrays["news"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"news|near|arrays|missing"):
        KINDS[kind](case, arrays)


def test_missing_fields_are_errors():
    case, arrays = load("clip_sampling")
    del case["config"]["clips"][0]["fps"]
    with pytest.raises(ValueError, match="'fps' is missing"):
        KINDS["clip_sampling"](case, arrays)
