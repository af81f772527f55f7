# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Stored clips against FFmpeg's own demuxer and decoder, and against the arrays encoded."""

import io
import re

import av
import numpy as np
import pytest

from nbp.data.video import clip_codec
from nbp.data.video.clip_codec import ClipEncoder, Coding, decode_clip, read_samples
from nbp.errors import ConfigError
from nbp.files import VideoError
from tests.data.videos import make_clip, psnr

CODINGS = [Coding(), Coding(group=5), Coding("jpeg"), Coding(group=1)]


def store(clip: np.ndarray, settings: Coding | None = None, rate: float | None = 25.0) -> bytes:
    encoder = ClipEncoder(settings or Coding(), rate)
    for frame in clip:
        encoder.add(frame)
    return encoder.finish()


def decode_all(data: bytes) -> np.ndarray:
    """By FFmpeg, from the first frame to the last."""
    with av.open(io.BytesIO(data), "r") as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.mark.parametrize("settings", CODINGS, ids=str)
@pytest.mark.parametrize("shape", [(40, 32, 48), (7, 33, 41), (1, 16, 16), (26, 5, 9)], ids=str)
def test_any_player_shows_the_clip_and_windows_are_exact(settings, shape):
    clip = make_clip(*shape)
    data = store(clip, settings)
    reference = decode_all(data)
    assert reference.shape == clip.shape
    rng = np.random.default_rng(0)
    whole = decode_clip(data, np.arange(len(clip)), name="x")
    # The converters of swscale differ by one level here and there; the frames are these.
    assert psnr(whole, reference) > 45
    for _ in range(30):
        count = int(rng.integers(1, min(len(clip), 9) + 1))
        numbers = np.sort(rng.choice(len(clip), count, replace=False))
        np.testing.assert_array_equal(decode_clip(data, numbers, name="x"), whole[numbers])
    start = len(clip) // 2
    np.testing.assert_array_equal(
        decode_clip(data, np.arange(start, len(clip)), name="x"), whole[start:]
    )


@pytest.mark.parametrize("width", [64, 63])
def test_colours_keep_their_resolution(width):
    """Stripes of one pixel in colours of equal brightness: 4:2:0 averages them away."""
    clip = np.empty((20, 32, width, 3), np.uint8)
    clip[:, :, 0::2], clip[:, :, 1::2] = (200, 60, 60), (60, 131, 60)
    assert psnr(decode_clip(store(clip), np.arange(20), name="x"), clip) > 38
    assert psnr(decode_clip(store(clip, Coding("jpeg")), np.arange(20), name="x"), clip) > 30


def test_quality_is_near_transparent_and_follows_the_setting():
    clip = make_clip(30, 96, 128)
    sizes, quality = [], []
    for level in (30, 12, 4):
        data = store(clip, Coding(quality=level))
        sizes.append(len(data))
        quality.append(psnr(decode_clip(data, np.arange(30), name="x"), clip))
    assert sizes == sorted(sizes)
    assert quality[0] < 38 < 41 < quality[1] < quality[2] - 3


def test_bytes_are_reproducible():
    clip = make_clip(30, 64, 64)
    for settings in (Coding(), Coding("jpeg")):
        assert store(clip, settings) == store(clip, settings)


def test_unreferred_frames_outside_the_window_are_not_decoded(monkeypatch):
    data = store(make_clip(48, 32, 48))
    chosen = []
    choose = clip_codec._choose_packets
    monkeypatch.setattr(
        clip_codec, "_choose_packets", lambda *a: chosen.append(choose(*a)) or chosen[-1]
    )
    decode_clip(data, np.array([2, 26, 40]), name="x")
    # Groups of 24: frames 0, 3, ... are referred to. 2 needs 0, 3; 26 needs 24, 27; 40 needs up
    # to 42. Every other frame is skipped.
    shown = read_samples(data).shown[chosen[0]]
    assert sorted(shown.tolist()) == [0, 2, 3, 24, 26, 27, 30, 33, 36, 39, 40, 42]
    assert len(read_samples(data).keys) == 2


def test_sample_table_agrees_with_ffmpeg():
    data = store(make_clip(40, 32, 48), rate=30000 / 1001)
    table = read_samples(data)
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        assert abs(float(stream.average_rate or 0) - 30000 / 1001) < 0.02
        packets = [p for p in container.demux(stream) if p.size]
    assert [p.size for p in packets] == table.sizes.tolist()
    assert [i for i, p in enumerate(packets) if p.is_keyframe] == table.keys.tolist()
    assert (
        np.argsort(np.argsort([int(p.pts or 0) for p in packets])).tolist() == table.shown.tolist()
    )
    for packet, start in zip(packets, table.offsets, strict=True):
        assert data[start : start + packet.size] == bytes(packet)


@pytest.mark.parametrize("settings", [Coding(), Coding("jpeg")], ids=str)
def test_damaged_bytes_never_raise_anything_else(settings):
    good = store(make_clip(20, 32, 48), settings)
    rng = np.random.default_rng(0)
    failures, count = set(), 0
    for trial in range(60):
        data = bytearray(good)
        if trial % 3 == 0:
            data = data[: int(rng.integers(len(data)))]
        else:
            tail = len(good) - 1200 if trial % 3 == 1 else 0  # the tables are at the end
            for place in rng.integers(tail, len(good), 8):
                data[place] = rng.integers(256)
        try:
            decode_clip(bytes(data), np.arange(17), name="toy/train record 3")
        except VideoError as error:
            failures.add((error.path, error.reason))
            count += 1
    assert count > 20
    assert failures == {("toy/train record 3", "corrupt")}
    # The decoders kept open are not spoilt by what came before.
    again = decode_clip(good, np.arange(17), name="x")
    np.testing.assert_array_equal(again, decode_clip(bytes(good), np.arange(17), name="x"))
    assert psnr(again, decode_all(good)[:17]) > 45


def test_frames_that_are_not_there():
    data = store(make_clip(20, 32, 48))
    with pytest.raises(
        VideoError, match=re.escape("x: corrupt (stored clip: frames 4 .. 20 of 20")
    ):
        decode_clip(data, np.arange(4, 21), name="x")
    with pytest.raises(VideoError, match="corrupt"):
        decode_clip(b"", np.arange(3), name="x")


def test_wrong_settings_name_what_is_allowed():
    for settings, message in [
        ({"quality": 52}, r"quality 52 for h264; allowed: 0 \.\. 51"),
        ({"codec": "jpeg", "quality": 0}, r"allowed: 1 \.\. 95"),
        ({"group": 0}, "group 0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            Coding(**settings)
    with pytest.raises(ValueError, match="no frame was added"):
        ClipEncoder(Coding()).finish()
