# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Writes a trained model as a folder that others can use: whole, or not at all.

Two forms: the folder of `nbp.hub.folder`, which NBP reads as a workdir, and the layout of the
official release (`nbp.hub.official_layout`), with RECORD beside its files.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nbp import __version__, build, locks
from nbp.config import to_json
from nbp.config.schema import Config, StageName
from nbp.errors import CheckpointError, ConfigError, NbpError
from nbp.files import LONGEST_PART, check_writable_folder, cut_name, sync, write_text
from nbp.hub import official_layout
from nbp.hub.folder import (
    PUBLISHED,
    STEM,
    StageRecord,
    check_files,
    describe_records,
    hash_files,
    name_tensor,
    read_records,
)
from nbp.hub.model_card import CardStage, write_card
from nbp.hub.safetensors import SUFFIX, write_file, write_shards
from nbp.places import ELSEWHERE, Claim, explain, new_folders
from nbp.shapes import PyTree
from nbp.training.state import count_parameters
from nbp.trees import flatten_paths
from nbp.workdir import read_config, read_labels, save_labels

RECORD = "export.json"  # of a folder in the official layout: what its files are
Report = Callable[[str], None]


@dataclass(frozen=True)
class Model:
    """What is exported: the trained stages of a workdir and what they need.

    config: that of the new folder. stages: by name, parameters and whether they are the averaged
    ones of a stage that keeps both.
    """

    workdir: Path
    config: Config
    labels: tuple[str, ...]
    stages: Mapping[StageName, tuple[build.Trained, bool]]

    def __post_init__(self) -> None:
        """CheckpointError where the generator knows the codes of another tokenizer."""
        if {"tokenizer", "generator"} <= set(self.stages):
            build.check_tokenizer(self.stages["generator"][0], self.stages["tokenizer"][0])

    def params(self, stage: StageName) -> PyTree:
        """Numpy float32."""
        params = self.stages[stage][0].params
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)

    def count_parameters(self, stage: StageName) -> int:
        """Numbers, not tensors."""
        return count_parameters(self.stages[stage][0].params)

    def is_average(self, stage: StageName) -> bool:
        """Whether these are averages: of this workdir, or of the one that it was exported from."""
        trained, averaged = self.stages[stage]
        return averaged or bool(trained.meta.get("exported", {}).get("averaged"))

    def describe(self, stage: StageName, files: Sequence[Path], tokenizer: str) -> StageRecord:
        """tokenizer: what the published tokenizer is called; "" without one."""
        trained, _ = self.stages[stage]
        known = tokenizer or trained.meta.get("tokenizer_sha256", "")
        origin = trained.meta.get("converted", {})
        return StageRecord(
            step=trained.step,
            averaged=self.is_average(stage),
            source=trained.sha256,
            files=hash_files(files),
            tokenizer_sha256=known if stage == "generator" else "",
            converted={name: origin[name] for name in ("file", "sha256") if name in origin},
        )

    def is_that_of(self, records: Mapping[str, StageRecord]) -> bool:
        """Whether these are records of the same checkpoints."""
        wanted = {
            stage: (trained.step, self.is_average(stage), trained.sha256)
            for stage, (trained, _) in self.stages.items()
        }
        return wanted == {s: (r.step, r.averaged, r.source) for s, r in records.items()}

    def tell(self, out: Path, report: Report) -> None:
        """A line about each stage that was written."""
        for stage, (trained, _) in self.stages.items():
            count = self.count_parameters(stage)
            kind = "averaged" if self.is_average(stage) else "current"
            report(f"{stage}: {count:,} {kind} parameters of step {trained.step} in {out}")

    def tell_done(self, out: Path, report: Report) -> None:
        """The line about an export that is there already."""
        steps = (f"{stage} of step {trained.step}" for stage, (trained, _) in self.stages.items())
        report(f"already exported: {', '.join(steps)} in {out}")


def check_out(out: Path) -> bool:
    """Whether `out` holds an export of these forms already, of whatever it may be.

    Raises CheckpointError where it holds something else, ConfigError where it cannot be written.
    """
    if out.is_dir() and any(out.iterdir()):
        path = out / RECORD if (out / RECORD).is_file() else out / "config.json"
        if not path.is_file() or not read_records(path):
            raise refuse(out)
        return True
    check_writable_folder(out, ELSEWHERE)
    return False


def refuse(out: Path) -> CheckpointError:
    return CheckpointError(f"{out} is not empty: use another --out")


def refuse_busy(out: Path) -> ConfigError:
    return ConfigError(f"another process exports into {out}: use another --out")


def publish_safetensors(
    model: Model, out: Path, *, licence: str, limit: int, report: Report
) -> None:
    """Writes the folder that `nbp.load` reads and a hub understands (docs/publishing.md).

    The paths of the configuration that name places of this machine are left out. Where `out` holds
    this model already, it is left as it is.

    Args:
      licence: of the weights, as hubs call it. limit: bytes of tensors in one file.

    Raises as `check_out`.
    """
    config = without_places(model.config)
    if check_out(out):
        if not _holds_model(model, config, out):
            raise refuse(out)
        model.tell_done(out, report)
        return
    with whole_folder(out) as partial:
        records, stages = {}, {}
        for stage, (trained, averaged) in model.stages.items():
            (partial / stage).mkdir()
            tensors = {name_tensor(k): v for k, v in flatten_paths(model.params(stage)).items()}
            files = write_shards(partial / stage, STEM, tensors, limit=limit)
            before = records["tokenizer"].sha256 if "tokenizer" in records else ""
            records[stage] = model.describe(stage, files, before)
            count = sum(tensor.size for tensor in tensors.values())
            stages[stage] = CardStage(records[stage], count, trained.sha256, averaged)
        save_labels(partial, model.labels)
        write_card(
            partial,
            model.workdir,
            model.config,
            stages=stages,
            labels=model.labels,
            licence=licence,
        )
        published = {**describe_records(records), "versions": _versions()}
        values = {**json.loads(to_json(config)), PUBLISHED: published}
        write_text(partial / "config.json", json.dumps(values, indent=2) + "\n")
    model.tell(out, report)


def publish_official(model: Model, out: Path, *, report: Report) -> None:
    """Writes the files of the official release, as safetensors, and how to make PyTorch's of them.

    Raises as `check_out`, and ConfigError where the release has no such model.
    """
    params: dict[StageName, PyTree] = {stage: model.params(stage) for stage in model.stages}
    contents = official_layout.describe_files(model.config, params)
    if check_out(out):
        if not _holds(model, out / RECORD, lambda stage: out):
            raise refuse(out)
        model.tell_done(out, report)
        return
    with whole_folder(out) as partial:
        records = {}
        for stage, tensors in contents.items():
            path = partial / f"{stage}{SUFFIX}"
            write_file(path, tensors)
            records[stage] = model.describe(stage, [path], "")
        text = official_layout.make_readme(model.config, contents)
        write_text(partial / "README.md", text)
        published = {**describe_records(records), "versions": _versions()}
        write_text(partial / RECORD, json.dumps({PUBLISHED: published}, indent=2) + "\n")
    model.tell(out, report)


def _holds(model: Model, path: Path, place: Callable[[str], Path]) -> bool:
    """Whether a record is of these checkpoints, and all files are as they were written."""
    try:
        records = read_records(path)
        for stage, record in records.items():
            check_files(place(stage), record)
    except NbpError:
        return False
    return model.is_that_of(records)


def _holds_model(model: Model, config: Config, out: Path) -> bool:
    try:
        same = read_config(out) == config and read_labels(out) == model.labels
    except NbpError:
        return False
    return same and _holds(model, out / "config.json", lambda stage: out / stage)


def _versions() -> dict[str, str]:
    return {"nbp": __version__, "jax": jax.__version__, "numpy": np.__version__}


def without_places(config: Config) -> Config:
    """The configuration without absolute paths: they are of this machine, and tell of its owner.

    The opener of `sampling.opener` stays, as clips depend on it.
    """

    def strip(group: Any, name: str) -> Any:
        absolute = os.path.isabs(getattr(group, name))
        return dataclasses.replace(group, **{name: ""}) if absolute else group

    train = dataclasses.replace(
        config.train,
        tokenizer=strip(config.train.tokenizer, "start_from"),
        generator=strip(config.train.generator, "start_from"),
    )
    return dataclasses.replace(
        config,
        data=strip(config.data, "root"),
        images=strip(config.images, "root"),
        losses=strip(config.losses, "lpips_root"),
        evaluation=strip(config.evaluation, "features"),
        train=train,
    )


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """An empty hidden folder beside `out`, which takes its place when the block ends well.

    Else it goes, as does what an earlier process left there when it was killed. `out` is absent or
    empty. Raises ConfigError where another process exports there, or nothing can be written.
    """
    out = Path(os.path.abspath(out))
    partial = out.with_name(f".{cut_name(out.name, LONGEST_PART)}.exporting")
    claim = Claim()
    with new_folders(out.parent, claim):
        try:
            partial.mkdir(exist_ok=True)
            with locks.lock_folder(partial):
                try:
                    for left in partial.iterdir():
                        if left.is_dir():
                            shutil.rmtree(left)
                        elif left.name != locks.NAME:  # of NFS: this process has it
                            left.unlink()
                    yield partial
                    (partial / locks.NAME).unlink(missing_ok=True)
                    for path in (partial, *partial.rglob("*")):
                        sync(path)
                    os.replace(partial, out)
                    claim.keep()
                    sync(out.parent)
                finally:
                    if not claim.kept:
                        shutil.rmtree(partial, ignore_errors=True)
        except locks.Held:
            raise refuse_busy(out) from None
        except OSError as error:
            raise explain(error, out) from error
