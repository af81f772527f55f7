# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which clips a protocol takes of a list: against PyTorch's and Python's own generators."""

import dataclasses
import hashlib
import itertools
import random
from collections import Counter

import numpy as np
import pytest

from nbp.protocols import PROTOCOLS
from nbp.protocols.clip_lists import (
    WindowList,
    choose_start,
    deal_to_ranks,
    draw_clips,
    draw_loader_starts,
    list_clips,
    order_by_path,
    permute_as_torch,
    place_clip,
    sorts_by_path,
)
from nbp.protocols.protocol import ClipRule
from nbp.protocols.published import K600_VALIDATION, UCF_TRAIN

# torch.randperm(37, generator=torch.Generator().manual_seed(0)) of PyTorch 2.13, and the SHA-256 of
# longer ones as little-endian int64.
RANDPERM_37 = (
    "21 28 30 19 23 32 4 20 6 1 36 35 18 9 34 0 14 25 10 22 "
    "7 13 33 17 3 2 11 12 16 29 31 8 26 24 5 27 15"
)
RANDPERM_SHA256 = {
    UCF_TRAIN: "c5d52125115a6e7d5de317d31c1c8ebdf6d5981e0ab375015d838633b9c932f6",
    K600_VALIDATION: "47228c890abab0d009a56439ba6d62952043018f1ca6d283c839ac59995d711c",
}
# What PyTorch's loaders drew from 103 videos of (37 i mod 60) + 10 frames: 8 processes seeded with
# 42 + rank, DistributedSampler, 8 workers each, a dataset that draws as nbp/data.py does.
LOADER_STARTS = (
    "0 4 45 3 25 2 0 8 39 5 10 13 8 0 11 0 0 7 13 4 8 21 1 2 6 0 19 2 0 29 0 10 2 0 7 22 2 0 27 0 "
    "3 3 19 39 4 37 0 22 1 3 7 7 0 4 0 0 5 18 26 1 7 1 23 16 5 36 2 4 8 0 37 33 0 26 0 31 17 39 22 "
    "0 9 31 29 20 0 9 5 14 50 7 23 5 0 0 13 22 6 6 25 11 0 23 35 0"
)


def find_rule(name: str) -> ClipRule:
    return PROTOCOLS[name].clips[0]


def test_permutations_are_those_of_torch() -> None:
    assert permute_as_torch(37, 0).tolist() == [int(n) for n in RANDPERM_37.split()]
    for total, want in RANDPERM_SHA256.items():
        found = permute_as_torch(total, 0).astype("<i8").tobytes()
        assert hashlib.sha256(found).hexdigest() == want
    for total in (0, 1, 2):
        assert sorted(permute_as_torch(total, 5).tolist()) == list(range(total))


@pytest.mark.parametrize(
    "name,videos,counts",
    [
        ("nbp-ucf", UCF_TRAIN, {1: 9_081, 2: 449, 3: 7}),
        ("nbp-k600", K600_VALIDATION, {1: 9_483, 2: 20_251, 3: 5}),
    ],
)
def test_lists_dealt_to_ranks_repeat_the_videos_of_the_release(
    name: str, videos: int, counts: dict[int, int]
) -> None:
    draws = draw_clips(find_rule(name), videos, 42)
    assert Counter(Counter(draws.rows.tolist()).values()) == counts
    assert len(draws) == find_rule(name).clips
    # What PyTorch's sampler and Python's cycle do, written down anew.
    order = permute_as_torch(videos, 0).tolist()
    order += order[: -videos % 8]
    for rank in range(8):
        own = itertools.islice(itertools.cycle(order[rank::8]), len(draws) // 8)
        assert draws.rows[rank::8].tolist() == list(own)


def test_a_repeated_example_is_the_same_clip_and_a_filled_up_one_is_not() -> None:
    """13 videos among 8 processes: each has two, three of them one that another has as well."""
    assert deal_to_ranks(13, 8).tolist() == [3, 4, 0, 2, 11, 8, 12, 5, 10, 6, 9, 1, 7, 3, 4, 0]
    rule = dataclasses.replace(find_rule("nbp-k600"), clips=32)
    frames = np.full(13, 1_000)
    clips = list(list_clips(rule, frames.tolist(), seed=42))
    assert clips[:16] == clips[16:]
    assert clips[0].video == clips[13].video == 3
    assert clips[0].start != clips[13].start
    assert draw_clips(rule, 13, 42).distinct == 16


def test_windows_of_loader_workers_are_those_of_pytorch() -> None:
    frames = [(i * 37) % 60 + 10 for i in range(103)]
    rule = find_rule("nbp-k600")
    starts = draw_loader_starts(rule, np.array(frames), PROTOCOLS["nbp-k600"].seed)
    assert starts is not None
    assert starts.tolist() == [int(n) for n in LOADER_STARTS.split()]
    found = list(list_clips(dataclasses.replace(rule, clips=104), frames, seed=42))
    assert [clip.start for clip in found] == starts.tolist()
    assert draw_loader_starts(find_rule("nbp-ucf"), np.array(frames), 42) is None


def test_a_sample_of_windows_is_that_of_python() -> None:
    """larp-*: `len // 16` windows of each video, sorted by path, of which seed 42 draws."""
    frames = [64, 15, 33, 160, 16]
    paths = ["UCF/b/x.avi", "UCF/c/z.avi", "UCF/a/y.avi", "UCF/bB/a.avi", "UCF/b/w.avi"]
    rule = dataclasses.replace(find_rule("larp-ucf"), clips=9)
    index_map = [
        (video, 16 * i)
        for video in sorted(range(5), key=lambda v: "data/ucf101" + paths[v][3:])
        for i in range(frames[video] // 16)
    ]
    assert index_map[:3] == [(2, 0), (2, 16), (4, 0)]
    drawn = random.Random(42).sample(range(len(index_map)), 9)
    found = list_clips(rule, frames, seed=PROTOCOLS["larp-ucf"].seed, paths=paths, labels=range(5))
    assert [(clip.video, clip.start) for clip in found] == [index_map[i] for i in drawn]
    # Kinetics has no folders of classes there: the name alone decides.
    flat = order_by_path(find_rule("larp-k600"), ["val/z/1.mp4", "val/a/3.mp4", "2.mp4"])
    assert flat.tolist() == [0, 2, 1]


def test_lists_of_ucf101_are_in_the_order_of_paths_whatever_they_were_prepared_from() -> None:
    """The official list has Hammering before HammerThrow, the release's sorted one has not."""
    paths = ["Hammering/v_1.avi", "HammerThrow/v_1.avi", "Haircut/v_1.avi"]
    rule = dataclasses.replace(find_rule("nbp-ucf"), clips=8)
    listed = [clip.video for clip in list_clips(rule, [60] * 3, seed=42, paths=paths)]
    assert listed == [(2, 1, 0)[row] for row in deal_to_ranks(3, 8)]
    assert not sorts_by_path(find_rule("nbp-k600"))  # the release's own list is not sorted


def test_all_windows_are_listed_lazily_and_weigh_long_videos_more() -> None:
    """tats-*: a video of n frames has n - 15 windows of 16."""
    windows = WindowList(np.array([16, 15, 40]), 16, 1)
    assert len(windows) == 1 + 0 + 25
    assert [windows[0], windows[1], windows[25]] == [(0, 0), (2, 0), (2, 24)]
    with pytest.raises(IndexError):
        windows[26]
    rng = np.random.default_rng(0)
    frames = rng.integers(29, 400, UCF_TRAIN)
    large = WindowList(frames, 16, 1)
    assert len(large) == int((frames - 15).sum())
    rule = find_rule("tats-ucf")
    drawn = list(list_clips(rule, frames.tolist(), seed=0))
    assert len({(clip.video, clip.start) for clip in drawn}) == len(drawn) == 2_048
    assert all(0 <= clip.start <= frames[clip.video] - 16 for clip in drawn)
    mean = np.mean([frames[clip.video] for clip in drawn])
    by_window = float((frames * (frames - 15)).sum() / (frames - 15).sum())
    assert abs(mean - by_window) < 8 < abs(float(frames.mean()) - by_window)


def test_an_endless_stream_gives_other_clips_to_each_repeat() -> None:
    """magvit-ucf: 40,000 examples of shuffled epochs of 9,537, in four parts."""
    rule = find_rule("magvit-ucf")
    repeats = [draw_clips(rule, UCF_TRAIN, 0, repeat=repeat) for repeat in range(4)]
    stream = np.concatenate([draws.rows for draws in repeats])
    assert len(stream) == 40_000
    for epoch in range(4):
        part = stream[epoch * UCF_TRAIN : (epoch + 1) * UCF_TRAIN]
        assert sorted(part.tolist()) == list(range(UCF_TRAIN))
    assert (stream[:UCF_TRAIN] != stream[UCF_TRAIN : 2 * UCF_TRAIN]).any()
    examples = np.concatenate([draws.examples for draws in repeats])
    assert len({*examples.tolist()}) == 40_000
    assert [draws.distinct for draws in repeats] == [10_000] * 4


def test_windows_crops_and_flips_are_uniform() -> None:
    rule = dataclasses.replace(find_rule("magvit-ucf"), clips=2_000)
    clips = list(list_clips(rule, [26] * 2_000, seed=0))
    starts = Counter(clip.start for clip in clips)
    assert sorted(starts) == list(range(11))  # 26 frames have 11 windows of 16
    assert max(starts.values()) < 1.5 * min(starts.values())
    crops = np.array([clip.crop for clip in clips])
    assert np.abs(crops.mean(axis=0) - 0.5).max() < 0.03
    assert 0.46 < np.mean([clip.flip for clip in clips]) < 0.54
    assert place_clip(rule, 0, 5) == place_clip(rule, 0, 5) != place_clip(rule, 1, 5)


def test_what_is_left_to_no_chance_is_in_the_centre() -> None:
    place = place_clip(find_rule("nbp-ucf"), 42, 0)
    assert (place.start, place.crop, place.flip) == (None, None, False)
    assert choose_start(None, 20, 17) == 2  # as nbp.data.video.decode.choose_frames
    assert choose_start(None, 9, 17) == 0
    assert {choose_start(share, 20, 17) for share in np.linspace(0, 0.999, 50)} == {0, 1, 2, 3}


def test_rows_of_a_rule() -> None:
    def rows(rule: ClipRule, total: int, seed: int = 0) -> list[int]:
        return draw_clips(rule, total, seed).rows.tolist()

    assert rows(ClipRule("ucf101"), 4) == [0, 1, 2, 3]
    cycle = ClipRule("ucf101", clips=7, duplicates="cycle")
    assert rows(cycle, 3) == [0, 1, 2, 0, 1, 2, 0]
    assert draw_clips(cycle, 3, 0).distinct == 3
    again = ClipRule("ucf101", clips=13, duplicates="random")
    found = rows(again, 10)
    assert found[:10] == list(range(10))
    assert len({*found[10:]}) == 3  # as random.sample: no video three times
    assert found == rows(again, 10)
    assert found != rows(again, 10, 1)
    assert rows(ClipRule("ucf101", clips=2, duplicates="random"), 10) == [0, 1]
    shuffled = rows(ClipRule("ucf101", clips=5, order="shuffled"), 9)
    assert len({*shuffled}) == 5
    assert shuffled != list(range(5))
    # A list that is too short gives fewer clips.
    assert len(rows(ClipRule("ucf101", clips=9, order="sample"), 5)) == 5


def test_a_part_of_the_clips_is_spread_over_all() -> None:
    draws = draw_clips(ClipRule("ucf101", clips=9, duplicates="cycle"), 6, 0)
    assert draws.spread(4).rows.tolist() == draws.rows[[0, 2, 4, 6]].tolist()
    assert draws.spread(4).examples.tolist() == draws.examples[[0, 2, 4, 6]].tolist()
    assert draws.spread(9) is draws
    assert draws.first(2).distinct == 2
