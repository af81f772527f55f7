# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Decoding against the arrays that were encoded, the official frame rule, and hostile files."""

import os
import pickle
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from nbp.data.video import decode
from nbp.data.video.decode import VideoInfo, choose_frames, probe_video, read_clip, resample_frames
from nbp.data.video.encode import tile_clips, write_gif, write_video
from nbp.files import VideoError
from tests.data.videos import CODINGS, encode, encode_sound, make_clip, psnr


@pytest.mark.parametrize("suffix", CODINGS)
def test_containers(tmp_path, suffix):
    clip = make_clip()
    path = encode(tmp_path / f"clip.{suffix}", clip)
    assert probe_video(path) == VideoInfo(20, 10.0, 24, 32)
    assert probe_video(path, decode=False) == VideoInfo(20, 10.0, 24, 32)
    found = read_clip(path, frames=20)
    assert found.shape == clip.shape
    assert psnr(found, clip) > 29
    # Frame for frame: each decoded frame is nearest to its own source frame.
    distance = np.abs(found[:, None].astype(int) - clip[None]).mean(axis=(2, 3, 4))
    np.testing.assert_array_equal(distance.argmin(axis=1), np.arange(20))


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv"])
def test_marks_that_are_no_utf8_harm_nobody(tmp_path, suffix):
    path = encode(tmp_path / f"clip.{suffix}", make_clip(), title="EEEEEE")
    data = path.read_bytes()
    assert b"EEEEEE" in data
    path.write_bytes(data.replace(b"EEEEEE", b"\xc9t\xe9 \xff\xfe"))  # Latin-1, and worse
    assert probe_video(path) == VideoInfo(20, 10.0, 24, 32)
    assert read_clip(path, frames=20).shape == (20, 24, 32, 3)


def test_gif_reads_back(tmp_path):
    clip = make_clip()
    write_gif(tmp_path / "clip.gif", clip, fps=10.0)
    assert probe_video(tmp_path / "clip.gif") == VideoInfo(20, 10.0, 24, 32)
    assert psnr(read_clip(tmp_path / "clip.gif", frames=20), clip) > 29


@pytest.mark.parametrize("fps", [None, 25.0, 8.0, 3.0])
@pytest.mark.parametrize("start", [None, 0.0, 0.5, 0.999])
def test_window_frames_are_the_chosen_ones(tmp_path, fps, start):
    clip = make_clip()
    path = encode(tmp_path / "clip.mkv", clip, fps=10.0)  # lossless: frames must be equal
    numbers = choose_frames(VideoInfo(20, 10.0, 24, 32), frames=5, fps=fps, start=start)
    assert len(numbers) == 5
    np.testing.assert_array_equal(read_clip(path, frames=5, fps=fps, start=start), clip[numbers])


# From runs of the official loader: (frames, native rate, rate, resampled, centred window of 17).
OFFICIAL = {
    "54 at 25 to 8": (
        (54, 25.0, 8.0, 17),
        [0, 3, 6, 9, 13, 16, 19, 23, 26, 29, 33, 36, 39, 43, 46, 49, 53],
    ),
    "57 at 25 to 8": (
        (57, 25.0, 8.0, 18),
        [3, 6, 9, 13, 16, 19, 23, 26, 29, 32, 36, 39, 42, 46, 49, 52, 56],
    ),
    "164 at 25 to 8": (
        (164, 25.0, 8.0, 52),
        [57, 60, 63, 67, 70, 73, 76, 79, 83, 86, 89, 92, 95, 99, 102, 105, 108],
    ),
    "100 at 29.97 to 8": (
        (100, 29.97002997002997, 8.0, 26),
        [19, 23, 27, 31, 35, 39, 43, 47, 51, 55, 59, 63, 67, 71, 75, 79, 83],
    ),
    "300 at 30 to 25": (
        (300, 30.0, 25.0, 250),
        [140, 141, 142, 144, 145, 146, 147, 148, 150, 151, 152, 153, 154, 156, 157, 158, 159],
    ),
    "250 at 25, every frame": ((250, 25.0, None, 250), list(range(117, 134))),
    "18 at 7.5 to 8, never faster": ((18, 7.5, 8.0, 18), list(range(1, 18))),
    "29 at 25 to 8, too short": ((29, 25.0, 8.0, 9), [0, 3, 7, 10, 14, 17, 21, 24, 28]),
}


@pytest.mark.parametrize("case", OFFICIAL)
def test_frame_rule_is_the_official_one(case):
    (frames, native, fps, resampled), centred = OFFICIAL[case]
    assert len(resample_frames(frames, native, fps)) == resampled
    window = choose_frames(VideoInfo(frames, native, 1, 1), frames=17, fps=fps)
    assert window.tolist() == centred


def test_random_starts_reach_every_window_equally():
    info = VideoInfo(20, 10.0, 1, 1)
    firsts = [
        int(choose_frames(info, frames=17, fps=None, start=start)[0])
        for start in np.linspace(0, 1, 400, endpoint=False)
    ]
    assert np.bincount(firsts).tolist() == [100, 100, 100, 100]


def test_resize_is_applied_to_each_frame(tmp_path):
    clip = make_clip()
    path = encode(tmp_path / "clip.mkv", clip)
    found = read_clip(path, frames=4, start=0.0, resize=lambda frame: frame[::2, ::2])
    np.testing.assert_array_equal(found, clip[:4, ::2, ::2])


def _write_bad(path: Path, kind: str) -> None:
    good = encode(path.with_name("good.mp4"), make_clip()).read_bytes()
    match kind:
        case "zero bytes":
            path.write_bytes(b"")
        case "random bytes":
            path.write_bytes(np.random.default_rng(0).bytes(3000))
        case "web page":
            path.write_bytes(b"<!DOCTYPE html><html><body>404</body></html>" * 20)
        case "playlist":
            path.write_text(f"ffconcat version 1.0\nfile '{path.with_name('good.mp4')}'\n")
        case "cut":  # the index of an mp4 is at its end
            path.write_bytes(good[: len(good) // 2])
        case "cut, index first":
            options = {"movflags": "+faststart"}
            whole = encode(path.with_name("fast.mp4"), make_clip(), options=options).read_bytes()
            path.write_bytes(whole[: len(whole) * 2 // 3])
        case "head only":
            path.write_bytes(good[:24])
        case "damaged":  # the decoder refuses it
            start = good.index(b"mdat") + 4
            third = (good.index(b"moov") - start) // 3
            path.write_bytes(good[: start + third] + b"\x55" * third + good[start + 2 * third :])
        case "damaged, concealed":  # the decoder mends it, and only marks the frames
            whole = encode(path.with_name("good.avi"), make_clip()).read_bytes()
            start = whole.index(b"movi")
            middle = start + (len(whole) - start) // 2
            path.write_bytes(whole[:middle] + b"\x55" * 300 + whole[middle + 300 :])
        case "sound only":
            encode_sound(path)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "missing":
            pass
        case _:
            raise AssertionError(kind)


BAD = {
    "zero bytes": "zero bytes",
    "random bytes": "not a video",
    "web page": "not a video",
    "playlist": "not a video",
    "cut": "corrupt",
    "cut, index first": "corrupt",
    "head only": "corrupt",
    "damaged": "corrupt",
    "damaged, concealed": "corrupt",
    "sound only": "no video stream",
    "folder": "unreadable",
    "pipe": "unreadable",
    "missing": "unreadable",
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_file_is_named_with_a_reason(tmp_path, kind):
    path = tmp_path / "bad.mp4"
    _write_bad(path, kind)
    with pytest.raises(VideoError) as caught:
        probe_video(path)
    assert caught.value.reason == BAD[kind]
    assert caught.value.reason in decode.REASONS
    assert caught.value.path == str(path)
    assert str(caught.value).startswith(f"{path}: {BAD[kind]}")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    with pytest.raises(VideoError):  # reading without probing first meets the same file
        read_clip(path, frames=20, info=VideoInfo(20, 10.0, 24, 32))


def test_cut_matroska_gives_the_frames_it_has(tmp_path):
    clip = make_clip(40)
    path = encode(tmp_path / "clip.mkv", clip)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    info = probe_video(path)
    assert 5 < info.frames < 40
    np.testing.assert_array_equal(read_clip(path, frames=info.frames), clip[: info.frames])
    with pytest.raises(VideoError, match="ended after"):
        read_clip(path, frames=40, info=VideoInfo(40, 10.0, 24, 32))


def test_too_short_says_how_short(tmp_path):
    path = encode(tmp_path / "clip.mp4", make_clip())
    with pytest.raises(VideoError, match=r"too short .*10 frames at 5 fps.*needs 17"):
        read_clip(path, frames=17, fps=5.0)


def test_size_limits(tmp_path, monkeypatch):
    path = encode(tmp_path / "clip.mp4", make_clip())
    for name, value in [("MAX_PIXELS", 100), ("MAX_FRAMES", 19), ("MAX_BYTES", 100)]:
        with monkeypatch.context() as patch:
            patch.setattr(decode, name, value)
            with pytest.raises(VideoError, match="too large"):
                probe_video(path)


@pytest.mark.parametrize("suffix", ["mp4", "avi", "webm"])
def test_mutated_files_never_raise_anything_else(tmp_path, suffix):
    good = encode(tmp_path / f"good.{suffix}", make_clip()).read_bytes()
    path = tmp_path / f"bad.{suffix}"
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(25):
        data = np.frombuffer(good, np.uint8).copy()
        places = rng.integers(0, len(data), rng.integers(1, 30))
        data[places] = rng.integers(0, 256, len(places))
        path.write_bytes(data.tobytes()[: rng.integers(8, len(data) + 1)])
        try:
            info = probe_video(path)
            assert info.frames > 0
            read_clip(path, frames=1, info=info)
            outcomes.add("read")
        except VideoError as error:
            outcomes.add(error.reason)
    assert "corrupt" in outcomes


def test_error_survives_pickling():
    error = VideoError("a/b.mp4", "corrupt", "frame 3 is damaged")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.path, copy.reason, copy.detail) == (error.path, error.reason, error.detail)
    assert str(copy) == str(error) == "a/b.mp4: corrupt (frame 3 is damaged)"


@pytest.mark.parametrize("height, width", [(24, 32), (23, 31)])
def test_written_video_plays_back(tmp_path, height, width):
    clip = make_clip(9, height, width)
    path = tmp_path / "new" / "clip.mp4"
    write_video(path, clip, fps=7.5)
    assert probe_video(path) == VideoInfo(9, 7.5, 24, 32)
    found = read_clip(path, frames=9)
    assert psnr(found[:, :height, :width], clip) > 30
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_video(path, make_clip(3), fps=8.0)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_write_refuses_what_is_no_clip(tmp_path):
    for clip, fps in [
        (np.zeros((0, 4, 4, 3), np.uint8), 8.0),
        (np.zeros((2, 4, 4, 1), np.uint8), 8.0),
        (make_clip(2), 0.0),
        (make_clip(2), float("nan")),
    ]:
        with pytest.raises(ValueError):
            write_video(tmp_path / "clip.mp4", clip, fps=fps)
        with pytest.raises(ValueError):
            write_gif(tmp_path / "clip.gif", clip, fps=fps)
    assert not os.listdir(tmp_path)


def test_gif_is_scaled_timed_and_endless(tmp_path):
    write_gif(tmp_path / "clip.gif", make_clip(6), fps=8.0, scale=3)
    with Image.open(tmp_path / "clip.gif") as image:
        assert (image.size, getattr(image, "n_frames", 1)) == ((96, 72), 6)
        assert image.info["loop"] == 0
        assert image.info["duration"] == 120  # 125 ms in steps of 10


def test_tiles_lie_row_by_row_with_black_between():
    clips = np.stack([np.full((2, 3, 4, 3), value, np.uint8) for value in (10, 20, 30)])
    grid = tile_clips(clips, columns=2, pad=1)
    assert grid.shape == (2, 7, 9, 3)
    wanted = np.zeros((7, 9), np.uint8)
    wanted[:3, :4], wanted[:3, 5:], wanted[4:, :4] = 10, 20, 30
    np.testing.assert_array_equal(grid, np.broadcast_to(wanted[None, ..., None], grid.shape))
