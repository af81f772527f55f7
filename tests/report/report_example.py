# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A report of `nbp.evaluate` as its JSON has it."""

import copy
from typing import Any

from tests.report.page_example import EVIL

REPORT: dict[str, Any] = {
    "protocol": {"name": "moving-shapes", "version": 1, "clips": [{"dataset": "moving_shapes"}]},
    "complete": False,
    "deviations": ["8 of 256 clips"],
    "workdir": "run",
    "config": "tiny",
    "held_out_clips": 8,
    "data": {"kind": "moving_shapes"},
    "features": None,
    "lpips": None,
    "seed": 3,
    "sampling": {"top_p": 0.9},
    "generated": {"clips": 8, "passes": 5, "frames_per_second_with_compilation": 40.0},
    "checkpoints": {"tokenizer_step": 3},
    "averaged": True,
    "averaged_generator": True,
    "versions": {"nbp": "0.1"},
    "device": "1 x cpu",
    "processes": 1,
    "seconds": 12.0,
    "scores": {"psnr": 29.5, "label_agreement": 1.0},
    "leaks": {
        "checked": "file names",
        "train_test_names": ["v_1"],
        "train_test_count": 1,
        "duplicates": [["a", "b"]],
        "duplicate_clips": 2,
    },
    "psnr_per_frame": [30.0, 28.5, 29.0, 28.0, 27.5],
    "worst": [{"index": 1, "psnr": 20.5, "label": "red", "file": "worst/moving-shapes/gone.mp4"}],
    "code_usage": {
        "real": {
            "codes": 16,
            "used": 4,
            "usage": 0.25,
            "perplexity": 3.5,
            "curve": [0.5, 0.75, 1.0, 1.0],
        }
    },
    "generation": {
        "clips": 8,
        "seed": 3,
        "passes": 5,
        "seconds": 3.5,
        "seconds_of": {"draw": 2.5},
        "clips_per_second": 4.0,
        "frames_per_second": 40.0,
    },
    "reference": None,
    "per_class": [{"label": EVIL, "count": 2, "feature_distance": 3.5, "label_agreement": None}],
    "repeats": [{"seed": 3, "score": "fvd_8", "value": 2.5, "real": "ab"}],
}


def make_report(**changes: Any) -> dict[str, Any]:
    """A report of its own, some keys replaced."""
    return {**copy.deepcopy(REPORT), **changes}
