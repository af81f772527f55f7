# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Names of trackers, and the packages that they need."""

import importlib.util
from collections.abc import Sequence
from typing import Literal

from nbp.errors import ConfigError

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]

# Those that no installation has by itself: package and module have the tracker's name.
OPTIONAL: tuple[TrackerName, ...] = ("wandb", "mlflow", "trackio")


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
        command = " ".join(["pip install", *missing])
        raise ConfigError(
            f"train.tracking: not installed: {', '.join(missing)}. Use: {command}; or leave out "
            "what is missing"
        )
