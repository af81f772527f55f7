# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What is read is what a player shows: FFmpeg's own command is the reference (see `fixtures`)."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from nbp.data.prepare.reencode import Recipe, reencode_video
from nbp.data.video.clip_codec import Coding, decode_clip
from nbp.data.video.decode import VideoInfo, choose_frames, probe_video, read_clip, read_frames
from nbp.data.video.notes import NOTES, list_notes
from nbp.files import VideoError
from tests.data.videos import ORIENTATIONS, make_clip, mark_orientation, psnr

FILES = Path(__file__).parents[1] / "fixtures"
REFERENCES = np.load(FILES / "references.npz")
# FFmpeg 5.1 sampled chroma between its samples elsewhere when it scaled, in fields and in HEVC:
# brightness is the same there, colours are near.
CHROMA_DIFFERS = {
    "aspect_stream.mp4",
    "aspect_pal.mkv",
    "aspect_ntsc.mp4",
    "aspect_container.mp4",
    "interlaced.mp4",
    "interlaced.ts",
    "pq.mp4",
}
FOUND = {
    "aspect_stream.mp4": ("pixel aspect",),
    "aspect_pal.mkv": ("pixel aspect",),
    "aspect_ntsc.mp4": ("pixel aspect",),
    "aspect_container.mp4": ("pixel aspect",),
    "aspect_absurd.mp4": ("absurd pixel aspect",),
    "interlaced.mp4": ("interlaced",),
    "interlaced.ts": ("interlaced",),
    "pq.mp4": ("HDR",),
    "hlg.mkv": ("HDR",),
    "thumbnail_first.mp4": ("several tracks",),
    "second_is_default.mkv": ("several tracks",),
    "pause.mkv": ("uneven rate",),
    "pause.mp4": ("uneven rate",),
    "jitter.webm": ("uneven rate",),
    "delays.gif": ("uneven rate",),
    "chromium.webm": ("uneven rate",),
    **dict.fromkeys(
        ("alpha_vp8.webm", "alpha_vp9.webm", "alpha_rle.mov", "alpha_png.mov", "alpha_prores.mov"),
        ("transparent",),
    ),
}


def expect(name: str) -> np.ndarray:
    """What FFmpeg shows, with transparency on white."""
    frames = REFERENCES[name].astype(np.float64)
    if frames.shape[-1] == 3:
        return frames
    return frames[..., :3] * frames[..., 3:] / 255 + 255 - frames[..., 3:]


def stream(path: Path) -> tuple[VideoInfo, float, np.ndarray]:
    frames: list[np.ndarray] = []
    rates: list[float] = []

    def begin(rate: float):
        rates.append(rate)
        return frames.append

    info = read_frames(path, begin)
    return info, rates[0], np.stack(frames)


@pytest.mark.parametrize("name", [name for name in REFERENCES.files if "orient" not in name])
def test_frames_are_those_of_ffmpeg(name):
    wanted = expect(name)
    info = probe_video(FILES / name)
    assert info.notes == FOUND.get(name, ())
    clip = read_clip(FILES / name, frames=info.frames, info=info)
    assert clip.shape == (info.frames, info.height, info.width, 3)
    # Where the file does not say how long its last frame stays, FFmpeg's fps filter shows it never.
    unsaid = name == "chromium.webm"
    assert (info.frames - unsaid, info.height, info.width) == wanted.shape[:3]
    difference = clip[: len(wanted)] - wanted
    if name in CHROMA_DIFFERS:
        brightness = np.abs(difference @ [0.299, 0.587, 0.114])
        assert brightness.max() < 7
        assert brightness.mean() < 1
        assert np.abs(difference).mean() < 4
    else:
        assert np.abs(difference).max() <= 0.5
    # The quick look and the way of nbp.prepare find the same.
    assert probe_video(FILES / name, decode=False) == info
    streamed, rate, frames = stream(FILES / name)
    assert (streamed.notes, rate, streamed.fps) == (info.notes, info.fps, info.fps)
    assert streamed.shown is None
    np.testing.assert_array_equal(frames, clip)


@pytest.mark.parametrize("number", range(8))
def test_all_orientations_of_the_display_matrix(tmp_path, number):
    matrix = ORIENTATIONS[number]
    plain = FILES / "plain.mp4"
    path = tmp_path / "marked.mp4"
    path.write_bytes(mark_orientation(plain.read_bytes(), matrix))
    wanted = REFERENCES[f"orientation {number}"]
    info = probe_video(path)
    assert (info.height, info.width) == wanted.shape[1:3]
    assert info.notes == (() if matrix == (1, 0, 0, 1) else ("turned",))
    found = read_clip(path, frames=8)
    np.testing.assert_array_equal(found, wanted)
    # And by the definition: the pixel at (x, y) goes to (ax + cy, bx + dy).
    a, b, c, d = matrix
    stored = read_clip(plain, frames=8)
    y, x = np.mgrid[: stored.shape[1], : stored.shape[2]]
    right, down = a * x + c * y, b * x + d * y
    moved = np.empty_like(wanted)
    moved[:, down - down.min(), right - right.min()] = stored
    np.testing.assert_array_equal(found, moved)


def test_orientation_and_pixel_aspect_together(tmp_path):
    path = tmp_path / "marked.mp4"
    wide = (FILES / "aspect_stream.mp4").read_bytes()
    path.write_bytes(mark_orientation(wide, (0, 1, -1, 0)))
    info = probe_video(path)
    assert (info.height, info.width) == (64, 24)
    stored = read_clip(FILES / "aspect_stream.mp4", frames=8)
    np.testing.assert_array_equal(read_clip(path, frames=8), np.rot90(stored, -1, axes=(1, 2)))


@pytest.mark.parametrize("delay, rate", [(0, 10), (1, 10), (2, 50), (5, 20), (10, 10)])
def test_gif_delays_are_those_of_browsers(tmp_path, delay, rate):
    """Browsers show frames of 0 and 10 ms for 100 ms."""
    data = bytearray((FILES / "delays.gif").read_bytes())
    place = -1
    while (place := data.find(b"\x21\xf9\x04", place + 1)) >= 0:
        data[place + 4 : place + 6] = delay.to_bytes(2, "little")
    (tmp_path / "a.gif").write_bytes(data)
    info = probe_video(tmp_path / "a.gif")
    assert (info.frames, info.fps, info.notes) == (8, rate, ())


def test_transparent_gif_is_white_where_nothing_is(tmp_path):
    from PIL import Image

    layers = []
    for place in range(4):
        layer = Image.new("RGBA", (32, 24), (0, 0, 0, 0))
        layer.paste((200, 30, 40, 255), (place, 0, place + 8, 8))
        layers.append(layer)
    path = tmp_path / "a.gif"
    layers[0].save(path, save_all=True, append_images=layers[1:], duration=100, disposal=2)
    found = read_clip(path, frames=4)
    for place, frame in enumerate(found):
        wanted = np.full((24, 32, 3), 255)
        wanted[:8, place : place + 8] = 200, 30, 40
        np.testing.assert_array_equal(frame, wanted)
    assert probe_video(path).notes == ("transparent",)


@pytest.mark.parametrize("suffix", ["avi", "mov"])
def test_unused_fourth_bytes_of_an_avi_hide_nothing(tmp_path, suffix):
    """Uncompressed AVI leaves the fourth byte at 0; in mov it is transparency."""
    path = tmp_path / f"a.{suffix}"
    image = np.full((24, 32, 4), (10, 20, 200, 0), np.uint8)
    pixels, codec = ("bgra", "rawvideo") if suffix == "avi" else ("rgba", "png")
    with av.open(str(path), "w") as out:
        track: Any = out.add_stream(codec, rate=10)
        track.height, track.width, track.pix_fmt = 24, 32, pixels
        for _ in range(3):
            picture = av.VideoFrame.from_ndarray(image, format="rgba")
            out.mux(track.encode(picture))
        out.mux(track.encode())
    wanted = (10, 20, 200) if suffix == "avi" else (255, 255, 255)
    assert (read_clip(path, frames=3) == wanted).all()
    assert probe_video(path).notes == (() if suffix == "avi" else ("transparent",))


@pytest.mark.parametrize("first", ["cover", "video"])
def test_an_unmarked_cover_is_not_the_video(tmp_path, first):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        tracks: dict[str, Any] = {}
        for name in ("cover", "video") if first == "cover" else ("video", "cover"):
            track: Any = out.add_stream("mjpeg" if name == "cover" else "ffv1", rate=10)
            size = 96 if name == "cover" else 24
            track.height, track.width = size, size
            track.pix_fmt = "yuvj420p" if name == "cover" else "bgr0"
            tracks[name] = track
        red = np.full((96, 96, 3), (255, 0, 0), np.uint8)
        out.mux(tracks["cover"].encode(av.VideoFrame.from_ndarray(red)))
        for image in make_clip(5, 24, 24):
            out.mux(tracks["video"].encode(av.VideoFrame.from_ndarray(image)))
        for track in tracks.values():
            out.mux(track.encode())
    np.testing.assert_array_equal(read_clip(path, frames=5), make_clip(5, 24, 24))
    assert probe_video(path).notes == ("several tracks",)


def test_opaque_gif_is_not_called_transparent(tmp_path):
    assert "transparent" not in probe_video(FILES / "delays.gif").notes


def test_clip_of_an_uneven_recording_spans_its_time():
    """9 frames at 8 fps are a second of the recording of a browser, also over its pause."""
    path = FILES / "chromium.webm"
    info = probe_video(path)
    # FFmpeg's time stamps of the stored frames, in ms.
    text = "0 52 91 152 203 268 321 376 471 491 536 588 638 686 736 1432 1492 1541 1586 1638 1684 "
    text += "1722 1773 1821 1872 1920 1977 2024 2082"
    times = np.array(text.split(), int) / 1000
    for start in (0.0, 0.3, 0.6, 0.99):
        numbers = choose_frames(info, frames=9, fps=8.0, start=start)
        stored = np.array(info.find_stored(numbers))
        begin = numbers[0] / info.fps
        # What a player shows at that time: the last frame that has begun, or is about to.
        for place, frame in enumerate(stored):
            moment = begin + (numbers[place] - numbers[0]) / info.fps
            assert times[frame] <= moment + 0.5 / info.fps + 1e-9
            following = times[frame + 1] if frame + 1 < len(times) else np.inf
            assert following > moment - 0.5 / info.fps - 1e-9
        span = (numbers[-1] - numbers[0]) / info.fps
        assert span == pytest.approx(1.0, abs=1.5 / info.fps)


@pytest.mark.parametrize("name", ["plain.mp4", "interlaced.ts", "stream.m2ts", "delays.gif"])
def test_containers_are_known_by_content(tmp_path, name):
    for suffix in ("mp4", "avi", "webm"):
        path = tmp_path / f"a.{suffix}"
        shutil.copy(FILES / name, path)
        assert probe_video(path) == probe_video(FILES / name)


def test_transport_stream_cut_within_a_packet_is_read(tmp_path):
    data = (FILES / "interlaced.ts").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[188 - 60 :])  # the tail of the first packet
    assert probe_video(tmp_path / "a.mp4").frames > 0


def test_segments_are_read_with_their_beginning_and_explained_without(tmp_path):
    data = (FILES / "fragments.mp4").read_bytes()
    first = data.index(b"moof") - 4
    styp = (24).to_bytes(4, "big") + b"stypmsdh" + bytes(4) + b"msdhmsix"
    (tmp_path / "whole.mp4").write_bytes(styp + data)
    assert probe_video(tmp_path / "whole.mp4") == probe_video(FILES / "fragments.mp4")
    (tmp_path / "segment.mp4").write_bytes(styp + data[first:])
    with pytest.raises(VideoError, match="segment of a stream: join it with its init") as caught:
        probe_video(tmp_path / "segment.mp4")
    assert caught.value.reason == "corrupt"


@pytest.mark.parametrize(
    "head, name",
    [
        (b"FLV\x01\x05" + bytes(40), "Flash"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(40), "Windows Media"),
        (b"\x00\x00\x01\xba" + bytes(40), "program stream"),
        (b"OggS" + bytes(40), "Ogg"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "PNG"),
        (b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(40), "WebP"),
    ],
)
def test_refused_formats_are_named(tmp_path, head, name):
    (tmp_path / "a.mp4").write_bytes(head)
    with pytest.raises(VideoError, match=f"not a video .*{name}.*convert it"):
        probe_video(tmp_path / "a.mp4")


def test_notes_are_counted_for_a_report():
    videos = [("interlaced",), (), ("HDR", "interlaced")]
    assert list_notes(zip("abc", videos, strict=True)) == [
        (f"2 files: {NOTES['interlaced']}", ["a", "c"]),
        (f"1 file: {NOTES['HDR']}", ["c"]),
    ]
    assert set().union(*FOUND.values()) <= set(NOTES)


def test_a_size_beside_the_limit_is_refused_after_widening(tmp_path, monkeypatch):
    from nbp.data.video import decode

    monkeypatch.setattr(decode, "MAX_PIXELS", 24 * 40)
    assert probe_video(FILES / "plain.mp4").width == 32
    with pytest.raises(VideoError, match="too large .64x24"):
        probe_video(FILES / "aspect_stream.mp4")


@pytest.mark.parametrize("name", ["aspect_pal.mkv", "chromium.webm", "turned"])
def test_stored_clips_are_plain_and_state_their_colours(tmp_path, name):
    source = FILES / name
    if name == "turned":
        source = tmp_path / "turned.mp4"
        source.write_bytes(mark_orientation((FILES / "plain.mp4").read_bytes(), (0, 1, 1, 0)))
    info = probe_video(source)
    stored = reencode_video(source, Recipe(Coding(quality=0), fit="native", min_frames=1))
    assert stored.info == dataclasses.replace(info, shown=None)
    path = tmp_path / "stored.mp4"
    path.write_bytes(stored.clip)
    found = probe_video(path)
    assert (found.frames, found.height, found.width) == (info.frames, info.height, info.width)
    assert (found.fps, found.notes) == (pytest.approx(info.fps, rel=1e-5), ())
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        # BT.601 matrix, limited range, primaries and transfer of BT.709 (ITU-T H.273).
        assert (context.colorspace, context.color_range) == (6, 1)
        assert (context.color_primaries, context.color_trc) == (1, 1)
        assert container.streams.video[0].sample_aspect_ratio == 1
    shown = read_clip(source, frames=info.frames, info=info)
    assert psnr(read_clip(path, frames=info.frames), shown) > 45
    numbers = np.arange(info.frames)
    assert psnr(decode_clip(stored.clip, numbers, name=name), shown) > 45
