# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks count."""

import pytest

from benchmarks.tokenizer import count_pass_flops
from nbp.models.tokenizer import TokenizerSpec


@pytest.mark.parametrize(
    "kind, clip, expected",
    [
        ("encode", (17, 128, 128), 4_470_771_023_872),
        ("decode", (17, 128, 128), 6_190_875_017_216),
        ("encode", (1, 128, 128), 318_672_207_872),
        ("decode", (5, 128, 128), 1_888_750_665_728),
    ],
)
def test_flops_of_the_official_tokenizer(kind, clip, expected):
    """Counted from the released PyTorch model (official/REFERENCE.md 4.6)."""
    assert count_pass_flops(kind, TokenizerSpec(), clip) == expected


def test_a_gradient_counts_as_three_passes():
    spec, clip = TokenizerSpec((8, 8), (0, 1), ((1, 2, 2),), (4, 4), 4), (3, 8, 8)
    both = count_pass_flops("encode", spec, clip) + count_pass_flops("decode", spec, clip)
    assert count_pass_flops("gradient", spec, clip) == 3 * both
