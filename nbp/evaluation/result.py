# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The result of an evaluation, and its JSON: the report that `nbp.evaluate` writes.

A row of a list in it is a dict that JSON holds as it is; its type says what a reader may rely on.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar

from nbp.errors import ConfigError, DataError
from nbp.files import write_text

T = TypeVar("T")


class ProtocolRecord(TypedDict):
    """Of all fields of a `Protocol`, those that are read."""

    name: str
    version: int
    clips: Sequence[dict[str, Any]]


class WorstClip(TypedDict):
    """A clip that was reproduced worst: PSNR in dB, its picture below the report."""

    index: int
    psnr: float
    label: NotRequired[str]
    path: NotRequired[str]  # of a real video
    error: NotRequired[str]  # in place of both: why it could not be read again
    file: str


class CodeUse(TypedDict):
    """Use of the codes. curve: the share of tokens of the k/64 most frequent codes."""

    codes: int
    used: int
    usage: float
    perplexity: float
    curve: list[float]


class Drawing(TypedDict):
    """How clips were generated. passes: of a clip, a mean where clips differ. opener_passes: those
    of the opener among them, where there is one. seconds_of: parts of this run's seconds.
    seconds_per_clip: the median, newer than some reports.
    """

    clips: int
    seed: int
    passes: float
    opener_passes: NotRequired[float]
    seconds: float
    seconds_of: dict[str, float]
    seconds_per_clip: NotRequired[float]
    clips_per_second: float
    frames_per_second: float


def describe_speed(generation: Drawing) -> dict[str, Any]:
    """The conditions of generated clips under the names that older reports have."""
    return {
        "clips": generation["clips"],
        "passes": generation["passes"],
        "seconds_with_compilation": generation["seconds_of"]["draw"],
        "frames_per_second_with_compilation": generation["frames_per_second"],
    }


class TokenBits(TypedDict):
    """Bits of each place of the latent grid, means over the real clips.

    plan: fields of the `SequencePlan` of the generator. bits: [T][H][W], None where nothing is
    predicted.
    """

    plan: dict[str, Any]
    bits: list[list[list[float | None]]]


class ClassScores(TypedDict):
    """Means over the generated clips of a class; None where not measured."""

    label: str
    count: int
    feature_distance: float | None
    label_agreement: float | None


class RepeatScore(TypedDict):
    """A repeat of the protocol. real: fingerprint of its real clips."""

    seed: int
    score: str
    value: float
    real: str | None


class Leaks(TypedDict):
    """See `nbp.evaluation.leakage`."""

    checked: str
    train_test_names: list[str]
    train_test_count: NotRequired[int]
    prepared: NotRequired[dict[str, int]]
    duplicates: list[list[str]]
    duplicate_clips: int


@dataclass(frozen=True)
class GeneratedResult:
    """What a report says of generated clips beside their scores.

    reference: the real clips that they were compared with, None without features.
    generated_psnr_per_frame: dB, where first frames were given.
    """

    generation: Drawing
    reference: dict[str, Any] | None
    per_class: list[ClassScores]
    repeats: list[RepeatScore]
    generated_psnr_per_frame: list[float] | None


@dataclass(frozen=True)
class UsedWeights:
    """Where the weights of networks come from, None where none were used."""

    features: dict[str, Any] | None
    lpips: dict[str, Any] | None
    c3d: dict[str, Any] | None


@dataclass(frozen=True)
class Conditions:
    """Under which a result was found.

    data: which clips, and how they were read. generated: conditions of generated clips under the
    names of older reports. averaged: whether parameters are moving averages.
    """

    workdir: str
    config: str
    held_out_clips: int
    data: dict[str, Any]
    weights: UsedWeights
    seed: int
    sampling: dict[str, Any]
    generated: dict[str, Any]
    checkpoints: dict[str, Any]
    averaged: bool
    averaged_generator: bool
    versions: dict[str, str]
    device: str
    processes: int
    seconds: float


@dataclass(frozen=True)
class EvaluationResult:
    """What one protocol gave for a workdir, and all that fixes the numbers.

    In JSON the fields of the records inside stand among its own. protocol: all fields of its
    record. complete: whether nothing of it is missing; deviations says what. psnr_per_frame: dB.
    token_bits: None where no likelihood was measured. generated_set: None where no clips were
    generated.
    """

    protocol: ProtocolRecord
    complete: bool
    deviations: list[str]
    conditions: Conditions
    scores: dict[str, float]
    leaks: Leaks
    psnr_per_frame: list[float]
    worst: list[WorstClip]
    code_usage: dict[str, CodeUse]
    token_bits: TokenBits | None
    generated_set: GeneratedResult | None

    def to_json(self) -> dict[str, Any]:
        """The report as a dict for JSON; what was not measured or used has no key in it."""
        return _flatten(self)

    @classmethod
    def from_json(cls, report: Mapping[str, Any]) -> "EvaluationResult":
        """The result that a report holds; DataError names what is missing or of another type.

        Keys that are not known are left out.
        """
        made = _build(GeneratedResult, report) if "generation" in report else None
        return dataclasses.replace(_build(cls, report), generated_set=made)


OPTIONAL = (
    "c3d",
    "token_bits",
    "generated_set",
    "generated_psnr_per_frame",
)  # no key in JSON where None


def _flatten(record: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            found |= _flatten(value)
        elif value is not None or field.name not in OPTIONAL:
            found[field.name] = value
    return found


def _build(kind: type[T], report: Mapping[str, Any]) -> T:
    """A record, and those inside, from the values of their fields."""
    values: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            values[name] = _build(typing.cast(type, hint), report)
        elif name in report:
            _check_type(report[name], hint, name)
            values[name] = report[name]
        elif name in OPTIONAL:
            values[name] = None
        else:
            raise DataError(f"{name} is missing")
    return kind(**values)


def _check_row(row: Mapping[str, Any], kind: Any, path: str) -> None:
    """DataError where a dict lacks a key of a TypedDict, or has a value of another type."""
    for name, hint in typing.get_type_hints(kind).items():
        if name in row:
            _check_type(row[name], hint, f"{path}.{name}")
        elif name in kind.__required_keys__:
            raise DataError(f"{path}.{name} is missing")


def _check_type(value: Any, hint: Any, path: str) -> None:
    """DataError where a value of JSON is not what a type says."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:  # of one type and None
        if value is not None:
            _check_type(value, next(t for t in inner if t is not types.NoneType), path)
    elif typing.is_typeddict(hint) and isinstance(value, dict):
        _check_row(value, hint, path)
    elif origin is dict and isinstance(value, dict):
        for name, item in value.items():
            _check_type(item, inner[1], f"{path}.{name}")
    elif origin in (list, Sequence) and isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_type(item, inner[0], f"{path}[{i}]")
    elif hint is not Any and not _is_plain(value, hint):
        raise DataError(f"{path} is a {type(value).__name__}")


def _is_plain(value: Any, hint: Any) -> bool:
    """Whether a value is of a class; a whole number is a float as well, true is no number."""
    if hint is float and type(value) is int:
        return value.bit_length() < 1024  # more is beyond all floats
    return type(value) is hint


def read_report(path: Path) -> dict[str, Any]:
    """A report of nbp.evaluate; ConfigError where the file is none."""
    try:
        report = json.loads(path.read_text(encoding="utf8"))
        if not (isinstance(report["protocol"], dict) and isinstance(report["scores"], dict)):
            raise TypeError("it has no protocol or no scores")
    except OSError as error:
        raise ConfigError(f"--compare {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"--compare {path}: no report of nbp.evaluate ({error})") from error
    return report


def write_report(path: Path, result: EvaluationResult) -> None:
    """Writes a report as JSON, whole or not at all."""
    write_text(path, json.dumps(result.to_json(), indent=2) + "\n")
