# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Sweep for scaling laws: row and token blocks in several sizes, each with several budgets.

    python -m nbp.sweep configs/sweeps/scaling.py --workdir runs/scaling
    python -m nbp.fit runs/scaling --baseline row --against token --out runs/scaling/fit

Each size is trained anew for each budget, as the learning rate has to fall in it. `:small` has
small models on clips of 5 frames, 16 x 16 pixels, to see on two CPU cores how it works.
"""

from typing import Any

WIDTHS, STEPS = (64, 96, 128, 192, 256), (500, 1000, 2000, 4000)
SMALL_WIDTHS, SMALL_STEPS = (16, 32, 64), (100, 200, 400)


def get_sweep(variant: str = "") -> dict[str, Any]:
    if variant not in ("", "small"):
        raise KeyError("use small")
    small = variant == "small"
    sizes = {
        "generator.width": SMALL_WIDTHS if small else WIDTHS,
        "train.generator.steps": SMALL_STEPS if small else STEPS,
    }
    few = {**sizes, "train.generator.steps": SMALL_STEPS[-1:]} if small else sizes
    shared: dict[str, Any] = {
        "train.evaluate_every": 0,
        "train.preview_every": 0,
        "evaluation.samples": 0,
    }
    if small:
        shared |= {
            "data.frames": 5,
            "data.size": 16,
            "data.moving_shapes.speeds": (1 / 16,),
            "generator.layers": 2,
            "train.tokenizer.steps": 300,
            "train.generator.warmup": 20,
            "evaluation.clips": 64,
            "data.validation_clips": 128,
        }
    return {
        "name": "scaling",
        "config": "configs/quickstart.py",
        "overrides": shared,
        "runs": {
            block: {"overrides": {"generator.block": block}, "grid": grid}
            for block, grid in (("row", sizes), ("token", few))
        },
    }
