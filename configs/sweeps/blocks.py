# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Sweep: token, row and frame blocks on moving shapes, quality against passes.

    python -m nbp.sweep configs/sweeps/blocks.py --workdir runs/blocks

The row model is also drawn from with shorter openings, which take fewer passes, and everything
without top-p. Three seeds of each. `:smoke` shows that all runs.
"""

from typing import Any


def get_sweep(variant: str = "") -> dict[str, Any]:
    if variant not in ("", "smoke"):
        raise KeyError("use smoke")
    smoke = variant == "smoke"
    return {
        "name": "blocks",
        "config": "configs/quickstart.py" + ":smoke" * smoke,
        "seeds": (0,) if smoke else (0, 1, 2),
        "runs": {
            "token": {"overrides": {"generator.block": "token"}},
            "row": {
                "overrides": {"generator.block": "row"},
                "dials": {f"rows{n}": {"generator.opening_blocks": n} for n in (1, 4)},
            },
            "frame": {"overrides": {"generator.block": "frame"}},
        },
        "dials": {"all": {"sampling.top_p": 1.0}},
    }
