# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What a published weight file is: the configuration that its shapes and the flags imply."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nbp.config.schema import (
    Config,
    DataConfig,
    EvaluationConfig,
    GeneratorConfig,
    SamplingConfig,
    StageConfig,
    TrainConfig,
)
from nbp.data import ucf101_prompts
from nbp.errors import CheckpointError, ConfigError, DataError
from nbp.files import read_lines
from nbp.interop import official
from nbp.layout import Box, LatentGrid, Opening, resolve_block
from nbp.models.tokenizer import OFFICIAL_SPEC, TokenizerSpec
from nbp.workdir import read_config

Report = Callable[[str], None]
Prompt = Literal["none", "label", "text"]


@dataclass(frozen=True)
class ConvertRequest:
    """What `nbp.convert` was asked for; None leaves a value to what the file says.

    levels: FSQ levels; frames, size: of the clips. labels: file with a class name per line, for a
    generator with label prompts. videos: folder that evaluation takes real clips from.
    first_stage: also convert the tokenizer inside a generator file. linear: file of LPIPS's heads.
    """

    source: Path
    out: Path
    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    frames: int = 17
    size: int = 128
    layers: int | None = None
    heads: int | None = None
    width: int | None = None
    block: str | Box | None = None
    opening: Literal["prefix", "bov", "hybrid"] | None = None
    prompt: Prompt | None = None
    labels: Path | None = None
    videos: str = ""
    first_stage: bool = False
    linear: Path | None = None


def find_tokenizer(
    request: ConvertRequest, state: official.OfficialState, *, origin: str
) -> TokenizerSpec:
    """The tokenizer that the generator's codes belong to: of the workdir, the file, or official."""
    inside = None
    if state.tokenizer:
        inside = official.infer_tokenizer(state.tokenizer, levels=request.levels, origin=origin)
    elif request.first_stage:
        raise CheckpointError(f"{origin} holds no tokenizer (first_stage_model.*)")
    if (request.out / "config.json").is_file():
        known = read_config(request.out)
        require_same(request, known, inside or known.tokenizer)
        return known.tokenizer
    return inside or dataclasses.replace(OFFICIAL_SPEC, levels=request.levels)


def require_same(request: ConvertRequest, known: Config, spec: TokenizerSpec) -> None:
    """Both halves of a workdir must be about the same clips and the same tokenizer."""
    pairs = {
        "frames": (known.data.frames, request.frames),
        "size": (known.data.size, request.size),
        "levels": (known.tokenizer.levels, request.levels),
        "tokenizer widths": (known.tokenizer.widths, spec.widths),
        "tokenizer units": (known.tokenizer.units, spec.units),
        "tokenizer strides": (known.tokenizer.strides, spec.strides),
    }
    wrong = [f"{name} {old} there, {new} here" for name, (old, new) in pairs.items() if old != new]
    if wrong:
        raise CheckpointError(f"{request.out} holds another model: {'; '.join(wrong)}")


def confirm_sizes(
    request: ConvertRequest,
    sizes: official.GeneratorSizes,
    hints: Mapping[str, Any],
    *,
    origin: str,
) -> None:
    """Flags, and training flags inside the file, must agree with the shapes."""
    facts = {
        "layers": (sizes.layers, "n_layer", f"blocks.0 to blocks.{sizes.layers - 1}"),
        "width": (sizes.width, "n_embd", f"tok_emb.weight [{sizes.ids}, {sizes.width}]"),
    }
    for name, (value, hint, where) in facts.items():
        sides = {f"--{name}": getattr(request, name), f"its own flag {hint}": hints.get(hint)}
        for side, wanted in sides.items():
            if wanted not in (None, value):
                raise CheckpointError(
                    f"{origin}: {where} make {name} {value}, but {side} says {wanted}"
                )


def find_prompt(request: ConvertRequest, sizes: official.GeneratorSizes, *, origin: str) -> Prompt:
    kinds: dict[int, Prompt] = {0: "none", 1: "label", ucf101_prompts.LENGTH: "text"}
    if sizes.prompt_length not in kinds:
        raise CheckpointError(
            f"{origin}: uncond_embedding has {sizes.prompt_length} rows; known are 0 (no prompt), "
            f"1 (label) and {ucf101_prompts.LENGTH} (text)"
        )
    found = kinds[sizes.prompt_length]
    if request.prompt not in (None, found):
        raise CheckpointError(
            f"{origin}: uncond_embedding [{sizes.prompt_length}, {sizes.width}] means prompt "
            f"{found}, but --prompt says {request.prompt}"
        )
    return found


def find_labels(request: ConvertRequest, prompt: Prompt) -> tuple[str, ...]:
    if prompt == "text":
        return tuple(ucf101_prompts.load_prompts())
    if prompt == "none":
        return ("video",)
    if request.labels is None:
        raise ConfigError("this generator has label prompts: name its classes with --labels FILE")
    try:
        lines = read_lines(request.labels)
    except DataError as error:
        raise ConfigError(f"--labels {error}") from error
    return tuple(line.strip(" \t") for line in lines if line.strip(" \t"))


def describe_generator(
    request: ConvertRequest,
    sizes: official.GeneratorSizes,
    hints: Mapping[str, Any],
    *,
    tokenizer: TokenizerSpec,
    prompt: Prompt,
    labels: Sequence[str],
    report: Report,
) -> GeneratorConfig:
    """The generator's configuration: from shapes, then flags, then the published sizes."""
    origin = request.source.name
    heads = request.heads or hints.get("n_head") or official.HEADS.get(sizes.width)
    if type(heads) is not int or heads < 1 or sizes.width % heads:
        raise ConfigError(
            f"{origin}: the number of heads leaves no trace in shapes and width {sizes.width} is "
            f"none of the published ones; give --heads, a divisor of {sizes.width}"
        )
    grid = find_grid(request, tokenizer)
    prompt_ids = {"none": 0, "label": len(labels), "text": ucf101_prompts.VOCABULARY}[prompt]
    codes = math.prod(request.levels)
    special = sizes.ids - codes - prompt_ids
    if special < 0:
        raise CheckpointError(
            f"{origin}: tok_emb.weight has {sizes.ids} ids, fewer than {codes} codes and "
            f"{prompt_ids} prompt ids. Check --levels and --labels."
        )
    block, opening = _find_block(request, grid, special)
    if request.block is None and special < 2:
        report(
            f"the block leaves no trace in this file; {block} is assumed, --block says otherwise"
        )
    return GeneratorConfig(
        layers=sizes.layers,
        heads=heads,
        width=sizes.width,
        recipe="paper",
        block=block,
        opening=opening.kind,
        prompt=prompt,
        # As the official masks: only the variant with one begin-of-video block hides padding.
        padding="hidden" if opening.kind == "bov" else "visible",
        null_probability=0.0,
        context=sizes.context,
    )


def _find_block(
    request: ConvertRequest, grid: LatentGrid, special: int
) -> tuple[str | Box, Opening]:
    """Block and opening that fit the number of special ids."""
    origin = request.source.name
    if request.block is not None:
        block = request.block
    elif special < 2:
        block = "row"
    else:
        names = [n for n in ("row", "frame") if math.prod(resolve_block(n, grid)) == special]
        if not names:
            raise ConfigError(
                f"{origin}: blocks of {special} tokens are neither a row nor a frame of the latent "
                f"grid {grid.shape}; give --block"
            )
        block = names[0]
    try:
        size = math.prod(resolve_block(block, grid))
    except ValueError as error:
        raise ConfigError(f"--block: {error}") from error
    opening = official.infer_opening(special, size, origin=origin)
    if request.opening not in (None, opening.kind):
        same = size == 1 and {request.opening, opening.kind} == {"bov", "hybrid"}
        if not same:
            raise CheckpointError(
                f"{origin}: {special} special ids in tok_emb.weight mean opening {opening.kind}, "
                f"but --opening says {request.opening}"
            )
        opening = Opening("hybrid" if request.opening == "hybrid" else "bov")
    return block, opening


def make_config(
    request: ConvertRequest, *, tokenizer: TokenizerSpec, generator: GeneratorConfig | None
) -> Config:
    """The configuration of the workdir, with the official settings of sampling (REFERENCE 3.2)."""
    # A tokenizer alone says nothing about its generator: K600 base stands in until one comes.
    generator = generator or GeneratorConfig(
        layers=24, heads=16, width=1536, recipe="paper", opening="prefix"
    )
    grid = find_grid(request, tokenizer)
    text = generator.prompt == "text"
    fps = 8.0 if text else 16.0  # of the training clips
    untrained = StageConfig(steps=1, batch=1, learning_rate=1e-4, warmup=0)
    return Config(
        name=f"converted:{request.source.stem}",
        data=DataConfig(
            kind="folder",
            frames=request.frames,
            size=request.size,
            root=request.videos,
            fps=fps,
            spatial="squash",
            validation=0.0,
        ),
        tokenizer=tokenizer,
        generator=generator,
        train=TrainConfig(tokenizer=untrained, generator=untrained),
        sampling=SamplingConfig(top_k=16_000, top_p=0.9, batch=4, fps=fps),
        evaluation=EvaluationConfig(
            given_frames=min(2, grid.t - 1) if generator.opening == "prefix" else 0
        ),
    )


def find_grid(request: ConvertRequest, tokenizer: TokenizerSpec) -> LatentGrid:
    """The latent grid of the requested clips; ConfigError where they do not fit the strides."""
    try:
        return tokenizer.grid(request.frames, request.size, request.size)
    except ValueError as error:
        raise ConfigError(f"--frames, --size: {error}") from error
