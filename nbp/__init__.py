# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""NBP: next-block-prediction video generation in JAX.

    run = nbp.load("runs/quickstart")
    clips = run.sample(labels=["red square right"], num=4, seed=0)

`nbp.run` says what a run can do. JAX is imported when `load` is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbp.run import Run, load

__version__ = "0.1.0"
__all__ = ("Run", "__version__", "load")


def __getattr__(name: str) -> Any:
    if name not in ("Run", "load"):
        raise AttributeError(f"module 'nbp' has no attribute {name!r}")
    from nbp import run

    return getattr(run, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
