# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration: files return a ConfigDict, the library sees frozen dataclasses, converted once.

The conversion is strict: unknown and missing keys and wrong types fail with the dotted path, all at
once. What can be derived (grid, vocabulary, plan) is a property, never a field.
"""

import dataclasses
import json
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
    call_get_config,
    convert,
    set_override,
    suggest,
)

DType = Literal["float32", "bfloat16"]
# What `data.root` is for each kind of data that has one.
ROOTS = {
    "folder": "folder of videos",
    "records": "dataset that nbp.prepare wrote",
    "tokens": "token cache that nbp.encode wrote",
}


@dataclass(frozen=True)
class ShapesConfig:
    """Content of moving shapes; see `nbp.data.moving_shapes.MovingShapesSpec` for each field.

    train_clips: distinct training clips, the length of an epoch.
    """

    shapes: tuple[str, ...] = ("square", "disk", "triangle")
    colours: tuple[str, ...] = ("red", "green", "blue")
    motions: tuple[str, ...] = ("right", "left", "down", "up")
    texture: float = 12.0
    distractors: int = 0
    rotate: bool = False
    radius: tuple[float, float] = (0.2, 0.25)
    speeds: tuple[float, ...] = (0.05,)
    snap: int = 0
    train_clips: Count = 1_000_000


@dataclass(frozen=True)
class DataConfig:
    """Where clips come from and what they look like: uint8 [frames, size, size, 3].

    root: the folder of class sub-folders (kind `folder`), the dataset that `nbp.prepare` wrote
      (`records`), or the cache that `nbp.encode` wrote (`tokens`, for the generator stage).
    fps: frame rate that clips are resampled to; 0 keeps each file's own.
    spatial: short side to `size` and a square crop (random in training, else centred); squash both
      sides; or random_crop, which cuts the square from frames 1.5 times larger.
    flip: mirror half of the training clips.
    validation: share of videos held out (`folder`); 0 evaluates on the training videos.
    validation_split: the held-out split (`records`, `tokens`), by default validation, else test.
    check: decode every file once at start ("frames"), or trust its header ("headers").
    validation_clips: the largest number of clips that an evaluation looks at.
    workers: loader processes; 0 loads in threads of the main process.
    bad_records: a clip that cannot be read is replaced by another and counted, or stops the run.
    """

    kind: Literal["moving_shapes", "folder", "records", "tokens"]
    frames: Count
    size: Count
    root: str = ""
    fps: NonNegative = 0.0
    spatial: Literal["crop", "squash", "random_crop"] = "crop"
    flip: bool = False
    validation: Share = 0.1
    validation_split: str = ""
    check: Literal["frames", "headers"] = "frames"
    validation_clips: Count = 256
    workers: Natural = 0
    stall_seconds: Positive = 300.0
    bad_records: Literal["replace", "stop"] = "replace"
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
    """Cadence in steps, shared by the stages; 0 switches a periodic action off.

    changed_data: what to do where the data are not those of the checkpoint that is resumed.
    """

    tokenizer: StageConfig
    generator: StageConfig
    log_every: Count = 50
    checkpoint_every: Count = 500
    keep: Count = 3
    evaluate_every: Natural = 500
    preview_every: Natural = 500
    preview_clips: Count = 8
    changed_data: Literal["refuse", "accept"] = "refuse"


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
        fields.pop("train_clips")
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
    if data.kind == "moving_shapes":
        check("data.moving_shapes", lambda: config.shapes_spec)
    else:
        require(
            bool(data.root), "data.root", f"name the {ROOTS[data.kind]}: --config.data.root=DIR"
        )
    if data.kind == "tokens":
        text = "the tokenizer learns from clips, not tokens: --config.stages=\"('generator',)\""
        require("tokenizer" not in config.stages, "stages", text)
        text = "scores clips, which tokens are not; evaluate later with nbp.evaluate --data DIR"
        require(not config.evaluation.protocol, "evaluation.protocol", text)
    elif config.evaluation.protocol:
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
    values = call_get_config(path, variant)
    for key, text in overrides.items():
        set_override(values, Config, key, text=text)
    config = from_dict(values)
    validate(config)
    return config


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
