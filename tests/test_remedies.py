# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What messages tell people to do can be done: keys, flags and commands exist, remedies work."""

import dataclasses
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbp import build_data
from nbp.config import from_dict, load_config, parse_overrides, to_json
from nbp.config.parsing import list_keys, set_override
from nbp.config.schema import Config
from nbp.errors import ConfigError, DataError
from tests.data.videos import encode, make_clip
from tests.texts import COMMANDS, HOLE, ROOT, list_flags, list_strings

KEYS = set(list_keys(Config))
SECTIONS = {key.partition(".")[0] for key in KEYS if "." in key}
FLAGS = set().union(*(list_flags(command) for command in COMMANDS))
MESSAGES = [
    (f"{path.relative_to(ROOT)}:{line}", text)
    for path in sorted((ROOT / "nbp").rglob("*.py"))
    for line, text in list_strings(path)
]
VALUE = r"""\"[^\"]*\"|'[^']*'|[^\s,;:'\")]*"""
PLACEHOLDERS = {"KEY", "a.b", "c"}  # of texts that tell how keys are given


def find_keys(text: str) -> Iterator[tuple[str, str]]:
    """Keys and values of `--config.KEY=VALUE` in a text; those that are put in are left out."""
    for found in re.finditer(rf"--config\.([\w.{HOLE}]+)(?:=({VALUE}))?", text):
        key = found[1].rstrip(".").replace("STAGE", "generator")
        if HOLE not in key and key not in PLACEHOLDERS:
            yield key, (found[2] or "").rstrip(".")


def test_the_collection_sees_what_it_looks_for() -> None:
    texts = [text for _, text in MESSAGES]
    assert sum("--config." in text for text in texts) > 20
    assert list(
        find_keys("use --config.data.root=DIR, or --config.stages=\"('generator',)\".")
    ) == [
        ("data.root", "DIR"),
        ("stages", "\"('generator',)\""),
    ]
    told = "use --config.data.root=DIR, or --config.stages=\"('generator',)\"."
    assert list(find_keys(told)) == [("data.root", "DIR"), ("stages", "\"('generator',)\"")]
    assert list(find_keys(f"--config.{HOLE}=1 --config.train.{HOLE}.steps")) == []


def test_keys_in_messages_exist() -> None:
    wrong = [
        (place, key) for place, text in MESSAGES for key, _ in find_keys(text) if key not in KEYS
    ]
    assert not wrong


def test_keys_in_messages_take_the_values_that_are_named() -> None:
    base = json.loads(to_json(load_config("configs/quickstart.py", {})))
    count = 0
    for place, text in MESSAGES:
        for key, value in find_keys(text):
            if not value or HOLE in value or value.isupper():  # DIR, N
                continue
            count += 1
            values = json.loads(json.dumps(base))
            (value,) = shlex.split(value)
            try:
                set_override(values, Config, key, text=value)
                from_dict(values)
            except ConfigError as error:
                pytest.fail(f"{place}: --config.{key}={value}: {error}")
    assert count > 3


def test_flags_in_messages_exist() -> None:
    wrong = [
        (place, flag)
        for place, text in MESSAGES
        for flag in re.findall(r"(?<![\w-])--[a-zA-Z]\w*(?![\w.-])", text)
        if flag not in FLAGS
    ]
    # A piece of a larger text that begins with a dash, the flag of `nbp` itself, those of Docker,
    # Trackio and Beam.
    others = {"--resizecrop", "--version", "--gpus", "--project"}
    others |= {"--direct_num_workers", "--direct_running_mode"}
    assert [pair for pair in wrong if pair[1] not in others] == []


def test_commands_in_messages_exist() -> None:
    for place, text in MESSAGES:
        for module in re.findall(r"python -m ([a-z]\w*(?:\.\w+)*)", text):
            assert module.removeprefix("nbp.") in (*COMMANDS, "nbp", "COMMAND", "venv"), (
                place,
                module,
            )


def test_what_messages_tell_to_set_is_a_key_or_a_flag() -> None:
    """`change validation_fraction` named a field that no user can reach."""
    reached = {part for key in KEYS for part in key.split(".")} | {flag[2:] for flag in FLAGS}
    verbs = r"\b(?:[Ss]et|[Cc]hange|[Rr]aise|[Ll]ower|[Ii]ncrease|[Rr]educe) (?:the )?"
    wrong = [
        (place, name)
        for place, text in MESSAGES
        for name in re.findall(verbs + r"([a-z]+_[a-z_]+)", text)
        if name not in reached
    ]
    assert not wrong


# Remedies that are applied ----------------------------------------------------------------------

FOLDER, QUICK = "configs/folder.py", "configs/quickstart.py"
PAPER = "configs/ucf101/tokenizer.py"
BROKEN: list[tuple[str, dict[str, str]]] = [
    (FOLDER, {}),
    (PAPER, {}),
    (PAPER, {"data.root": "d"}),
    (QUICK, {"data.kind": "records", "evaluation.protocol": "folder"}),
    (QUICK, {"data.kind": "tokens", "data.root": "d"}),
    (QUICK, {"data.kind": "tokens", "data.root": "d", "evaluation.every": "5"}),
    (QUICK, {"images.batch": "4", "stages": "('generator',)"}),
    (QUICK, {"images.root": "d"}),
    (FOLDER, {"data.root": "d", "data.kind": "records", "evaluation.protocol": "nbp-ucf"}),
]


@pytest.mark.parametrize("config, overrides", BROKEN)
def test_the_remedies_of_a_configuration_mend_it(config: str, overrides: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(config, overrides)
    mended = dict(overrides)
    for key, value in find_keys(str(caught.value)):
        (text,) = shlex.split(value) if value else ("",)
        mended[key] = {"DIR": "somewhere", "N": "8"}.get(text, text)
    assert mended != overrides, caught.value
    load_config(config, mended)


def test_the_remedy_for_too_few_videos_to_hold_some_out(tmp_path: Path) -> None:
    encode(tmp_path / "a" / "one.mp4", make_clip(20))
    overrides = {"data.root": str(tmp_path), "data.validation": "0.1"}
    with pytest.raises(DataError, match="leaves none for") as caught:
        build_data.make_data(load_config(FOLDER, overrides))
    words = [word for word in str(caught.value).split() if word.startswith("--config.")]
    train, held_out = build_data.make_data(load_config(FOLDER, overrides | parse_overrides(words)))
    assert len(train.source) == len(held_out.source) == 1


def test_every_section_is_reached() -> None:
    """What the others compare with is the whole schema."""
    names = {field.name for field in dataclasses.fields(Config)}
    assert names >= SECTIONS
    assert "train.guards.patience" in KEYS
    values: dict[str, Any] = {}
    with pytest.raises(ConfigError, match="unknown config key"):
        set_override(values, Config, "data.validation_fraction", text="0.1")
