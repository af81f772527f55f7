# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Real clips: which, which frames of them, and how these become small."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tests.protocol_conformance import ours, sets
from tests.protocol_conformance.cells import Check
from tests.protocol_conformance.originals import larp, magvit, nbp, omnitokenizer, seed_voken, tats
from tests.protocol_conformance.sets import Video

# A clip as it is compared: the file and the numbers of its frames.
Key = tuple[str, tuple[int, ...]]
UNSEEDED = {
    "seed-rfvd": "random.sample is not seeded",
    "omni-ucf": "random.shuffle is not seeded",
    "tats-ucf": "the loader's shuffle is not seeded",
    "tats-ucf-uncond": "the loader's shuffle is not seeded",
    "larp-rfvd": "the random windows are drawn anew",
    "magvit-ucf": "the loader of ucf101 is not public",
}
SHORTEST_UCF = 29  # frames of the shortest video of UCF101


def compare_clips(count: int) -> Iterator[Check]:
    """Clips and frames of every protocol, from lists of `count` videos."""
    ucf = sets.list_videos(count, shortest=SHORTEST_UCF)
    k600 = sets.list_videos(count, seed=8)
    for name in ("nbp-rfvd", "omni-rfvd"):
        for dataset, videos in (("ucf101", ucf), ("k600", k600)):
            yield from _compare_listed(name, dataset, videos)
    # annotations/ucf_train.txt is in the order of its paths, whatever list a set was prepared from.
    listed = sorted(ucf, key=lambda video: video.path)
    yield from _compare_drawn("nbp-ucf", ucf, _deal_nbp(listed, 8.0, _scale(count, "nbp-ucf")))
    yield from _compare_drawn("nbp-k600", k600, _deal_nbp(k600, 25.0, _scale(count, "nbp-k600")))
    for name, videos in (("larp-ucf", ucf), ("larp-k600", k600)):
        drawn = larp.draw_clips(videos, _scale(count, name))
        wanted = [(path, tuple(range(start, start + 16))) for path, start in drawn]
        yield from _compare_drawn(name, videos, wanted)
    yield from _compare_repeated(ucf)
    yield from _compare_random_windows("larp-rfvd", ucf, larp.list_tokenizer_windows)
    yield from _compare_stream(ucf)
    yield from _compare_external("omni-ucf", ucf)
    yield from _compare_continued(k600)
    for name in ("tats-ucf", "tats-ucf-uncond"):
        yield from _compare_windows(name, ucf)


def _scale(count: int, name: str) -> int:
    rule = ours.PROTOCOLS[name].clips[0]
    return round((rule.clips or 0) * count / (rule.videos or count))


def draw_ours(
    name: str, videos: Sequence[Video], dataset: str | None = None, repeat: int = 0
) -> list[ours.DrawnClip]:
    protocol = ours.find_protocol(name, dataset, total=len(videos))
    labels = sorted({video.label for video in videos})
    return ours.list_clips(protocol, videos, labels, repeat=repeat)


def count_differing(found: Sequence[Key], wanted: Sequence[Key]) -> tuple[int, int]:
    """Files of two lists that differ, and windows of those that do not, in any order."""
    files = Counter(path for path, _ in found), Counter(path for path, _ in wanted)
    keys = Counter(found), Counter(wanted)
    other = sum(((files[0] - files[1]) + (files[1] - files[0])).values())
    return other, max(0, sum(((keys[0] - keys[1]) + (keys[1] - keys[0])).values()) - other)


def _compare_listed(name: str, dataset: str, videos: Sequence[Video]) -> Iterator[Check]:
    found = [(clip.path, clip.numbers) for clip in draw_ours(name, videos, dataset)]
    wanted = [
        (videos[place].path, tuple(nbp.choose_centre(videos[place].frames, videos[place].fps, 16)))
        for place in nbp.list_tokenizer_clips(len(videos))
    ]
    yield from _check_exact(name, found, wanted)


def _check_exact(name: str, found: Sequence[Key], wanted: Sequence[Key]) -> Iterator[Check]:
    files, windows = count_differing(found, wanted)
    yield Check(name, "clips", f"other clips of {len(wanted)}", files)
    yield Check(name, "frames", f"other windows of {len(wanted)}", windows)


def _deal_nbp(videos: Sequence[Video], fps: float, wanted: int) -> list[Key]:
    """transformer_eval.py: the script of UCF101 takes the centre, that of Kinetics draws."""
    lengths = [len(nbp.resample(video.frames, video.fps, fps)) for video in videos]
    shares = len(nbp.list_generation_clips(len(videos), len(videos)))
    starts = nbp.draw_starts(lengths)
    each, taken = shares // nbp.RANKS, -(-wanted // nbp.RANKS)
    clips = []
    for number, place in enumerate(nbp.list_generation_clips(len(videos), wanted)):
        video = videos[place]
        if fps == 8:
            numbers = nbp.choose_centre(video.frames, video.fps, fps)
        else:
            rank, turn = divmod(number, taken)
            start = starts[rank * each + turn % each]
            numbers = nbp.list_windows(video.frames, video.fps, fps)[start]
        clips.append((video.path, tuple(numbers[:16])))
    return clips


def _compare_drawn(name: str, videos: Sequence[Video], wanted: Sequence[Key]) -> Iterator[Check]:
    found = [(clip.path, clip.numbers) for clip in draw_ours(name, videos)]
    # Eight processes take as many each, so a number that 8 does not divide is rounded up there.
    over = len(wanted) - len(found)
    files, windows = count_differing(found, wanted)
    yield Check(name, "clips", f"other clips of {len(wanted)}", max(0, files - over))
    yield Check(name, "frames", f"other windows of {len(wanted)}", windows)


def _compare_repeated(videos: Sequence[Video]) -> Iterator[Check]:
    """SEED-Voken's list is filled up with some that occur twice."""
    name = "seed-rfvd"
    drawn = draw_ours(name, videos)
    total, most = seed_voken.count_repeats(len(videos), _scale(len(videos), name))
    uses = Counter(clip.path for clip in drawn)
    once = [clip.path for clip in drawn[: len(videos)]]
    other = abs(len(drawn) - total) + sum(uses[path] > most for path in uses)
    other += sum(path != video.path for path, video in zip(once, videos, strict=True))
    yield Check(name, "clips", "clips outside of the law", other, listed=UNSEEDED[name], law=True)
    lengths = {video.path: video.frames for video in videos}
    windows = sum(
        list(clip.numbers) != seed_voken.choose_centre(lengths[clip.path]) for clip in drawn
    )
    yield Check(name, "frames", f"other windows of {len(drawn)}", windows)


def check_windows(
    name: str,
    drawn: Sequence[ours.DrawnClip],
    videos: Sequence[Video],
    list_windows: Callable[[int], list[tuple[int, ...]]],
) -> Iterator[Check]:
    """Whether windows are those that the original can draw, and early ones as likely as late."""
    lengths = {video.path: video.frames for video in videos}
    shares, outside = [], 0
    for clip in drawn:
        windows = list_windows(lengths[clip.path])
        if clip.numbers in windows:
            shares.append((windows.index(clip.numbers) + 0.5) / len(windows))
        else:
            outside += 1
    listed = UNSEEDED[name]
    what = f"windows of {len(drawn)} outside of the original's"
    yield Check(name, "frames", what, outside, listed=listed, law=True)
    # Uniform shares have the deviation 1 / sqrt(12).
    error = abs(float(np.mean(shares)) - 0.5) / np.sqrt(1 / 12 / len(shares))
    yield Check(name, "frames", "mean start, in its deviations", error, 4, listed=listed, law=True)


def _compare_random_windows(
    name: str, videos: Sequence[Video], list_windows: Callable[[int], list[tuple[int, ...]]]
) -> Iterator[Check]:
    drawn = draw_ours(name, videos)
    other = Counter(clip.path for clip in drawn)
    other.subtract(Counter(video.path for video in videos))
    yield Check(name, "clips", "other clips", sum(map(abs, other.values())))
    yield from check_windows(name, drawn, videos, list_windows)


def _compare_stream(videos: Sequence[Video]) -> Iterator[Check]:
    """MAGVIT's repeats are parts of one stream."""
    name, outside, sets_of_clips = "magvit-ucf", 0, []
    wanted = _scale(len(videos), name)
    for repeat, (least, most) in enumerate(magvit.count_passes(len(videos), wanted)):
        drawn = draw_ours(name, videos, repeat=repeat)
        uses = Counter(clip.path for clip in drawn)
        outside += sum(not least <= uses[video.path] <= most for video in videos)
        outside += abs(len(drawn) - wanted)
        sets_of_clips.append({(clip.path, clip.numbers) for clip in drawn})
        if not repeat:
            yield from check_windows(name, drawn, videos, magvit.list_windows)
            flips = abs(float(np.mean([clip.flip for clip in drawn])) - 0.5)
            flips /= 0.5 / np.sqrt(len(drawn))
            what = "mirrored clips, in deviations of a half"
            yield Check(name, "frames", what, flips, 4, listed=UNSEEDED[name], law=True)
    shared = max(len(one & other) / len(one) for one, other in itertools.pairwise(sets_of_clips))
    listed = "the shuffling of its stream"
    yield Check(name, "clips", "clips outside of the law", outside, listed=listed, law=True)
    what = "share of clips that the next repeat has as well"
    yield Check(name, "clips", what, shared, 0.1, listed=listed, law=True)


def _compare_external(name: str, videos: Sequence[Video]) -> Iterator[Check]:
    drawn = draw_ours(name, videos)
    protocol = ours.find_protocol(name, total=len(videos))
    lengths = {video.path: video.frames for video in videos}
    files = {clip.path for clip in drawn}
    outside = abs(len(files & set(lengths)) - (protocol.clips[0].clips or 0))
    # Both lists are drawn from: the second half here is the test list.
    test = {video.path for video in videos[len(videos) // 2 :]}
    late = len(files & test) / len(files)
    error = abs(float(late) - 0.5) / (0.5 / np.sqrt(len(drawn)))
    listed = UNSEEDED[name]
    yield Check(name, "clips", "clips outside of the law", outside, listed=listed, law=True)
    what = "share of the test list, in deviations"
    yield Check(name, "clips", what, error, 4, listed=listed, law=True)
    windows = sum(
        list(clip.numbers) != omnitokenizer.choose_external(lengths[clip.path]) for clip in drawn
    )
    yield Check(name, "frames", f"other windows of {len(drawn)}", windows)


def _compare_continued(videos: Sequence[Video]) -> Iterator[Check]:
    """OmniTokenizer's real clips of Kinetics are those that its generated ones continue."""
    name, wanted = "omni-k600", len(videos) // 3
    protocol = ours.find_protocol(name, total=len(videos))
    rule = dataclasses.replace(protocol.clips[0], clips=wanted)
    protocol = dataclasses.replace(protocol, clips=(rule,))
    drawn = ours.list_clips(protocol, videos, sorted({video.label for video in videos}))
    keys = [
        (videos[place].path, tuple(nbp.choose_centre(videos[place].frames, 25.0, -1)))
        for place in omnitokenizer.list_continued(len(videos), wanted)
    ]
    found = [(clip.path, clip.numbers) for clip in drawn]
    files, windows = count_differing(found, keys)
    over = len(keys) - len(found)
    yield Check(name, "clips", f"other clips of {len(keys)}", max(0, files - over))
    yield Check(name, "frames", f"other windows of {len(keys)}", windows)


def _compare_windows(name: str, videos: Sequence[Video]) -> Iterator[Check]:
    """TATS draws of all windows: the whole population of a few videos is compared."""
    few = videos[:12]
    protocol = ours.find_protocol(name, total=len(few))
    rule = dataclasses.replace(protocol.clips[0], clips=None)
    protocol = dataclasses.replace(protocol, clips=(rule,))
    labels = sorted({video.label for video in few})
    found = [(clip.path, clip.numbers) for clip in ours.list_clips(protocol, few, labels)]
    wanted = [(path, tuple(range(first, first + 16))) for path, first in tats.list_windows(few)]
    other = sum(count_differing(found, wanted))
    listed = UNSEEDED[name]
    what = f"other windows of {len(wanted)} that are drawn from"
    yield Check(name, "clips", what, other, listed=listed, law=True)
    drawn = draw_ours(name, videos)
    repeated = len(drawn) - len({(clip.path, clip.numbers) for clip in drawn})
    yield Check(name, "clips", "windows drawn twice", repeated, listed=listed, law=True)
    # A permutation: early windows of the list are as likely as late ones.
    places = {key: place for place, key in enumerate(found)}
    ranks = [(places.get(key, 0) + 0.5) / len(found) for key in wanted[: len(wanted) // 2]]
    error = abs(float(np.mean(ranks)) - 0.5) / np.sqrt(1 / 24 / len(ranks))
    yield Check(name, "clips", "order, in its deviations", error, 4, listed=listed, law=True)
    yield Check(
        name,
        "frames",
        "windows that are not 16 in a row",
        sum(np.ptp(numbers) != 15 or len(numbers) != 16 for _, numbers in found),
    )


# Pixels ------------------------------------------------------------------------------------------

Reader = Callable[[Path, Sequence[int]], np.ndarray]


def compare_resize(folder: Path) -> Iterator[Check]:
    """Real frames at the size of each protocol, from files of six shapes. Levels of 0..255."""
    paths = sets.write_files(folder)
    numbers = [0, 3, 5]
    groups: tuple[tuple[tuple[str, ...], Reader, float, float | None], ...] = (
        (("nbp-rfvd", "nbp-ucf", "nbp-k600", "omni-ucf"), nbp_frames, 1e-4, None),
        (("omni-rfvd", "omni-k600"), omni_frames, 1e-4, None),
        (("larp-rfvd", "larp-ucf", "larp-k600"), larp.read, 1e-3, None),
        (("tats-ucf", "tats-ucf-uncond"), tats_frames, 1.0, 0.02),
    )
    for names, read, bound, mean in groups:
        wanted = [read(path, numbers) * 255.0 for path in paths]
        for name in names:
            yield from _compare_frames(name, paths, wanted, bound, mean=mean)
    for name, read, cuts in (
        ("seed-rfvd", seed_voken.read, seed_voken.list_cuts),
        ("magvit-ucf", magvit.read, magvit.list_cuts),
    ):
        protocol = ours.find_protocol(name)
        pairs = [(ours.read_frames(protocol, path, numbers), read(path, numbers)) for path in paths]
        yield from _check_levels(name, pairs, 1.0, mean=0.02)
        listed = "random.sample is not seeded" if name == "seed-rfvd" else UNSEEDED[name]
        tops, lefts = cuts(131, 134)
        shares = ours.cut_shares(protocol, 131, 134)
        even = np.full((tops, lefts), 1 / (tops * lefts))
        other = float(np.abs(shares - even).max()) if shares.shape == even.shape else 1.0
        yield Check(name, "resize", "chance of a cut", other, 1e-9, listed=listed, law=True)


def nbp_frames(path: Path, numbers: Sequence[int]) -> np.ndarray:
    return nbp.read(path, numbers, 128)


def omni_frames(path: Path, numbers: Sequence[int]) -> np.ndarray:
    return omnitokenizer.read_tokenizer(path, numbers) + np.float32(0.5)


def tats_frames(path: Path, numbers: Sequence[int]) -> np.ndarray:
    return tats.read(path, numbers) / 255


def _compare_frames(
    name: str,
    paths: Sequence[Path],
    wanted: Sequence[np.ndarray],
    bound: float,
    *,
    mean: float | None = None,
) -> Iterator[Check]:
    protocol = ours.find_protocol(name)
    pairs = []
    for path, frames in zip(paths, wanted, strict=True):
        found = ours.cut_centre(protocol, ours.read_frames(protocol, path, [0, 3, 5]))
        if name.startswith("tats"):  # bytes there already
            found = ours.real_pixels(protocol, found)
        pairs.append((found, frames))
    yield from _check_levels(name, pairs, bound, mean=mean)


def _check_levels(
    name: str,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    bound: float,
    *,
    mean: float | None = None,
) -> Iterator[Check]:
    errors = []
    for found, wanted in pairs:
        levels = found * 255.0 if found.dtype != np.uint8 else found.astype(np.float64)
        if levels.shape != wanted.shape:
            yield Check(name, "resize", f"shape {levels.shape}, not {wanted.shape}", np.inf)
            return
        errors.append(np.abs(levels - wanted))
    largest = max(float(error.max()) for error in errors)
    yield Check(name, "resize", "largest difference in levels", largest, bound)
    if mean is not None:
        found = float(np.mean([error.mean() for error in errors]))
        yield Check(name, "resize", "mean difference in levels", found, mean)
