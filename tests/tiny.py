# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The smallest experiment: `:smoke` of the quickstart, shrunk until it compiles in seconds."""

import os
from collections.abc import Mapping

CONFIG = "configs/quickstart.py:smoke"
OVERRIDES = {
    "data.frames": "5",
    "data.size": "16",
    "data.validation_clips": "8",
    "tokenizer.widths": "(4, 8)",
    "tokenizer.units": "(0, 0)",
    "tokenizer.strides": "((2, 4, 4),)",
    "tokenizer.levels": "(4, 4)",
    "tokenizer.groups": "2",
    "generator.layers": "1",
    "generator.heads": "2",
    "generator.width": "16",
    # Eight clips divide among eight virtual devices too.
    "train.tokenizer.batch": "8",
    "train.generator.batch": "8",
    "train.tokenizer.steps": "4",
    "train.generator.steps": "4",
    "train.tokenizer.warmup": "1",
    "train.generator.warmup": "1",
    # Muon's iterations take longer to compile than the rest of an update.
    "train.tokenizer.optimizer": "adamw",
    "train.generator.optimizer": "adamw",
    "memory.remat": "none",
    # One device: programs for eight take twice as long to compile. What is about them says so.
    "mesh.data": "1",
    "mesh.fsdp": "1",
    "train.log_every": "1",
    "train.checkpoint_every": "2",
    "train.evaluate_every": "0",
    "train.preview_every": "0",
    "train.preview_clips": "4",
    "evaluation.protocol": "",
    "evaluation.samples": "0",
    "evaluation.clips": "8",
    "sampling.batch": "4",
}


def make_environment(**variables: str) -> dict[str, str]:
    """That of a child process with one device and the quick compilation of the tests."""
    kept = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    return {**os.environ, "XLA_FLAGS": " ".join(kept), **variables}


def flags(changes: Mapping[str, str] | None = None) -> list[str]:
    """The overrides as arguments of `nbp.train`, with `changes` on top."""
    return [f"--config.{key}={value}" for key, value in {**OVERRIDES, **(changes or {})}.items()]
