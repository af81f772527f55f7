# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""docs/architecture.md tells where things are, and it is so."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf8")
ROWS = re.findall(r"^\| ([^|]+) \| `(nbp/[\w/]+\.py)` \| `(\w+)` \|$", TEXT, re.M)
CORE = re.findall(r"`(nbp/[\w/]+\.py)`", TEXT.split("<!-- core -->")[1].split("<!-- /core -->")[0])


def top_level_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return names


@pytest.mark.parametrize("concept, file, symbol", ROWS)
def test_a_concept_is_where_the_table_says(concept: str, file: str, symbol: str) -> None:
    assert symbol in top_level_names(ROOT / file)


def test_the_table_is_large_and_names_nothing_twice() -> None:
    concepts = [concept for concept, _, _ in ROWS]
    assert len(concepts) >= 90
    assert len({concept.lower() for concept in concepts}) == len(concepts)


def test_the_core_is_short_enough_to_read() -> None:
    assert len(CORE) == len(set(CORE)) <= 40
    lines = [len((ROOT / file).read_text(encoding="utf8").splitlines()) for file in CORE]
    assert sum(lines) <= 8000
