# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
import pytest

from nbp.jobs import gallery
from nbp.jobs.gallery import choose_partners

LABELS = ["a", "b", "a", "c", "b", "a"]


@pytest.mark.parametrize(
    "starts,wanted,chosen",
    [
        ([0, 1, 3], ["a", "b", "c"], [0, 1, 3]),
        ([1, 4], ["a", "c"], [2, 3]),  # the next one; after the last comes the first
        ([0, 0, 0, 0], ["a", "a", "a", "a"], [0, 2, 5, 0]),  # each once while there are others
        ([4, 2], ["d", "b"], [4, 1]),  # no such label: the start itself
    ],
)
def test_partners_have_the_label(starts, wanted, chosen):
    assert choose_partners(starts, wanted, len(LABELS), LABELS.__getitem__) == chosen


def test_the_search_for_partners_ends(monkeypatch):
    monkeypatch.setattr(gallery, "LOOKED_AT", 3)
    seen = []

    def find(index):
        seen.append(index)
        return LABELS[index]

    assert choose_partners([0, 0], ["c", "b"], len(LABELS), find) == [0, 1]
    assert seen == [0, 1, 2]
