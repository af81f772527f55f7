# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What the documents show is what the code does, and what they name exists."""

import re
from pathlib import Path
from typing import get_args

import pytest

from nbp.layout import LatentGrid, Opening, Partition, SequencePlan, draw_blocks, draw_mask

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
NAMES = {"LatentGrid": LatentGrid, "Opening": Opening, "SequencePlan": SequencePlan}


def drawn_plans() -> list[tuple[str, str]]:
    text = (ROOT / "docs/layout.md").read_text(encoding="utf8")
    return re.findall(r"`(SequencePlan\(LatentGrid.*?\))`:.*?```text\n(.*?)\n```", text, re.S)


def read_plan(text: str) -> SequencePlan:
    """The plan of a documented constructor call, read without evaluating code."""
    numbers = r"\((\d+), (\d+), (\d+)\)"
    match = re.fullmatch(
        rf'SequencePlan\(LatentGrid{numbers}, {numbers}, Opening\("(\w+)"(?:, (\d+))?\), (\d+)'
        r'(?:, "(\w+)")?\)',
        text,
    )
    assert match, text
    t, h, w, bt, bh, bw = (int(n) for n in match.groups()[:6])
    kind, blocks, prompt = match.group(7), int(match.group(8) or 1), int(match.group(9))
    partition = match.group(10) or "box"
    return SequencePlan(
        LatentGrid(t, h, w),
        (bt, bh, bw),
        Opening(kind, blocks),  # type: ignore[arg-type]
        prompt,
        partition,  # type: ignore[arg-type]
    )


def test_layout_draws_every_opening() -> None:
    kinds = {read_plan(call).opening.kind for call, _ in drawn_plans()}
    assert kinds == {"prefix", "bov", "hybrid"}


@pytest.mark.parametrize("call,picture", drawn_plans())
def test_masks_in_layout_are_drawn_by_the_code(call: str, picture: str) -> None:
    assert draw_mask(read_plan(call)) == picture


def drawn_partitions() -> list[tuple[str, str]]:
    text = (ROOT / "docs/layout.md").read_text(encoding="utf8")
    return re.findall(r"^`(SequencePlan\(.*?\))` blocks:\n\n```text\n(.*?)\n```", text, re.S | re.M)


def test_layout_draws_every_partition() -> None:
    assert {read_plan(call).partition for call, _ in drawn_partitions()} == set(get_args(Partition))


@pytest.mark.parametrize("call,picture", drawn_partitions())
def test_partitions_in_layout_are_drawn_by_the_code(call: str, picture: str) -> None:
    assert draw_blocks(read_plan(call)) == picture


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_files_that_exist(document: Path) -> None:
    text = document.read_text(encoding="utf8")
    paths = re.findall(
        r"(?<![\w./-])((?:configs|launch|benchmarks|docs|nbp|tests)/[\w./-]+\.(?:py|sh|md|png|gif|jsonl?))",
        text,
    )
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    missing = [p for p in paths if not (ROOT / p).exists()]
    missing += [p for p in links if not (document.parent / p).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_name_modules_that_exist(document: Path) -> None:
    modules = re.findall(r"python -m ((?:nbp|benchmarks|tests)[\w.]*)", document.read_text("utf8"))
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
