# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Workdirs and features for tests of evaluations: random weights, nothing is trained."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbp import build, build_data
from nbp.config import load_config
from nbp.config.schema import Config
from nbp.data.records import PREPARED
from nbp.evaluation.setup import EvaluationSetup
from nbp.files import write_text
from nbp.interop.identity import FILES
from nbp.models.i3d import I3dNetwork, I3dSpec
from nbp.protocols.protocol import ClipRule, Protocol
from nbp.stages import adopt_config
from nbp.training.checkpoint import Checkpointer
from nbp.training.state import TrainState
from nbp.workdir import CONVERTED, read_config, save_labels
from tests import tiny
from tests.data.prepared import make_records

POOLED = 4  # regions per side of the small network
SMALL = I3dSpec(classes=24)


@dataclass(frozen=True)
class SmallNetwork(I3dNetwork):
    """In place of I3D: the mean colours of 4x4 regions, in random directions."""

    def init(self, key: Any) -> Any:
        del key
        return {"kernel": jnp.ones((POOLED * POOLED * 3, self.spec.classes))}

    def features(self, params: Any, pixels: Any) -> Any:
        b, t, h, w, c = pixels.shape
        regions = pixels.reshape(b, t, POOLED, h // POOLED, POOLED, w // POOLED, c)
        return regions.mean(axis=(1, 3, 5)).reshape(b, -1) @ params["kernel"]


def make_small(size: int) -> SmallNetwork:
    del size
    return SmallNetwork(SMALL, build.make_conv())


SMALL_SETUP = EvaluationSetup(i3d=make_small)


def save_params(folder: Path, stage: str, params: Any) -> None:
    """A checkpoint that holds nothing but parameters, at step 3."""
    state = TrainState(np.asarray(3, np.int32), params, ema={}, opt_state={}, extra={})
    with Checkpointer(folder / stage / "checkpoints") as checkpointer:
        checkpointer.save(3, state, data={}, meta={})
        checkpointer.wait()


def make_workdir(folder: Path, changes: Mapping[str, str], *, config: Config | None = None) -> Path:
    """A workdir with the tiny tokenizer, or that of `config`, and no generator."""
    averages = {f"train.{stage}.ema": "0" for stage in ("tokenizer", "generator")}
    keys = {"stages": "('tokenizer',)", **averages, **changes}
    config = config or load_config(tiny.CONFIG, {**tiny.OVERRIDES, **keys})
    folder.mkdir(parents=True)
    adopt_config(config, folder, report=lambda text: None)
    save_params(folder, "tokenizer", build.make_tokenizer_network(config).init(jax.random.key(0)))
    return folder


def add_generator(workdir: Path) -> Path:
    """A generator of random weights for the workdir's tokenizer."""
    config = read_config(workdir)
    labels = build_data.make_data(config)[0].label_names
    save_labels(workdir, labels)
    network = build.make_generator_network(config, labels)
    params = jax.jit(network.init)(jax.random.key(1))
    save_params(workdir, "generator", params)
    return workdir


def make_features(folder: Path, network: I3dNetwork, *, kind: str, known: str = "") -> Path:
    """What `nbp.convert i3d` would leave for a file of this format, and the public file `known`."""
    save_params(folder, "i3d", network.init(jax.random.key(0)))
    blobs = {file.name: file.blob for file in FILES}
    origin = {"file": "i3d.pt", "sha256": "5" * 64, "format": kind}
    origin |= {"blob": blobs.get(known, "0" * 40)} if known != "old" else {}
    write_text(folder / "i3d" / CONVERTED, json.dumps(origin))
    return folder


def shrink_protocol(protocol: Protocol, *, clips: int = 12, frames: int = 11) -> Protocol:
    """A published protocol for toy data: six videos a split, clips of 16 px and of fewer frames.

    What it draws, reads, pairs, stores and repeats stays its own.
    """
    scored = frames - 1

    def shrink(rule: ClipRule) -> ClipRule:
        videos = 9 if "+" in rule.split else 6
        counted = None if rule.counted is None else scored
        sizes = {"videos": videos, "frames": frames, "size": 16, "counted": counted}
        endless = rule.duplicates != "none" or rule.order == "epochs" or rule.window == "all"
        count = None if rule.clips is None else clips if endless else 6
        return dataclasses.replace(rule, **sizes, clips=count, step=min(rule.step, 5))

    features, made = protocol.features, protocol.generation
    if features is not None:
        kept = frames if features.frames == protocol.clips[0].frames else scored
        features = dataclasses.replace(features, frames=kept)
    rules = tuple(shrink(rule) for rule in protocol.clips)
    if made is not None:
        made = dataclasses.replace(made, clips=rules[0].clips, size=None)
    return dataclasses.replace(protocol, clips=rules, features=features, generation=made)


def make_prepared(folder: Path, splits: Mapping[str, int], *, frames: int = 20, **options: Any):
    """Prepared clips of 20x24 px that pass for UCF101 at native size, or for what options say."""
    make_records(folder, splits, frames=frames)
    made = {"kind": "ucf101", "split": 1, "fit": "native", "size": 128, **options}
    write_text(folder / PREPARED, json.dumps({"options": made}))
    return folder
