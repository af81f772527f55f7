# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Configurations are converted strictly, and every mistake is told with its path and remedy."""

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from nbp import losses
from nbp.config import from_dict, load_config, parse_overrides, to_json
from nbp.config.parsing import convert, list_keys
from nbp.config.schema import Config
from nbp.config.validation import find_objective_problems, validate
from nbp.errors import ConfigError
from nbp.models.lpips import LEAST_SIZE
from nbp.ranges import Count, Positive, Share
from nbp.tasks.tokenizer import Objective
from tests import tiny

QUICKSTART = "configs/quickstart.py"


def load(**overrides: str) -> Config:
    return load_config(QUICKSTART, {k.replace("__", "."): v for k, v in overrides.items()})


def values() -> dict[str, Any]:
    return json.loads(to_json(load()))


def write(path: Path, body: str) -> str:
    path.write_text(body, encoding="utf8")
    return str(path)


# Conversion ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Leaf:
    count: Count
    share: Share = 0.5
    rate: Positive = 1.0
    pair: tuple[int, str] = (1, "a")
    many: tuple[float, ...] = ()
    either: str | int = "x"


@dataclasses.dataclass(frozen=True)
class Root:
    leaf: Leaf
    on: bool = False


def test_values_are_converted_to_the_declared_types() -> None:
    root = convert(Root, {"leaf": {"count": 2, "many": [1, 2.5], "pair": [3, "b"], "either": 4}})
    assert root == Root(Leaf(2, 0.5, 1.0, (3, "b"), (1.0, 2.5), 4))
    assert [type(x) for x in root.leaf.many] == [float, float]
    assert convert(Root, {"leaf": {"count": 1, "share": 0}}).leaf.share == 0.0


@pytest.mark.parametrize(
    "leaf,message",
    [
        ({"count": 1.0}, "leaf.count: 1.0 is not int"),
        ({"count": True}, "leaf.count: True is not int"),
        ({"count": 0}, "leaf.count: 0 must be at least 1 and at most 2147483647"),
        ({"count": 2**31}, "leaf.count: 2147483648 must be at least 1 and at most 2147483647"),
        ({"count": 1, "share": float("nan")}, "leaf.share: nan must be at least 0 and below 1"),
        ({"count": 1, "rate": float("inf")}, "leaf.rate: inf must be above 0 and finite"),
        ({"count": 1, "rate": 10**400}, f"leaf.rate: {10**400} must be above 0 and finite"),
        ({"count": 1, "share": 1.0}, "leaf.share: 1.0 must be at least 0 and below 1"),
        ({"count": 1, "pair": [1]}, "leaf.pair: [1] is not (int, str)"),
        ({"count": 1, "pair": [1, 2]}, "leaf.pair[1]: 2 is not str"),
        ({"count": 1, "many": [1, "a"]}, "leaf.many[1]: 'a' is not float"),
        ({"count": 1, "either": 0.5}, "leaf.either: 0.5 is not str or int"),
        ({}, "missing config key 'leaf.count'"),
        ({"count": 1, "shape": 1}, "unknown config key 'leaf.shape'; did you mean leaf.share?"),
        (3, "leaf: 3 is not a group of keys"),
    ],
)
def test_wrong_values_are_named_with_their_path(leaf: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(Root, {"leaf": leaf})
    assert str(caught.value) == message


def test_all_problems_come_at_once() -> None:
    broken = values()
    broken["data"]["frames"] = "nine"
    broken["train"]["keep"] = 0
    broken["colour"] = 1
    del broken["tokenizer"]["levels"]
    with pytest.raises(ConfigError) as caught:
        from_dict(broken)
    for part in ("data.frames: 'nine'", "train.keep: 0", "'colour'", "'tokenizer.levels'"):
        assert part in str(caught.value)


def test_json_gives_the_same_configuration_back() -> None:
    config = load(generator__block="(1, 2, 4)", seed="3")
    assert from_dict(json.loads(to_json(config))) == config
    assert isinstance(from_dict(values()).tokenizer.strides[0], tuple)


# Overrides -------------------------------------------------------------------------------------


def test_overrides_are_read_in_both_spellings() -> None:
    given = parse_overrides(["--config.a.b=1=2", "--config.c", "x y", "--config.d="])
    assert given == {"a.b": "1=2", "c": "x y", "d": ""}


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--confg.a=1"], "unknown argument '--confg.a'"),
        (["--worker", "x"], "did you mean --workdir?"),
        (["--config.a"], "--config.a needs a value: --config.a=VALUE"),
        (["--config.a", "--config.b=1"], "--config.a needs a value"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_overrides(arguments)
    assert message in str(caught.value)


def test_overrides_take_python_literals_or_strings() -> None:
    config = load(
        generator__block="(1, 2, 4)",
        train__generator__learning_rate="1e-4",
        generator__opening_blocks="2",
        data__flip="true",
        data__root="2024",
    )
    assert config.block == (1, 2, 4)
    assert config.train.generator.learning_rate == 1e-4
    assert config.opening.blocks == 2
    assert config.data.flip is True
    assert config.data.root == "2024"


@pytest.mark.parametrize(
    "key,nearest",
    [
        ("generator.blok", "generator.block"),
        ("train.tokenizer.step", "train.tokenizer.steps"),
        ("generatr.width", "generator.width"),
        ("block", "generator.block or sampling.block"),
        ("data.moving_shapes.color", "data.moving_shapes.colours"),
    ],
)
def test_unknown_keys_name_the_nearest_valid_one(key: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(QUICKSTART, {key: "1"})
    assert str(caught.value) == f"unknown config key {key!r}; did you mean {nearest}?"


def test_groups_and_keys_below_values_cannot_be_set() -> None:
    with pytest.raises(ConfigError, match="'generator' is a group"):
        load(generator="1")
    with pytest.raises(ConfigError, match=r"'data\.frames' has no keys below it"):
        load(data__frames__x="1")


def test_every_key_can_be_overridden_by_its_own_value() -> None:
    config = load()
    flat = {}
    for key in list_keys(Config):
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        if not dataclasses.is_dataclass(value):
            flat[key] = str(value)
    assert len(flat) > 60
    assert load_config(QUICKSTART, flat) == config


# Validation ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides,message",
    [
        (
            {"generator.block": "(1, 3, 4)"},
            "generator.block: block (1, 3, 4): block height 3 does not divide latent height 4. "
            "Use one of 1, 2, 4.",
        ),
        ({"generator.block": "rows"}, "use token, row, frame or a box (bt, bh, bw)"),
        ({"generator.opening": "hybird"}, "generator.opening: 'hybird'; did you mean hybrid?"),
        ({"generator.opening_blocks": "99"}, "takes 99 blocks token by token"),
        ({"generator.heads": "3"}, "generator.heads: width 16 is not a multiple of 3 heads"),
        ({"data.frames": "8"}, "Use 7 or 9."),
        ({"data.size": "18"}, "multiples of 4 and 4"),
        ({"tokenizer.levels": "()"}, "tokenizer: FSQ levels ()"),
        ({"tokenizer.groups": "3"}, "not multiples of 3 groups"),
        ({"data.kind": "folder"}, "name the folder of videos: --config.data.root=DIR"),
        ({"data.kind": "records"}, "name the dataset that nbp.prepare wrote"),
        ({"data.kind": "tokens"}, "stages: the tokenizer learns from clips, not tokens"),
        ({"data.bad_records": "skip"}, "data.bad_records: 'skip'; did you mean stop?"),
        ({"data.moving_shapes.shapes": "('blob',)"}, "unknown: blob"),
        ({"evaluation.protocol": "fvd-2099"}, "known: moving-shapes"),
        (
            {"evaluation.protocol": "folder"},
            "protocol folder scores models of folder or records data",
        ),
        ({"train.tokenizer.accumulate": "3"}, "train.tokenizer.batch: 8 clips do not split into 3"),
        ({"stages": "()"}, "stages: name at least one"),
        (
            {"losses.perceptual": "lpips"},
            "losses.lpips_root: name the folder that `python -m nbp.convert lpips --out DIR` wrote",
        ),
        (
            {"losses.perceptual": "structure", "data.size": "4"},
            "losses.perceptual: structure compares frames of at least 8 px, data.size is 4",
        ),
        ({"adversarial.weight": "1", "adversarial.widths": "()"}, "at least one width"),
        (
            {"adversarial.weight": "1", "adversarial.widths": "(4, 4, 4, 4, 4, 4)"},
            "6 widths halve the frame 5 times, and data.size is 16. Use fewer widths",
        ),
        ({"sampling.temperature": "0"}, "sampling.temperature: 0 must be at least 0.001"),
        ({"sampling.refinements": "2"}, "need a model with the draft channel"),
        (
            {"generator.draft": "True", "generator.block": "token"},
            "generator.draft: no block is drawn at once",
        ),
        (
            {"generator.draft": "True", "train.generator.accumulate": "8"},
            "generator.draft needs micro-batches of 2 clips or more",
        ),
        ({"generator.draft_training.share": "1.0"}, "share: 1.0 must be above 0 and below 1"),
        ({"sampling.top_p": "1.5"}, "sampling.top_p: 1.5 must be above 0 and at most 1"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_values_that_do_not_fit_are_refused(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tiny.CONFIG, {**tiny.OVERRIDES, **overrides})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_validation_reports_every_problem() -> None:
    config = load()
    broken = dataclasses.replace(
        config,
        stages=(),
        generator=dataclasses.replace(config.generator, block=(1, 3, 1), heads=7),
    )
    with pytest.raises(ConfigError) as caught:
        validate(broken)
    for part in ("generator.block", "generator.heads", "stages"):
        assert part in str(caught.value)


def test_losses_of_a_stage_that_does_not_run_are_not_checked() -> None:
    changes = {"losses.perceptual": "lpips", "stages": "('generator',)"}
    load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes})


@pytest.mark.parametrize("kind,least", [("structure", losses.LEAST_SIZE), ("lpips", LEAST_SIZE)])
def test_the_smallest_frames_are_those_that_the_losses_take(
    kind: Literal["structure", "lpips"], least: int
) -> None:
    config = load_config(tiny.CONFIG, tiny.OVERRIDES)
    compared = Objective(perceptual=kind, lpips_root="weights")
    for size, fits in ((least, True), (least - 4, False)):
        data = dataclasses.replace(config.data, size=size)
        problems = find_objective_problems(dataclasses.replace(config, losses=compared, data=data))
        assert (problems == []) == fits


def test_derived_values() -> None:
    config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, "generator.opening_blocks": "frame"})
    assert config.grid.shape == (3, 4, 4)
    assert config.block == (1, 1, 4)
    assert config.opening.blocks == 4
    assert config.vocabulary(36).size == config.plan.special_count + 36 + 16


# Files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body,message",
    [
        ("x = 1", "must define get_config"),
        ("def get_config(:", "SyntaxError"),
        ("def get_config():\n    return 1 / 0", "line 2: ZeroDivisionError"),
        ("import a_module_that_is_absent", "line 1"),
        ("def get_config():\n    return {'name': 'x', 'dta': {}}", "did you mean data?"),
    ],
)
def test_faulty_config_files_are_told_in_one_line(tmp_path: Path, body: str, message: str) -> None:
    path = write(tmp_path / "faulty.py", body)
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    assert message in str(caught.value)


def test_absent_files_and_variants_name_what_exists(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean configs/quickstart\.py\?"):
        load_config("configs/quikstart.py", {})
    with pytest.raises(ConfigError, match="no variant 'smoek': use smoke"):
        load_config(f"{QUICKSTART}:smoek", {})
    with pytest.raises(ConfigError, match="has no variants"):
        load_config(f"{write(tmp_path / 'plain.py', 'def get_config(): return {}')}:x", {})
    with pytest.raises(ConfigError, match="no Python file"):
        load_config(write(tmp_path / "config.yaml", "a: 1"), {})


# From the command line ---------------------------------------------------------------------------


def test_every_mistake_of_the_flags_is_told_with_the_others() -> None:
    with pytest.raises(ConfigError) as caught:
        load(generatr__width="3", data__colour="red", train__keep="'x'", generator__heads="7")
    text = str(caught.value)
    assert "\n" not in text
    for part in ("'generatr.width'; did you mean generator.width?", "'data.colour'", "train.keep"):
        assert part in text
    with pytest.raises(ConfigError) as caught:
        load(generatr__width="3", generator__heads="7")
    assert "generatr.width" in str(caught.value)
    assert "multiple of 7 heads" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        parse_overrides(["--wrkdir=x", "--config.seed=1", "--resum", "--config.name"])
    for part in ("'--wrkdir'", "'--resum'", "--config.name needs a value"):
        assert part in str(caught.value)


@pytest.mark.parametrize("folder", ["a:b", "a:b:c", ":", "d:\\x"])
@pytest.mark.parametrize("variant", ["", "smoke"])
def test_paths_may_have_colons(tmp_path: Path, folder: str, variant: str) -> None:
    file = tmp_path / folder / "conf:1.py"
    file.parent.mkdir()
    file.write_bytes(Path(QUICKSTART).read_bytes())
    (tmp_path / folder.partition(":")[0]).mkdir(exist_ok=True)
    text = f"{file}:{variant}" if variant else str(file)
    assert load_config(text, {}) == load_config(f"{QUICKSTART}:{variant}", {})
    with pytest.raises(ConfigError, match="no variant 'none'"):
        load_config(f"{file}:none", {})
    with pytest.raises(ConfigError, match=r"no config file .*conf:2\.py"):
        load_config(str(file).replace("conf:1", "conf:2"), {})


def test_helpers_are_not_offered_as_configurations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("configs/papr.py", {})
    assert "configs/paper.py" not in str(caught.value)
    with pytest.raises(ConfigError, match="is a folder"):
        load_config("configs", {})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"did you mean configs/quickstart\.py\?"):
        load_config("configs/quikstart.py", {})


def test_shipped_configurations_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is no such file; helpers beside them are found as well."""
    names = ("configs/quickstart.py:smoke", "configs/k600/generator_1b.py")
    expected = [load_config(name, {"data.root": "x"}) for name in names]
    assert not capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert [load_config(name, {"data.root": "x"}) for name in names] == expected
    told = capsys.readouterr().err.splitlines()
    assert [line.rpartition("shipped/")[2] for line in told] == [n.split(":")[0] for n in names]
    (tmp_path / "configs").mkdir()
    write(tmp_path / "configs" / "quickstart.py", "def get_config(): return {}")
    with pytest.raises(ConfigError, match="has no variants"):  # what lies here comes first
        load_config("configs/quickstart.py:smoke", {})
    with pytest.raises(ConfigError, match="no config file"):
        load_config("configs/../../errors.py", {})


def test_configurations_import_what_lies_beside_them_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path("configs").absolute()
    expected = load_config("configs/k600/generator_1b.py", {"data.root": "x"})
    # Another folder of this name where the command is started is not meant.
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "paper.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "helper.py").write_text("NAME = 'mine'")
    own = f"import runpy, helper\nget_config = runpy.run_path({str(root / 'quickstart.py')!r})"
    write(tmp_path / "own" / "mine.py", f"{own}['get_config']\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = list(sys.path)
    found = load_config(f"{root}/k600/generator_1b.py", {"data.root": "x"})
    assert found == expected
    assert load_config("own/mine.py:smoke", {}).name
    assert sys.path == before


def test_home_and_variables_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STORE", "/store")
    config = load(
        data__kind="folder",
        data__root="~/videos",
        evaluation__features="$STORE/i3d",
        evaluation__protocol="",
        train__tokenizer__start_from="${HOME}/run",
    )
    assert config.data.root == f"{tmp_path}/videos"
    assert config.evaluation.features == "/store/i3d"
    assert config.train.tokenizer.start_from == f"{tmp_path}/run"
    odd = tmp_path / "$odd"
    odd.mkdir()
    assert load(data__root=str(odd)).data.root == str(odd), "a folder that is there is meant"
    with pytest.raises(ConfigError, match="images.root: .*NBP_NOT_SET is not set"):
        load(images__root="$NBP_NOT_SET/x", images__batch="8")
    with pytest.raises(ConfigError, match="data.root: .*no home folder of ~nobody-at-all"):
        load(data__root="~nobody-at-all/x")


@pytest.mark.parametrize(
    "body, message",
    [
        ("raise SystemExit(1)", "SystemExit: 1"),
        ("def get_config():\n    raise SystemExit('bye')", "line 2: SystemExit: bye"),
        ("def get_config():\n    return 3", "returns a int"),
        ("def get_config():\n    return [1, 2]", "returns a list"),
        ("def get_config():\n    pass", "returns a NoneType"),
        ("def get_config():\n    return {'data': 3}", "'data' is 3, not a group of keys"),
        ("def get_config():\n    return {'data': None}", "'data' is None, not a group"),
    ],
)
def test_files_that_end_or_return_anything_else_are_told_in_one_line(
    tmp_path: Path, body: str, message: str
) -> None:
    path = tmp_path / "config.py"
    path.write_text(body + "\n")
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_config(str(path), {"data.frames": "5"})
    assert "\n" not in str(caught.value)
