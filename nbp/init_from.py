# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`train.<stage>.start_from`: a stage begins with the parameters that another workdir has trained.

What a stage began with is written to `<stage>/start.json` before its first update, and from then on
that is what counts: a run that is killed before its first checkpoint begins again with the same
parameters, even if the other workdir was trained on in between.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbp import build
from nbp.config.schema import Config, StageName
from nbp.errors import CheckpointError
from nbp.files import read_json, write_text
from nbp.models.generator import GeneratorNetwork
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.conv3d import lax_conv
from nbp.shapes import Array, PyTree
from nbp.stages import STAGES
from nbp.training.checkpoint import Checkpointer
from nbp.training.state import TrainState, compare_leaves
from nbp.trees import flatten_paths, nest_flat
from nbp.workdir import has_begun, read_config, read_labels, refuse_published

START = "start.json"  # in the folder of a stage: what it began with


@dataclass(frozen=True)
class Start:
    """Where a stage has its first parameters from: a workdir, its step, and their hash."""

    workdir: str
    step: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.workdir} (step {self.step}, {self.sha256[:16]})"


@dataclass(frozen=True)
class StartFrom:
    """Puts the parameters of `start` into the first state of `network`'s training.

    It reads them each time it is called: at the start, and should the run go back to it.
    """

    start: Start
    stage: StageName
    network: Any

    def __call__(self, state: TrainState) -> TrainState:
        """The state before the first update with these parameters (numpy) and this average.

        Raises CheckpointError where they are gone, damaged, others than before or do not fit.
        """
        params = read_params(self.start, self.stage, self.network)
        # A copy: the step donates its state, and a buffer can be donated only once.
        ema = jax.tree.map(np.copy, params) if jax.tree.leaves(state.ema) else state.ema
        return dataclasses.replace(state, params=params, ema=ema)


def prepare_start(
    config: Config, workdir: Path, stage: StageName, *, network: Any, origin: Mapping[str, Any]
) -> tuple[StartFrom | None, dict[str, Any]]:
    """The `begin` of a stage's task, and what its checkpoints record of it.

    origin: what else they record; names the tokenizer of a generator. Errors as in `find_start`.
    """
    fresh = not has_begun(workdir, stage)
    start = find_start(config, workdir, stage)
    wanted = _find_wanted(config, stage)
    if wanted and (start is None or start.workdir != wanted):
        print(
            f"[{stage}] not started from {wanted}: this stage has checkpoints already", flush=True
        )
    if start is None:
        return None, {}
    report = f"[{stage}] started from {start}"
    if fresh and STAGES[stage].follows:
        report += _warn_of_codes(start, stage, origin["tokenizer_sha256"])
    print(report, flush=True)
    return StartFrom(start, stage, network), {"started_from": dataclasses.asdict(start)}


def find_start(config: Config, workdir: Path, stage: StageName) -> Start | None:
    """As `look_for_start`, and writes it down before the first update."""
    path = build.stage_directory(workdir, stage) / START
    start = look_for_start(config, workdir, stage)
    if has_begun(workdir, stage) or start == _read(path):
        return start
    if start is None:
        path.unlink(missing_ok=True)
    else:
        write_text(path, json.dumps(dataclasses.asdict(start), indent=1) + "\n")
    return start


def look_for_start(config: Config, workdir: Path, stage: StageName) -> Start | None:
    """What a stage begins or has begun with; None where that is nothing but its seed.

    Changes nothing. Raises CheckpointError where `start_from` names no workdir with this stage
    trained, and for a note that cannot be read.
    """
    known = _read(build.stage_directory(workdir, stage) / START)
    wanted = _find_wanted(config, stage)
    if has_begun(workdir, stage):
        return known
    if not wanted:
        return None
    if known is not None and known.workdir == wanted:
        return known
    directory = build.stage_directory(Path(wanted), stage) / "checkpoints"
    read_config(Path(wanted))  # says what is missing
    refuse_published(Path(wanted), f"be train.{stage}.start_from")
    if not has_begun(Path(wanted), stage):
        raise CheckpointError(f"train.{stage}.start_from: {wanted} holds no trained {stage}")
    with Checkpointer(directory, read_only=True) as checkpointer:
        step = checkpointer.all_steps()[-1]
        return Start(wanted, step, checkpointer.checkpoint_hash(step))


def check_start(start: Start, stage: StageName, network: Any) -> None:
    """Raises CheckpointError as `read_params` does, without reading the parameters."""
    other = _make_network(start, stage)
    directory = build.stage_directory(Path(start.workdir), stage) / "checkpoints"
    with Checkpointer(directory, read_only=True) as checkpointer:
        _require_same(start, stage, checkpointer.checkpoint_hash(start.step))
    shapes = jax.eval_shape(other.init, jax.random.key(0))
    if isinstance(network, TokenizerNetwork) and network.spec.taps != other.spec.taps:
        compare_specs(other.spec, network.spec)
    else:
        shapes = fit_optional(shapes, network, start, report=False)
        _check(
            jax.eval_shape(lambda params: fit_generator(params, other, network), shapes),
            network,
            start,
        )


def read_params(start: Start, stage: StageName, network: Any) -> PyTree:
    """Parameters (numpy) for `network`: averaged ones if kept; an image tokenizer's are inflated.

    Raises CheckpointError where they are gone, damaged, others than before or do not fit.
    """
    workdir = Path(start.workdir)
    other = _make_network(start, stage)
    kept = getattr(read_config(workdir).train, stage).ema > 0
    trained = build.load_trained(workdir, stage, network=other, ema=kept, step=start.step)
    _require_same(start, stage, trained.sha256)
    # Off the device that they were read to: the state may live on others.
    params = fit_optional(jax.tree.map(np.asarray, trained.params), network, start)
    if isinstance(network, TokenizerNetwork) and network.spec.taps != other.spec.taps:
        return inflate(params, other.spec, network.spec)
    if getattr(network, "head", None) != getattr(other, "head", None):
        print(f"{start} has another head: new here", flush=True)
    params = jax.tree.map(np.asarray, fit_generator(params, other, network))
    return _check(params, network, start)


def fit_ids(params: PyTree, source: Any, target: Any) -> PyTree:
    """Parameters of a `source` generator with the special ids of a `target` of other blocks.

    The number of special ids follows from the block (`SequencePlan.special_count`), those of prompt
    and codes stand behind them. Special ids that both know keep their embedding, more ones begin as
    in a new generator. What else differs stays as it is.
    """
    if not isinstance(source, GeneratorNetwork) or not isinstance(target, GeneratorNetwork):
        return params
    old, new = source.vocabulary, target.vocabulary
    if old.special == new.special or (old.prompt, old.codes) != (new.prompt, new.codes):
        return params
    fresh, kept = target.init(jax.random.key(0)), min(old.special, new.special)
    tokens = params["tokens"]
    tokens = jnp.concatenate(
        [tokens[:kept], fresh["tokens"][kept : new.special], tokens[old.special :]]
    )
    head = params["head"]
    if target.head is None and head["kernel"].shape[1] == old.size:  # it covers all ids
        kernel, middle = head["kernel"], fresh["head"]["kernel"][:, kept : new.special]
        kernel = jnp.concatenate([kernel[:, :kept], middle, kernel[:, old.special :]], axis=1)
        head = {**head, "kernel": kernel}
    return {**params, "tokens": tokens, "head": head}


def fit_head(params: PyTree, source: Any, target: Any) -> PyTree:
    """Parameters of a `source` generator with a new head where that of `target` is another one."""
    if not isinstance(source, GeneratorNetwork) or not isinstance(target, GeneratorNetwork):
        return params
    if source.head == target.head:
        return params
    return {**params, "head": target.init(jax.random.key(0))["head"]}


def fit_generator(params: PyTree, source: Any, target: Any) -> PyTree:
    """Parameters of a `source` generator for a `target` of other blocks, or with another head."""
    return fit_ids(fit_head(params, source, target), source, target)


def fit_optional(params: PyTree, network: Any, start: Start, *, report: bool = True) -> PyTree:
    """Parameters with zeros for the optional ones of `network` that they lack.

    Optional ones that `network` does not have are left out. Either is reported.
    """
    wanted = flatten_paths(jax.eval_shape(network.init, jax.random.key(0)))
    found = flatten_paths(params)
    lacking = [path for path in wanted if path not in found and _is_optional(path, network)]
    more = [path for path in found if path not in wanted and _is_optional(path, network)]
    if not lacking and not more:
        return params
    if report:
        text = f"has no {', '.join(lacking)}: zero at first" if lacking else ""
        text = text or f"has {', '.join(more)}, left out here"
        print(f"{start} {text}", flush=True)
    kept = {path: leaf for path, leaf in found.items() if path not in more}
    zeros = {path: np.zeros(wanted[path].shape, wanted[path].dtype) for path in lacking}
    return nest_flat({**kept, **zeros})


def _is_optional(path: str, network: Any) -> bool:
    return re.fullmatch(network.optional, path) is not None


def _make_network(start: Start, stage: StageName) -> Any:
    """The network whose parameters these are."""
    config = read_config(Path(start.workdir))
    labels = read_labels(Path(start.workdir)) if STAGES[stage].follows else ()
    return STAGES[stage].make_network(config, labels)


def _require_same(start: Start, stage: StageName, sha256: str) -> None:
    if sha256 != start.sha256:
        raise CheckpointError(
            f"{start.workdir} has another {stage} than this one began with: step {start.step} was "
            f"{start.sha256[:16]}, now {sha256[:16]}. Start in another --workdir."
        )


def _find_wanted(config: Config, stage: StageName) -> str:
    """The workdir to start from, as it will still be called from another place; '' for none."""
    wanted = getattr(config.train, stage).start_from
    return str(Path(wanted).absolute()) if wanted else ""


def _warn_of_codes(start: Start, stage: StageName, tokenizer: str) -> str:
    """Says so where a generator starts from one whose codes meant something else."""
    directory = build.stage_directory(Path(start.workdir), stage) / "checkpoints"
    with Checkpointer(directory, read_only=True) as checkpointer:
        there = checkpointer.read_meta(start.step).get("tokenizer_sha256", tokenizer)
    if there == tokenizer:
        return ""
    return f"; warning: it knows the codes of tokenizer {there[:16]}, not of {tokenizer[:16]}"


def _check(params: PyTree, network: Any, start: Start) -> PyTree:
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    lines = compare_leaves("model", flatten_paths(params), flatten_paths(shapes))
    if lines:
        shown = lines[:6] + ([f"and {len(lines) - 6} more"] if lines[6:] else [])
        raise CheckpointError(
            f"{start} has parameters of other shapes: {'; '.join(shown)}. Use its configuration, "
            "or another workdir in start_from."
        )
    return params


def _read(path: Path) -> Start | None:
    if not path.is_file():
        return None
    try:
        return Start(**read_json(path))
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}. It names the parameters that this stage began with; "
            "remove it to go on without."
        ) from error


# What both tokenizers must have in common.
SHARED = ("widths", "units", "groups", "quantizer", "levels", "codes", "code_channels")


def inflate(params: PyTree, source: TokenizerSpec, target: TokenizerSpec) -> PyTree:
    """Parameters (numpy) of a `target` tokenizer from those of a `source` with taps 1.

    Where the target strides over time, the channels of an upsampling convolution are repeated for
    each frame that it makes of one: `depth_to_space` takes the frame from the slowest channels.

    Raises CheckpointError, which names both sides, where they differ in more than time.
    """
    compare_specs(source, target)
    shapes = jax.eval_shape(TokenizerNetwork(target, lax_conv).init, jax.random.key(0))

    def grow(old: Array, new: jax.ShapeDtypeStruct) -> Array:
        frames = new.shape[-1] // old.shape[-1]  # that one latent frame becomes, else 1
        grown = np.tile(np.asarray(old), (1,) * (old.ndim - 1) + (frames,))
        if old.ndim == 5:  # a kernel: zeros for all frames before the current one
            grown = np.pad(grown, ((new.shape[0] - old.shape[0], 0), *(((0, 0),) * 4)))
        assert grown.shape == new.shape, (old.shape, new.shape)
        return grown

    return jax.tree.map(grow, params, shapes)


def compare_specs(source: TokenizerSpec, target: TokenizerSpec) -> None:
    """Raises CheckpointError, which names both sides, where `inflate` would."""
    sides = [
        f"{name} {there} there, {here} here"
        for name in SHARED
        if (there := getattr(source, name)) != (here := getattr(target, name))
    ]
    if source.taps != 1:
        sides.append(f"taps {source.taps} there, {target.taps} here: only taps 1 can be inflated")
    if target.taps == 1:
        sides.append(f"taps {source.taps} there, 1 here: there is nothing to inflate to")
    there, here = ([stride[1:] for stride in spec.strides] for spec in (source, target))
    if there != here:
        sides.append(f"strides {source.strides} there, {target.strides} here: equal in space only")
    if sides:
        raise CheckpointError(
            f"an image tokenizer can start a video tokenizer of the same widths, units, quantizer "
            f"and strides in space: {'; '.join(sides)}. Change either configuration."
        )
