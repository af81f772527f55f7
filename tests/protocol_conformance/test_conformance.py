# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Every published protocol does what its repository does, or says what it does otherwise."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from nbp.protocols.published import PUBLISHED
from tests.protocol_conformance.__main__ import SMALL, run_checks
from tests.protocol_conformance.cells import STEPS, Check, show_table

NAMES = [record.name for record in PUBLISHED]
# Steps that a protocol has. Reconstruction has no labels; PSNR is a score of NBP and LARP alone.
NONE = {
    "labels": [name for name in NAMES if name.endswith("rfvd")],
    "storage": ["larp-rfvd"],  # floats from the decoder to I3D
    "quality": [name for name in NAMES if name not in ("nbp-rfvd", "larp-rfvd")],
}


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> list[Check]:
    folder = tmp_path_factory.mktemp("conformance")
    return list(run_checks(folder, count=SMALL, features=(300, 64), stored=80))


@pytest.mark.parametrize("step", STEPS)
def test_each_difference_is_listed(checks: Sequence[Check], step: str) -> None:
    mine = [check for check in checks if check.step == step]
    assert {check.protocol for check in mine} == set(NAMES) - set(NONE.get(step, ()))
    assert not [check.describe() for check in mine if check.state == "FAILS"]


@pytest.mark.slow
def test_each_difference_is_listed_at_full_size(tmp_path: Path) -> None:
    checks = list(run_checks(tmp_path, count=9_537, features=(2_048, 400)))
    assert not [check.describe() for check in checks if check.state == "FAILS"]


def test_the_table_has_a_row_for_each_protocol(checks: Sequence[Check]) -> None:
    header, _, *rows = show_table(checks).splitlines()
    assert [cell.strip() for cell in header.split("|")[1:-1]] == ["protocol", *STEPS]
    assert {row.split("|")[1].strip() for row in rows} == set(NAMES)


def test_a_difference_must_be_named_and_no_larger_than_stated() -> None:
    check = Check("nbp-rfvd", "score", "distance", 0.05, listed="moments and root", limit=0.1)
    assert check.state == "listed"
    assert replace(check, difference=0.2).state == "FAILS"
    assert replace(check, listed="nothing that the record says").state == "FAILS"
    assert replace(check, listed="").state == "FAILS"
    # One that is not there is not listed either.
    assert replace(check, difference=0.0).state == "FAILS"
    law = Check("omni-ucf", "clips", "clips", 0.0, listed="random.shuffle", law=True)
    assert law.state == "law"
    assert replace(law, difference=1.0).state == "FAILS"
    assert replace(law, listed="nothing that the record says").state == "FAILS"
