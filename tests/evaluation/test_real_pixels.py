# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Stored frames become those of a protocol, and what they have lost is told."""

import dataclasses
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from benchmarks.protocol_resize import draw_clip
from nbp.data.augmentation import resize_frame
from nbp.data.prepare.plan import PrepareRequest, compare_options
from nbp.data.prepare.reencode import Recipe, reencode_video
from nbp.data.records import make_record_transforms
from nbp.data.video.clip_codec import ClipEncoder, Coding, decode_clip
from nbp.data.video.decode import VideoInfo
from nbp.data.video.resize import Scaling
from nbp.errors import ConfigError
from nbp.evaluation.generation import Made, choose_values, finish_clips, list_values
from nbp.evaluation.real_clips import check_prepared
from nbp.evaluation.real_pixels import (
    apply_rule,
    find_needed_size,
    list_losses,
    read_stored,
    score_pixels,
)
from nbp.prepare import main
from nbp.protocols import PROTOCOLS
from nbp.protocols.pixels import pass_range
from nbp.protocols.protocol import ClipRule, GenerationRule, PixelRule, Protocol, Storage, Values
from tests.data.videos import psnr

GOLDEN = Path(__file__).parent.parent / "golden" / "resize.npz"
RNG = np.random.default_rng(0)


def choose(name: str, dataset: str) -> Protocol:
    return PROTOCOLS[name].choose(dataset, "records")


def make_record(height: int, width: int, *, codec: Any = "h264") -> dict[str, Any]:
    encoder = ClipEncoder(Coding(codec), 10.0)
    for frame in draw_clip(5, height, width):
        encoder.add(frame)
    info = VideoInfo(5, 10.0, height, width)
    return {"clip": encoder.finish(), "info": info, "path": "x.avi", "label": np.int32(0)}


def read(record: dict[str, Any], rule: ClipRule, size: int) -> np.ndarray:
    fit = rule.spatial
    assert fit is not None
    chain = make_record_transforms(frames=5, size=size, fps=None, training=False, fit=fit)
    for transform in apply_rule(chain, rule, size):
        record = transform(record, RNG)
    return record["video"]


def decode(record: dict[str, Any]) -> np.ndarray:
    return decode_clip(record["clip"], np.arange(5), name="x")


@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_records_are_read_with_the_kernel_and_the_values_of_the_rule(codec: str) -> None:
    record = make_record(38, 53, codec=codec)
    frames = decode(record)
    for name in ("larp-ucf", "tats-ucf", "seed-rfvd", "magvit-ucf"):
        rule = dataclasses.replace(PROTOCOLS[name].clips[0], size=16)
        pixels = rule.pixels
        scaling = Scaling(16, False, pixels.resize, pixels.long_side, pixels.values)
        wanted = np.stack([scaling.scale(frame) for frame in frames])
        left = (wanted.shape[2] - 16) / 2
        left = round(left) if name == "larp-ucf" else int(left)
        found = read(record, rule, 16)
        np.testing.assert_array_equal(found, wanted[:, :, left : left + 16])
        assert found.dtype == (np.float32 if pixels.values == "float" else np.uint8)
    # In one step from the stored YUV.
    rule = dataclasses.replace(choose("nbp-ucf", "ucf101").clips[0], size=16)
    found = read(record, rule, 16)
    bicubic = np.stack([resize_frame(frame, 16, 16) for frame in frames])
    assert found.shape == bicubic.shape
    assert np.abs(found.astype(int) - bicubic).mean() > 1


def test_the_workdirs_own_protocols_read_as_training_does() -> None:
    chain = make_record_transforms(frames=5, size=16, fps=None, training=False)
    for name in ("folder", "reconstruction"):
        (rule,) = PROTOCOLS[name].clips
        assert apply_rule(chain, rule, 16) == chain
        assert rule.pixels == PixelRule()


def test_real_clips_go_through_the_file_but_conditions_do_not() -> None:
    rule = dataclasses.replace(
        choose("omni-k600", "k600").clips[0], size=16, storage=Storage(size=40)
    )
    record = make_record(44, 60)
    given = read(record, rule, 40)
    scaling = Scaling(16, True, "swscale-bilinear")
    assert rule.storage is not None
    found = read(record, rule, 16)
    wanted = read_stored(pass_range(given, "[-0.5, 0.5]"), rule.storage, scaling)
    np.testing.assert_array_equal(found, wanted)
    assert found[:, -1].mean() < 0.7 * found[:, 1:-1].mean()  # the black lines are in the picture
    np.testing.assert_array_equal(score_pixels(found, rule), found)


def test_features_see_the_bytes_that_the_repository_made() -> None:
    clip = draw_clip(1, 8, 8)
    for name in ("omni-rfvd", "seed-rfvd", "tats-ucf"):
        rule = choose(name, "ucf101").clips[0]
        found = score_pixels(clip, rule)
        np.testing.assert_array_equal(clip - found, (clip > 0) & (clip < 64))
    rule = choose("nbp-rfvd", "ucf101").clips[0]
    assert score_pixels(clip, rule) is clip


NATIVE = {"fit": "native", "size": 128, "codec": "jpeg", "quality": 95, "split": 1}
STORED = {"fit": "squash", "size": 128, "codec": "h264", "quality": 12, "split": 1}


@pytest.mark.parametrize(
    "protocol,changes,lines",
    [
        ("nbp-ucf", NATIVE, []),
        ("nbp-ucf", {"resize": "swscale-bilinear"}, []),
        ("nbp-ucf", {}, ["scaled with bicubic, the protocol's kernel is swscale-bilinear"]),
        ("nbp-ucf", {"fit": "short", "resize": "swscale-bilinear"}, ["scaled twice"]),
        ("nbp-ucf", {"size": 256, "resize": "swscale-bilinear"}, ["scaled again to 128"]),
        ("seed-rfvd", {"fit": "short", "resize": "cv2-bilinear", "long_side": "floor"}, []),
        ("seed-rfvd", {"fit": "short", "resize": "cv2-bilinear"}, ["long side .* by round"]),
        (
            "larp-ucf",
            {"fit": "short", "resize": "bilinear-antialiased", "long_side": "floor"},
            ["were rounded when they were stored, the protocol's are kept as floats"],
        ),
        (
            "magvit-ucf",
            {"fit": "short", "resize": "bilinear", "long_side": "floor"},
            ["the protocol's are cut off"],
        ),
    ],
)
def test_losses_of_a_prepared_set_are_told(
    protocol: str, changes: dict[str, Any], lines: list[str]
) -> None:
    prepared = {**STORED, **changes}
    found = list_losses(choose(protocol, "ucf101"), prepared)
    codec = {"h264": "H.264 of quality 12", "jpeg": "JPEG of quality 95"}[prepared["codec"]]
    assert found[0] == f"frames were stored as {codec}, not read from the files"
    assert len(found) == 1 + len(lines)
    for line, wanted in zip(found[1:], lines, strict=True):
        assert re.search(wanted, line)


def test_nothing_is_said_of_other_data() -> None:
    assert list_losses(PROTOCOLS["nbp-ucf"], {}) == []
    assert list_losses(PROTOCOLS["reconstruction"], STORED) == []


def test_conditions_and_files_need_their_own_size() -> None:
    """Stored at the size of the scored clips alone, given frames would be blown up silently."""
    protocol = choose("omni-k600", "k600")
    (rule,) = protocol.clips
    assert (rule.size, find_needed_size(protocol)) == (64, 256)
    for size in (64, 128):
        prepared = {**STORED, "size": size}
        (problem,) = check_prepared(rule, prepared, find_needed_size(protocol))
        assert problem == f"its clips of 256 px are stored at {size}: nbp.prepare --size 256"
    assert check_prepared(rule, {**STORED, "size": 256}, find_needed_size(protocol)) == []
    assert find_needed_size(choose("omni-ucf", "ucf101")) == 128  # nothing is given
    assert find_needed_size(choose("nbp-k600", "k600")) == 128
    assert find_needed_size(PROTOCOLS["reconstruction"]) is None


def test_prepared_sets_can_have_a_protocols_kernel(tmp_path: Path) -> None:
    """From the file's own YUV, as decord scales it; but for the codec that they are stored with."""
    with np.load(GOLDEN) as golden:
        (tmp_path / "clip.mp4").write_bytes(golden["mp4"].tobytes())
        wanted = golden["decord"]

    def prepare(**options: Any) -> np.ndarray:
        recipe = Recipe(Coding(quality=1), size=32, min_frames=1, **options)
        stored = reencode_video(tmp_path / "clip.mp4", recipe)
        return decode_clip(stored.clip, np.arange(3), name="x")

    assert psnr(prepare(fit="squash", resize="swscale-bilinear"), wanted) > 45
    assert psnr(prepare(fit="squash"), wanted) < 35
    # A frame that is turned afterwards has its short side where the upright one has its long.
    recipe = Recipe(Coding(), size=19, resize="swscale-bilinear")
    frame = draw_clip(1, 38, 60)[0]
    assert recipe.scale(frame).shape == recipe.scale(frame, turned=True).shape == (19, 30, 3)
    squashed = dataclasses.replace(recipe, fit="squash")
    assert squashed.scale(frame, turned=True).shape == (19, 19, 3)
    assert prepare(resize="cv2-bilinear", long_side="floor").shape == (3, 32, 43, 3)
    assert prepare(resize="cv2-bilinear", long_side="ceil").shape == (3, 32, 44, 3)


def test_the_kernel_is_an_option_of_the_data_set(tmp_path: Path) -> None:
    recipe = Recipe(Coding(), resize="cv2-bilinear", long_side="floor")
    options = PrepareRequest("folder", tmp_path, tmp_path, recipe).options()
    assert (options["resize"], options["long_side"]) == ("cv2-bilinear", "floor")
    plain = PrepareRequest("folder", tmp_path, tmp_path, Recipe(Coding())).options()
    # A data set from before there was a choice was made with the default.
    old = {key: value for key, value in plain.items() if key not in ("resize", "long_side")}
    compare_options(old, plain, tmp_path)
    with pytest.raises(ConfigError, match="resize was 'bicubic', now 'cv2-bilinear'"):
        compare_options(old, options, tmp_path)
    with pytest.raises(ConfigError, match="--resize and --long_side need a --size in pixels"):
        main(
            [
                "folder",
                "--videos",
                str(tmp_path),
                "--out",
                str(tmp_path),
                "--size",
                "native",
                "--resize",
                "bilinear",
            ]
        )


def test_generated_pixels_are_rounded_cut_off_or_kept() -> None:
    pixels = np.array([0.0, 0.5, 254.6 / 255, 1.0], np.float32)
    np.testing.assert_array_equal(choose_values(pixels, "rounded"), [0, 128, 255, 255])
    np.testing.assert_array_equal(choose_values(pixels, "floored"), [0, 127, 254, 255])
    assert choose_values(pixels, "float") is pixels
    rules = [PROTOCOLS[name].generation for name in ("tats-ucf", "nbp-ucf", "folder", "nbp-rfvd")]
    assert list_values(rules) == ("floored", "float")
    assert list_values(rules[2:]) == ()


def test_clips_are_scored_with_the_values_of_the_rule() -> None:
    rounded = draw_clip(5, 24, 24)[None]
    others: dict[Values, np.ndarray] = {
        "floored": rounded - 1,
        "float": rounded.astype(np.float32) / 300,
    }
    made = Made(rounded, np.zeros(1), np.zeros(1), np.zeros(1), others=others)
    for values in get_args(Values):
        found = finish_clips(made, GenerationRule(values=values), size=24, pixels=0)
        assert found is made.of(values)
    rule = PROTOCOLS["omni-ucf"].generation
    assert rule is not None
    assert rule.storage is not None
    found = finish_clips(made, rule, size=16, pixels=0)
    wanted = read_stored(others["floored"][0], rule.storage, Scaling(16, True, rule.resize))
    np.testing.assert_array_equal(found[0], wanted)
