# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a folder of golden cases and checks our models against every one of them."""

import json
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from tests.official_parity import gpt, gpt_training, metrics, tokenizer
from tests.official_parity.comparison import Comparison
from tests.official_parity.metrics import Arrays, Case

KINDS: dict[str, Callable[[Case, Arrays], list[Comparison]]] = {
    **gpt.KINDS,
    **gpt_training.KINDS,
    **tokenizer.KINDS,
    **metrics.KINDS,
}


@dataclass(frozen=True)
class Verdict:
    """One case: what was compared, or why it could not be."""

    name: str
    kind: str
    comparisons: tuple[Comparison, ...]
    seconds: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        return not self.problem and all(item.passed for item in self.comparisons)

    def __str__(self) -> str:
        """One line: the comparison that comes nearest to its tolerance, or exceeds it most."""
        head = f"{'pass' if self.passed else 'FAIL'}  {self.name} ({self.kind})"
        if self.problem:
            return f"{head}: {self.problem}"
        worst = max(self.comparisons, key=_excess)
        failed = sum(not item.passed for item in self.comparisons)
        text = f"largest absolute error {worst.error:.3g}, tolerance {worst.tolerance:.3g}"
        more = f", {failed} of {len(self.comparisons)} comparisons failed" if failed else ""
        return f"{head}: {text} ({worst.name}){more} [{self.seconds:.1f} s]"


def check_folder(folder: Path, only: str = "") -> Iterator[Verdict]:
    """A verdict per case of `folder/golden.json` whose name contains `only`.

    Raises ValueError where the folder is not in the golden format at all.
    """
    for case in read_cases(folder):
        if only in case["name"]:
            yield check_case(folder, case)


def read_cases(folder: Path) -> list[Case]:
    """The cases of a folder, with the fields that only people read filled in where absent."""
    path = folder / "golden.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no golden.json")
    golden = json.loads(path.read_text(encoding="utf8"))
    if golden.get("format") != 1:
        raise ValueError(f"{path}: format {golden.get('format')!r}, only 1 is known")
    if not golden.get("cases"):
        raise ValueError(f"{path} has no cases")
    return [{"notes": "", "measured": {}, **case} for case in golden["cases"]]


def check_case(folder: Path, case: Case) -> Verdict:
    """Runs one case in float32 at the highest matrix precision."""
    started = time.time()
    name, kind = case["name"], case["kind"]
    comparisons: list[Comparison] = []
    problem = ""
    try:
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}; known: {', '.join(sorted(KINDS))}")
        with np.load(folder / case["file"], allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        with jax.default_matmul_precision("highest"):
            comparisons = KINDS[kind](case, arrays)
        if not comparisons:
            raise ValueError("nothing was compared")
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    return Verdict(name, kind, tuple(comparisons), time.time() - started, problem)


def _excess(item: Comparison) -> float:
    """How far an error is above its tolerance; exact comparisons that hold come last."""
    if item.tolerance == 0:
        return float("inf") if item.error else 0.0
    return item.error / item.tolerance
