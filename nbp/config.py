# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration: files return a ConfigDict, the library sees frozen dataclasses, converted once.

The conversion is strict: unknown and missing keys and wrong types fail with the dotted path, all at
once. What can be derived (grid, vocabulary, plan) is a property, never a field.
"""

import dataclasses
import importlib.util
import inspect
import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from nbp.data import prompts
from nbp.data.moving_shapes import MovingShapesSpec
from nbp.errors import ConfigError
from nbp.evaluation.protocols import find_protocol
from nbp.layout import Box, LatentGrid, Opening, SequencePlan, Vocabulary, resolve_block
from nbp.models.tokenizer import TokenizerSpec
from nbp.schema import (
    Count,
    Natural,
    NonNegative,
    Positive,
    Range,
    Share,
    convert,
    set_override,
    suggest,
)

DType = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class ShapesConfig:
    """Content of moving shapes; see `nbp.data.moving_shapes.MovingShapesSpec` for each field."""

    shapes: tuple[str, ...] = ("square", "disk", "triangle")
    colours: tuple[str, ...] = ("red", "green", "blue")
    motions: tuple[str, ...] = ("right", "left", "down", "up")
    texture: float = 12.0
    distractors: int = 0
    rotate: bool = False
    radius: tuple[float, float] = (0.2, 0.25)
    speeds: tuple[float, ...] = (0.05,)
    snap: int = 0


@dataclass(frozen=True)
class DataConfig:
    """Where clips come from and what they look like: uint8 [frames, size, size, 3].

    root: the folder of class sub-folders (kind `folder`).
    fps: frame rate that clips are resampled to; 0 keeps each file's own.
    spatial: short side to `size` and a square crop (random in training, else centred), or squash.
    flip: mirror half of the training clips.
    validation: share of videos held out (`folder`); 0 evaluates on the training videos.
    check: decode every file once at start ("frames"), or trust its header ("headers").
    train_clips, validation_clips: distinct clips per epoch (`moving_shapes`), and the largest
      number of clips that an evaluation looks at.
    workers: loader processes; 0 loads in threads of the main process.
    """

    kind: Literal["moving_shapes", "folder"]
    frames: Count
    size: Count
    root: str = ""
    fps: NonNegative = 0.0
    spatial: Literal["crop", "squash"] = "crop"
    flip: bool = False
    validation: Share = 0.1
    check: Literal["frames", "headers"] = "frames"
    train_clips: Count = 1_000_000
    validation_clips: Count = 256
    workers: Natural = 0
    stall_seconds: Positive = 300.0
    moving_shapes: ShapesConfig = ShapesConfig()


@dataclass(frozen=True)
class TokenizerConfig:
    """Sizes as in `nbp.models.tokenizer.TokenizerSpec`; `loss`: reconstruction term."""

    widths: tuple[Count, ...]
    units: tuple[Natural, ...]
    strides: tuple[tuple[Count, Count, Count], ...]
    levels: tuple[int, ...]
    groups: Count = 32
    dtype: DType = "float32"
    loss: Literal["l1", "l2", "charbonnier"] = "charbonnier"


@dataclass(frozen=True)
class GeneratorConfig:
    """The next-block generator.

    block: token, row, frame or a box (bt, bh, bw) that divides the latent grid.
    opening: prefix, bov or hybrid; opening_blocks: length of hybrid's token-by-token part in
      blocks, or "frame" for the blocks that cover the first latent frame.
    prompt: none, label (class id) or text (of a UCF101 class name, 8 ids); null_probability: share
      of clips trained without it. padding: whether attention sees the padding of a text.
    context: rows of the position table (paper recipe).
    """

    layers: Count
    heads: Count
    width: Count
    recipe: Literal["modern", "paper"] = "modern"
    block: str | Box = "row"
    opening: Literal["prefix", "bov", "hybrid"] = "hybrid"
    opening_blocks: int | Literal["frame"] = 1
    prompt: Literal["none", "label", "text"] = "none"
    padding: Literal["hidden", "visible"] = "hidden"
    null_probability: Share = 0.1
    dropout: Share = 0.0
    dtype: DType = "float32"
    attention: Literal["xla", "dense"] = "xla"
    context: Count = 5120


@dataclass(frozen=True)
class StageConfig:
    """Optimization of one stage. One step is one update of `batch` clips.

    optimizer: muon treats weight matrices as a whole and learns in fewer steps; AdamW otherwise.
    schedule: paper is the official one, quirks included (docs/official_parity.md).
    clip_norm: largest global gradient norm, 0 for no clipping.
    accumulate: micro-batches per update; gradients: their mean, or their sum as in the official
      code. ema: decay of the averaged parameters, 0 for none.
    """

    steps: Count
    batch: Count
    learning_rate: Positive
    optimizer: Literal["adamw", "muon"] = "adamw"
    warmup: Natural = 100
    schedule: Literal["cosine", "constant", "paper"] = "cosine"
    final_fraction: NonNegative = 0.0
    b1: Share = 0.9
    b2: Share = 0.95
    weight_decay: NonNegative = 0.01
    clip_norm: NonNegative = 1.0
    accumulate: Count = 1
    gradients: Literal["mean", "sum"] = "mean"
    ema: Share = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """Cadence in steps, shared by the stages; 0 switches a periodic action off."""

    tokenizer: StageConfig
    generator: StageConfig
    log_every: Count = 50
    checkpoint_every: Count = 500
    keep: Count = 3
    evaluate_every: Natural = 500
    preview_every: Natural = 500
    preview_clips: Count = 8


@dataclass(frozen=True)
class SamplingConfig:
    """Defaults of sampling; the flags of `nbp.sample` override them. 0 and 1 switch filters off."""

    temperature: Positive = 1.0
    top_k: Natural = 0
    top_p: Annotated[float, Range(0.0, above=True, high=1.0)] = 1.0
    guidance: NonNegative = 0.0
    guidance_ramp: bool = False
    batch: Count = 32
    fps: Positive = 8.0


@dataclass(frozen=True)
class EvaluationConfig:
    """What `nbp.train` does when all stages are trained, and how large an evaluation is.

    protocol: name for `nbp.evaluate`; empty for none. clips: clips to generate and score.
    samples: clips written to `workdir/samples`. given_frames: latent frames taken from held-out
    clips instead of generated.
    """

    protocol: str = ""
    clips: Count = 256
    samples: Natural = 16
    given_frames: Natural = 0


@dataclass(frozen=True)
class Config:
    """A whole experiment; `config.json` of a workdir is this, resolved."""

    name: str
    data: DataConfig
    tokenizer: TokenizerConfig
    generator: GeneratorConfig
    train: TrainConfig
    seed: Natural = 0
    stages: tuple[Literal["tokenizer", "generator"], ...] = ("tokenizer", "generator")
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def tokenizer_spec(self) -> TokenizerSpec:
        fields = dataclasses.asdict(self.tokenizer)
        fields.pop("loss")
        return TokenizerSpec(**fields)

    @property
    def shapes_spec(self) -> MovingShapesSpec:
        fields = dataclasses.asdict(self.data.moving_shapes)
        return MovingShapesSpec(frames=self.data.frames, size=self.data.size, **fields)

    @property
    def grid(self) -> LatentGrid:
        return self.tokenizer_spec.grid(self.data.frames, self.data.size, self.data.size)

    @property
    def block(self) -> Box:
        return resolve_block(self.generator.block, self.grid)

    @property
    def opening(self) -> Opening:
        blocks = self.generator.opening_blocks
        if self.generator.opening != "hybrid":
            return Opening(self.generator.opening)
        if blocks == "frame":
            _, h, w = self.grid.shape
            _, bh, bw = self.block
            blocks = (h // bh) * (w // bw)
        return Opening("hybrid", blocks)

    @property
    def plan(self) -> SequencePlan:
        lengths = {"none": 0, "label": 1, "text": prompts.LENGTH}
        prompt = lengths[self.generator.prompt]
        return SequencePlan(self.grid, self.block, self.opening, prompt)

    def vocabulary(self, classes: int) -> Vocabulary:
        """The ids of a model trained with `classes` labels."""
        sizes = {"none": 0, "label": classes, "text": prompts.VOCABULARY}
        prompt = sizes[self.generator.prompt]
        return Vocabulary(self.tokenizer_spec.quantizer.codes, prompt, self.plan.special_count)


def validate(config: Config) -> None:
    """Raises ConfigError naming every problem of a configuration, each with its remedy."""
    problems: list[str] = []

    def check(path: str, derive: Callable[[], Any]) -> None:
        try:
            derive()
        except ValueError as error:
            text = f"{path}: {error}"
            if not any(text.endswith(known.split(": ", 1)[1]) for known in problems):
                problems.append(text)

    def require(fits: bool, path: str, text: str) -> None:
        if not fits:
            problems.append(f"{path}: {text}")

    check("tokenizer", lambda: config.tokenizer_spec.quantizer)
    check("data", lambda: config.grid)
    if not problems:
        check("generator.block", lambda: config.block)
        check("generator.opening", lambda: config.plan)
    generator, data = config.generator, config.data
    require(
        generator.width % generator.heads == 0,
        "generator.heads",
        f"width {generator.width} is not a multiple of {generator.heads} heads",
    )
    require(bool(config.stages), "stages", "name at least one of tokenizer, generator")
    if data.kind == "folder":
        require(bool(data.root), "data.root", "name the folder of videos: --config.data.root=DIR")
    else:
        check("data.moving_shapes", lambda: config.shapes_spec)
    if config.evaluation.protocol:
        check("evaluation.protocol", lambda: find_protocol(config.evaluation.protocol, data.kind))
    for name in config.stages:
        stage: StageConfig = getattr(config.train, name)
        require(
            stage.batch % stage.accumulate == 0,
            f"train.{name}.batch",
            f"{stage.batch} clips do not split into {stage.accumulate} micro-batches",
        )
    if problems:
        raise ConfigError("; ".join(problems))


# Reading ---------------------------------------------------------------------------------------


def load_config(argument: str, overrides: Mapping[str, str]) -> Config:
    """Reads `FILE[:VARIANT]`, applies `{"a.b": "value"}`, converts and validates.

    A value is read as a Python literal, or as a string where it is none. Raises ConfigError.
    """
    path, _, variant = argument.partition(":")
    if not Path(path).is_file():
        known = sorted(str(p) for p in Path("configs").glob("**/*.py") if p.stem != "__init__")
        raise ConfigError(f"no config file {path}{suggest(path, known)}")
    values = _call_get_config(path, variant)
    for key, text in overrides.items():
        set_override(values, Config, key, text=text)
    config = from_dict(values)
    validate(config)
    return config


def _call_get_config(path: str, variant: str) -> dict[str, Any]:
    """The nested values that a config file returns. The file is the user's own Python code."""
    spec = importlib.util.spec_from_file_location("nbp_user_config", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file; configurations end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        get_config = module.get_config
        takes_variant = bool(inspect.signature(get_config).parameters)
        if variant and not takes_variant:
            raise ConfigError(f"{path} has no variants; use it without {variant!r}")
        tree = get_config(variant) if takes_variant else get_config()
    except ConfigError:
        raise
    except KeyError as error:
        text = error.args[0] if error.args else ""
        raise ConfigError(f"{path} has no variant {variant!r}: {text}") from error
    except Exception as error:  # whatever the user's file does wrong
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        where = f"{path}, line {lines[-1]}" if lines else path
        if not hasattr(module, "get_config"):
            where += " (it must define get_config)"
        raise ConfigError(f"{where}: {type(error).__name__}: {error}") from error
    return tree.to_dict() if hasattr(tree, "to_dict") else dict(tree)


def parse_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """`["--config.a.b=value", "--config.c", "value"]` as `{"a.b": "value", "c": "value"}`."""
    overrides: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--config."):
            flags = ("--config", "--workdir", "--config.KEY=VALUE")
            raise ConfigError(f"unknown argument {name!r}{suggest(name, flags)}")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"{name} needs a value: {name}=VALUE")
            value = rest.pop(0)
        overrides[name.removeprefix("--config.")] = value
    return overrides


def from_dict(values: Mapping[str, Any]) -> Config:
    """The configuration of a nested mapping (a ConfigDict's or a `config.json`'s)."""
    return convert(Config, values)


def to_json(config: Config) -> str:
    """The resolved configuration as JSON text; `from_dict(json.loads(text))` gives it back."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"
