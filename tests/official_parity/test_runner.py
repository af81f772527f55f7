# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The parity runner passes on the stored cases, and fails loudly where something is wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.official_parity import weights
from tests.official_parity.__main__ import main
from tests.official_parity.runner import check_case, check_folder, read_cases

GOLDEN = Path(__file__).parent.parent / "golden"
MODELS = GOLDEN / "models"


LONG = ("gpt_sample_cfg_scaled_b4", "train_plain_b4")  # shorter cases have most of the same


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] * (case["name"] in LONG), id=case["name"])
        for case in read_cases(MODELS)
    ],
)
def test_stored_model_cases_pass(case):
    verdict = check_case(MODELS, case)
    assert verdict.passed, verdict


@pytest.mark.parametrize(
    "case, name",
    [
        ("gpt_hybrid_label_b4", "blocks.1.attn.value.weight"),
        ("gpt_hybrid_label_b4", "pos_emb"),
        ("gpt_sample_hybrid_b4", "blocks.0.mlp.2.bias"),
        ("train_plain_b4", "head.weight"),
    ],
)
def test_one_perturbed_weight_fails(case, name, monkeypatch):
    """One tensor larger by a hundredth is noticed (layer norms would remove a constant)."""
    draw = weights.draw_normal
    seen = []

    def perturbed(key, shape):
        seen.append(key)
        return draw(key, shape) * np.float32(1.01 if key == name else 1)

    monkeypatch.setattr(weights, "draw_normal", perturbed)
    (verdict,) = check_folder(MODELS, case)
    assert name in seen
    assert not verdict.passed
    assert not verdict.problem
    assert str(verdict).startswith(f"FAIL  {case} (")


def copy_cases(folder, *, kind=None, format=1):
    shutil.copy(GOLDEN / "metrics" / "frechet.npz", folder / "frechet.npz")
    golden = json.loads((GOLDEN / "metrics" / "golden.json").read_text())
    (case,) = (case for case in golden["cases"] if case["kind"] == "frechet")
    case["kind"] = kind or case["kind"]
    (folder / "golden.json").write_text(json.dumps({"format": format, "cases": [case]}))


def run(folder, monkeypatch):
    monkeypatch.setattr("sys.argv", ["official_parity", "--golden", str(folder)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def test_the_command_counts_passes_and_failures(tmp_path, monkeypatch, capsys):
    copy_cases(tmp_path)
    assert run(tmp_path, monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("pass  frechet (frechet): largest absolute error ")
    assert lines[-1] == "1 passed, 0 failed"


def test_unknown_kinds_and_missing_files_are_failures(tmp_path, monkeypatch, capsys):
    copy_cases(tmp_path, kind="sorcery")
    assert run(tmp_path, monkeypatch) == 1
    out = capsys.readouterr().out
    assert "unknown kind 'sorcery'; known: " in out
    assert out.splitlines()[-1] == "0 passed, 1 failed"
    copy_cases(tmp_path)
    (tmp_path / "frechet.npz").unlink()
    assert run(tmp_path, monkeypatch) == 1


@pytest.mark.parametrize("damage", ["missing", "format"])
def test_folders_of_another_format_are_a_usage_error(damage, tmp_path, monkeypatch, capsys):
    if damage == "format":
        copy_cases(tmp_path, format=2)
    assert run(tmp_path, monkeypatch) == 2
    assert "golden.json" in capsys.readouterr().err
