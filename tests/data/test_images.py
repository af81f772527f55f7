# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Image files become examples of one frame; batches hold clips and images, exactly resumable."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nbp import build_data, progress
from nbp.config import load_config
from nbp.config.schema import Config
from nbp.data import images
from nbp.data.augmentation import ShortSide
from nbp.data.images import (
    ImageFolder,
    MixedStream,
    ReadImage,
    TakeFrame,
    check_image,
    make_image_transforms,
    read_image,
    scan_images,
)
from nbp.data.pipeline import BatchStream, PipelineSpec
from nbp.data.sources import BadVideos, ClipSource
from nbp.errors import ConfigError, DataError
from nbp.files import VideoError
from tests import tiny
from tests.data.videos import encode, make_clip

RNG = np.random.default_rng(0)


def _picture(height: int = 24, width: int = 32, *, seed: int = 0) -> np.ndarray:
    return make_clip(1, height, width, seed=seed)[0]


def _save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def _fill(root: Path, count: int = 6) -> Path:
    for number in range(count):
        pixels = np.full((20, 24 + number, 3), 10 * number, np.uint8)
        _save(root / f"{number}.png", pixels)
    return root


# Files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", images.IMAGE_SUFFIXES)
def test_every_suffix_is_read(tmp_path, suffix):
    pixels = _picture()
    jpeg = {"quality": 95, "subsampling": 0}
    options = {".webp": {"lossless": True}, ".jpg": jpeg, ".jpeg": jpeg}.get(suffix, {})
    found = read_image(_save(tmp_path / f"a{suffix}", pixels, **options))
    assert found.dtype == np.uint8
    error = np.abs(found.astype(int) - pixels).mean()
    assert error < 3 if options == jpeg else error == 0


def test_other_pixel_formats_become_rgb(tmp_path):
    grey = _picture()[..., 0]
    assert (read_image(_save(tmp_path / "grey.png", grey)) == grey[..., None]).all()
    deep = grey.astype(np.uint16) * 256 + 77  # 16 bits: the upper eight are kept
    assert (read_image(_save(tmp_path / "deep.png", deep)) == grey[..., None]).all()
    colours = np.dstack([_picture(), np.zeros_like(grey)])
    colours[:, 16:, 3] = 255
    found = read_image(_save(tmp_path / "clear.png", colours))
    assert (found[:, :16] == 255).all()  # nothing is seen where it is transparent
    np.testing.assert_array_equal(found[:, 16:], colours[:, 16:, :3])
    Image.fromarray(_picture()).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "cmyk.jpg").astype(int) - _picture()).mean() < 4


def test_the_orientation_of_a_camera_is_applied(tmp_path):
    pixels = _picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    found = read_image(_save(tmp_path / "turned.png", pixels, exif=exif))
    np.testing.assert_array_equal(found, np.rot90(pixels, -1))


def test_bad_files_say_why(tmp_path, monkeypatch):
    whole = _save(tmp_path / "whole.png", _picture(64, 64)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    os.mkfifo(tmp_path / "pipe.png")
    _save(tmp_path / "moving.png", _picture(), format="GIF")
    cases = {
        "cut.png": "corrupt",
        "empty.png": "zero bytes",
        "page.jpg": "not an image",
        "pipe.png": "unreadable",
        "moving.png": "not an image",
        "gone.png": "unreadable",
    }
    for name, reason in cases.items():
        with pytest.raises(VideoError, match=name) as caught:
            read_image(tmp_path / name)
        assert caught.value.reason == reason, name
        assert "\n" not in str(caught.value)
    check_image(tmp_path / "cut.png", decode=False)  # its header is whole
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(VideoError, match="too large"):
        check_image(tmp_path / "whole.png", decode=False)
    # Few pixels in the file, many once its short side has the wanted length.
    strip = _save(tmp_path / "strip.png", np.zeros((2, 1000, 3), np.uint8))
    with pytest.raises(VideoError, match="8000x16"):
        ReadImage(ShortSide(16))({"path": str(strip), "label": 0}, RNG)


def test_folders_are_searched_and_bad_files_listed(tmp_path, monkeypatch):
    root = tmp_path / "pictures"
    for name in ("b10/x.JPEG", "b9/deep/er/a.png", "a.webp", ".hidden.png", ".cache/y.png"):
        _save(root / name, _picture(), format="PNG")
    (root / "notes.txt").write_text("no image, and not said to be one")
    (root / "b9" / "zero.png").touch()
    cut = (root / "a.webp").read_bytes()[:-400]
    (root / "half.png").write_bytes(cut)
    bad = BadVideos(tmp_path / "bad.csv")
    folder = scan_images(root, bad=bad, check="headers")
    assert isinstance(folder, ClipSource)
    names = [name for name, _ in folder.files]
    assert names == ["a.webp", "b9/deep/er/a.png", "b10/x.JPEG", "half.png"]
    assert folder[1]["path"] == str(root / "b9/deep/er/a.png")
    assert [error.reason for error in bad] == ["zero bytes"]
    monkeypatch.setattr(progress, "QUIET", -1.0)
    lines: list[str] = []
    whole = scan_images(root, bad=bad, check="frames", report=lines.append)
    assert [name for name, _ in whole.files] == names[:3]
    assert lines[-1].startswith("5/5 images looked at, 2 bad")
    listed = (tmp_path / "bad.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in listed[1:]] == [
        [str(root / "b9/zero.png"), "zero bytes"],
        [str(root / "half.png"), "corrupt"],
    ]


def test_a_folder_that_cannot_be_listed_is_told_and_passed_over(tmp_path, monkeypatch):
    """As lost+found on a disk of data."""
    for name in ("a/one.png", "locked/two.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    scandir = os.scandir

    def refuse(folder):
        if os.fspath(folder).endswith("locked"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    bad = BadVideos()
    found = scan_images(tmp_path, bad=bad)
    assert [path for path, _ in found.files] == ["a/one.png"]
    assert [error.reason for error in bad] == ["unreadable"]


def test_useless_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        scan_images(tmp_path / "absent", bad=BadVideos())
    with pytest.raises(DataError, match="no image files in it"):
        scan_images(tmp_path, bad=BadVideos())
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match="none of its 1 image files can be used.*zero bytes"):
        scan_images(tmp_path, bad=BadVideos())


def test_the_fingerprint_follows_the_files_not_the_place():
    folder = ImageFolder("/here", (("a.png", 3), ("b.png", 4)))
    assert dataclasses.replace(folder, root="/there").fingerprint == folder.fingerprint
    others = [
        dataclasses.replace(folder, files=files)
        for files in ((("a.png", 3),), (("a.png", 3), ("b.png", 5)), (("a.png", 3), ("c.png", 4)))
    ]
    assert len({folder.fingerprint, *(other.fingerprint for other in others)}) == 4


# Transforms --------------------------------------------------------------------------------------


def test_images_take_the_spatial_policy_of_clips(tmp_path):
    record = {"path": str(_save(tmp_path / "a.png", _picture(20, 50))), "label": np.int32(0)}
    shapes, contents = set(), set()
    for fit in ("crop", "squash", "random_crop"):
        chain = make_image_transforms(size=16, fit=fit, flip=fit == "crop")
        for seed in range(8):
            found: dict[str, Any] = record
            for transform in chain:
                found = transform(found, np.random.default_rng(seed))
            shapes.add(found["video"].shape)
            contents.add((fit, found["video"].tobytes()))
    assert shapes == {(1, 16, 16, 3)}
    assert sum(fit == "squash" for fit, _ in contents) == 1
    assert sum(fit == "crop" for fit, _ in contents) > 4


def test_a_frame_is_drawn_evenly():
    video = np.arange(5, dtype=np.uint8).repeat(12).reshape(5, 2, 2, 3)
    rng = np.random.default_rng(3)
    drawn = [TakeFrame()({"video": video}, rng)["video"] for _ in range(500)]
    assert {frame.shape for frame in drawn} == {(1, 2, 2, 3)}
    counts = np.bincount([int(frame[0, 0, 0, 0]) for frame in drawn], minlength=5)
    assert counts.min() > 60  # 100 expected, 9 their standard deviation


# Stream ------------------------------------------------------------------------------------------


def _config(**changes: str) -> Config:
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(tiny.CONFIG, {**tiny.OVERRIDES, "images.batch": "4", **keys})


Rows = Callable[[int], Sequence[int]]


def _stream(config: Config, start: int = 0, rows: Rows | None = None) -> MixedStream:
    train = build_data.add_images(config, build_data.make_data(config)[0])
    stage = config.train.tokenizer
    stream = build_data.make_training_stream(
        config, stage, data=train, start_batch=start, rows=rows
    )
    assert isinstance(stream, MixedStream)
    return stream


def _draw(
    config: Config, count: int, start: int = 0, rows: Rows | None = None
) -> list[dict[str, np.ndarray]]:
    with _stream(config, start, rows) as stream:
        batches = [next(stream) for _ in range(count)]
        assert stream.position == start + count
    return batches


def _assert_equal(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert set(one) == set(other) == {"video", "image", "label", "index"}
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_moving_shapes_give_frames_of_other_clips():
    config = _config(data__moving_shapes__train_clips="6")
    wanted = _draw(config, 5)
    assert {batch["image"].shape for batch in wanted} == {(4, 1, 16, 16, 3)}
    assert {batch["image"].dtype for batch in wanted} == {np.dtype(np.uint8)}
    source = build_data.make_data(config)[0].source
    frames = {frame.tobytes() for row in range(6) for frame in source[row]["video"]}
    found = [image[0].tobytes() for batch in wanted for image in batch["image"]]
    assert set(found) <= frames
    assert len(set(found)) > 10
    assert {len(batch["video"]) for batch in wanted} == {8}
    _assert_equal(_draw(config, 3, start=2), wanted[2:])  # as after a restart
    # The clips are those of a run without images.
    plain = dataclasses.replace(config, images=dataclasses.replace(config.images, batch=0))
    train = build_data.add_images(plain, build_data.make_data(plain)[0])
    stage = plain.train.tokenizer
    with build_data.make_training_stream(plain, stage, data=train, start_batch=0) as stream:
        assert isinstance(stream, BatchStream)
        np.testing.assert_array_equal(next(stream)["video"], wanted[0]["video"])


def test_videos_give_single_frames(tmp_path):
    clip = make_clip(20, 16, 16)
    encode(tmp_path / "a" / "one.mkv", clip)
    config = _config(
        data__kind="folder",
        data__root=str(tmp_path),
        data__validation="0",
        evaluation__protocol="",
        generator__prompt="none",
    )
    frames = {frame.tobytes(): number for number, frame in enumerate(clip)}
    found = [frames[i[0].tobytes()] for batch in _draw(config, 5) for i in batch["image"]]
    assert len(set(found)) > 8
    assert max(found) > 15  # any frame, not only those that a clip of 5 can begin with


def test_images_of_a_folder_do_not_depend_on_workers(tmp_path):
    _fill(tmp_path / "pictures")
    (tmp_path / "pictures" / "zero.png").touch()
    config = _config(images__root=str(tmp_path / "pictures"), images__batch="2")
    wanted = _draw(config, 6)
    shown = [int(image[0, 0, 0, 0]) for batch in wanted for image in batch["image"]]
    assert sorted(shown[:6]) == sorted(shown[6:]) == [0, 10, 20, 30, 40, 50]  # two epochs
    train = build_data.add_images(
        config, build_data.make_data(config)[0], bad_videos=tmp_path / "bad"
    )
    assert train.images is not None
    with _stream(config) as stream:
        spec = dataclasses.replace(stream.images.spec, workers=1)
    source, chain = train.images.source, train.images.transforms
    with BatchStream(source, chain, spec, start_batch=2) as alone:
        for batch in wanted[2:]:
            np.testing.assert_array_equal(next(alone)["video"], batch["image"])
    assert train.bad_videos is not None
    assert [error.reason for error in train.bad_videos] == ["zero bytes"]
    assert (tmp_path / "bad").read_text().startswith("path,reason,detail\n")


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_images_of_a_batch(count):
    config = _config()
    wanted = _draw(config, 3)
    parts = [
        _draw(config, 3, rows=lambda batch, first=first: range(first, batch, count))
        for first in range(count)
    ]
    for k, batch in enumerate(wanted):
        for name in batch:
            merged = np.stack([part[k][name] for part in parts], axis=1)
            np.testing.assert_array_equal(merged.reshape(batch[name].shape), batch[name])


def test_the_fingerprint_names_both_kinds(tmp_path):
    root = str(_fill(tmp_path / "a"))
    changes = [
        {},
        {"seed": "1"},
        {"images__batch": "8"},  # another number for each clip: the position means other images
        {"images__root": root},
        {"data__frames": "9"},
    ]
    found = [_stream(_config(**change)).fingerprint for change in changes]
    assert len(set(found)) == len(changes)
    half = {"images__batch": "2", "train__tokenizer__batch": "4"}  # half the devices
    assert _stream(_config(**half)).fingerprint == found[0]


def test_a_lost_image_is_replaced_and_a_failed_stream_keeps_its_position(tmp_path):
    root = _fill(tmp_path / "a", 2)
    config = _config(images__root=str(root))
    with _stream(config) as stream:
        (root / "1.png").unlink()
        drawn = [next(stream)["image"] for _ in range(3)]
        assert {int(image[0, 0, 0, 0]) for image in np.concatenate(drawn)} == {0}
        assert [error.path for error in stream.images.bad_videos] == [str(root / "1.png")]
    stopping = dataclasses.replace(config.data, bad_records="stop")
    _fill(root, 2)
    with _stream(dataclasses.replace(config, data=stopping)) as stream:
        for path in root.iterdir():
            path.unlink()
        for _ in range(2):
            with pytest.raises(DataError, match=r"cannot be read.*\.png"):
                next(stream)
        assert stream.position == 0


def test_streams_that_start_apart_are_refused():
    source = build_data.make_data(_config())[0].source
    spec = PipelineSpec(2, 0)
    with pytest.raises(ValueError, match="start both at the same"):
        MixedStream(BatchStream(source, (), spec), BatchStream(source, (), spec, start_batch=1))


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"stages": "('generator',)"}, "images.batch: only the tokenizer stage learns from images"),
        ({"train__tokenizer__accumulate": "8"}, "4 images do not split into 8 micro-batches"),
        ({"images__batch": "0", "images__root": "x"}, "images.root: .*of which none are taken"),
    ],
)
def test_settings_without_effect_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        _config(**changes)
