# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A workdir keeps its configuration and labels, and refuses what would contradict its weights."""

import dataclasses
import json
from pathlib import Path

import pytest

from nbp.config import load_config
from nbp.config.schema import Config
from nbp.errors import CheckpointError, ConfigError
from nbp.stages import adopt_config
from nbp.workdir import find_label, read_config, read_labels, save_labels
from tests import tiny

LABELS = ("red square right", "red square left", "Apply_Eye-Makeup")


def load(**overrides: str) -> Config:
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_config(tiny.CONFIG, {**tiny.OVERRIDES, **keys})


def begin(workdir: Path, *stages: str) -> None:
    """Leaves what a stage leaves once it has saved."""
    for stage in stages:
        (workdir / stage / "checkpoints" / "2").mkdir(parents=True)


def adopt(config: Config, workdir: Path) -> list[str]:
    told: list[str] = []
    adopt_config(config, workdir, report=told.append)
    return told


def test_the_resolved_configuration_is_kept(tmp_path: Path) -> None:
    config = load(generator__block="frame")
    assert adopt(config, tmp_path) == []
    assert read_config(tmp_path) == config
    assert adopt(config, tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_allowed_changes_are_told_and_adopted(tmp_path: Path) -> None:
    adopt(load(), tmp_path)
    begin(tmp_path, "tokenizer", "generator")
    changed = load(train__generator__steps="9", data__workers="1", sampling__temperature="0.5")
    (told,) = adopt(changed, tmp_path)
    for part in ("train.generator.steps 4 -> 9", "data.workers 0 -> 1", "temperature 1.0 -> 0.5"):
        assert part in told
    assert read_config(tmp_path) == changed


@pytest.mark.parametrize(
    "key,value,sides",
    [
        ("generator__width", "32", "generator.width was 16, now 32"),
        ("generator__block", "frame", "generator.block was 'row', now 'frame'"),
        ("tokenizer__levels", "(5, 5)", "tokenizer.levels was (4, 4), now (5, 5)"),
        ("data__frames", "9", "data.frames was 5, now 9"),
        ("seed", "7", "seed was 0, now 7"),
    ],
)
def test_refused_changes_name_both_sides_and_keep_the_old(
    tmp_path: Path, key: str, value: str, sides: str
) -> None:
    old = load(generator__opening_blocks="1")
    adopt(old, tmp_path)
    begin(tmp_path, "tokenizer", "generator")
    # JSON has lists where the configuration has tuples; the comparison must not mind.
    with pytest.raises(CheckpointError) as caught:
        adopt(load(**{"generator__opening_blocks": "1", key: value}), tmp_path)
    assert sides in str(caught.value)
    assert "Use another --workdir, or the old values" in str(caught.value)
    assert read_config(tmp_path) == old


def test_a_stage_that_has_not_begun_may_change(tmp_path: Path) -> None:
    adopt(load(), tmp_path)
    begin(tmp_path, "tokenizer")
    assert adopt(load(generator__width="32"), tmp_path)
    assert read_config(tmp_path).generator.width == 32
    with pytest.raises(CheckpointError, match=r"tokenizer\.units was"):
        adopt(load(tokenizer__units="(1, 1)"), tmp_path)


def test_the_next_stage_may_read_its_clips_from_elsewhere(tmp_path: Path) -> None:
    adopt(load(), tmp_path)
    begin(tmp_path, "tokenizer")
    tokens = {"data__kind": "tokens", "data__root": "/cache"}
    (told,) = adopt(load(stages="('generator',)", **tokens), tmp_path)
    assert "data.kind 'moving_shapes' -> 'tokens'" in told
    with pytest.raises(CheckpointError, match=r"data\.frames was 5, now 9"):
        adopt(load(stages="('generator',)", data__frames="9", **tokens), tmp_path)
    begin(tmp_path, "generator")
    with pytest.raises(CheckpointError, match=r"data\.kind was 'tokens', now 'moving_shapes'"):
        adopt(load(stages="('generator',)"), tmp_path)


def test_a_configuration_of_version_0_1_is_read(tmp_path: Path) -> None:
    adopt(load(data__moving_shapes__train_clips="77"), tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["data"]["train_clips"] = values["data"]["moving_shapes"].pop("train_clips")
    for key in ("bad_records", "validation_split"):
        del values["data"][key]
    path.write_text(json.dumps(values))
    assert read_config(tmp_path) == load(data__moving_shapes__train_clips="77")


def test_no_workdir_and_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is no workdir: it has no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"name": ')
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(CheckpointError, match="missing config key 'data'"):
        read_config(tmp_path)


def test_labels_are_kept_in_order(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no labels\.json"):
        read_labels(tmp_path)
    save_labels(tmp_path, LABELS)
    assert read_labels(tmp_path) == LABELS
    (tmp_path / "labels.json").write_text("[")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_labels(tmp_path)


@pytest.mark.parametrize(
    "text,index",
    [("red square left", 1), ("red_square_left", 1), ("apply eye makeup", 2), ("0", 0), ("2", 2)],
)
def test_labels_are_found_by_name_or_number(text: str, index: int) -> None:
    names = tuple(name.replace("-", "_") for name in LABELS)
    assert find_label(names, text) == index


@pytest.mark.parametrize("text", ["red", "3", "-1", ""])
def test_unknown_labels_list_what_exists(text: str) -> None:
    with pytest.raises(ConfigError, match=r"use 0\.\.2 or one of: red square right"):
        find_label(LABELS, text)


def test_every_binding_key_is_a_key() -> None:
    from nbp.stages import FREE, STAGES

    config = load()
    for key in {*FREE, *(group for stage in STAGES.values() for group in stage.fixes)}:
        value: object = config
        for part in key.split("."):
            assert part in {f.name for f in dataclasses.fields(value)}  # type: ignore[arg-type]
            value = getattr(value, part)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"\xff\xfe", b"[]", b"1", b'"x"', b"[" * 100_000, b"{}"),
        *(b'{"tokenizer": {"loss": "l1"}, "losses": null}', b'{"data": {"train_clips": 1}}'),
        b'{"data": {"train_clips": 1, "moving_shapes": 3}, "sampling": {"guidance_ramp": 1}}',
    ],
)
def test_a_damaged_configuration_of_a_workdir_is_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read") as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"null", b"3", b'["a", 1]', b"[[]]", b"\xff", b'"left"', b"[" * 100_000]
)
def test_damaged_labels_of_a_workdir_are_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "labels.json").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"labels\.json cannot be read"):
        read_labels(tmp_path)
