# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`nbp.export --format official`: official weights come back as they were, and convert again."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from nbp import build, convert, export
from nbp.config.schema import Config
from nbp.errors import CheckpointError, ConfigError
from nbp.files import hash_file
from nbp.hub.official_layout import check_counterpart, make_generator_tensors
from nbp.hub.safetensors import write_file
from nbp.interop.mapping import convert_tensors
from nbp.interop.official import split_state
from nbp.interop.reading import open_tensors
from nbp.layout import LatentGrid
from nbp.workdir import read_config, read_labels
from tests.interop.official_files import (
    TINY_TOKENIZER,
    draw,
    generator_shapes,
    make_network,
    tokenizer_shapes,
    write_lightning,
)
from tests.interop.torch_files import write_torch
from tests.official_parity import gpt, gpt_network
from tests.official_parity.runner import check_folder
from tests.official_parity.weights import make_weight

GRID = LatentGrid(3, 4, 4)
CLIPS = ("--frames", "5", "--size", "16", "--levels", "8,5")
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "models"


def name_weights(opening: str, **network: Any) -> dict[str, dict[str, np.ndarray]]:
    """The files of a release of random weights: official names and values."""
    shapes = generator_shapes(make_network(grid=GRID, opening=opening, **network))  # type: ignore[arg-type]
    if network.get("prompt_length"):
        shapes = {name: shape for name, shape in shapes.items() if 0 not in shape}
    bare = {n: draw(n, s) for n, s in tokenizer_shapes(TINY_TOKENIZER).items()}
    return {
        "tokenizer": {f"module.{n}": v for n, v in bare.items()},
        "generator": {
            **{f"transformer.{n}": draw(n, s) for n, s in shapes.items()},
            **{f"first_stage_model.{n}": v for n, v in bare.items()},
        },
    }


def run_convert(*arguments: object) -> None:
    convert.main([str(a) for a in arguments])


def run_export(workdir: Path, out: Path) -> None:
    export.main(["--workdir", str(workdir), "--out", str(out), "--format", "official"])


@pytest.mark.parametrize("opening", ["prefix", "hybrid"])
def test_official_weights_come_back_as_they_were(tmp_path, capsys, opening):
    source = name_weights(opening)
    write_torch(tmp_path / "tokenizer.pt", {"model_state_dict": source["tokenizer"]})
    write_lightning(tmp_path / "generator.ckpt", source["generator"])
    first, out, second = (tmp_path / name for name in ("first", "out", "second"))
    run_convert("tokenizer", "--source", tmp_path / "tokenizer.pt", "--out", first, *CLIPS)
    generator = ("--heads", 2, *CLIPS)
    run_convert("generator", "--source", tmp_path / "generator.ckpt", "--out", first, *generator)
    run_export(first, out)
    for stage, wanted in source.items():
        found = open_tensors(out / f"{stage}.safetensors").tensors
        assert found.keys() == wanted.keys()
        for name, values in wanted.items():
            assert found[name].read().tobytes() == values.tobytes(), name
            assert found[name].shape == values.shape
    assert "torch.save" in (out / "README.md").read_text()
    run_export(first, out)
    assert "already exported: tokenizer of step" in capsys.readouterr().out
    # And through the conversion again: the same workdir.
    run_convert("tokenizer", "--source", out / "tokenizer.safetensors", "--out", second, *CLIPS)
    run_convert("generator", "--source", out / "generator.safetensors", "--out", second, *generator)
    config = read_config(second)
    assert config.generator == read_config(first).generator
    networks = {
        "tokenizer": build.make_tokenizer_network(config),
        "generator": build.make_generator_network(config, read_labels(second)),
    }
    for stage, network in networks.items():
        a, b = (
            build.load_trained(folder, stage, network=network, ema=False).params  # type: ignore[arg-type]
            for folder in (first, second)
        )
        jax.tree.map(np.testing.assert_array_equal, a, b)
    # A hub's folder tells where they come from, also when it is exported again.
    for place, folder in ((first, tmp_path / "hub"), (tmp_path / "hub", tmp_path / "again")):
        flags = ["--workdir", str(place), "--out", str(folder)]
        export.main([*flags, "--format", "safetensors"])
        text = (folder / "README.md").read_text(encoding="utf8")
        for name in ("tokenizer.pt", "generator.ckpt"):
            digest = hash_file(tmp_path / name)
            assert f"Converted from `{name}` (SHA-256 {digest})." in text
    # Another one is not taken for it.
    record = json.loads((out / "export.json").read_text())
    record["published"]["stages"]["generator"]["source"] = "0" * 64
    (out / "export.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="is not empty"):
        run_export(first, out)


def test_golden_weights_pass_their_case_after_the_way_there_and_back(tmp_path, monkeypatch):
    """Labels and hybrid: the case with the null prompt, a special id for each place of a block."""
    seen = []

    def make_params(network: Any) -> Any:
        params = gpt_network.make_params(network)
        tensors = make_generator_tensors(params)
        for name, values in tensors.items():
            assert np.array_equal(values, make_weight("gpt", name, values.shape)), name
        path = tmp_path / "generator.safetensors"
        write_file(path, {f"transformer.{name}": values for name, values in tensors.items()})
        seen.append(sorted(tensors))
        rules, drops = gpt_network.official_rules(network)
        template = jax.eval_shape(network.init, jax.random.key(0))
        state = split_state(open_tensors(path).tensors).generator
        return convert_tensors(state, rules, drops, template=template, origin="exported")

    monkeypatch.setattr(gpt, "make_params", make_params)
    verdicts = list(check_folder(GOLDEN, "gpt_hybrid_label_b4"))
    assert [verdict.passed for verdict in verdicts] == [True]
    assert seen
    assert "uncond_embedding" in seen[0]


def make_paper_config() -> Config:
    from nbp.config import load_config
    from tests import tiny

    changes = {"generator.recipe": "paper", "generator.opening": "bov", "generator.prompt": "none"}
    return load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"recipe": "modern"}, r"generator\.recipe=modern \(it has paper\)"),
        ({"head": "digits"}, r"generator\.head=digits"),
        ({"draft": True}, r"generator\.draft=True"),
        ({"block": (1, 2, 2)}, r"generator\.block=\(1, 2, 2\) \(it has a run of tokens"),
        ({"blocks": ("token",)}, r"generator\.blocks"),
        ({"special_ids": 9}, r"generator\.special_ids=9 \(it has 1\)"),
        ({"recipe": "modern", "positions": "rotary", "head": "joint"}, r"generator\.recipe=modern"),
        ({"head": "joint"}, r"generator\.head=joint"),
        ({"partition": "strided"}, r"generator\.partition=strided"),
        ({"opening": "hybrid", "opening_blocks": 2}, r"generator\.opening_blocks=2"),
        ({"prompt": "text", "padding": "visible"}, r"generator\.padding=visible"),
    ],
)
def test_models_without_a_counterpart(change: dict[str, Any], message: str) -> None:
    config = make_paper_config()
    check_counterpart(config, generator=True)
    generator = dataclasses.replace(config.generator, **change)
    with pytest.raises(ConfigError, match=message) as error:
        check_counterpart(dataclasses.replace(config, generator=generator), generator=True)
    assert "\n" not in str(error.value)
    check_counterpart(dataclasses.replace(config, generator=generator), generator=False)


def test_a_tokenizer_without_a_counterpart(tmp_path):
    """Groups leave no trace in shapes, so reading the tensors back would give another network."""
    from nbp.hub.official_layout import make_tokenizer_tensors

    spec = dataclasses.replace(TINY_TOKENIZER, groups=16)
    config = dataclasses.replace(make_paper_config(), tokenizer=TINY_TOKENIZER)
    shapes = jax.eval_shape(build.make_tokenizer_network(config).init, jax.random.key(0))
    make_tokenizer_tensors(config, shapes)
    with pytest.raises(ConfigError, match=r"tokenizer\.groups=16 \(it has 32\)"):
        make_tokenizer_tensors(dataclasses.replace(config, tokenizer=spec), shapes)
