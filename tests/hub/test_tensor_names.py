# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The table of docs/publishing.md names every tensor of every kind of network, with its axes."""

import itertools
import re
from pathlib import Path

import jax
import pytest

from nbp.config import load_config
from nbp.hub.folder import name_tensor
from nbp.stages import STAGES
from nbp.trees import flatten_paths
from tests import tiny

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "publishing.md").read_text(encoding="utf8")
TABLE = TEXT.split("<!-- tensors -->")[1].split("<!-- /tensors -->")[0]
ROWS = re.findall(r"^\| `([^`]+)` \| (.+) \|$", TABLE, re.M)


def expand(text: str) -> list[str]:
    """`a.{b,c}` as patterns of names; `{i}` is any number."""
    parts = re.split(r"\{([^}]*)\}", text)
    choices = [
        [r"\d+"] if odd and part == "i" else part.split(",") if odd else [re.escape(part)]
        for odd, part in ((i % 2, part) for i, part in enumerate(parts))
    ]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


KINDS = {
    "units": ("tokenizer", {"tokenizer.units": "(1, 1)"}),
    "vq": (
        "tokenizer",
        {
            "tokenizer.quantizer": "vq",
            "tokenizer.levels": "()",
            "tokenizer.codes": "16",
            "tokenizer.code_channels": "4",
        },
    ),
    "modern": ("generator", {"generator.draft": "True"}),
    "paper": ("generator", {"generator.recipe": "paper", "generator.opening": "bov"}),
    "digits": ("generator", {"generator.head": "digits"}),
    "joint": ("generator", {"generator.head": "joint"}),
    "rotary": ("generator", {"generator.positions": "rotary"}),
}
USED: set[str] = set()


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_has_one_row_and_its_number_of_axes(kind: str) -> None:
    stage, changes = KINDS[kind]
    config = load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes})
    network = STAGES[stage].make_network(config, ("a", "b"))  # type: ignore[index]
    shapes = flatten_paths(jax.eval_shape(network.init, jax.random.key(0)))
    for path, leaf in shapes.items():
        name = name_tensor(path)
        rows = [
            (text, axes)
            for text, axes in ROWS
            if any(re.fullmatch(pattern, name) for pattern in expand(text))
        ]
        assert len(rows) == 1, (name, rows)
        assert len(re.sub(r"\([^)]*\)", "", rows[0][1]).split(",")) == leaf.ndim, name
        assert str(leaf.dtype) == "float32"
        USED.add(rows[0][0])


def test_no_row_is_about_nothing() -> None:
    for kind in KINDS:
        test_every_tensor_has_one_row_and_its_number_of_axes(kind)
    assert {text for text, _ in ROWS} == USED
