# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Transforms against arrays cut and flipped by hand, and the cache against plain reading."""

import pickle
import threading

import numpy as np
import pytest

from nbp.data import augmentation
from nbp.data.augmentation import (
    Crop,
    DecodeClip,
    Flip,
    ShortSide,
    Squash,
    VideoCache,
    choose_spatial,
    make_clip_transforms,
    resize_frame,
)
from nbp.data.video.decode import choose_frames, probe_video
from nbp.files import VideoError
from tests.data.videos import encode, make_clip


@pytest.fixture(scope="module")
def lossless(tmp_path_factory):
    path = encode(tmp_path_factory.mktemp("video") / "clip.mkv", make_clip())
    return {"path": str(path), "info": probe_video(path), "label": np.int32(3)}


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    "height, width, target", [(240, 320, (64, 85)), (320, 240, (85, 64)), (10, 10, (64, 64))]
)
def test_short_side_keeps_the_aspect(height, width, target):
    assert ShortSide(64).target(height, width) == target
    assert Squash(64).target(height, width) == (64, 64)


@pytest.mark.parametrize("size", [1, 7, 64, 127])
def test_a_crop_fits_after_short_side(size):
    for height, width in [(3, 500), (240, 321), (17, 17), (1000, 999)]:
        assert min(ShortSide(size).target(height, width)) == size


def test_shrinking_averages_instead_of_skipping():
    # A fine checkerboard: without antialiasing it would come out black or white.
    board = (np.indices((32, 32)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = resize_frame(np.repeat(board[..., None], 3, axis=2), 8, 8)
    assert small.shape == (8, 8, 3)
    assert np.abs(small[1:-1, 1:-1].astype(int) - 127).max() <= 3


def test_resize_keeps_edges_in_place():
    frame = np.zeros((40, 80, 3), np.uint8)
    frame[:, 40:] = 200  # right half bright
    frame[20:, :, 2] = 100  # lower half blue
    small = resize_frame(frame, 20, 20).astype(int)
    np.testing.assert_array_equal(small[:, :8, 0], 0)
    np.testing.assert_array_equal(small[:, 12:, 0], 200)
    np.testing.assert_array_equal(small[12:, :, 2], 100)


def test_centre_crop_and_random_crop():
    video = np.arange(2 * 6 * 8 * 3, dtype=np.uint8).reshape(2, 6, 8, 3)
    record = {"video": video, "label": 1}
    centre = Crop(4, random=False)(record, _rng())
    np.testing.assert_array_equal(centre["video"], video[:, 1:5, 2:6])
    assert centre["label"] == 1
    found = set()
    for seed in range(200):
        crop = Crop(4, random=True)(record, _rng(seed))["video"]
        top, left = np.argwhere(video[0, :, :, 0] == crop[0, 0, 0, 0])[0]
        np.testing.assert_array_equal(crop, video[:, top : top + 4, left : left + 4])
        found.add((int(top), int(left)))
    assert found == {(top, left) for top in range(3) for left in range(5)}


def test_random_crop_cuts_a_third_off_each_side_of_larger_frames():
    """A 40 x 60 frame becomes 24 x 36 (1.5 x 16), of which training sees any 16 x 16 window."""
    columns = np.broadcast_to(np.arange(60, dtype=np.uint8) * 4, (1, 40, 60))
    record = {"video": np.stack([columns] * 3, axis=-1), "label": 0}
    resize, (cut,) = choose_spatial("random_crop", 16, training=True)
    frames = resize(record, _rng())["video"]
    assert frames.shape == (1, 24, 36, 3)
    found = {int(cut({"video": frames}, _rng(seed))["video"][0, 0, 0, 0]) for seed in range(200)}
    assert found == set(frames[0, 0, :21, 0].tolist())
    resize, (cut,) = choose_spatial("random_crop", 16, training=False)
    np.testing.assert_array_equal(
        cut(resize(record, _rng()), _rng())["video"], frames[:, 4:20, 10:26]
    )


def test_crop_of_a_small_clip_names_the_remedy():
    with pytest.raises(ValueError, match=r"ShortSide\(16\)"):
        Crop(16, random=False)({"video": np.zeros((1, 8, 32, 3), np.uint8)}, _rng())


def test_flip_mirrors_half_of_the_examples():
    video = make_clip(2)
    flips = 0
    for seed in range(200):
        found = Flip()({"video": video}, _rng(seed))["video"]
        mirrored = not np.array_equal(found, video)
        np.testing.assert_array_equal(found, video[:, :, ::-1] if mirrored else video)
        flips += mirrored
    assert 70 < flips < 130


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
@pytest.mark.parametrize("fps", [None, 5.0])
@pytest.mark.parametrize("random", [False, True])
def test_decoding_takes_the_chosen_window(lossless, fps, random, cache_bytes):
    decode = DecodeClip(4, fps, random, cache_bytes=cache_bytes)
    clip, starts = make_clip(), set()
    for seed in range(8):
        record = decode(lossless, _rng(seed))
        start = float(_rng(seed).random()) if random else None
        numbers = choose_frames(lossless["info"], frames=4, fps=fps, start=start)
        np.testing.assert_array_equal(record["video"], clip[numbers])
        assert set(record) == {"video", "label"}
        starts.add(int(numbers[0]))
    assert (len(starts) > 1) == random


def test_cached_videos_are_decoded_once(lossless, monkeypatch):
    reads, read = [], augmentation.read_clip

    def count_read(path, **options):
        reads.append(path)
        return read(path, **options)

    monkeypatch.setattr(augmentation, "read_clip", count_read)
    cached = DecodeClip(4, None, True, ShortSide(12))
    plain = DecodeClip(4, None, True, ShortSide(12), cache_bytes=0)
    for seed in range(5):
        found, wanted = cached(lossless, _rng(seed)), plain(lossless, _rng(seed))
        assert found["video"].shape == (4, 12, 16, 3)
        np.testing.assert_array_equal(found["video"], wanted["video"])
    assert len(reads) == 1 + 5
    # A copy in a worker has the same settings and an empty cache; fingerprints use the repr.
    copy = pickle.loads(pickle.dumps(cached))
    assert copy == cached
    assert repr(copy) == repr(cached)
    copy(lossless, _rng())
    assert len(reads) == 1 + 5 + 1


def test_cache_keeps_to_its_capacity():
    cache = VideoCache(100)
    first = cache.get("a", 60, lambda: np.zeros(60, np.uint8))
    assert cache.get("b", 60, lambda: np.ones(60, np.uint8)) is None
    assert cache.get("a", 60, lambda: np.ones(60, np.uint8)) is first

    def fail() -> np.ndarray:
        raise VideoError("c", "corrupt")

    with pytest.raises(VideoError):
        cache.get("c", 40, fail)
    assert cache.get("d", 40, lambda: np.zeros(40, np.uint8)) is not None  # the room came back


def test_cache_counts_a_video_once_when_threads_race():
    cache, barrier = VideoCache(100), threading.Barrier(2)

    def load() -> np.ndarray:
        barrier.wait(timeout=10)
        return np.zeros(40, np.uint8)

    found = []
    threads = [
        threading.Thread(target=lambda: found.append(cache.get("a", 40, load))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is found[1]
    assert cache.get("b", 60, lambda: np.zeros(60, np.uint8)) is not None


def test_a_short_or_vanished_file_is_a_data_error(lossless):
    with pytest.raises(VideoError, match="too short"):
        DecodeClip(21, None, False)(lossless, _rng())
    gone = {**lossless, "path": lossless["path"] + ".gone"}
    for cache_bytes in (0, 2**20):
        with pytest.raises(VideoError, match="unreadable"):
            DecodeClip(4, None, False, cache_bytes=cache_bytes)(gone, _rng())


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("training", [False, True])
def test_usual_chain(lossless, fit, training):
    chain = make_clip_transforms(frames=5, size=16, fps=5.0, training=training, fit=fit, flip=True)
    clips = []
    for seed in range(6):
        record = lossless
        for transform in chain:
            record = transform(record, _rng(seed))
        clips.append(record["video"])
        assert record["video"].shape == (5, 16, 16, 3)
        assert record["video"].dtype == np.uint8
    differ = any(not np.array_equal(clips[0], clip) for clip in clips[1:])
    assert differ == training
    if not training:
        # 20 frames at 10 fps become 10 at 5: the five in the middle start at the third.
        source = make_clip()[[6, 8, 10, 12, 14]]
        height, width = (16, 21) if fit == "crop" else (16, 16)
        wanted = np.stack([resize_frame(frame, height, width) for frame in source])
        left = (width - 16) // 2
        np.testing.assert_array_equal(clips[0], wanted[:, :, left : left + 16])


@pytest.mark.parametrize("fit", ["crop", "squash", "random_crop"])
@pytest.mark.parametrize("height, width", [(30, 90), (90, 30), (40, 40), (20, 10)])
def test_frames_that_are_no_squares(fit, height, width):
    """They fill the frame; with the aspect kept, no more is cut off than has to be."""
    record = {"video": np.zeros((2, height, width, 3), np.uint8), "label": 0}
    resize, cut = choose_spatial(fit, (16, 24), training=True)
    frames = resize(record, _rng())
    whole = frames["video"].shape[1:3]
    for transform in cut:
        frames = transform(frames, _rng())
    assert frames["video"].shape == (2, 16, 24, 3)
    if fit == "crop":
        assert whole[0] == 16 or whole[1] == 24
        assert whole[0] / whole[1] == pytest.approx(height / width, rel=0.05)
    assert "(16, 24)" in repr(resize) or fit == "random_crop"
    assert repr(choose_spatial(fit, 16, training=True)) != repr((resize, cut))
