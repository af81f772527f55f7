# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which clips a protocol takes from a list of videos: functions of rule, lengths and seed alone.

The orders of a list (`ClipRule.order`):

    listed    as it is
    shuffled  a permutation by the protocol's seed
    ranks     as PyTorch's DistributedSampler deals a list to processes: permuted by its own seed 0,
              filled up from the start to a multiple of the processes, every R-th one to a process,
              each of which begins again when it reaches its end
    sample    as Python's random.Random(seed).sample draws numbers, from the videos by their path
    epochs    an endless stream: one permutation of the list after the other. A repeat of an
              evaluation goes on where the one before it ended

Windows of the rule "loader" are those that the NBP release draws (nbp/data.py, nbp/video_utils.py):
each of its processes has 8 loader workers, which take its clips in turn and draw with Python's
generator, seeded by what PyTorch's draws first from the seed of the process.

An item of a list is a video, or a window where a rule takes all of them. Nothing here reads a file.
"""

import functools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nbp.protocols.protocol import ClipRule
from nbp.shapes import Int

SAMPLER_SEED = 0  # of DistributedSampler, which nobody changes
LOADER_WORKERS = 8  # transformer_eval.py of the NBP release
# Keeps the windows, crops and flips of clips apart from other numbers drawn from the same seed.
_STREAM = 0x434C4950


@dataclass(frozen=True, eq=False)
class Draws:
    """The clips of one evaluation, in order: clip i is of item `rows[i]`.

    examples: equal for clips that are the same in every pixel: window, crop and flip are drawn
    for each example. distinct: clip i is the same as clip i % distinct.
    """

    rows: Int[np.ndarray, "n"]
    examples: Int[np.ndarray, "n"]
    distinct: int

    def __len__(self) -> int:
        return len(self.rows)

    def first(self, count: int) -> "Draws":
        """The first `count` of them."""
        return Draws(self.rows[:count], self.examples[:count], min(self.distinct, count))

    def spread(self, count: int) -> "Draws":
        """`count` of them, evenly spread over all; as they are for that many or more."""
        if count >= len(self):
            return self
        chosen = np.arange(count) * len(self) // count
        return Draws(self.rows[chosen], self.examples[chosen], count)


@dataclass(frozen=True)
class Place:
    """Where a clip lies in its video.

    start: share in [0, 1) of the possible first frames, None for the centre. crop: shares of the
    spare rows and columns that are cut off above and to the left, None for the centre. flip:
    whether it is mirrored.
    """

    start: float | None
    crop: tuple[float, float] | None
    flip: bool


@dataclass(frozen=True)
class ListedClip:
    """A clip of a protocol. video: number in the list. start: its first frame there."""

    video: int
    start: int
    crop: tuple[float, float] | None
    flip: bool
    label: int | None = None


@dataclass(frozen=True, eq=False)
class WindowList:
    """All windows of `counted` frames at a distance of `step`, video by video, without a list.

    frames: of each video. A video of n frames has (n - counted) // step + 1 windows.
    """

    frames: Int[np.ndarray, "v"]
    counted: int
    step: int

    @functools.cached_property
    def _ends(self) -> Int[np.ndarray, "v"]:
        counts = (np.asarray(self.frames) - self.counted) // self.step + 1
        return np.cumsum(np.maximum(counts, 0))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> tuple[int, int]:
        """(video, first frame) of a window."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        video = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[video - 1]) if video else 0
        return video, (index - before) * self.step


def draw_clips(rule: ClipRule, total: int, seed: int, *, repeat: int = 0) -> Draws:
    """The clips of a rule from a list of `total` items, in repeat `repeat` of an evaluation.

    Fewer than `rule.clips` where the list is shorter and nothing is taken twice.
    """
    count = rule.clips or total
    if rule.order == "epochs":
        numbers = repeat * count + np.arange(count)
        return Draws(_draw_epochs(total, seed, numbers), numbers, count)
    if rule.order == "ranks":
        rows = deal_to_ranks(total, rule.ranks)
    elif rule.order == "sample":
        # Its result depends on both numbers: a shorter list gives other clips, not some of these.
        rows = np.array(random.Random(seed).sample(range(total), min(count, total)), np.int64)
    elif rule.order == "shuffled":
        rows = np.random.default_rng(seed).permutation(total)
    else:
        rows = np.arange(total)
    if rule.duplicates == "cycle" and count > len(rows):
        numbers = np.arange(count) % len(rows)
        return Draws(rows[numbers], numbers, len(rows))
    if rule.duplicates == "random" and count > total:
        rng = np.random.default_rng(seed)
        while len(rows) < count:
            more = min(count - len(rows), total)
            rows = np.concatenate([rows, rng.choice(total, more, replace=False)])
    rows = rows[:count]
    return Draws(rows, np.arange(len(rows)), len(rows))


def place_clip(rule: ClipRule, seed: int, example: int) -> Place:
    """Window, crop and flip of an example; None where the rule leaves nothing to chance."""
    start, top, left, mirrored = np.random.default_rng((_STREAM, seed, example)).random(4).tolist()
    return Place(
        start if rule.window == "random" else None,
        (top, left) if rule.crop == "random" else None,
        mirrored < rule.flip,
    )


def choose_start(share: float | None, length: int, frames: int) -> int:
    """The first of `frames` frames of `length`: at a share of the possible ones, or the centre."""
    window = min(frames, length)
    if share is None:
        return length // 2 - window // 2
    return int(share * (length - window + 1))


def list_clips(
    rule: ClipRule,
    frames: Sequence[int],
    *,
    seed: int,
    repeat: int = 0,
    labels: Sequence[int] | None = None,
    paths: Sequence[str] | None = None,
) -> Iterator[ListedClip]:
    """Every clip of a rule, from the number of frames of each listed video, at the rule's rate.

    labels, paths: of the videos; paths are needed where `sorts_by_path`.
    """
    order = np.arange(len(frames))
    if sorts_by_path(rule) and paths is not None:
        order = order_by_path(rule, paths)
    lengths = np.asarray(frames)[order]
    counted = rule.counted or rule.frames or 1
    windows = WindowList(lengths, counted, rule.step) if rule.window == "all" else None
    total = len(lengths) if windows is None else len(windows)
    draws = draw_clips(rule, total, seed, repeat=repeat)
    starts = draw_loader_starts(rule, lengths, seed)
    for row, example in zip(draws.rows.tolist(), draws.examples.tolist(), strict=True):
        place = place_clip(rule, seed, example)
        if windows is not None:
            video, start = windows[row]
        elif starts is not None:
            video, start = row, int(starts[example])
        else:
            video, start = row, choose_start(place.start, int(lengths[row]), counted)
        listed = int(order[video])
        label = None if labels is None else int(labels[listed])
        yield ListedClip(listed, start, place.crop, place.flip, label)


def sorts_by_path(rule: ClipRule) -> bool:
    """Whether a rule's list is in the order of paths, whatever list a data set was prepared from.

    LARP sorts its list; the NBP release's list of UCF101 is sorted, that of Kinetics-600 is not.
    """
    return rule.order == "sample" or (rule.order == "ranks" and rule.dataset == "ucf101")


def order_by_path(rule: ClipRule, paths: Sequence[str]) -> Int[np.ndarray, "v"]:
    """The videos by class folder and name, as Python sorts texts; Kinetics has no folders."""
    parts = 1 if rule.dataset == "k600" else 2
    keys = ["/".join(path.split("/")[-parts:]) for path in paths]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def deal_to_ranks(total: int, ranks: int) -> Int[np.ndarray, "m"]:
    """The order in which `ranks` processes see a list, one clip of each in turn: m rows, the next
    multiple of `ranks`, of which the last few are the first again.

    From row m on every process, having as many, is at its own start again.
    """
    order = permute_as_torch(total, SAMPLER_SEED)
    padded = -(-total // ranks) * ranks
    return order[np.arange(padded) % total]


def permute_as_torch(total: int, seed: int) -> Int[np.ndarray, "n"]:
    """What `torch.randperm(total, generator=torch.Generator().manual_seed(seed))` gives.

    Both use the Mersenne Twister of 32 bits; number i is exchanged with one drawn of those after
    it, by a remainder.
    """
    twister = np.random.MT19937()
    twister._legacy_seeding(seed)  # the seeding of the reference code, which PyTorch has as well
    drawn = twister.random_raw(max(total - 1, 0))
    order = np.arange(total)
    for i, z in enumerate(np.atleast_1d(drawn).tolist()):
        other = i + z % (total - i)
        order[i], order[other] = order[other], order[i]
    return order


def draw_loader_starts(
    rule: ClipRule, lengths: Int[np.ndarray, "v"], seed: int
) -> Int[np.ndarray, "m"] | None:
    """The first frame of each example under the window "loader", None under another.

    lengths: of the listed videos, in frames at the rule's rate.
    """
    if rule.window != "loader":
        return None
    rows = deal_to_ranks(len(lengths), rule.ranks)
    wanted = rule.counted or rule.frames or 1
    starts = np.zeros(len(rows), np.int64)
    for rank in range(rule.ranks):
        first = _draw_loader_seed(seed + rank)
        workers = [random.Random(first + worker) for worker in range(LOADER_WORKERS)]
        for place, example in enumerate(range(rank, len(rows), rule.ranks)):
            draw = workers[place % LOADER_WORKERS].randint
            starts[example] = draw(0, max(0, int(lengths[rows[example]]) - wanted))
            # Row and column of a crop of frames that have its size already.
            draw(0, 0)
            draw(0, 0)
    return starts


def _draw_loader_seed(seed: int) -> int:
    """What a PyTorch loader takes from the generator of this seed for its workers: 63 bits."""
    twister = np.random.MT19937()
    twister._legacy_seeding(seed)
    high, low = (int(z) for z in twister.random_raw(2))
    return (high << 32 | low) % 2**63


def take_repeat(rule: ClipRule, repeat: int) -> int:
    """The repeat whose clips a rule takes: its own where they differ, else the first's."""
    return repeat if rule.order == "epochs" else 0


def _draw_epochs(total: int, seed: int, numbers: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Items `numbers` of an endless stream of permutations."""
    epochs = numbers // total
    rows = np.empty(len(numbers), np.int64)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        order = np.random.default_rng((seed, epoch)).permutation(total)
        rows[here] = order[numbers[here] % total]
    return rows
