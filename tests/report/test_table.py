# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0

import json

import pytest

from nbp.evaluation.result import write_report
from nbp.report.table import format_table


def test_table_has_aligned_values_and_units():
    table = format_table(
        "moving-shapes v1", {"psnr": 27.126, "ssim": 0.91234, "label_agreement": 0.8125}
    )
    assert table.splitlines() == [
        "moving-shapes v1",
        "----------------",
        "psnr                  27.13  dB",
        "ssim                 0.9123",
        "label_agreement       0.812",
    ]


def test_report_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "report.json"
    write_report(path, {"protocol": "folder", "scores": {"psnr": 30.5}})
    assert json.loads(path.read_text()) == {"protocol": "folder", "scores": {"psnr": 30.5}}
    with pytest.raises(TypeError):
        write_report(path, {"scores": object()})
    assert json.loads(path.read_text())["protocol"] == "folder"
    write_report(path, {"protocol": "other"})
    assert json.loads(path.read_text()) == {"protocol": "other"}
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]
