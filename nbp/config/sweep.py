# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What a sweep is made of: a file with `get_sweep`, read as strictly as a configuration.

A sweep is a Python file for the reasons for which a configuration is one: its lists are computed
(sizes and budgets that belong together), helpers beside it can be imported, `FILE:VARIANT` works,
and a mistake is told with its line.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbp.config import from_dict, load_config, split_argument, to_json
from nbp.config.parsing import call_get_config, convert, set_override
from nbp.config.schema import Config
from nbp.config.validation import validate
from nbp.errors import ConfigError
from nbp.ranges import Seed

DEFAULT = "default"  # the dial that turns nothing
OWN = "own"  # in `tokenizer`: each run trains its own
# What a dial may turn beside `sampling`: keys that no parameter depends on.
OPENING = ("generator.opening", "generator.opening_blocks")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,59}")
LONGEST = 160  # characters of the name of a run, which is a folder


@dataclass(frozen=True)
class RunsSpec:
    """Runs that belong together: their name is the group of `nbp.fit`.

    overrides: keys of the configuration, dotted or nested, and their values. grid: keys and lists
    of values, of which every combination is a run. seeds: in place of the sweep's. dials: beside
    the sweep's, by name: keys of `sampling`, or the opening, for drawing from the same checkpoint.
    """

    overrides: dict = field(default_factory=dict)
    grid: dict = field(default_factory=dict)
    seeds: tuple[Seed, ...] = ()
    dials: dict = field(default_factory=dict)


@dataclass(frozen=True)
class SweepSpec:
    """What `get_sweep` returns.

    config: FILE[:VARIANT] of the configuration that all runs begin with. runs: `RunsSpec` by name.
    overrides: of all runs, and of the tokenizer. seeds, dials: of all runs, see `RunsSpec`.
    tokenizer: empty trains the configuration's once, and all generators start from it; or a
      workdir that holds one; `own` has each run train all its stages.
    protocol, data, features: of the evaluation, as the flags of `nbp.evaluate`; empty: as the
      configuration has them.
    """

    name: str
    config: str
    runs: dict
    overrides: dict = field(default_factory=dict)
    seeds: tuple[Seed, ...] = (0,)
    dials: dict = field(default_factory=dict)
    tokenizer: str = ""
    protocol: str = ""
    data: str = ""
    features: str = ""


@dataclass(frozen=True)
class SweepRun:
    """One training. design: its name without the seed; group: the name of its `RunsSpec`.

    overrides: dotted keys and values, without the seed. dials: by name, the same; the first one is
    `default`, which turns nothing.
    """

    name: str
    design: str
    group: str
    seed: int
    overrides: Mapping[str, Any]
    dials: Mapping[str, Mapping[str, Any]]


def load_sweep(argument: str) -> tuple[SweepSpec, list[SweepRun]]:
    """Reads FILE[:VARIANT] and lists its runs in their order; ConfigError names what is wrong."""
    path, variant = split_argument(argument)
    values = call_get_config(path, variant, function="get_sweep")
    try:
        sweep = convert(SweepSpec, values)
        runs = list_runs(sweep)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return sweep, runs


def list_runs(sweep: SweepSpec) -> list[SweepRun]:
    """Every run, groups in their order, seeds innermost; ConfigError for all mistakes at once."""
    problems: list[str] = []
    found: list[SweepRun] = []
    _check_name("name", sweep.name, problems)
    if not sweep.runs:
        problems.append("runs: name at least one")
    for group, values in sweep.runs.items():
        _check_name(f"runs.{group}", str(group), problems)
        try:
            found += _expand(sweep, str(group), convert(RunsSpec, values))
        except ConfigError as error:
            problems.append(f"runs.{group}: {error}")
    names = [run.name for run in found]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        problems.append(f"two runs would be called {name}: give their runs other names")
    if problems:
        raise ConfigError("; ".join(problems))
    return found


def _check_name(path: str, name: str, problems: list[str]) -> None:
    if not NAME.fullmatch(name):
        problems.append(
            f"{path}: {name[:60]!r} names files: use letters, digits, _ . + and -, 60 at most"
        )


def _expand(sweep: SweepSpec, group: str, spec: RunsSpec) -> Iterator[SweepRun]:
    shared = flatten(sweep.overrides)
    own = flatten(spec.overrides)
    grid = flatten(spec.grid)
    for key, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ConfigError(f"grid.{key}: {values!r} is no list of values")
    for key in {**shared, **own, **grid}:
        if key == "seed":
            raise ConfigError("seed: give seeds=(...) instead, so that runs of one kind are known")
        if key == "stages" and sweep.tokenizer != OWN:
            raise ConfigError(f"stages: the sweep decides on them, but with tokenizer={OWN!r}")
        if key == "evaluation.protocol":
            raise ConfigError("evaluation.protocol: give protocol=NAME to the sweep, for all runs")
    if both := sorted(set(own) & set(grid)):
        raise ConfigError(f"{', '.join(both)}: both in overrides and in grid")
    seeds = spec.seeds or sweep.seeds
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds: {seeds!r}: name each once, and at least one")
    dials = read_dials({**sweep.dials, **spec.dials})
    labels = name_keys(list(grid))
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        parts = [f"{labels[key]}={write_value(value)}" for key, value in point.items()]
        design = "-".join([group, ",".join(parts)]) if parts else group
        if len(design) > LONGEST:
            raise ConfigError(f"the name {design[:60]}... of a run is too long for a folder")
        for seed in seeds:
            overrides = {**shared, **own, **point}
            yield SweepRun(f"{design}-s{seed}", design, group, seed, overrides, dials)


def read_dials(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Dials by name with dotted keys, after the one that turns nothing; ConfigError."""
    dials: dict[str, dict[str, Any]] = {DEFAULT: {}}
    problems: list[str] = []
    for name, keys in values.items():
        _check_name(f"dials.{name}", str(name), problems)
        if name == DEFAULT:
            problems.append(f"dials.{name}: this name is that of the configuration as it is")
        if not isinstance(keys, Mapping) or not keys:
            problems.append(f"dials.{name}: {keys!r} is no group of keys")
            continue
        flat = flatten(keys)
        wrong = [key for key in flat if not key.startswith("sampling.") and key not in OPENING]
        if wrong:
            problems.append(
                f"dials.{name}: {', '.join(wrong)} would need another training: a dial turns keys "
                f"of sampling, {' and '.join(OPENING)}; put it among the runs"
            )
        dials[str(name)] = flat
    if problems:
        raise ConfigError("; ".join(problems))
    return dials


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested groups, or dotted keys, as dotted keys and their values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def name_keys(keys: Sequence[str]) -> dict[str, str]:
    """Short names of dotted keys: the last part, or all of it where two would be the same."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: end if last.count(end) == 1 else key for key, end in zip(keys, last, strict=True)}


def write_value(value: Any) -> str:
    """A value as a part of a folder's name: 64, row, 1x2x2."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "x".join(map(write_value, value))
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", f"{value:g}" if type(value) is float else str(value))


def write_overrides(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as the text that `--config.KEY=VALUE` has."""
    return {key: value if isinstance(value, str) else repr(value) for key, value in values.items()}


@dataclass(frozen=True)
class Training:
    """A resolved training: of a run, or of the tokenizer that all runs share (run is None).

    overrides: those that make `config` of the sweep's configuration, as text. dials: by name, the
    configuration that clips are drawn with and scored; none without a protocol.
    """

    name: str
    config: Config
    overrides: Mapping[str, str]
    dials: Mapping[str, Config]
    run: SweepRun | None


def resolve_run(sweep: SweepSpec, run: SweepRun, protocol: str, trained: Config | None) -> Training:
    """The training of a run, whose evaluations are the sweep's; ConfigError names the run.

    protocol: of all evaluations, "" for none. trained: the configuration of the shared tokenizer.
    """
    texts = write_overrides(run.overrides) | {"seed": str(run.seed), "evaluation.protocol": ""}
    texts.setdefault("name", f"{sweep.name}/{run.design}")
    if sweep.tokenizer != OWN:
        texts["stages"] = "('generator',)"
    config = _load(sweep, texts, run.name)
    if trained is not None:
        check_same_tokenizer(run.name, config, trained)
    dials = _resolve_dials(run, config, protocol)
    return Training(run.name, config, texts, dials, run)


def resolve_tokenizer(sweep: SweepSpec) -> Training:
    """The training of the tokenizer that all runs share."""
    texts = write_overrides(flatten(sweep.overrides)) | {"evaluation.protocol": ""}
    texts |= {"evaluation.every": "0", "seed": str(sweep.seeds[0]), "stages": "('tokenizer',)"}
    texts.setdefault("name", f"{sweep.name}/tokenizer")
    return Training("tokenizer", _load(sweep, texts, "tokenizer"), texts, {}, None)


def _load(sweep: SweepSpec, texts: Mapping[str, str], name: str) -> Config:
    try:
        return load_config(sweep.config, texts)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def check_same_tokenizer(name: str, config: Config, trained: Config) -> None:
    """ConfigError where a run describes another tokenizer than it would get."""
    here, there = (dataclasses.asdict(c.tokenizer) for c in (config, trained))
    for values, source in ((here, config), (there, trained)):
        values["averaged"] = source.train.tokenizer.ema > 0
    wrong = [k for k in here if here[k] != there[k] and k not in ("dtype", "remat")]
    if wrong:
        sides = "; ".join(f"{k} {here[k]} here, {there[k]} there" for k in wrong)
        raise ConfigError(
            f"{name}: all runs share one tokenizer, and this is another: {sides}. Give the keys to "
            f"the whole sweep, or let each run train its own: tokenizer={OWN!r}"
        )


def _resolve_dials(run: SweepRun, config: Config, protocol: str) -> dict[str, Config]:
    if not protocol:
        if len(run.dials) > 1:
            raise ConfigError(f"{run.name}: dials are scored under a protocol: protocol=NAME")
        return {}
    found = {}
    for name, dial in run.dials.items():
        try:
            values = json.loads(to_json(config))
            for key, text in write_overrides(dial).items():
                set_override(values, Config, key, text=text)
            found[name] = from_dict(values)
            validate(found[name])
            sizes = {c.vocabulary(0).size for c in (config, found[name])}
        except ValueError as error:  # ConfigError is one
            raise ConfigError(f"{run.name}, dial {name}: {error}") from error
        if len(sizes) > 1:
            raise ConfigError(
                f"{run.name}, dial {name}: this opening has tokens of its own, which the run does "
                "not learn; put it among the runs"
            )
    return found


def find_protocol_name(sweep: SweepSpec) -> str:
    """The protocol of all evaluations: the sweep's, else its configuration's; "" for none."""
    known = flatten(call_get_config(*split_argument(sweep.config)))
    return sweep.protocol or known.get("evaluation.protocol", "")
