# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

from nbp.evaluation import gallery
from nbp.evaluation.gallery import choose_partners, choose_shown

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


def test_the_search_for_partners_ends():
    seen = []

    def find(index):
        seen.append(index)
        return LABELS[index]

    assert choose_partners([0, 0], ["c", "b"], len(LABELS), find, most=3) == [0, 1]
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("classes,count", [(36, 256), (101, 2048), (4, 256), (3, 9), (8, 64)])
def test_the_choice_is_balanced_over_classes(classes, count):
    """Labels in turn: 256 / 8 is a multiple of the 4 motions, so even steps are all of one."""
    labels = np.arange(count) % classes
    shown = [labels[number] for number in choose_shown(count, None, labels)]
    each = np.unique(shown, return_counts=True)[1]
    assert len(shown) == min(gallery.EACH, count)
    assert len(each) == min(gallery.EACH, classes)
    assert each.max() - each.min() <= 1
    if classes == 36:  # colour, shape, motion
        for values in (labels // 12, labels // 4 % 3, labels % 4):
            found = np.unique([values[n] for n in choose_shown(count, None, labels)])
            assert len(found) == len(np.unique(values))


def test_a_rare_class_is_shown_once():
    labels = np.array([0] * 50 + [1] + [2] * 50)
    shown = choose_shown(len(labels), None, labels)
    assert 50 in shown
    assert len(shown) == gallery.EACH - 2  # it has no second clip, nor a third


def test_extremes_are_those_of_all_clips():
    distances = np.random.default_rng(0).permutation(100).astype(float)
    shown = choose_shown(100, distances, np.arange(100) % 7)
    worst = {number for number, why in shown.items() if why == "worst"}
    assert worst == set(np.argsort(distances)[-gallery.EACH :].tolist())
