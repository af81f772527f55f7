# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0

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
