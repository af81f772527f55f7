# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration: files return a ConfigDict, the library sees frozen dataclasses, converted once.

The conversion is strict: unknown and missing keys and wrong types fail with the dotted path, all at
once. What can be derived (grid, vocabulary, plan) is a property, never a field.
"""

import ast
import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nbp.data import ucf101_prompts
from nbp.data.moving_shapes import MovingShapesSpec
from nbp.errors import ConfigError
from nbp.layout import Box, LatentGrid, Opening, SequencePlan, Vocabulary, resolve_block
from nbp.models.tokenizer import TokenizerSpec
from nbp.protocols.published import find_protocol, needs_features
from nbp.schema import Seed, call_get_config, convert, set_override, suggest
from nbp.sections import (
    AdversarialConfig,
    DataConfig,
    EvaluationConfig,
    GeneratorConfig,
    ImagesConfig,
    LossesConfig,
    MemoryConfig,
    MeshConfig,
    SamplingConfig,
    StageConfig,
    TokenizerConfig,
    TrainConfig,
)

# What `data.root` is for each kind of data that has one.
ROOTS = {
    "folder": "folder of videos",
    "records": "dataset that nbp.prepare wrote",
    "tokens": "token cache that nbp.encode wrote",
}


@dataclass(frozen=True)
class Config:
    """A whole experiment; `config.json` of a workdir is this, resolved."""

    name: str
    data: DataConfig
    tokenizer: TokenizerConfig
    generator: GeneratorConfig
    train: TrainConfig
    seed: Seed = 0
    stages: tuple[Literal["tokenizer", "generator"], ...] = ("tokenizer", "generator")
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    losses: LossesConfig = field(default_factory=LossesConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)

    @property
    def tokenizer_spec(self) -> TokenizerSpec:
        names = {field.name for field in dataclasses.fields(TokenizerSpec)}
        fields = dataclasses.asdict(self.tokenizer)
        fields["kind"] = fields.pop("quantizer")
        return TokenizerSpec(**{name: fields[name] for name in names & fields.keys()})

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
        lengths = {"none": 0, "label": 1, "text": ucf101_prompts.LENGTH}
        prompt = lengths[self.generator.prompt]
        return SequencePlan(self.grid, self.block, self.opening, prompt)

    def vocabulary(self, classes: int) -> Vocabulary:
        """The ids of a model trained with `classes` labels."""
        sizes = {"none": 0, "label": classes, "text": ucf101_prompts.VOCABULARY}
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
        text = (
            'scores clips, which tokens are not: --config.evaluation.protocol="", and later '
            "nbp.evaluate --data DIR"
        )
        require(not config.evaluation.protocol, "evaluation.protocol", text)
    elif config.evaluation.protocol:
        evaluation = config.evaluation
        check("evaluation.protocol", lambda: find_protocol(evaluation.protocol, data.kind))
        text = f"{evaluation.protocol} needs I3D features: --config.evaluation.features=DIR"
        needed = needs_features(evaluation.protocol)
        require(bool(evaluation.features) or not needed, "evaluation.features", text)
    if data.kind == "tokens":
        text = "compares clips, which tokens are not: --config.evaluation.every=0"
        require(not config.evaluation.every, "evaluation.every", text)
    images = config.images
    if images.batch:
        text = "only the tokenizer stage learns from images: --config.images.batch=0"
        require("tokenizer" in config.stages, "images.batch", text)
        accumulate = config.train.tokenizer.accumulate
        text = f"{images.batch} images do not split into {accumulate} micro-batches"
        require(images.batch % accumulate == 0, "images.batch", text)
    text = "a folder of images, of which none are taken: --config.images.batch=N, or leave it empty"
    require(bool(images.batch) or not images.root, "images.root", text)
    if "tokenizer" in config.stages:
        problems += find_objective_problems(config)
    for name in config.stages:
        stage: StageConfig = getattr(config.train, name)
        require(
            stage.batch % stage.accumulate == 0,
            f"train.{name}.batch",
            f"{stage.batch} clips do not split into {stage.accumulate} micro-batches",
        )
    if problems:
        raise ConfigError("; ".join(problems))


def find_objective_problems(config: Config) -> list[str]:
    """What the losses of the tokenizer stage ask of the rest of the configuration, if in vain."""
    losses, size = config.losses, config.data.size
    problems = []
    if losses.perceptual == "lpips" and not losses.lpips_root:
        problems.append(
            "losses.lpips_root: name the folder that `python -m nbp.convert lpips --out DIR` wrote:"
            " --config.losses.lpips_root=DIR; losses.perceptual=structure needs no weights"
        )
    least = {"none": 1, "structure": 8, "lpips": 16}[losses.perceptual]
    if size < least:
        problems.append(
            f"losses.perceptual: {losses.perceptual} compares frames of at least {least} px, "
            f"data.size is {size}. Use larger clips, or none"
        )
    widths, stride = config.adversarial.widths, 2 ** max(0, len(config.adversarial.widths) - 1)
    if config.adversarial.weight and not widths:
        problems.append("adversarial.widths: a discriminator needs at least one width")
    if config.adversarial.weight and size < stride:
        problems.append(
            f"adversarial.widths: {len(widths)} widths halve the frame {len(widths) - 1} times, "
            f"and data.size is {size}. Use fewer widths"
        )
    return problems


# Reading ---------------------------------------------------------------------------------------


def load_config(argument: str, overrides: Mapping[str, str], *, expand: bool = True) -> Config:
    """Reads `FILE[:VARIANT]`, applies `{"a.b": "value"}`, converts and validates.

    A value is read as a Python literal, or as a string where it is none. expand: see
    `expand_paths`; without it paths stay as they are written. Raises ConfigError.
    """
    path, variant = split_argument(argument)
    values = call_get_config(path, variant)
    problems: list[str] = []

    def collect(problem: ConfigError) -> None:
        known = "; ".join(problems)
        problems.extend(text for text in problem.args if text not in known)

    for key, text in overrides.items():
        try:
            set_override(values, Config, key, text=text)
        except ConfigError as problem:
            collect(problem)
    config = None
    try:
        config = from_dict(values)
        config = expand_paths(config) if expand else config
        validate(config)
    except ConfigError as problem:
        collect(problem)
    if problems or config is None:
        raise ConfigError("; ".join(problems))
    return config


def split_argument(argument: str) -> tuple[str, str]:
    """`FILE[:VARIANT]` as a file that exists and a variant, "" for none; a path may have colons.

    Raises ConfigError, with the nearest configuration below `configs`, where there is none.
    """
    places = [len(argument), *(i for i in reversed(range(len(argument))) if argument[i] == ":")]
    for place in places:  # the longest path first
        if Path(argument[:place]).is_file():
            return argument[:place], argument[place + 1 :]
    path, colon, variant = argument.rpartition(":")
    path = path if colon and "/" not in variant and not variant.endswith(".py") else argument
    if Path(path).is_dir():
        raise ConfigError(f"{path} is a folder: name a configuration in it, FILE.py[:VARIANT]")
    known = sorted(str(p) for p in Path("configs").glob("**/*.py") if is_configuration(p))
    hint = suggest(path, known) if known else "; those of NBP lie in the folder configs"
    raise ConfigError(f"no config file {path}{hint}")


def is_configuration(path: Path) -> bool:
    """Whether a file defines `get_config`, so is no helper of others; it is not run."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    return any(getattr(node, "name", "") == "get_config" for node in tree.body)


def expand_paths(config: Config) -> Config:
    """The configuration with `~`, `~user`, `$NAME` and `${NAME}` in its paths replaced.

    Raises ConfigError, which names every key, for a user or a variable that there is none of.
    """
    problems: list[str] = []

    def expand(group: Any, prefix: str, *names: str) -> Any:
        changed = {}
        for name in names:
            path = getattr(group, name)
            try:
                changed[name] = expand_path(path)
            except ValueError as error:
                problems.append(f"{prefix}.{name}: {error}")
        return dataclasses.replace(group, **changed)

    stages = {
        name: expand(getattr(config.train, name), f"train.{name}", "start_from")
        for name in ("tokenizer", "generator")
    }
    expanded = dataclasses.replace(
        config,
        data=expand(config.data, "data", "root"),
        images=expand(config.images, "images", "root"),
        losses=expand(config.losses, "losses", "lpips_root"),
        evaluation=expand(config.evaluation, "evaluation", "features"),
        train=dataclasses.replace(config.train, **stages),
    )
    if problems:
        raise ConfigError("; ".join(problems))
    return expanded


def expand_path(path: str) -> str:
    """`path` with the home folder and variables put in, unless it exists as it is written.

    Raises ValueError for a user or a variable that there is none of.
    """
    if (not path.startswith("~") and "$" not in path) or os.path.exists(path):
        return path
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError(f"{path}: there is no home folder of {path.partition('/')[0]}")
    expanded = os.path.expandvars(expanded)
    if missing := re.search(r"\$(\w+|\{\w+\})", expanded):
        raise ValueError(f"{path}: the variable {missing[1].strip('{}')} is not set")
    return expanded


def parse_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """`["--config.a.b=value", "--config.c", "value"]` as `{"a.b": "value", "c": "value"}`.

    Raises ConfigError, which names every argument that is none of these.
    """
    overrides: dict[str, str] = {}
    problems: list[str] = []
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--config."):
            flags = ("--config", "--workdir", "--config.KEY=VALUE")
            problems.append(f"unknown argument {name!r}{suggest(name, flags)}")
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                problems.append(f"{name} needs a value: {name}=VALUE")
                continue
            value = rest.pop(0)
        overrides[name.removeprefix("--config.")] = value
    if problems:
        raise ConfigError("; ".join(problems))
    return overrides


def from_dict(values: Mapping[str, Any]) -> Config:
    """The configuration of a nested mapping (a ConfigDict's or a `config.json`'s)."""
    return convert(Config, values)


def to_json(config: Config) -> str:
    """The resolved configuration as JSON text; `from_dict(json.loads(text))` gives it back."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"
