# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration and requests become what draws clips: samplers, filters, given frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, assert_never

import jax
import numpy as np
from jax.sharding import Mesh

from nbp import build_data
from nbp.build import (
    Trained,
    check_tokenizer,
    load_tokenizer,
    load_trained,
    make_generator_groups,
    make_generator_network,
    make_tokenizer_network,
)
from nbp.config.schema import Config
from nbp.data.masks import keep_cells, keep_ends
from nbp.data.video.decode import read_clip
from nbp.errors import ConfigError
from nbp.layout import Box, frames_of_latents
from nbp.parallel import mesh
from nbp.sampling.finite import check_parameters
from nbp.sampling.long_video import Slide, SlideKind, choose_rolling, choose_slide
from nbp.sampling.request import SampleRequest
from nbp.sampling.sampler import Sampler
from nbp.sampling.settings import SamplingConfig
from nbp.sampling.speculative import AUTOREGRESSIVE, Decoding, RelaxedJacobi, SpeculativeJacobi
from nbp.workdir import find_label

NO_DRAFTS = (
    "this model has no draft channel: train with --config.generator.draft=True, from its own "
    "weights with --config.train.generator.start_from=WORKDIR"
)


def draw_in_block(config: Config, block: str | Box = "") -> Config:
    """The configuration as `block` of a request says, else `sampling.block`: its model draws so.

    Raises ConfigError where the model was not trained with that block.
    """
    wanted = block or config.sampling.block
    try:
        return config.with_block(wanted) if wanted else config
    except ValueError as error:
        raise ConfigError(
            f"sampling in {error}. Train it with more: --config.generator.blocks"
        ) from error


def make_sampling_mesh(config: Config) -> Mesh | None:
    """All devices of this process, for sampling; None for one of them.

    `mesh.tensor` of them share a clip where that divides, as in training. A configuration that asks
    for a single device gets it.
    """
    devices, chosen = jax.local_devices(), config.mesh
    if len(devices) == 1 or chosen.data * chosen.fsdp * chosen.tensor == 1:
        return None
    tensor = chosen.tensor if len(devices) % chosen.tensor == 0 else 1
    return mesh.make_mesh(tensor=tensor, devices=devices)


def load_sampler(
    config: Config,
    workdir: Path,
    *,
    labels: Sequence[str],
    sampling: SamplingConfig,
    decoding: Decoding = AUTOREGRESSIVE,
    loaded: Trained | None = None,
) -> tuple[Sampler, dict[str, Any]]:
    """The sampler of a trained workdir, and the provenance of its parameters.

    loaded: its tokenizer, where that is in memory already.
    """
    tokenizer = make_tokenizer_network(config)
    generator = make_generator_network(config, labels)
    trained_tokenizer = loaded or load_tokenizer(config, workdir)
    trained_generator = load_trained(
        workdir,
        "generator",
        network=generator,
        ema=config.train.generator.ema > 0,
        groups=make_generator_groups(config),
    )
    sampler = Sampler(
        generator,
        trained_generator.params,
        tokenizer,
        trained_tokenizer.params,
        sampling=sampling,
        decoding=decoding,
    )
    check_tokenizer(trained_generator, trained_tokenizer)
    origin = {
        "tokenizer_step": trained_tokenizer.step,
        "tokenizer_sha256": trained_tokenizer.sha256,
        "generator_step": trained_generator.step,
        "generator_sha256": trained_generator.sha256,
    }
    return sampler, origin


@dataclass(frozen=True)
class RequestPlan:
    """A request for samples that was checked against the configuration of its workdir.

    request: with `per_class` written as conditions. ids: class of each condition, None without.
    given_frames: latent frames that are kept. slide: how windows move, None where no video is
    longer than a clip.
    """

    request: SampleRequest
    sampling: SamplingConfig
    decoding: Decoding
    ids: list[int] | None
    given_frames: int
    slide: Slide | None

    @property
    def count(self) -> int:
        """Clips in all."""
        return self.request.count * self.request.samples_per_condition

    def name_clips(self, labels: Sequence[str]) -> list[str]:
        """What each clip shows."""
        ids, copies = self.ids, self.request.samples_per_condition
        names = ["clip"] * self.request.count if ids is None else [labels[i] for i in ids]
        return [name for name in names for _ in range(copies)]


def plan_request(config: Config, labels: Sequence[str], request: SampleRequest) -> RequestPlan:
    """Checks a request before anything is read or computed; ConfigError where it cannot be."""
    request = count_conditions(config, labels, request)
    check_given_anywhere(config, request)
    return RequestPlan(
        request,
        make_sampling(config, request.sampling),
        make_decoding(config, request),
        ids=choose_labels(config, labels, request),
        given_frames=choose_given_frames(config, request),
        slide=plan_slide(config, request),
    )


def read_drawing(config: Config, plan: RequestPlan) -> dict[str, Any]:
    """The arguments of `Sampler.sample` and `Rollout.sample` for a request, but the counts."""
    copies = plan.request.samples_per_condition
    anywhere = plan.request.mask is not None or plan.request.between is not None
    conditions = read_conditions(config, plan.request) if plan.given_frames or anywhere else {}
    return {
        **{name: rows.repeat(copies, 0) for name, rows in conditions.items()},
        "seed": plan.request.seed,
        "given_frames": plan.given_frames,
        "labels": None if plan.ids is None else np.repeat(plan.ids, copies).tolist(),
    }


def load_request_sampler(
    config: Config,
    workdir: Path,
    labels: Sequence[str],
    plan: RequestPlan,
    *,
    loaded: Trained | None = None,
) -> Sampler:
    """The sampler of a workdir as a request wants it, laid out on the devices of this process.

    loaded: its tokenizer, where that is in memory already. Raises NonFiniteError where weights are
    no numbers.
    """
    sampler, _ = load_sampler(
        config,
        workdir,
        labels=labels,
        sampling=plan.sampling,
        decoding=plan.decoding,
        loaded=loaded,
    )
    check_parameters({"generator": sampler.generator_params, "tokenizer": sampler.tokenizer_params})
    return replace(sampler, mesh=make_sampling_mesh(config)).laid_out()


def make_sampling(config: Config, changes: Mapping[str, Any] | None = None) -> SamplingConfig:
    """The configuration's settings, some of them replaced; ConfigError where they do not fit."""
    try:
        sampling = replace(config.sampling, **(changes or {}))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if sampling.guidance and config.generator.prompt == "none":
        raise ConfigError("guidance needs a label-conditional model; this one has no prompt")
    if sampling.refinements > 1 and not config.generator.draft:
        raise ConfigError(f"refinements {sampling.refinements}: {NO_DRAFTS}")
    return sampling


def make_decoding(config: Config, request: SampleRequest) -> Decoding:
    """How the passes are made; ConfigError where the request or the tokenizer does not allow it."""
    chosen = request.decoder
    asked = {"window": chosen.window, "radius": chosen.radius, "delta": chosen.delta}
    given = {name: value for name, value in asked.items() if value is not None}
    takes = {"plain": (), "jacobi": ("window",), "relaxed": ("window", "radius", "delta")}
    for name in given:
        if name not in takes[chosen.decoding]:
            fitting = " or ".join(kind for kind, names in takes.items() if name in names)
            raise ConfigError(f"--{name} is for --decoding {fitting}, not {chosen.decoding}")
    refinements = make_sampling(config, request.sampling).refinements
    if refinements > 1 and chosen.decoding != "plain":
        raise ConfigError(
            f"--decoding {chosen.decoding} draws each block in one pass, not {refinements}: use "
            "--refinements 1"
        )
    levels = find_levels(config) if chosen.decoding == "relaxed" else ()
    if request.long.anchor and chosen.decoding != "plain":
        raise ConfigError(f"--anchor draws pass by pass: leave out --decoding {chosen.decoding}")
    try:
        match chosen.decoding:
            case "plain":
                return AUTOREGRESSIVE
            case "jacobi":
                return SpeculativeJacobi(**given)
            case "relaxed":
                return RelaxedJacobi(levels, **given)
            case _ as never:
                assert_never(never)
    except ValueError as error:
        raise ConfigError(f"--decoding {chosen.decoding}: {error}") from error


def find_levels(config: Config) -> tuple[int, ...]:
    """Levels of the digits of a code: neighbours are near each other. Else ConfigError."""
    if not (digits := config.tokenizer.digits):
        raise ConfigError(
            "--decoding relaxed needs codes that are near each other, as those of fsq and lfq; "
            f"this tokenizer has {config.tokenizer.quantizer}. Use --decoding jacobi."
        )
    return digits


def count_conditions(
    config: Config, labels: Sequence[str], request: SampleRequest
) -> SampleRequest:
    """The request with --per_class written as conditions and samples of each."""
    if request.count < 1:
        raise ConfigError(f"--num {request.count}: draw at least 1 clip")
    if request.samples_per_condition < 1:
        raise ConfigError(
            f"--samples_per_condition {request.samples_per_condition}: draw at least 1 clip of each"
        )
    if request.per_class is None:
        return request
    if request.per_class < 1:
        raise ConfigError(f"--per_class {request.per_class}: draw at least 1 clip of each class")
    if config.generator.prompt == "none":
        raise ConfigError("--per_class: this model was trained without labels (prompt none)")
    labelled = request.label is not None or request.unconditional
    if labelled or request.samples_per_condition > 1:
        raise ConfigError(
            "--per_class draws clips of every class: leave out --label, --unconditional and "
            "--samples_per_condition"
        )
    return replace(request, count=len(labels), samples_per_condition=request.per_class)


def choose_labels(
    config: Config, labels: Sequence[str], request: SampleRequest
) -> list[int] | None:
    """Class id per condition: those asked for, else all, in turn; None for no condition.

    A class called none wins over the meaning of `--label none`, which `--unconditional` has always.
    """
    if request.unconditional and request.label is not None:
        raise ConfigError("--label and --unconditional: give one of them")
    if config.generator.prompt == "none":
        if request.label is not None:
            raise ConfigError("--label: this model was trained without labels (prompt none)")
        return None
    if request.unconditional:
        return None  # drawn from the trained null condition
    asked = (request.label,) if isinstance(request.label, str) else request.label
    try:
        ids = range(len(labels)) if asked is None else [find_label(labels, text) for text in asked]
    except ConfigError:
        if asked == ("none",):  # no class has this name
            return None
        raise
    return [ids[i % len(ids)] for i in range(request.count)]


def plan_slide(config: Config, asked: SampleRequest) -> Slide | None:
    """How windows move over the videos asked for; None where a trained clip has all frames."""
    request, frames = asked.long, asked.long.num_frames
    if frames is None or frames <= config.data.frames:
        if frames is not None and frames < 1:
            raise ConfigError(f"--num_frames {frames}: draw at least 1 frame")
        for flag, value in (
            ("--keep_frames", request.keep_frames),
            ("--slide", request.slide),
            ("--sinks", request.sinks),
            ("--anchor", request.anchor or None),
            ("--features", request.features or None),
        ):
            if value is not None:
                raise ConfigError(
                    f"{flag} is about videos longer than a clip of {config.data.frames} frames: "
                    f"give --num_frames {config.data.frames + 1} or more, or leave it out"
                )
        return None
    if request.anchor and request.slide in ("reencode", "rolling"):
        raise ConfigError("--anchor keeps codes as they are: leave out --slide, or use codes")
    rotary = config.generator.positions == "rotary"
    usual: SlideKind = "rolling" if rotary else "reencode"
    kind = "anchor" if request.anchor else request.slide or usual
    if request.sinks is not None and kind != "rolling":
        raise ConfigError(f"--sinks {request.sinks}: {kind} has none; they are for --slide rolling")
    if kind == "rolling":
        check_rolling(config, asked)
    try:
        if kind == "rolling":
            return choose_rolling(config.plan, sinks=request.sinks)
        return choose_slide(config.plan, keep=request.keep_frames, kind=kind)
    except ValueError as error:
        others = ". Use --slide reencode or codes" if kind == "rolling" else ""
        raise ConfigError(f"--num_frames {frames}: {error}{others}") from error


def check_rolling(config: Config, asked: SampleRequest) -> None:
    """ConfigError where a rolling window cannot serve the request."""
    if config.generator.positions != "rotary":
        raise ConfigError(
            "--slide rolling: this model has learned positions, which end with the clip: use "
            "reencode or codes, or train one with --config.generator.positions=rotary"
        )
    if asked.long.keep_frames is not None:
        raise ConfigError(
            f"--keep_frames {asked.long.keep_frames}: a rolling window keeps all but the oldest: "
            "leave it out, or add --slide reencode or codes"
        )
    if asked.decoder.decoding != "plain":
        raise ConfigError(
            f"--decoding {asked.decoder.decoding}: a rolling window is drawn pass by pass: leave "
            "it out, or add --slide reencode or codes"
        )


def choose_given_frames(config: Config, request: SampleRequest) -> int:
    """Latent frames to keep: asked for, else configured, else the fewest that the model needs."""
    plan = config.plan
    needed = -(-plan.first // plan.grid.frame)
    needed += -needed % plan.block[0]
    configured = max(config.evaluation.given_frames, needed)
    given = request.given_frames
    if request.between is not None or (given is None and request.mask is not None):
        given = needed
    elif given is None:
        given = configured if request.frames is None else max(configured, plan.block[0])
    try:
        plan.schedule(plan.tokens_of_frames(given))
    except ValueError as error:
        raise ConfigError(f"given frames: {error}") from error
    return given


def read_conditions(config: Config, request: SampleRequest) -> dict[str, np.ndarray]:
    """Clips or codes whose first frames are kept: of what is given, else held-out ones in turn."""
    data, stride = config.data, config.tokenizer.stride[0]
    if request.between is not None:
        first = request.given_frames or 1
        clips = build_data.join_ends(config, request.between, frames_of_latents(first, stride))
        return repeat_rows(request.count, clips=clips[None], kept=keep_ends(config.grid, first))
    if request.frames is None:
        if config.data.kind != "moving_shapes" and not config.data.root:
            raise ConfigError("this model continues a video: name one with --frames FILE")
        _, held_out = build_data.make_data(config)
        rows = build_data.iterate_clips(config, held_out, limit=request.count, batch=request.count)
        return take_examples(next(rows), request.count)
    fps = data.fps or None
    needed = frames_of_latents(choose_given_frames(config, request), stride)
    needed = needed if request.mask is None else data.frames
    if isinstance(request.frames, Path):
        clip = read_clip(request.frames, frames=needed, fps=fps, start=0.0)
        clips = build_data.fit_frames(config, clip)[None]
    else:
        clips = check_given(config, request, needed=needed)[:, :needed]
    # The tokenizer is causal: what stands behind the given frames cannot change their codes.
    padding = np.repeat(clips[:, -1:], data.frames - needed, axis=1)
    clips = np.concatenate([clips, padding], axis=1)
    if request.mask is None:
        return repeat_rows(request.count, clips=clips)
    kept = keep_cells(build_data.read_mask(config, request.mask), config.grid, stride=stride)
    if kept.all() or not kept.any():
        rest = "every cell is kept" if kept.all() else "no cell is kept"
        raise ConfigError(f"--mask: {rest}; a cell of {stride} frames is kept as a whole or not")
    return repeat_rows(request.count, clips=clips, kept=kept)


def repeat_rows(
    count: int, *, clips: np.ndarray, kept: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """`count` clips of one [1 t h w c] or as many, and their kept cells [T H W] where there are."""
    rows = {"clips": np.broadcast_to(clips, (count, *clips.shape[1:])).copy()}
    return rows if kept is None else {**rows, "kept": np.repeat(kept[None], count, 0)}


def check_given_anywhere(config: Config, request: SampleRequest) -> None:
    """ConfigError where tokens cannot be given as `mask` or `between` ask."""
    flag = "--mask" if request.mask is not None else "--between"
    if request.mask is None and request.between is None:
        return
    if not config.generator.draft:
        raise ConfigError(f"{flag}: {NO_DRAFTS}")
    frames = request.long.num_frames
    if frames is not None and frames > config.data.frames:
        raise ConfigError(
            f"{flag} draws one clip of {config.data.frames} frames: leave out --num_frames"
        )
    if request.decoder.decoding != "plain":
        raise ConfigError(f"{flag}: leave out --decoding {request.decoder.decoding}")
    if request.mask is not None:
        if request.frames is None:
            raise ConfigError("--mask: name the video of which the rest is kept: --frames FILE")
        build_data.read_mask(config, request.mask)
    if request.between is None:
        return
    if request.frames is not None or request.mask is not None:
        raise ConfigError("--between names both videos: leave out --frames and --mask")
    plan = config.plan
    if plan.block[0] < plan.grid.t or plan.first_joint:
        raise ConfigError(
            "--between: a token does not know the blocks behind it, so the gap would not know its "
            f"end: this needs a model with generator.block=({plan.grid.t}, h, w) and opening=bov"
        )
    if (request.given_frames or 1) > plan.grid.t - 2:
        raise ConfigError(f"--between: {plan.grid.t} latent frames leave no gap between the given")


def check_given(config: Config, request: SampleRequest, *, needed: int) -> np.ndarray:
    """The given frames as uint8 [1 t h w c] for all conditions, or one of them for each."""
    given, (height, width) = np.asarray(request.frames), config.data.sides
    given = given[None] if given.ndim == 4 else given
    if given.dtype != np.uint8 or given.ndim != 5 or given.shape[2:] != (height, width, 3):
        raise ConfigError(
            f"frames: {describe_array(request.frames)}; give a file, or uint8 [t {height} "
            f"{width} 3] of 0 to 255, or such a video for each clip"
        )
    if given.shape[1] < needed:
        raise ConfigError(f"frames: {given.shape[1]} frames are given, {needed} are needed")
    if len(given) not in (1, request.count):
        raise ConfigError(f"frames: {len(given)} videos for {request.count} clips: give one each")
    return given


def describe_array(values: Any) -> str:
    """Type and shape, for a message."""
    found = np.asarray(values)
    return f"{found.dtype} {list(found.shape)}"


def take_examples(batch: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """`count` clips or codes of a batch in turn, as the argument of `Sampler.sample`."""
    rows = batch["codes"].astype(np.int32) if "codes" in batch else batch["video"]
    rows = np.resize(rows, (count, *rows.shape[1:]))
    return {"codes" if "codes" in batch else "clips": rows}
