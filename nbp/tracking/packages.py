# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Names of trackers, and the packages that they need."""

import importlib.util
from collections.abc import Sequence
from typing import Literal

from nbp.errors import ConfigError

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]

# Those that no installation has by itself: tracker -> the module that it imports.
OPTIONAL: dict[str, str] = {"wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}


def check_packages(trackers: Sequence[str]) -> None:
    """Raises ConfigError, with the command that installs them, where packages are missing.

    Nothing is imported: that takes seconds.
    """
    missing = [
        name
        for name in trackers
        if name in OPTIONAL and importlib.util.find_spec(OPTIONAL[name]) is None
    ]
    if missing:
        names = ",".join(missing)
        raise ConfigError(
            f"train.tracking: {', '.join(missing)} is not installed. Use: "
            f'pip install "nbp-video[{names}]", or leave it out'
        )
