# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Sweep: what there is against the independence of a block's tokens, at equal training.

    python -m nbp.sweep configs/sweeps/mechanisms.py --workdir runs/mechanisms

The table of docs/blocks.md. `:long` trains five times as long, `:smoke` shows that all runs.
"""

from typing import Any

ROWS = {"generator.opening_blocks": 1}  # 31 passes
SETS = ROWS | {"generator.block": (1, 2, 4)}  # as many, in blocks of 2 x 4 places
JOINT = {"generator.head": "joint", "generator.joint_head.width": 128}
CORRUPTED = {"generator.corruption.share": 0.2}
PASSES = {f"R{n}": {"sampling.refinements": n} for n in (2, 4, 8)}


def get_sweep(variant: str = "") -> dict[str, Any]:
    if variant not in ("", "long", "smoke"):
        raise KeyError("use long or smoke")
    smoke = variant == "smoke"
    return {
        "name": "mechanisms",
        "config": "configs/quickstart.py" + ":smoke" * smoke,
        "overrides": {"train.generator.steps": 5000} if variant == "long" else {},
        "seeds": (0,) if smoke else (1, 2, 3),
        "runs": {
            "token": {"overrides": {"generator.block": "token"}},
            "row": {"overrides": ROWS},
            "row_frame": {"overrides": {}},  # the first latent frame by tokens: the quickstart
            "corrupted": {
                "overrides": ROWS,
                "grid": {"generator.corruption.share": (0.1, 0.2, 0.4)},
            },
            "corrupted_near": {
                "overrides": ROWS
                | {"generator.corruption.share": 0.4, "generator.corruption.codes": "near"}
            },
            "joint_wide": {"overrides": ROWS | {"generator.head": "joint"}},
            "joint": {"overrides": ROWS | JOINT},
            "joint_corrupted": {"overrides": ROWS | JOINT | CORRUPTED},
            # configs/quickstart.py:joint
            "joint_corrupted_frame": {"overrides": JOINT | CORRUPTED},
            "digits": {"overrides": ROWS | {"generator.head": "digits"}},
            "cell": {"overrides": SETS},
            "strided": {"overrides": SETS | {"generator.partition": "strided"}},
            "halton": {"overrides": SETS | {"generator.partition": "halton"}},
            "several": {
                "overrides": ROWS | {"generator.blocks": ("token",)},
                "dials": {"token": {"sampling.block": "token"}},
            },
            "draft": {"overrides": ROWS | {"generator.draft": True}, "dials": PASSES},
            "draft_frame": {
                "overrides": ROWS
                | {
                    "generator.draft": True,
                    "generator.block": "frame",
                    "generator.opening": "bov",
                },
                "dials": PASSES,
            },
        },
    }
