# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A published model: a folder whose weights are `.safetensors`, read as a workdir is.

    config.json       resolved configuration, and under PUBLISHED what each stage is
    labels.json       class names by id
    STAGE/            model.safetensors, or shards and their index
    README.md         the model card; STAGE_curves.png: the curves in it

The tensor of the parameter `a/b/c` is called `a.b.c` and has its axes (docs/publishing.md).
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from nbp.errors import CheckpointError
from nbp.files import hash_file, read_json
from nbp.hub.safetensors import SUFFIX
from nbp.interop.reading import INDEX, open_tensors
from nbp.shapes import PyTree
from nbp.trees import flatten_paths

PUBLISHED = "published"  # the key of config.json that makes a folder a published model
LAYOUT = 1  # version of the folder's layout
STEM = "model"


@dataclass(frozen=True)
class StageRecord:
    """What a published stage is.

    step: updates that it was trained for. averaged: whether these are averaged parameters.
    source: hash of the checkpoint that they come from. files: SHA-256 of each file by its name.
    tokenizer_sha256: of a generator, `sha256` of the tokenizer whose codes it knows, "" if unknown.
    converted: `file` and `sha256` of the release that it was converted from; {} if trained.
    """

    step: int
    averaged: bool
    source: str
    files: Mapping[str, str]
    tokenizer_sha256: str = ""
    converted: Mapping[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Names the parameters, as the hash of a checkpoint does."""
        lines = "\n".join(f"{digest}  {name}" for name, digest in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def meta(self) -> dict[str, Any]:
        """What the checkpoint of an exported workdir would say of it."""
        known = {"tokenizer_sha256": self.tokenizer_sha256, "converted": self.converted}
        told = {name: value for name, value in known.items() if value}
        return {**told, "exported": {"averaged": self.averaged}}


def name_tensor(path: str) -> str:
    """The name in the file of the parameter at a path such as `transformer/norm/scale`."""
    return path.replace("/", ".")


def is_published(workdir: Path, stage: str) -> bool:
    """Whether a folder holds this stage in the form that is published."""
    return _find_weights(workdir / stage) is not None


def hash_files(files: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of each file by its name."""
    return {path.name: hash_file(path) for path in files}


def describe_records(records: Mapping[str, StageRecord]) -> dict[str, Any]:
    """The stages as JSON; `read_records` takes it back."""
    stages = {stage: dataclasses.asdict(record) for stage, record in records.items()}
    return {"layout": LAYOUT, "stages": stages}


def read_records(path: Path) -> dict[str, StageRecord]:
    """The stages that a JSON file says are published; {} where it says nothing of them.

    Raises CheckpointError where it cannot be read or is of a later version.
    """
    try:
        told = read_json(path).get(PUBLISHED, {"layout": LAYOUT, "stages": {}})
        if told["layout"] != LAYOUT:
            raise ValueError(f"layout {told['layout']} is newer than this version of NBP")
        records = {stage: StageRecord(**record) for stage, record in told["stages"].items()}
        for record in records.values():
            if type(record.step) is not int or not isinstance(record.files, dict):
                raise ValueError("a stage without step or files")
        return records
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def check_files(folder: Path, record: StageRecord) -> None:
    """CheckpointError where a file is missing, or another one than was published."""
    for name, digest in record.files.items():
        path = folder / name
        if name != Path(name).name or not path.is_file():
            raise CheckpointError(f"{path} is missing: fetch the published folder again")
        if hash_file(path) != digest:
            raise CheckpointError(
                f"{path} is not the file that was published (its SHA-256 differs): fetch it again"
            )


def read_stage(workdir: Path, stage: str, template: PyTree) -> tuple[PyTree, StageRecord]:
    """The parameters of a published stage in the structure of `template`, and what they are.

    Its files are checked first.

    Raises CheckpointError where files are missing or changed, or do not fit the configuration.
    """
    records = read_records(workdir / "config.json")
    weights = _find_weights(workdir / stage)
    if weights is None or stage not in records:
        raise CheckpointError(f"{workdir} holds no published {stage}: fetch the whole folder")
    check_files(workdir / stage, records[stage])
    tensors = open_tensors(weights).tensors
    wanted = {name_tensor(path): leaf for path, leaf in flatten_paths(template).items()}
    problems = [f"no tensor {name}" for name in wanted if name not in tensors]
    problems += [f"unexpected tensor {name}" for name in tensors if name not in wanted]
    problems += [
        f"{name} is {list(tensors[name].shape)}, not {list(leaf.shape)}"
        for name, leaf in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(leaf.shape)
    ]
    if problems:
        more = f"; and {len(problems) - 4} more" if problems[4:] else ""
        raise CheckpointError(
            f"{weights} does not fit {workdir / 'config.json'}: {'; '.join(problems[:4])}{more}"
        )
    leaves = [jnp.asarray(tensors[name].read(), leaf.dtype) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves), records[stage]


def _find_weights(folder: Path) -> Path | None:
    """The file of a stage's weights, or the index of its shards."""
    names = (f"{STEM}{SUFFIX}", f"{STEM}{SUFFIX}{INDEX}")
    return next((folder / name for name in names if (folder / name).is_file()), None)
