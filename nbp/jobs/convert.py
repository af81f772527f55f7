# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Published weight files become a workdir that sampling and evaluation use directly."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nbp import __version__, build
from nbp.config import Config, to_json
from nbp.errors import CheckpointError
from nbp.interop import c3d, official
from nbp.interop.i3d import i3d_drops, i3d_rules, rename_ported
from nbp.interop.lpips import clean_names, lpips_drops, lpips_rules
from nbp.interop.mapping import Drop, Rule, Tensor, check_rules, convert_tensors
from nbp.interop.reading import TensorFile, open_tensors
from nbp.jobs import foreign
from nbp.jobs.foreign import ConvertRequest, Report
from nbp.jobs.workdir import CONVERTED, read_config, save_labels, write_text
from nbp.models.c3d import C3dNetwork, C3dSpec
from nbp.models.i3d import I3dNetwork, I3dSpec
from nbp.models.lpips import LpipsNetwork
from nbp.nn.conv3d import taps_conv
from nbp.shapes import PyTree
from nbp.training.checkpoint import Checkpointer
from nbp.training.state import TrainState


def convert_generator(request: ConvertRequest, report: Report) -> None:
    """Converts a generator, and with `first_stage` the tokenizer in the same file."""
    file = open_tensors(request.source)
    origin = request.source.name
    state = official.split_state(file.tensors)
    if not state.generator:
        raise CheckpointError(f"{origin} holds no generator; it has {_name_some(file.tensors)}")
    _require_free(request.out, "generator")
    tokenizer = foreign.find_tokenizer(request, state, origin=origin)
    sizes = official.infer_generator(state.generator, origin=origin)
    foreign.confirm_sizes(request, sizes, file.hints, origin=origin)
    prompt = foreign.find_prompt(request, sizes, origin=origin)
    labels = foreign.find_labels(request, prompt)
    generator = foreign.describe_generator(
        request, sizes, file.hints, tokenizer=tokenizer, prompt=prompt, labels=labels, report=report
    )
    config = foreign.make_config(request, tokenizer=tokenizer, generator=generator)
    network = build.make_generator_network(config, labels)
    rules, drops = official.make_generator_rules(sizes.layers, prompt=prompt != "none")
    tensors = {**state.generator, **state.other}
    conversions = []
    if request.first_stage:
        _require_free(request.out, "tokenizer")
        conversions.append(_plan_tokenizer(config, state.tokenizer))
    else:
        tensors |= {f"first_stage_model.{name}": value for name, value in state.tokenizer.items()}
        drops.append(Drop(r"first_stage_model\..*", "the tokenizer; --first_stage converts it too"))
    conversions.append(_Conversion("generator", tensors, rules, drops, network))
    write_conversions(file, request.out, conversions, config=config, report=report)
    save_labels(request.out, labels)
    write_text(request.out / "config.json", to_json(config))
    if not (build.stage_directory(request.out, "tokenizer") / "checkpoints").is_dir():
        report(f"a tokenizer is missing: python -m nbp.convert tokenizer --out {request.out} ...")


def convert_tokenizer(request: ConvertRequest, report: Report) -> None:
    """Converts a tokenizer file, or the tokenizer inside a generator file."""
    file = open_tensors(request.source)
    origin = request.source.name
    state = official.split_state(file.tensors)
    if not state.tokenizer:
        raise CheckpointError(f"{origin} holds no tokenizer; it has {_name_some(file.tensors)}")
    _require_free(request.out, "tokenizer")
    spec = official.infer_tokenizer(state.tokenizer, levels=request.levels, origin=origin)
    generator = None
    if (request.out / "config.json").is_file():
        known = read_config(request.out)
        generator = known.generator
        foreign.require_same(request, known, spec)
    config = foreign.make_config(request, tokenizer=spec, generator=generator)
    rest = {} if state.generator else state.other
    conversion = _plan_tokenizer(config, {**state.tokenizer, **rest})
    write_conversions(file, request.out, [conversion], config=config, report=report)
    write_text(request.out / "config.json", to_json(config))


def convert_i3d(request: ConvertRequest, report: Report) -> None:
    """Converts the FVD feature network into `out/i3d`."""
    file = open_tensors(request.source)
    _require_free(request.out, "i3d")
    network = I3dNetwork(I3dSpec(), taps_conv)
    tensors = rename_ported(file.tensors)
    conversion = _Conversion("i3d", tensors, i3d_rules(), i3d_drops(), network)
    write_conversions(file, request.out, [conversion], config=None, report=report)


def convert_lpips(request: ConvertRequest, report: Report) -> None:
    """Converts LPIPS into `out/lpips`: VGG-16 and, in the same file or in `linear`, its heads."""
    file = open_tensors(request.source)
    tensors = file.tensors
    if request.linear is not None:
        heads = open_tensors(request.linear).tensors
        twice = tensors.keys() & heads.keys()
        if twice:
            raise CheckpointError(f"{min(twice)} is in both {request.source} and {request.linear}")
        tensors = {**tensors, **heads}
    elif not any(name.startswith("lin") for name in tensors):
        raise CheckpointError(f"{request.source} has no linear heads; name their file: --linear")
    _require_free(request.out, "lpips")
    conversion = _Conversion(
        "lpips", clean_names(tensors), lpips_rules(), lpips_drops(), LpipsNetwork()
    )
    write_conversions(file, request.out, [conversion], config=None, report=report)


def convert_c3d(request: ConvertRequest, report: Report) -> None:
    """Converts the classifier of the Inception score, with UCF101's classes, into `out/c3d`."""
    file = open_tensors(request.source)
    _require_free(request.out, "c3d")
    tensors = c3d.clean_names(file.tensors)
    network = C3dNetwork(C3dSpec(), taps_conv)
    conversion = _Conversion("c3d", tensors, c3d.c3d_rules(), [], network)
    write_conversions(file, request.out, [conversion], config=None, report=report)


# Writing -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Conversion:
    """One stage of a workdir: tensors and the table that takes them into a network."""

    stage: str
    tensors: Mapping[str, Tensor]
    rules: Sequence[Rule]
    drops: Sequence[Drop]
    network: Any

    def template(self, origin: str) -> PyTree:
        """The wanted parameters; CheckpointError where sizes of the file contradict each other."""
        try:
            return jax.eval_shape(self.network.init, jax.random.key(0))
        except ValueError as error:
            raise CheckpointError(f"{origin}: {error}") from error


def _plan_tokenizer(config: Config, tensors: Mapping[str, Tensor]) -> _Conversion:
    rules, drops = official.make_tokenizer_rules(config.tokenizer_spec)
    return _Conversion("tokenizer", tensors, rules, drops, build.make_tokenizer_network(config))


def write_conversions(
    file: TensorFile,
    out: Path,
    conversions: Sequence[_Conversion],
    *,
    config: Config | None,
    report: Report,
) -> None:
    """Checks all stages, then converts them one by one and puts them in place together.

    When anything fails, `out` is as it was before.
    """
    origin = file.path.name
    for item in conversions:
        template = item.template(origin)
        notes = check_rules(item.tensors, item.rules, item.drops, template=template, origin=origin)
        for note in notes:
            report(note)
    meta = {
        "config": None if config is None else dataclasses.asdict(config),
        "converted": {
            "file": origin,
            "sha256": _hash_file(file.path),
            "format": file.format,
        },
        "versions": {"nbp": __version__, "jax": jax.__version__, "numpy": np.__version__},
    }
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    partial = out / ".converting"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        lines = [
            _write_stage(item, file, partial, meta=meta, report=report) for item in conversions
        ]
        for item in conversions:
            write_text(partial / item.stage / CONVERTED, json.dumps(meta["converted"]) + "\n")
            os.replace(partial / item.stage, build.stage_directory(out, item.stage))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    shutil.rmtree(partial, ignore_errors=True)
    for line in lines:
        report(f"{line} in {out}")


def _write_stage(
    item: _Conversion, file: TensorFile, partial: Path, *, meta: Mapping[str, Any], report: Report
) -> str:
    """Converts one stage into `partial/<stage>/checkpoints/<step>`; returns a line about it."""
    origin = file.path.name
    params = convert_tensors(
        item.tensors, item.rules, item.drops, template=item.template(origin), origin=origin
    )
    count = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))
    step = file.hints.get("global_step", 0)
    step = step if type(step) is int and step >= 0 else 0
    state = TrainState(np.asarray(step, np.int32), params, ema={}, opt_state={}, extra={})
    with Checkpointer(partial / item.stage / "checkpoints", report=report) as checkpointer:
        checkpointer.save(step, state, data={}, meta=meta)
        checkpointer.wait()
        if checkpointer.latest_step() != step:
            raise CheckpointError(f"the {item.stage} could not be written; see the line above")
    return f"{item.stage}: {count:,} parameters of {origin}, step {step},"


def _require_free(out: Path, stage: str) -> None:
    """A conversion never replaces what is there."""
    if any((build.stage_directory(out, stage) / "checkpoints").glob("*")):
        raise CheckpointError(f"{out} already holds a {stage}. Use another --out, or remove it.")


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _name_some(tensors: Mapping[str, Any]) -> str:
    names = list(tensors)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
