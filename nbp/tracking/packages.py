# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Names of trackers, and the packages that they need."""

import importlib.util
from collections.abc import Sequence
from typing import Literal

from nbp.errors import ConfigError

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]

# Those that no installation has by itself: the module that is imported has the tracker's name.
OPTIONAL: dict[TrackerName, str] = {
    "wandb": "pip install wandb",
    "mlflow": "pip install mlflow",
    "trackio": "pip install trackio",
}


def check_packages(trackers: Sequence[TrackerName]) -> None:
    """Raises ConfigError, with the command that installs them, where packages are missing.

    Nothing is imported: that takes seconds.
    """
    missing = [
        name
        for name in dict.fromkeys(trackers)
        if name in OPTIONAL and importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ConfigError(
            f"train.tracking: not installed: {', '.join(missing)}. Use: "
            f"{' && '.join(OPTIONAL[name] for name in missing)}; or leave out what is missing"
        )
